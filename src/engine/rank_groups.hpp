#pragma once
// The shared memory that joins the ranks of one membership: a group for dispatch and combine, one
// for the balancers. Made by the parent, before the ranks open it.

#include <string>

#include <swiftbalancer/transport.hpp>

namespace swiftbalancer::engine {

struct GroupNames {
  std::string exchange, balancer;
};

class RankGroups {
 public:
  /// @throws Error kIo: no space in /dev/shm.
  explicit RankGroups(int num_ranks);
  GroupNames names() const { return {exchange_.name(), balancer_.name()}; }
  /// All ranks have opened them: what dies from here on cannot leave the names behind.
  void unlink() noexcept;
  /// Ends the others' waits for a rank.
  void mark_lost(int rank) noexcept;

 private:
  ShmGroup exchange_, balancer_;
};

}  // namespace swiftbalancer::engine
