#pragma once
// How many redundant experts does a model need? Plans the same loads with each count and sets
// balance, memory and expected step time side by side. Called by the tool. Pure, deterministic.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <swiftbalancer/load.hpp>
#include <swiftbalancer/policy.hpp>
#include <swiftbalancer/shape.hpp>

#include "planner/replica_budget.hpp"
#include "planner/step_time.hpp"

namespace swiftbalancer {

struct SweepOptions {
  /// Ranks, nodes and groups; num_slots, slots_per_rank, layers and experts are set by the sweep.
  ShapeOptions shape;
  std::vector<int> counts;               ///< Redundant experts per layer; any order, each once.
  Dispatch dispatch = Dispatch::kSplit;  ///< What the recommendation and the budgets go by.
  std::vector<double> rank_speed{};      ///< As in LayerProblem.
  int max_replicas = 0;
  int max_cross_node_replicas = -1;
  double expert_bytes = 0.0;        ///< Of one expert in one layer; 0: memory is not known.
  std::optional<StepModel> step{};  ///< Without it step times are not known.
  std::int64_t total_redundant_experts = -1;  ///< Over all layers, to share out; < 0: none.
};

struct SweepRow {
  int redundant_experts = 0;  ///< Per layer.
  int num_slots = 0;
  OverLayers imbalance_even;
  OverLayers imbalance_split;
  /// Of the load to score on, where one is given.
  std::optional<OverLayers> next_imbalance_even{};
  std::optional<OverLayers> next_imbalance_split{};
  double cross_node_share = 0.0;               ///< Of tokens, mean over layers; bound groups only.
  std::optional<std::int64_t> memory_bytes{};  ///< Experts of all layers on the fullest rank.
  std::optional<double> step_seconds{};
};

/// Layers with numbers of redundant experts of their own.
struct SweepBudget {
  ReplicaBudget budget;
  double imbalance_mean = 0.0;                  ///< Over layers, with each layer's own number.
  std::optional<double> next_imbalance_mean{};  ///< Of the load to score on.
  std::optional<double> step_seconds{};
  std::optional<std::int64_t> memory_bytes{};
};

struct SweepResult {
  std::vector<SweepRow> rows;   ///< Ascending counts.
  std::size_t recommended = 0;  ///< Row.
  std::string reason;           ///< One sentence.
  /// On the load planned for the balance of the recommended row (its step time, where known) within
  /// 0.1 % with fewer redundant experts over all layers; none where no layer can do with fewer.
  std::optional<SweepBudget> cheaper{};
  std::optional<SweepBudget> shared_out{};  ///< Of total_redundant_experts.
};

/// A larger count is worth its memory if it wins more than this part of step time (of the highest
/// rank load, where step times are not known).
inline constexpr double kWorthItsMemory = 0.01;

/// @param load [num_moe_layers, num_logical_experts]. @param score a later load of the same model,
/// or null: placements and shares planned for `load` are then judged on it, which is what more
/// replicas are mostly for; step times and the recommendation go by it (budgets do not: that would
/// be hindsight). @throws Error kInvalidArgument: no counts, one twice or below 0, a shape or
/// limits that do not fit. Cost: counts x layers full plans.
SweepResult run_sweep(const SweepOptions& options, const ExpertLoad& load,
                      const ExpertLoad* score = nullptr);

}  // namespace swiftbalancer
