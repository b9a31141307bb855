#pragma once
// The shared memory that joins the ranks of a membership: a group for dispatch and combine, one for
// the balancers. Made by the parent, before the ranks open it; those before stay until all ranks
// have moved on, so that nobody waits there in vain for a rank that dies meanwhile.

#include <memory>
#include <string>
#include <vector>

#include <swiftbalancer/transport.hpp>

namespace swiftbalancer::engine {

struct GroupNames {
  std::string exchange, balancer;
};

class RankGroups {
 public:
  /// Groups for the next membership. @param members numbers of the ranks, ascending.
  /// @throws Error kIo: no space in /dev/shm; everything is as before.
  void make(std::vector<int> members);
  /// Of the newest.
  GroupNames names() const;
  /// All members have opened the newest: what dies from here on cannot leave its names behind.
  void all_opened() noexcept;
  /// Ends the others' waits for a rank.
  void mark_lost(int rank) noexcept;

 private:
  struct Pair;
  std::vector<std::shared_ptr<Pair>> pairs_;  // the newest is the last
};

}  // namespace swiftbalancer::engine
