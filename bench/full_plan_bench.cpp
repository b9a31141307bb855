// What a full plan of a whole model costs, and how near the lower bound it ends, on lognormal loads
// whose hottest expert carries 6.5 times the mean on average, as in DeepSeek-V3. Counters over
// layers: mean gap to the bound, worst gap. Run: full_plan_bench [--benchmark_filter=288/72]

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include <swiftbalancer/load.hpp>

#include "planner/bounds.hpp"
#include "planner/full_plan.hpp"

namespace {

using namespace swiftbalancer;

constexpr double kSkew = 6.5;
constexpr double kTokens = 1000.0 * 4096.0 * 8.0;

// The skew, mean over layers, of exp(sigma * normal).
double skew(const std::vector<std::vector<double>>& normal, double sigma) {
  double sum = 0.0;
  for (const auto& layer : normal) {
    double total = 0.0, most = 0.0;
    for (double x : layer) {
      total += std::exp(sigma * x);
      most = std::max(most, std::exp(sigma * x));
    }
    sum += most * static_cast<double>(layer.size()) / total;
  }
  return sum / static_cast<double>(normal.size());
}

ExpertLoad make_load(const ClusterShape& shape, unsigned seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> draw;
  std::vector<std::vector<double>> normal(static_cast<std::size_t>(shape.num_moe_layers()));
  for (auto& layer : normal) {
    for (int expert = 0; expert < shape.num_logical_experts(); ++expert)
      layer.push_back(draw(random));
  }
  double low = 0.0, high = 4.0;
  for (int i = 0; i < 40; ++i) {
    const double sigma = 0.5 * (low + high);
    (skew(normal, sigma) > kSkew ? high : low) = sigma;
  }
  ExpertLoad load(shape.num_moe_layers(), shape.num_logical_experts());
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    std::vector<double>& weight = normal[static_cast<std::size_t>(layer)];
    for (double& x : weight) x = std::exp(low * x);
    const double total = std::accumulate(weight.begin(), weight.end(), 0.0);
    std::ranges::transform(weight, load.layer(layer).begin(), [total](double x) {
      return static_cast<std::int64_t>(kTokens * x / total);
    });
  }
  return load;
}

void plan_model(benchmark::State& state, const ShapeOptions& options, unsigned seed) {
  const ClusterShape shape(options);
  const ExpertLoad load = make_load(shape, seed);
  FullPlanner planner(shape);
  std::vector<std::int32_t> slots(static_cast<std::size_t>(shape.num_slots()));
  for ([[maybe_unused]] auto _ : state) {
    for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
      planner.plan_layer(load.layer(layer), slots);
      benchmark::DoNotOptimize(slots.data());
    }
  }
  double sum = 0.0, worst = 0.0;
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    planner.plan_layer(load.layer(layer), slots);
    const double most = std::ranges::max(rank_load(shape, slots, {}, load.layer(layer)));
    const double gap = most / lower_bound(shape, load.layer(layer)) - 1.0;
    sum += gap;
    worst = std::max(worst, gap);
  }
  state.counters["gap"] = sum / shape.num_moe_layers();
  state.counters["worst"] = worst;
}

void add(int layers, int experts, int slots, int ranks) {
  for (unsigned seed = 1; seed <= 3; ++seed) {
    const std::string name = std::to_string(layers) + "x" + std::to_string(experts) + "/" +
                             std::to_string(slots) + "/" + std::to_string(ranks) + "/seed" +
                             std::to_string(seed);
    const ShapeOptions options{.num_moe_layers = layers,
                               .num_logical_experts = experts,
                               .num_ranks = ranks,
                               .num_slots = slots};
    benchmark::RegisterBenchmark(name.c_str(), plan_model, options, seed)
        ->Unit(benchmark::kMillisecond);
  }
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  add(58, 256, 256, 32);
  add(58, 256, 288, 32);
  add(58, 256, 320, 32);
  add(58, 256, 320, 64);
  add(58, 256, 288, 72);
  add(58, 128, 160, 32);
  add(92, 896, 1024, 128);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
