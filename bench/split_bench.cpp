// What splitting a layer's tokens over replicas costs and wins: even, ReplicaSplit, and the exact
// optimum by maximum flow, on a placement made for one load and run on another. Each layer is timed
// on its own load in turn. Counters, means over layers: imbalance even, split and exact, and the
// worst gap between the last two. Run: split_bench [--benchmark_filter=320/32]

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include <swiftbalancer/dispatch_table.hpp>
#include <swiftbalancer/load.hpp>
#include <swiftbalancer/placement.hpp>
#include <swiftbalancer/policy.hpp>

#include "planner/max_flow_split.hpp"
#include "planner/split.hpp"

namespace {

using namespace swiftbalancer;

constexpr int kLayers = 58;
constexpr int kExperts = 256;

// Lognormal weights whose hottest expert is 6.5 times the mean, as in DeepSeek-V3.
std::vector<double> skewed_weights(std::mt19937_64& random) {
  std::vector<double> exponent(kExperts), weight(kExperts);
  std::normal_distribution<double> normal;
  for (double& x : exponent) x = normal(random);
  double low = 0.0, high = 4.0;
  for (int i = 0; i < 40; ++i) {
    const double sigma = 0.5 * (low + high);
    std::ranges::transform(exponent, weight.begin(), [&](double x) { return std::exp(sigma * x); });
    const double mean = std::accumulate(weight.begin(), weight.end(), 0.0) / kExperts;
    (*std::ranges::max_element(weight) > 6.5 * mean ? high : low) = sigma;
  }
  const double sum = std::accumulate(weight.begin(), weight.end(), 0.0);
  for (double& x : weight) x /= sum;
  return weight;
}

// @param stale the part of another seed's weights in this load.
ExpertLoad make_load(double stale) {
  std::mt19937_64 random(1), other(2), noise(3);
  ExpertLoad load(kLayers, kExperts);
  for (int layer = 0; layer < kLayers; ++layer) {
    const std::vector<double> first = skewed_weights(random), second = skewed_weights(other);
    auto row = load.layer(layer);
    for (std::size_t expert = 0; expert < row.size(); ++expert) {
      const double weight = (1.0 - stale) * first[expert] + stale * second[expert];
      row[expert] = std::poisson_distribution<std::int64_t>(5e5 * weight)(noise);
    }
  }
  return load;
}

ClusterShape shape_of(int slots, int ranks) {
  ShapeOptions options;
  options.num_moe_layers = kLayers;
  options.num_logical_experts = kExperts;
  options.num_ranks = ranks;
  options.num_slots = slots;
  return ClusterShape(options);
}

// The plan for the load without drift.
Placement plan_for(const ClusterShape& shape, const ExpertLoad& load) {
  const auto policy = make_policy("eplb");
  const Placement start = Placement::initial(shape);
  Placement placement = start;
  for (int layer = 0; layer < kLayers; ++layer) {
    LayerProblem problem;
    problem.shape = &shape;
    problem.load = load.layer(layer);
    problem.placement = start.layer(layer);
    std::ranges::copy(policy->plan_layer(problem).placement, placement.layer(layer).begin());
  }
  return placement;
}

void split(benchmark::State& state, int slots, int ranks, double stale) {
  const ClusterShape shape = shape_of(slots, ranks);
  const Placement placement = plan_for(shape, make_load(0.0));
  const ExpertLoad load = make_load(stale);
  std::vector<std::vector<double>> tokens;
  double even = 0.0, leveled = 0.0, exact = 0.0, gap = 0.0;
  ReplicaSplit splitter(shape);
  for (int layer = 0; layer < kLayers; ++layer) {
    const auto row = load.layer(layer);
    tokens.emplace_back(row.begin(), row.end());
    const double mean = std::accumulate(row.begin(), row.end(), 0.0) / ranks;
    const double bound = max_flow_split(shape, placement.layer(layer), row).bound;
    const double highest = splitter.level(placement.layer(layer), tokens.back());
    even += imbalance(rank_load(shape, placement.layer(layer), {}, row));
    leveled += highest / mean;
    exact += bound / mean;
    gap = std::max(gap, highest / bound - 1.0);
  }
  int layer = 0;
  for ([[maybe_unused]] auto _ : state) {
    benchmark::DoNotOptimize(
        splitter.level(placement.layer(layer), tokens[static_cast<std::size_t>(layer)]));
    layer = (layer + 1) % kLayers;
  }
  state.counters["even"] = even / kLayers;
  state.counters["split"] = leveled / kLayers;
  state.counters["exact"] = exact / kLayers;
  state.counters["worst_gap_percent"] = 100.0 * gap;
}

}  // namespace

int main(int argc, char** argv) {
  for (const auto& [slots, ranks] : {std::pair{288, 32}, {320, 32}, {320, 64}, {288, 72}}) {
    for (const double stale : {0.0, 0.1, 1.0}) {
      const std::string name = "split/" + std::to_string(slots) + "/" + std::to_string(ranks) +
                               "/stale" + std::to_string(static_cast<int>(100 * stale));
      benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) {
        split(state, slots, ranks, stale);
      })->Unit(benchmark::kMicrosecond);
    }
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
