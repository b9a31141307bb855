#pragma once
// In the fault build: the rules of src/protocol/agreement_rules.hpp, each with its wrong answer.

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <swiftbalancer/migration_plan.hpp>

#include "active_fault.hpp"

namespace swiftbalancer {

struct AgreementRules {
  bool names_open(std::uint64_t packet_open_step, std::uint64_t open_step) const {
    return packet_open_step == open_step || faulty(Fault::kReadopt);
  }
  bool is_of(const GenerationId& plan, const GenerationId& open) const {
    return plan == open || faulty(Fault::kReadopt);
  }
  bool differ(std::uint64_t hash, std::uint64_t reported) const {
    return hash != 0 && reported != hash && !faulty(Fault::kFirstHashWins);
  }
  bool all_ready(std::size_t num_not_ready, std::size_t num_ranks) const {
    return num_not_ready == 0 ||
           (faulty(Fault::kAdoptMajority) && num_not_ready == 1 && num_ranks > 2);
  }
  bool waited_too_long(std::uint64_t sets, std::uint64_t max_sets, bool held_here) const {
    return sets >= max_sets || (faulty(Fault::kCloseOnNotReady) && !held_here);
  }
  bool supersedes() const { return !faulty(Fault::kKeepOldPlan); }
  bool base_holds(std::uint64_t epoch, std::uint64_t base_epoch) const {
    return epoch == base_epoch || faulty(Fault::kNoBaseCheck);
  }
  bool names_active(std::uint64_t packet_active_step, std::uint64_t active_step) const {
    return packet_active_step == active_step || faulty(Fault::kStagedUntagged);
  }
  std::uint32_t commit_up_to(std::uint32_t smallest, std::uint32_t largest,
                             std::uint32_t own) const {
    if (faulty(Fault::kOwnStaged)) return own;
    return faulty(Fault::kMaxStaged) ? largest : smallest;
  }
  std::uint32_t told_cursor(std::uint32_t promised, std::uint32_t first_pending) const {
    return faulty(Fault::kStagedRelative) ? promised - std::min(promised, first_pending) : promised;
  }
  bool heeds_abort(std::uint32_t sender, int own_rank) const {
    return !faulty(Fault::kAbortOwnOnly) || static_cast<int>(sender) == own_rank;
  }
  bool later_units_fall() const { return !faulty(Fault::kDropOneUnit); }
  bool only_plans(BalancingMode mode) const {
    return mode == BalancingMode::kPlanOnly && !faulty(Fault::kPlanOnlyMoves);
  }
  bool is_mended(std::uint64_t steps_since_reset, std::uint64_t packet_lag) const {
    return steps_since_reset < packet_lag && !faulty(Fault::kResetEachFlaggedSet);
  }
  bool tells_planner_loss(bool lost) const { return lost && !faulty(Fault::kPlannerLossHidden); }
  bool rolls_forward() const { return !faulty(Fault::kNoRollForward); }
  bool is_of_membership(std::uint64_t posted_step, std::uint64_t begin_step) const {
    return posted_step > begin_step || faulty(Fault::kOldPackets);
  }
  bool is_next(std::uint64_t step, std::uint64_t next_set) const { return step == next_set; }
  bool reset_closes_open() const { return !faulty(Fault::kResetKeepsOpen); }
  bool is_enough(std::uint64_t installs, std::uint64_t limit) const {
    return limit != 0 && installs > limit && !faulty(Fault::kAllAtOnce);
  }
  bool too_old(std::uint64_t idle_sets, std::uint64_t max_sets) const {
    return idle_sets >= max_sets && !faulty(Fault::kNeverTooOld);
  }
};

}  // namespace swiftbalancer
