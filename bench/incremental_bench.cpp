// What an incremental plan costs and wins on even shares, whole model: a placement gone stale (10 %
// of the distribution drifted, sampling noise), a domain switch, no redundancy, a large model.
// Counters, means over layers: moves, imbalance before and after. Run: incremental_bench
// [--benchmark_filter=stale]

#include <benchmark/benchmark.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <swiftbalancer/load.hpp>
#include <swiftbalancer/placement.hpp>
#include <swiftbalancer/policy.hpp>

#include "planner/generated_loads.hpp"

namespace {

using namespace swiftbalancer;
using swiftbalancer::testing::generated_distribution;
using swiftbalancer::testing::interpolated;
using swiftbalancer::testing::sampled;
using swiftbalancer::testing::Skew;

constexpr double kTokens = 4e6;  // per layer: 1,000 steps of 512 tokens to 8 experts

struct Case {
  ClusterShape shape;
  ExpertLoad load;
  Placement placement;
};

struct Scene {
  std::string name;
  int layers, experts, slots, ranks;
  double drift;  // part of the distribution that is another one's now
  std::vector<int> budgets;
};

// The placement is EPLB's for the load before.
Case make_case(const Scene& scene, Skew skew) {
  const ClusterShape shape({.num_moe_layers = scene.layers,
                            .num_logical_experts = scene.experts,
                            .num_ranks = scene.ranks,
                            .num_slots = scene.slots});
  const auto from = generated_distribution(scene.layers, scene.experts, skew, 1);
  const auto to = generated_distribution(scene.layers, scene.experts, skew, 2);
  const ExpertLoad before = sampled(from, kTokens, 3);
  Case result{shape, sampled(interpolated(from, to, scene.drift), kTokens, 4),
              Placement::initial(shape)};
  const auto eplb = make_policy("eplb");
  for (int layer = 0; layer < scene.layers; ++layer) {
    const LayerPlan plan = eplb->plan_layer(
        {.shape = &shape, .load = before.layer(layer), .placement = result.placement.layer(layer)});
    std::copy(plan.placement.begin(), plan.placement.end(), result.placement.layer(layer).begin());
  }
  return result;
}

// Made when it first runs: a filter may leave it out.
using LazyCase = std::shared_ptr<std::optional<Case>>;

void plan_model(benchmark::State& state, const LazyCase& lazy, const Scene& scene, Skew skew,
                int max_moves) {
  if (!lazy->has_value()) *lazy = make_case(scene, skew);
  const Case& c = **lazy;
  const auto policy = make_policy("swift");
  const int layers = c.shape.num_moe_layers();
  std::vector<LayerPlan> plans(static_cast<std::size_t>(layers));
  for ([[maybe_unused]] auto _ : state) {
    for (int layer = 0; layer < layers; ++layer) {
      plans[static_cast<std::size_t>(layer)] =
          policy->plan_layer({.shape = &c.shape,
                              .load = c.load.layer(layer),
                              .placement = c.placement.layer(layer),
                              .max_moves = max_moves,
                              .dispatch = Dispatch::kEven});
    }
  }
  std::vector<double> before, after;
  double moves = 0.0, work = 0.0;
  for (const LayerPlan& plan : plans) {
    before.push_back(plan.imbalance_before);
    after.push_back(plan.imbalance_after);
    moves += plan.moves;
    work += static_cast<double>(plan.work);
  }
  state.counters["moves"] = moves / layers;
  state.counters["work"] = work / layers;
  state.counters["before"] = aggregate_imbalance(before).mean_over_layers;
  state.counters["after"] = aggregate_imbalance(after).mean_over_layers;
  state.counters["worst"] = aggregate_imbalance(after).worst_layer;
}

void register_all() {
  const std::vector<Scene> scenes = {
      {"stale_58x256->288on32", 58, 256, 288, 32, 0.1, {4, 16, 26, -1}},
      {"switch_75x256->320on32", 75, 256, 320, 32, 1.0, {4, 16, 32, -1}},
      {"stale_58x256->256on32", 58, 256, 256, 32, 0.1, {-1}},
      {"stale_58x256->320on64", 58, 256, 320, 64, 0.1, {4, 16, -1}},
      {"stale_92x896->1024on128", 92, 896, 1024, 128, 0.1, {16, -1}},
  };
  for (const Scene& scene : scenes) {
    for (const auto& [skew_name, skew] :
         {std::pair{"lognormal", Skew::kLognormal}, {"zipf", Skew::kZipf}}) {
      const auto lazy = std::make_shared<std::optional<Case>>();
      for (int budget : scene.budgets) {
        const std::string name = scene.name + "/" + skew_name + "/moves_" +
                                 (budget < 0 ? "all" : std::to_string(budget));
        benchmark::RegisterBenchmark(name.c_str(), plan_model, lazy, scene, skew, budget)
            ->Unit(benchmark::kMillisecond);
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  register_all();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
