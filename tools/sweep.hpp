#pragma once
// `plan --sweep`: how many redundant experts a model needs. Its settings, and the result as a table
// and as JSON; the planning is planner/sweep.hpp. Used by `plan`. Main thread.

#include <string>

#include <nlohmann/json.hpp>

#include <swiftbalancer/policy.hpp>
#include <swiftbalancer/shape.hpp>

#include "planner/cost_gate.hpp"
#include "planner/sweep.hpp"
#include "settings.hpp"

namespace swiftbalancer::tool {

class SweepSettings {
 public:
  /// Declares sweep, expert_bytes, tokens_per_step, top_k, context_length and replica_budget.
  void declare(Settings& settings);
  bool given() const noexcept { return !counts_.empty(); }
  /// @param shape as in SweepOptions. @param hardware path of a hardware profile, which says the
  /// expert's bytes and gives step times; empty: none. @param limits rank_speed, max_replicas and
  /// max_cross_node_replicas are taken from it.
  /// @throws Error kInvalidArgument: counts that are neither a list nor FROM:TO:STEP, both
  /// --expert-bytes and a profile, step settings without a profile; as load_hardware_profile().
  SweepOptions options(const Settings& settings, const ShapeOptions& shape, Dispatch dispatch,
                       const std::string& hardware, const LayerProblem& limits) const;
  /// The gate of an incremental plan, from a hardware profile and what a step carries.
  /// @throws as load_hardware_profile().
  CostGate gate(int num_ranks, int horizon_steps, const std::string& hardware) const;
  /// Of one expert in one layer, as given or as the profile says. @throws Error kInvalidArgument:
  /// neither; as load_hardware_profile().
  std::int64_t expert_bytes(const std::string& hardware) const;

 private:
  std::string counts_;
  double expert_bytes_ = 0.0;
  std::int64_t tokens_per_step_ = 4096;
  int top_k_ = 8;
  int context_length_ = 1024;
  std::int64_t replica_budget_ = -1;
};

/// The table, for people: standard output.
void print_sweep(const SweepOptions& options, const SweepResult& result);
/// One object: "sweep", one entry a row, "recommended_redundant_experts", "reason", and the budgets
/// per layer where there are any; what is not known is null.
nlohmann::ordered_json sweep_json(const SweepOptions& options, const SweepResult& result);

}  // namespace swiftbalancer::tool
