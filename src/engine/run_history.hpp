#pragma once
// Who served when, and who was lost, as the parent of the rank processes sees it. Its thread only.

#include <cstdint>
#include <vector>

#include "engine/launch.hpp"

namespace swiftbalancer::engine {

class RunHistory {
 public:
  /// A membership after the first was announced to its members.
  void announced(std::uint32_t number, const std::vector<int>& members);
  /// ... and entered by all of them. @returns its members.
  std::vector<std::int32_t> entered(std::uint32_t number, std::uint64_t first_step);
  void lost(LossRecord loss) { losses_.push_back(std::move(loss)); }

  /// @throws Error kUnavailable: the members left have too few slots for all experts.
  void check_slots(const ClusterShape& shape, const std::vector<int>& members) const;
  /// @throws Error: the members left cannot be joined, for want of `error`.
  [[noreturn]] void throw_no_way_on(std::uint64_t step, const Error& error) const;
  /// @throws Error for the cause among failures; where all only noticed, a rank lost before is it.
  [[noreturn]] void throw_cause_of(std::vector<RankFailure> failures) const;

  void move_to(RanksResult& result);

 private:
  std::vector<MembershipRecord> memberships_;
  std::vector<LossRecord> losses_;
};

}  // namespace swiftbalancer::engine
