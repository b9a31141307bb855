#pragma once
// Plans, full and incremental, for layers with limits: ranks of unequal speed, pinned slots, at
// most so many replicas of an expert, expert groups bound to nodes (strictly, or but for a few
// replicas). Called by policies and by the tool on the balancer worker. Pure, deterministic.

#include <cstdint>
#include <span>

#include <swiftbalancer/policy.hpp>

namespace swiftbalancer {

/// Whether the problem asks for more than balance: rank_speed, pinned, max_replicas, or groups that
/// are bound (several of them, several nodes, max_cross_node_replicas >= 0).
bool has_limits(const LayerProblem& problem);

/// @throws Error kInvalidArgument: speeds, each finite and above 0, that lie too far apart or too
/// far from 1 to reckon with. The message says what is allowed.
void check_speed_range(std::span<const double> rank_speed);

/// @throws Error kInvalidArgument: lists that do not fit the shape, a speed that is not finite and
/// above 0, check_speed_range(), or limits that cannot be kept together; the message says which and
/// what would do.
void check_limits(const LayerProblem& problem);

/// Time of the slowest rank (load / speed) over the time that the load would take on all ranks
/// together; with equal speeds the imbalance. 1 for a layer without load.
double imbalance_of_times(const LayerProblem& problem, std::span<const std::int32_t> placement,
                          std::span<const std::uint32_t> shares);

/// Plans one layer from scratch within its limits; the placement says what is pinned and counts the
/// moves. Replicas are placed for an even split; under Dispatch::kSplit the shares then level it,
/// except those of relaxed groups. A replica that the pins put outside the node of its group does
/// not count against max_cross_node_replicas. With bound groups and neither pins nor max_replicas
/// never slower than eplb's placement (duplicates repaired), up to the rounding of shares.
/// @returns a plan whose imbalances are imbalance_of_times(). @throws Error as check_limits().
/// Cost: some 0.5 ms for a strict layer of 256 experts on 32 ranks, 5 ms for a relaxed one; bounded
/// by problem.max_work.
LayerPlan plan_within_limits(const LayerProblem& problem);

/// Whether an incremental plan must be made by improve_within_limits(): it has rank_speed, bound
/// groups or more than max_replicas of an expert, or, under Dispatch::kSplit, anything else that a
/// placement must keep or max_rank_moves.
bool needs_limited_search(const LayerProblem& problem);

/// Plans one layer from its placement, within its limits, max_moves and max_rank_moves: the best
/// point, at min_gain a move, on a way of single changes that relieve the slowest rank. Slots of
/// experts with more than max_replicas go to others first, as far as moves allow. Bound groups are
/// placed as a whole (plan_within_limits()) or, where that takes too many moves, not at all.
/// @returns as plan_within_limits(), with trade_offs. @throws Error as check_limits(). Cost: some
/// ms for 256 experts on 32 ranks, within max_work.
LayerPlan improve_within_limits(const LayerProblem& problem);

}  // namespace swiftbalancer
