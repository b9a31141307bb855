#pragma once
// The planner of one rank: collects the loads that all ranks agree on, says when a rebalance is
// worth planning, and plans it layer by layer in bounded pieces, so that the worker can serve
// packets in between. Pure and deterministic: the same calls in the same order give the same bytes
// on every rank. Balancer worker only.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <swiftbalancer/load.hpp>
#include <swiftbalancer/placement.hpp>
#include <swiftbalancer/plan_limits.hpp>
#include <swiftbalancer/policy.hpp>
#include <swiftbalancer/shape.hpp>

#include "planner/served_state.hpp"

namespace swiftbalancer {

struct PlannerConfig {
  std::string policy = "swift";
  int max_moves_per_layer = -1;  ///< Per rebalance; < 0: no limit.
  double imbalance_trigger =
      1.10;  ///< Early rebalance when the imbalance, beyond its sampling noise, exceeds this.
  double min_gain = 0.01;  ///< Predicted fall of imbalance (mean over layers) below which a plan is
                           ///< dropped; down to a quarter of it where loads are known well.
  std::int64_t window_assignments =
      4096;  ///< Token-expert assignments per layer that make a window worth judging.
  PlanLimits limits{};
  std::vector<std::int64_t> expert_bytes{};  ///< [num_moe_layers]; for budgets of bytes.
  bool locality_first = false;               ///< As in LayerProblem.
};

/// @throws Error kInvalidArgument naming what is given and the policy does not go by. Policies that
/// move nothing go by everything.
void check_policy_keeps(const PlanLimits& limits, const std::string& policy);
/// @throws Error kInvalidArgument naming the field: values out of range, lists that do not fit the
/// shape, what the policy does not keep.
void check_plan_limits(const PlanLimits& limits, const std::string& policy,
                       const ClusterShape& shape);
/// The config itself. @throws Error kInvalidArgument naming the field, as check_plan_limits().
PlannerConfig checked(const PlannerConfig& config, const ClusterShape& shape);

/// One layer that a plan changes.
struct LayerChange {
  int moe_layer_id = 0;
  LayerPlan plan;
};

struct Plan {
  std::vector<LayerChange> changes;  ///< In commit order: most gain per move first, ties by layer.
  OverLayers imbalance_before;       ///< Predicted, over all layers.
  OverLayers imbalance_after;
  int moves = 0;
};

/// A plan in the making. Owns copies of all it reads.
class PlanJob {
 public:
  virtual ~PlanJob() = default;
  /// Plans one more layer, or one again with fewer moves. @returns true when there is nothing left
  /// to do. Cost: one policy call.
  virtual bool advance() = 0;
  /// After advance() returned true. An empty plan means: nothing is worth moving.
  virtual Plan take() = 0;
};

/// Calls of advance() after which any job has returned true: one a layer, and where budgets bind,
/// more to find how many moves fit a rank.
int most_advances(const ClusterShape& shape);

class Planner {
 public:
  /// @throws Error kInvalidArgument: unknown policy, value out of range (says the allowed one).
  Planner(const ClusterShape& shape, const PlannerConfig& config);
  ~Planner();

  /// The loads of one packet set, already mapped to logical experts, in the order of the sets.
  /// Phases have histories of their own; a plan weighs them by the tokens of late.
  void observe(const ExpertLoad& load, Phase phase = Phase::kMixed);
  /// What is served from now on changed, all of it, and whether a plan is open or migrating (then
  /// no early trigger).
  void on_served(const ServedState& served, bool rebalancing);
  /// One layer is served otherwise from now on. Cost: its slots alone while a plan is migrating.
  void on_committed(int moe_layer_id, std::span<const std::int32_t> placement,
                    std::span<const std::uint32_t> shares);
  /// Whether a plan is open or migrating.
  void on_rebalancing(bool rebalancing);
  /// True when the evidence calls for a rebalance before the interval is over.
  bool wants_rebalance() const;
  /// Changes of the traffic seen so far, all phases.
  int num_changes() const noexcept;
  /// Starts a plan on what is served now. Whatever it throws, the planner is then as it was before.
  /// @param seed agreed by all ranks (the generation's step).
  std::unique_ptr<PlanJob> begin_plan(std::uint64_t seed);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace swiftbalancer
