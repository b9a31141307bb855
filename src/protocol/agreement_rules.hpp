#pragma once
// The rules of docs/protocol.md that a single line can break, each as a predicate of its own, used
// by Agreement alone. The fault build of the simulation replaces this header by one in which each
// can be switched to a wrong answer (tests/simulation/faulty/), to show that it would be caught.
// Pure.

#include <cstddef>
#include <cstdint>

#include <swiftbalancer/migration_plan.hpp>

namespace swiftbalancer {

struct AgreementRules {
  /// Rule 4: a hash or a failure counts for the generation that its packet names.
  constexpr bool names_open(std::uint64_t packet_open_step, std::uint64_t open_step) const {
    return packet_open_step == open_step;
  }
  /// Rule 4, of a plan that the worker brings.
  constexpr bool is_of(const GenerationId& plan, const GenerationId& open) const {
    return plan == open;
  }
  /// Rule 4: different hashes are a mismatch. 0 is no hash yet.
  constexpr bool differ(std::uint64_t hash, std::uint64_t reported) const {
    return hash != 0 && reported != hash;
  }
  /// Rule 4: a plan is adopted when every rank holds it.
  constexpr bool all_ready(std::size_t num_not_ready, std::size_t /*num_ranks*/) const {
    return num_not_ready == 0;
  }
  /// Rule 4: not ready is no mismatch; only too many sets close.
  constexpr bool waited_too_long(std::uint64_t sets, std::uint64_t max_sets,
                                 bool /*held_here*/) const {
    return sets >= max_sets;
  }
  /// Rule 4: adoption drops what the plan before has pending.
  constexpr bool supersedes() const { return true; }
  /// Rule 4: a new plan's unit stands only on the epoch that it was planned on.
  constexpr bool base_holds(std::uint64_t epoch, std::uint64_t base_epoch) const {
    return epoch == base_epoch;
  }
  /// Rule 6: a cursor counts for the generation that its packet names.
  constexpr bool names_active(std::uint64_t packet_active_step, std::uint64_t active_step) const {
    return packet_active_step == active_step;
  }
  /// Rule 6: units are committed up to the smallest cursor of the set.
  constexpr std::uint32_t commit_up_to(std::uint32_t smallest, std::uint32_t /*largest*/,
                                       std::uint32_t /*own*/) const {
    return smallest;
  }
  /// Rule 6: the cursor that is told is absolute.
  constexpr std::uint32_t told_cursor(std::uint32_t promised,
                                      std::uint32_t /*first_pending*/) const {
    return promised;
  }
  /// Rule 7: an abort of any rank counts on all.
  constexpr bool heeds_abort(std::uint32_t /*sender*/, int /*own_rank*/) const { return true; }
  /// Rule 7: a unit's rows build on the earlier units of its layer. When one falls, so do the
  /// later.
  constexpr bool later_units_fall() const { return true; }
  /// Plan-only adopts nothing.
  constexpr bool only_plans(BalancingMode mode) const { return mode == BalancingMode::kPlanOnly; }
  /// Rule 11: packets posted before a rank knew of the last reset tell of losses that it has
  /// mended.
  constexpr bool is_mended(std::uint64_t steps_since_reset, std::uint64_t packet_lag) const {
    return steps_since_reset < packet_lag;
  }
  /// Rule 11: a rank whose planner has lost its history says so.
  constexpr bool tells_planner_loss(bool lost) const { return lost; }
  /// Rule 13: what some rank has committed is committed by all.
  constexpr bool rolls_forward() const { return true; }
  /// Rule 14: a set posted before the membership began is void.
  constexpr bool is_of_membership(std::uint64_t posted_step, std::uint64_t begin_step) const {
    return posted_step > begin_step;
  }
  /// Rule 16: sets are used one by one, none left out.
  constexpr bool is_next(std::uint64_t step, std::uint64_t next_set) const {
    return step == next_set;
  }
  /// Rule 17: planners that begin anew end what they were planning.
  constexpr bool reset_closes_open() const { return true; }
  /// A set commits no more than its bound.
  constexpr bool is_enough(std::uint64_t installs, std::uint64_t limit) const {
    return limit != 0 && installs > limit;
  }
  /// Rule 18: an active plan that does not get on is ended.
  constexpr bool too_old(std::uint64_t idle_sets, std::uint64_t max_sets) const {
    return idle_sets >= max_sets;
  }
};

}  // namespace swiftbalancer
