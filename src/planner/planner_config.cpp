// What a PlannerConfig may hold.

#include <algorithm>
#include <cmath>
#include <string>

#include <swiftbalancer/error.hpp>

#include "planner/limits.hpp"
#include "planner/planner.hpp"
#include "planner/refuse.hpp"

namespace swiftbalancer {
namespace {

void check_budget(const char* name, std::int64_t value) {
  require(value >= -1, std::string(name) + " is " + std::to_string(value) +
                           "; it must be at least 0, or -1 for no limit");
}

void check_gate(const CostGate& gate) {
  const auto check = [](const char* name, double value, bool allowed) {
    require(std::isfinite(value) && allowed, std::string("gate: ") + name + " is " +
                                                 std::to_string(value) +
                                                 "; it must be finite and above 0");
  };
  check("seconds_per_imbalance", gate.seconds_per_imbalance, gate.seconds_per_imbalance > 0.0);
  check("seconds_per_move", gate.seconds_per_move, gate.seconds_per_move > 0.0);
  check("horizon_steps", gate.horizon_steps, gate.horizon_steps > 0.0);
}

}  // namespace

void check_policy_keeps(const PlanLimits& limits, const std::string& policy) {
  const PolicyCapabilities capabilities = make_policy(policy)->capabilities();
  if (!capabilities.moves) return;
  const auto check = [&](const char* name, bool given, bool kept) {
    require(!given || kept, std::string(name) + " is given, which policy " + policy +
                                " does not go by; leave it out or use policy swift");
  };
  check("the cost gate (horizon)", limits.gate.has_value(), capabilities.gated);
  check("rank_speeds", !limits.rank_speeds.empty(), capabilities.limited);
  check("pinned_experts", !limits.pinned_experts.empty(), capabilities.limited);
  check("max_replicas", limits.max_replicas > 0, capabilities.limited);
  check("max_rank_moves", limits.max_rank_moves >= 0, capabilities.limited);
}

void check_plan_limits(const PlanLimits& limits, const std::string& policy,
                       const ClusterShape& shape) {
  check_budget("max_moves_per_rebalance", limits.max_moves_per_rebalance);
  check_budget("max_bytes_per_rebalance", limits.max_bytes_per_rebalance);
  check_budget("max_bytes_per_rank", limits.max_bytes_per_rank);
  check_budget("max_rank_moves", limits.max_rank_moves);
  if (limits.gate) check_gate(*limits.gate);
  const std::size_t speeds = limits.rank_speeds.size();
  require(speeds == 0 || speeds == static_cast<std::size_t>(shape.num_ranks()),
          "rank_speeds has " + std::to_string(speeds) + " entries for " +
              std::to_string(shape.num_ranks()) + " ranks; give one per rank");
  for (std::size_t rank = 0; rank < speeds; ++rank) {
    const double speed = limits.rank_speeds[rank];
    require(std::isfinite(speed) && speed > 0.0,
            "rank_speeds: the speed of rank " + std::to_string(rank) + " is " +
                std::to_string(speed) + "; it must be finite and above 0");
  }
  check_speed_range(limits.rank_speeds);
  for (const int expert : limits.pinned_experts) {
    require(expert >= 0 && expert < shape.num_logical_experts(),
            "pinned_experts: expert " + std::to_string(expert) +
                " does not exist; experts are 0 to " +
                std::to_string(shape.num_logical_experts() - 1));
  }
  LayerProblem problem{.shape = &shape, .max_replicas = limits.max_replicas};
  check_limits(problem);
  check_policy_keeps(limits, policy);
}

PlannerConfig checked(const PlannerConfig& config, const ClusterShape& shape) {
  require(std::isfinite(config.imbalance_trigger) && config.imbalance_trigger >= 1.0,
          "imbalance_trigger is " + std::to_string(config.imbalance_trigger) +
              "; it must be at least 1 (max / mean rank load)");
  require(std::isfinite(config.min_gain) && config.min_gain >= 0.0,
          "min_gain is " + std::to_string(config.min_gain) + "; it must be at least 0");
  require(config.window_assignments > 0, "window_assignments is " +
                                             std::to_string(config.window_assignments) +
                                             "; it must be at least 1");
  check_plan_limits(config.limits, config.policy, shape);
  const bool bytes_limited =
      config.limits.max_bytes_per_rebalance >= 0 || config.limits.max_bytes_per_rank >= 0;
  const auto layers = static_cast<std::size_t>(shape.num_moe_layers());
  require(config.expert_bytes.empty() ? !bytes_limited : config.expert_bytes.size() == layers,
          "expert_bytes has " + std::to_string(config.expert_bytes.size()) +
              " entries; budgets of bytes need one for each of the " + std::to_string(layers) +
              " layers");
  require(std::ranges::all_of(config.expert_bytes, [](std::int64_t bytes) { return bytes > 0; }),
          "expert_bytes of a layer is below 1; it must be at least 1");
  return config;
}

}  // namespace swiftbalancer
