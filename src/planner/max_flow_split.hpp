#pragma once
// The exact optimum of splitting the tokens of replicated experts over their slots, for a fixed
// placement: what ReplicaSplit is measured against, and the lower bound LB3 of a placement. Some
// ten times slower than ReplicaSplit. Pure functions in integers, any thread.

#include <cstdint>
#include <span>
#include <vector>

#include <swiftbalancer/shape.hpp>

namespace swiftbalancer {

/// Rank speeds count in steps of the fastest one's 1 / kSpeedSteps: a rank of a tenth of its speed
/// is off by less than 1e-4.
inline constexpr std::int64_t kSpeedSteps = 1 << 16;

struct MaxFlowSplit {
  /// [num_slots] whole tokens: those of an expert sum to its load, and no rank gets more than the
  /// bound times its speed, rounded up. The second slot of an expert on a rank gets none.
  std::vector<std::int64_t> quotas;
  /// LB3: the largest, over sets of experts, of their tokens / the speed of all ranks that hold one
  /// of them (Hall's condition). The hottest rank of a split into parts of tokens reaches it.
  double bound = 0.0;
};

/// @param slots [num_slots], may hold kEmptySlot, and holds every expert that has tokens.
/// @param load [num_logical_experts], >= 0. @param rank_speed [num_ranks], > 0; empty: all alike.
/// @throws Error kInvalidArgument when an expert with tokens has no slot, or the tokens are too
/// many for 64 bits (2^62 / the speed steps of all ranks). Source: maximum flow by Dinic 1970, the
/// bound by Newton on cuts (Dinkelbach 1967).
MaxFlowSplit max_flow_split(const ClusterShape& shape, std::span<const std::int32_t> slots,
                            std::span<const std::int64_t> load,
                            std::span<const double> rank_speed = {});

}  // namespace swiftbalancer
