#pragma once
// In the fault build: the rules of src/runtime/runtime_rules.hpp, each with its wrong answer.

#include "active_fault.hpp"

namespace swiftbalancer::rules {

inline bool use_when_due() noexcept { return !faulty(Fault::kEarlyUse); }
inline bool wait_for_set() noexcept { return !faulty(Fault::kGoOnAlone); }
inline bool packets_are_frozen() noexcept { return !faulty(Fault::kRefreshPacket); }
inline bool phase_of_all_ranks() noexcept { return !faulty(Fault::kFirstBusyPhase); }
inline bool base_at_opening() noexcept { return !faulty(Fault::kLateBase); }
inline bool hash_whole_plan() noexcept { return !faulty(Fault::kWeakHash); }
inline bool rows_follow_shares() noexcept { return !faulty(Fault::kTableIgnoresShares); }
inline bool units_fit_pool() noexcept { return !faulty(Fault::kPoolIgnored); }
inline bool failed_gather_ends() noexcept { return !faulty(Fault::kGatherSkipped); }
inline bool keep_until_end() noexcept { return !faulty(Fault::kDiscardOnNotice); }
inline bool deadline_per_exchange() noexcept { return !faulty(Fault::kOneDeadline); }
inline bool rehome_alike() noexcept { return !faulty(Fault::kRehomeByRank); }
inline bool load_lost_experts() noexcept { return !faulty(Fault::kReloadSkipped); }
inline bool steps_made_equal() noexcept { return !faulty(Fault::kNoStepSync); }
inline bool counters_made_equal() noexcept { return !faulty(Fault::kCountersKept); }
inline bool mode_goes_on() noexcept { return !faulty(Fault::kModeLostInReconfiguration); }
inline bool planner_begins_anew() noexcept { return !faulty(Fault::kPlannerKept); }
inline bool loads_by_their_placement() noexcept { return !faulty(Fault::kLoadsByCurrent); }
inline bool split_loads() noexcept { return !faulty(Fault::kLoadsUnsplit); }
inline bool refresh_tables() noexcept { return !faulty(Fault::kStaleTable); }

}  // namespace swiftbalancer::rules
