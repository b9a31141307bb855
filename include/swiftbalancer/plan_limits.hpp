#pragma once
// What a rebalance may cost and what placements must keep, beyond balance. Part of a
// BalancerConfig, equal on all ranks; the planner hands it to policies. Plain data; any thread.

#include <cstdint>
#include <optional>
#include <vector>

namespace swiftbalancer {

/// What a move costs and what balance is worth, in seconds: a layer is left alone where the gain
/// over the horizon does not pay for its copies. From a hardware profile: docs/plan.md.
struct CostGate {
  double seconds_per_imbalance = 0.0;  ///< That 1.0 of imbalance adds to a layer, every step.
  double seconds_per_move = 0.0;       ///< By which the copy of an expert delays the steps.
  double horizon_steps = 0.0;          ///< For which the plan is expected to hold.

  /// Imbalance that one move must win to break even. Infinite where balance is worth nothing.
  double price() const noexcept;
  /// Hysteresis: what is served stays unless the gain clearly exceeds the cost.
  /// @param gain of imbalance, beyond noise. @param moves that the busiest rank receives or sends:
  /// copies of different ranks delay steps at the same time, not one after another.
  bool is_worth_it(double gain, int moves) const noexcept;
  friend bool operator==(const CostGate&, const CostGate&) = default;
};

/// Budgets and gate bind every policy, the other limits policy swift alone.
struct PlanLimits {
  // Budget of one rebalance, over all layers, spent where a byte wins most; < 0: no limit.
  std::int64_t max_moves_per_rebalance = -1;
  std::int64_t max_bytes_per_rebalance = -1;  ///< Bytes of the moved experts.
  std::int64_t max_bytes_per_rank = -1;       ///< That a rank receives, and that it sends.
  std::optional<CostGate> gate{};  ///< In place of the part of min_gain that a move must win.
  // What placements keep.
  int max_rank_moves = -1;  ///< Moves that a rank receives, and that it sends, in one layer.
  int max_replicas = 0;     ///< Slots of one expert at most; 0: no limit.
  std::vector<double> rank_speeds{};  ///< [num_ranks] relative, > 0; empty: all alike.
  std::vector<int> pinned_experts{};  ///< Stay in the slots that hold them, in every layer.
  friend bool operator==(const PlanLimits&, const PlanLimits&) = default;
};

}  // namespace swiftbalancer
