#include "offline_plan.hpp"

#include <algorithm>
#include <chrono>
#include <memory>
#include <utility>

#include <swiftbalancer/placement.hpp>

#include "placement_figures.hpp"
#include "planner/full_plan.hpp"
#include "planner/limits.hpp"
#include "planner/plan_job.hpp"

namespace swiftbalancer::tool {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kLeastRuns = 3;
constexpr int kMostRuns = 15;
constexpr std::chrono::milliseconds kEnoughTime{500};

// Runs a plan several times. @returns the shortest time in ms.
template <typename Run>
double best_time(Run run) {
  double best = 0.0;
  const auto begin = Clock::now();
  for (int i = 0; i < kLeastRuns || (i < kMostRuns && Clock::now() - begin < kEnoughTime); ++i) {
    const double time = run();
    best = i == 0 ? time : std::min(best, time);
  }
  return best;
}

double milliseconds_since(Clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

bool is_limited(const OfflineProblem& given) {
  return given.limits != nullptr && given.limits->given();
}

// One planner for all layers: its memory is taken once.
OfflinePlan swift_full_plan(const OfflineProblem& given) {
  OfflinePlan result{ServedState::initial(given.shape)};
  result.changed_layers = given.shape.num_moe_layers();
  FullPlanner planner(given.shape);
  result.milliseconds = best_time([&] {
    const auto begin = Clock::now();
    for (int layer = 0; layer < given.shape.num_moe_layers(); ++layer)
      planner.plan_layer(given.load.layer(layer), result.planned.placement.layer(layer));
    return milliseconds_since(begin);
  });
  return result;
}

OfflinePlan full_plan(const OfflineProblem& given) {
  if (given.config.policy == "swift" && !given.from && !is_limited(given))
    return swift_full_plan(given);
  const auto policy = make_policy(given.config.policy);
  const ServedState start = given.from ? *given.from : ServedState::initial(given.shape);
  OfflinePlan result{start};
  result.changed_layers = given.shape.num_moe_layers();
  result.milliseconds = best_time([&] {
    const auto begin = Clock::now();
    for (int layer = 0; layer < given.shape.num_moe_layers(); ++layer) {
      LayerProblem problem;
      problem.shape = &given.shape;
      problem.load = given.load.layer(layer);
      problem.placement = start.placement.layer(layer);
      problem.dispatch = given.dispatch;
      problem.from_scratch = true;
      if (is_limited(given)) given.limits->fill(layer, problem);
      LayerPlan plan =
          is_limited(given) ? plan_within_limits(problem) : policy->plan_layer(problem);
      std::ranges::copy(plan.placement, result.planned.placement.layer(layer).begin());
      result.planned.shares[static_cast<std::size_t>(layer)] = std::move(plan.shares);
    }
    return milliseconds_since(begin);
  });
  if (!given.from) return result;
  for (int layer = 0; layer < given.shape.num_moe_layers(); ++layer) {
    result.moves += count_moves(start.placement.layer(layer), result.planned.placement.layer(layer),
                                given.shape);
  }
  return result;
}

OfflinePlan incremental_plan(const OfflineProblem& given) {
  const PlanInput input{.shape = given.shape,
                        .config = given.config,
                        .served = *given.from,
                        .load = given.load,
                        .dispatch = given.dispatch};
  Plan plan;
  const double milliseconds = best_time([&] {
    const auto job = make_plan_job(input);
    const auto begin = Clock::now();
    while (!job->advance()) {
    }
    plan = job->take();
    return milliseconds_since(begin);
  });
  OfflinePlan result{*given.from, plan.moves, static_cast<int>(plan.changes.size()), milliseconds};
  for (LayerChange& change : plan.changes) {
    std::ranges::copy(change.plan.placement,
                      result.planned.placement.layer(change.moe_layer_id).begin());
    result.planned.shares[static_cast<std::size_t>(change.moe_layer_id)] =
        std::move(change.plan.shares);
  }
  return result;
}

}  // namespace

std::span<const double> rank_speed_of(const OfflineProblem& problem) {
  LayerProblem limited;
  if (problem.limits != nullptr) problem.limits->fill(0, limited);
  return limited.rank_speed;
}

bool is_full(const OfflineProblem& problem) {
  return !problem.from || (problem.limits != nullptr && problem.limits->binds_groups());
}

OfflinePlan make_offline_plan(const OfflineProblem& problem) {
  OfflinePlan plan = is_full(problem) ? full_plan(problem) : incremental_plan(problem);
  const Placement& placement = plan.planned.placement;
  plan.planned = problem.dispatch == Dispatch::kEven
                     ? ServedState::even(placement, problem.shape)
                     : level_shares(problem.shape, placement, problem.load, rank_speed_of(problem));
  return plan;
}

}  // namespace swiftbalancer::tool
