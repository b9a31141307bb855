// What a full plan costs and wins: 58 layers x 256 experts -> 288 slots on 32 ranks (and the demo's
// 64 -> 80 on 8), on skewed synthetic loads, from the initial placement and from a plan of another
// load. Counters, means over layers: moves, imbalance before and after. Run: planner_bench
// [--benchmark_filter=swift]

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <swiftbalancer/load.hpp>
#include <swiftbalancer/placement.hpp>
#include <swiftbalancer/policy.hpp>

namespace {

using namespace swiftbalancer;

enum class Skew { kLognormal, kZipf };
enum class From { kInitial, kOtherLoad };

ExpertLoad synthetic_load(const ClusterShape& shape, Skew skew, unsigned seed) {
  std::mt19937 random(seed);
  ExpertLoad load(shape.num_moe_layers(), shape.num_logical_experts());
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    auto row = load.layer(layer);
    std::vector<double> weight(row.size());
    std::normal_distribution<double> normal;
    for (std::size_t i = 0; i < weight.size(); ++i) {
      weight[i] = skew == Skew::kLognormal ? std::exp(normal(random))
                                           : std::pow(static_cast<double>(i + 1), -0.8);
    }
    std::shuffle(weight.begin(), weight.end(), random);
    const double sum = std::accumulate(weight.begin(), weight.end(), 0.0);
    for (std::size_t i = 0; i < weight.size(); ++i)
      row[i] = static_cast<std::int64_t>(1e6 * weight[i] / sum);
  }
  return load;
}

struct Case {
  ClusterShape shape;
  ExpertLoad load;
  Placement placement;
  std::vector<std::vector<std::uint32_t>> shares;
};

LayerProblem problem_of(const Case& c, int layer) {
  LayerProblem problem;
  problem.shape = &c.shape;
  problem.load = c.load.layer(layer);
  problem.placement = c.placement.layer(layer);
  problem.shares = c.shares[static_cast<std::size_t>(layer)];
  return problem;
}

Case make_case(const ShapeOptions& options, const Policy& policy, Skew skew, From from) {
  const ClusterShape shape(options);
  Case c{shape, synthetic_load(shape, skew, 1), Placement::initial(shape), {}};
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    c.shares.push_back(even_shares(c.placement.layer(layer), shape.num_logical_experts()));
  }
  if (from == From::kInitial) return c;
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    LayerPlan plan = policy.plan_layer(problem_of(c, layer));
    std::copy(plan.placement.begin(), plan.placement.end(), c.placement.layer(layer).begin());
    c.shares[static_cast<std::size_t>(layer)] = std::move(plan.shares);
  }
  c.load = synthetic_load(shape, skew, 2);
  return c;
}

void plan_model(benchmark::State& state, ShapeOptions options, std::string policy_name, Skew skew,
                From from, double min_gain) {
  const auto policy = make_policy(policy_name);
  const Case c = make_case(options, *policy, skew, from);
  std::vector<LayerPlan> plans(static_cast<std::size_t>(options.num_moe_layers));
  for ([[maybe_unused]] auto _ : state) {
    for (int layer = 0; layer < options.num_moe_layers; ++layer) {
      LayerProblem problem = problem_of(c, layer);
      problem.min_gain = min_gain;
      plans[static_cast<std::size_t>(layer)] = policy->plan_layer(problem);
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
  state.counters["moves"] = moves / options.num_moe_layers;
  state.counters["work"] = work / options.num_moe_layers;
  state.counters["before"] = aggregate_imbalance(before).mean_over_layers;
  state.counters["after"] = aggregate_imbalance(after).mean_over_layers;
  state.counters["worst"] = aggregate_imbalance(after).worst_layer;
}

ShapeOptions shape_of(int layers, int experts, int slots, int ranks) {
  ShapeOptions options;
  options.num_moe_layers = layers;
  options.num_logical_experts = experts;
  options.num_slots = slots;
  options.num_ranks = ranks;
  return options;
}

void register_all() {
  const std::vector<std::pair<std::string, ShapeOptions>> shapes = {
      {"58x256->288on32", shape_of(58, 256, 288, 32)},
      {"58x256->320on64", shape_of(58, 256, 320, 64)},
      {"6x64->80on8", shape_of(6, 64, 80, 8)},
  };
  for (const auto& [shape_name, options] : shapes) {
    for (const auto& [policy, min_gain] :
         {std::pair{"eplb", 0.0}, {"swift", 0.0}, {"swift", 0.0005}, {"swift", 0.002}}) {
      for (const auto& [skew_name, skew] :
           {std::pair{"lognormal1", Skew::kLognormal}, {"zipf0.8", Skew::kZipf}}) {
        for (const auto& [from_name, from] :
             {std::pair{"initial", From::kInitial}, {"other_load", From::kOtherLoad}}) {
          const std::string name =
              shape_name + "/" + policy +
              (min_gain > 0.0 ? "_price" + std::to_string(min_gain).substr(0, 6) : "") + "/" +
              skew_name + "/from_" + from_name;
          benchmark::RegisterBenchmark(name.c_str(), plan_model, options, std::string(policy), skew,
                                       from, min_gain)
              ->Unit(benchmark::kMillisecond);
        }
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
