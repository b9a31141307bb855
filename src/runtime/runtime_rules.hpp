#pragma once
// The rules of the agreement that the runtime keeps, as named predicates, so that a test can build
// the runtime with one of them broken: the fault build replaces this header.

#include <cstdint>

namespace swiftbalancer::rules {

/// A set is used when it is due, however early it is complete (rule 1).
constexpr bool use_when_due() noexcept { return true; }
/// begin_step waits for the set that is due (rule 1).
constexpr bool wait_for_set() noexcept { return true; }
/// What was posted is used, of this rank too (rule 2).
constexpr bool packets_are_frozen() noexcept { return true; }
/// The phase of a set is that of all ranks with tokens, else mixed.
constexpr bool phase_of_all_ranks() noexcept { return true; }
/// The base of a plan is what was served when its generation was opened (rule 3).
constexpr bool base_at_opening() noexcept { return true; }
/// The hash covers all that a plan is (rule 3).
constexpr bool hash_whole_plan() noexcept { return true; }
/// Dispatch rows follow the planned shares.
constexpr bool rows_follow_shares() noexcept { return true; }
/// A plan is cut into units that fit the pool (rule 10).
constexpr bool units_fit_pool() noexcept { return true; }
/// A failed gather ends the membership (rule 11).
constexpr bool failed_gather_ends() noexcept { return true; }
/// Nothing is discarded before a reconfiguration ends (rule 12).
constexpr bool keep_until_end() noexcept { return true; }
/// Each exchange of a reconfiguration has a deadline of its own.
constexpr bool deadline_per_exchange() noexcept { return true; }
/// Lost experts go where all ranks compute that they go (rule 13).
constexpr bool rehome_alike() noexcept { return true; }
/// An expert that is placed anew is loaded (rule 13).
constexpr bool load_lost_experts() noexcept { return true; }
/// All go on from the highest step begun (rule 14).
constexpr bool steps_made_equal() noexcept { return true; }
/// The agreement's private counters are made equal (rule 14).
constexpr bool counters_made_equal() noexcept { return true; }
/// The agreed mode goes on (rule 14).
constexpr bool mode_goes_on() noexcept { return true; }
/// A planner begins anew with a membership (rule 14).
constexpr bool planner_begins_anew() noexcept { return true; }
/// Loads are read with the placements that they were counted under (rule 15).
constexpr bool loads_by_their_placement() noexcept { return true; }
/// A commit splits the window of its layer (rule 15).
constexpr bool split_loads() noexcept { return true; }
/// Tables are refreshed with the weights (invariant 3).
constexpr bool refresh_tables() noexcept { return true; }

}  // namespace swiftbalancer::rules
