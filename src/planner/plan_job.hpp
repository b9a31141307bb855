#pragma once
// A plan in the making: one policy call per layer, then the gate that drops what is not worth
// moving, then further calls for layers that get a part of a budget only. Created by the planner;
// balancer worker only.

#include <cstdint>
#include <memory>
#include <vector>

#include "planner/planner.hpp"
#include "planner/scenarios.hpp"

namespace swiftbalancer {

/// All that a plan is made from.
struct PlanInput {
  ClusterShape shape;
  PlannerConfig config;
  ServedState served;
  ExpertLoad load;
  double dispersion = 1.0;  ///< Of the load's noise, LoadHistory::dispersion().
  std::uint64_t seed = 0;
  double unit = 1.0;  ///< What one token counts in `load`.
  /// With two or more the imbalance of a plan is their weighted mean, and `load` their blend: no
  /// rank may be hot in one because it is cold in another. Helps only for loads like these.
  std::vector<Scenario> scenarios{};
  Dispatch dispatch = Dispatch::kSplit;  ///< What plans are judged under.
};

/// @param input with expert_bytes in its config where that limits bytes.
std::unique_ptr<PlanJob> make_plan_job(PlanInput input);
/// A job that is done at once and moves nothing.
std::unique_ptr<PlanJob> make_empty_job(const std::vector<double>& imbalance_per_layer);

}  // namespace swiftbalancer
