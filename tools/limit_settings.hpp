#pragma once
// The settings by which `plan` and `serve` limit plans: speeds of ranks, pinned experts, replicas
// of one expert, budgets of a rebalance; for `plan` also groups bound to nodes, and dead ranks.
// Main thread.

#include <optional>
#include <string>
#include <vector>

#include <swiftbalancer/placement.hpp>
#include <swiftbalancer/plan_limits.hpp>
#include <swiftbalancer/policy.hpp>
#include <swiftbalancer/shape.hpp>

#include "settings.hpp"

namespace swiftbalancer::tool {

class LimitSettings {
 public:
  /// Declares rank_speeds, pinned_experts and max_replicas.
  void declare(Settings& settings);
  /// Declares max_moves_per_rebalance, max_bytes_per_rebalance, max_bytes_per_rank, max_rank_moves.
  void declare_budgets(Settings& settings);
  /// Declares max_cross_node_replicas and dead_ranks.
  void declare_offline(Settings& settings);
  /// Whether anything but dead ranks is asked for.
  bool given() const noexcept;
  bool binds_groups() const noexcept { return max_cross_node_replicas_ >= 0; }
  /// Expert groups stay on nodes, strictly, where there are both and max_cross_node_replicas is not
  /// given. @throws Error kInvalidArgument: it is given where there are not both.
  void bind_groups(const Settings& settings, const ShapeOptions& shape);
  /// Whether groups bind experts to nodes in plans for this shape.
  bool binds_groups(const ClusterShape& shape) const;
  bool limits_bytes() const noexcept {
    return limits_.max_bytes_per_rebalance >= 0 || limits_.max_bytes_per_rank >= 0;
  }
  /// What incremental plans go by. @throws Error kInvalidArgument: not numbers; what depends on the
  /// shape is left to check_plan_limits().
  PlanLimits limits() const;

  /// @returns the ranks that are dead, none unless given. @throws Error kInvalidArgument: not
  /// numbers.
  std::vector<int> dead_ranks() const;

  /// Reads the lists for a shape. After this fill() may be used.
  /// @param placement that is served; null: a full plan from nothing, which has nothing to pin.
  /// @throws Error kInvalidArgument: lists that do not fit the shape, pins without a placement.
  void prepare(const ClusterShape& shape, const Placement* placement);
  /// Sets the limits of one layer in a problem. @param problem keeps views into this object.
  void fill(int moe_layer_id, LayerProblem& problem) const;

 private:
  std::vector<std::string> rank_speeds_;
  std::vector<std::string> pinned_experts_;
  std::vector<std::string> dead_ranks_;
  PlanLimits limits_;  // without the lists
  int max_cross_node_replicas_ = -1;
  std::vector<double> speed_;
  std::vector<std::vector<std::uint8_t>> pinned_;  // [num_moe_layers][num_slots], empty: none
};

}  // namespace swiftbalancer::tool
