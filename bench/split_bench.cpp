// What splitting a layer's tokens over replicas costs and wins: even, ReplicaSplit, and the exact
// optimum by maximum flow, on a placement made for one load that meets another: the generator's,
// and recorded ones where they are at hand. Each layer is timed on its own load in turn. Counters,
// means over layers: imbalance even, split and exact, and the worst gap between the last two. Then
// the same split so that tokens stay near, on 4 nodes: the part of tokens that can stay on their
// own rank and node, before and after. Run: split_bench [--benchmark_filter=320/32]

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <swiftbalancer/dispatch_table.hpp>
#include <swiftbalancer/load.hpp>
#include <swiftbalancer/placement.hpp>
#include <swiftbalancer/policy.hpp>

#include "io/load_file.hpp"
#include "planner/max_flow_split.hpp"
#include "planner/split.hpp"

namespace {

using namespace swiftbalancer;

constexpr int kLayers = 58;
constexpr int kExperts = 256;
const std::string kRecorded = SWIFTBALANCER_SOURCE_DIR "/../shared/data/loads/";

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

ClusterShape shape_of(const ExpertLoad& load, int slots, int ranks, int nodes = 1) {
  ShapeOptions options;
  options.num_moe_layers = load.num_moe_layers();
  options.num_logical_experts = load.num_logical_experts();
  options.num_ranks = ranks;
  options.num_slots = slots;
  options.num_nodes = nodes;
  return ClusterShape(options);
}

// A layer as planned for one load, and another load that it then meets.
struct Layer {
  std::vector<std::int32_t> slots;
  std::vector<std::int64_t> load;
  std::vector<double> tokens;
};

void add_layers(const ClusterShape& shape, const ExpertLoad& planned_on, const ExpertLoad& met,
                std::vector<Layer>& layers) {
  const auto policy = make_policy("eplb");
  const Placement start = Placement::initial(shape);
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    LayerProblem problem;
    problem.shape = &shape;
    problem.load = planned_on.layer(layer);
    problem.placement = start.layer(layer);
    const auto row = met.layer(layer);
    layers.push_back({policy->plan_layer(problem).placement,
                      {row.begin(), row.end()},
                      {row.begin(), row.end()}});
  }
}

void split(benchmark::State& state, const ClusterShape& shape, const std::vector<Layer>& layers) {
  const auto num_layers = static_cast<double>(layers.size());
  double even = 0.0, leveled = 0.0, exact = 0.0, gap = 0.0;
  ReplicaSplit splitter(shape);
  for (const Layer& layer : layers) {
    const double mean =
        std::accumulate(layer.tokens.begin(), layer.tokens.end(), 0.0) / shape.num_ranks();
    const double bound = max_flow_split(shape, layer.slots, layer.load).bound;
    const double highest = splitter.level(layer.slots, layer.tokens);
    even += imbalance(rank_load(shape, layer.slots, {}, layer.load));
    leveled += highest / mean;
    exact += bound / mean;
    gap = std::max(gap, highest / bound - 1.0);
  }
  std::size_t at = 0;
  for ([[maybe_unused]] auto _ : state) {
    benchmark::DoNotOptimize(splitter.level(layers[at].slots, layers[at].tokens));
    at = (at + 1) % layers.size();
  }
  state.counters["even"] = even / num_layers;
  state.counters["split"] = leveled / num_layers;
  state.counters["exact"] = exact / num_layers;
  state.counters["worst_gap_percent"] = 100.0 * gap;
}

// The parts of all tokens that can stay where they come from if all ranks send the same.
struct Near {
  double own_rank = 0.0;
  double own_node = 0.0;
};

Near near_of(const ClusterShape& shape, const Layer& layer, std::span<const double> amounts) {
  const std::size_t experts = layer.tokens.size(),
                    ranks = static_cast<std::size_t>(shape.num_ranks()),
                    nodes = static_cast<std::size_t>(shape.num_nodes());
  std::vector<double> on_node(experts * nodes, 0.0);
  Near near;
  for (std::size_t slot = 0; slot < amounts.size(); ++slot) {
    const auto expert = static_cast<std::size_t>(layer.slots[slot]);
    const int rank = shape.rank_of_slot(static_cast<int>(slot));
    near.own_rank += std::min(amounts[slot], layer.tokens[expert] / static_cast<double>(ranks));
    on_node[expert * nodes + static_cast<std::size_t>(shape.node_of_rank(rank))] += amounts[slot];
  }
  for (std::size_t i = 0; i < on_node.size(); ++i)
    near.own_node += std::min(on_node[i], layer.tokens[i / nodes] / static_cast<double>(nodes));
  const double all = std::accumulate(layer.tokens.begin(), layer.tokens.end(), 0.0);
  return {near.own_rank / all, near.own_node / all};
}

void split_near(benchmark::State& state, const ClusterShape& shape,
                const std::vector<Layer>& layers) {
  const auto num_layers = static_cast<double>(layers.size());
  ReplicaSplit splitter(shape);
  Near before, after;
  double worst = 0.0;
  for (const Layer& layer : layers) {
    const double highest = splitter.level(layer.slots, layer.tokens);
    const Near leveled = near_of(shape, layer, splitter.amounts());
    worst = std::max(worst, splitter.level(layer.slots, layer.tokens, true) / highest - 1.0);
    const Near near = near_of(shape, layer, splitter.amounts());
    before.own_rank += leveled.own_rank / num_layers;
    before.own_node += leveled.own_node / num_layers;
    after.own_rank += near.own_rank / num_layers;
    after.own_node += near.own_node / num_layers;
  }
  std::size_t at = 0;
  for ([[maybe_unused]] auto _ : state) {
    benchmark::DoNotOptimize(splitter.level(layers[at].slots, layers[at].tokens, true));
    at = (at + 1) % layers.size();
  }
  state.counters["rank_before"] = before.own_rank;
  state.counters["rank_after"] = after.own_rank;
  state.counters["node_before"] = before.own_node;
  state.counters["node_after"] = after.own_node;
  state.counters["worst_excess_percent"] = 100.0 * worst;
}

void add_case(const std::string& name, const ClusterShape& shape, std::vector<Layer> layers) {
  benchmark::RegisterBenchmark(name.c_str(), [shape,
                                              layers = std::move(layers)](benchmark::State& state) {
    split(state, shape, layers);
  })->Unit(benchmark::kMicrosecond);
}

// Each window of the file meets the plan made for the window before.
void add_recorded(const std::string& file, int slots, int ranks) {
  if (!std::filesystem::exists(kRecorded + file)) return;
  const std::vector<ExpertLoad> windows = io::read_loads(kRecorded + file);
  const ClusterShape shape = shape_of(windows[0], slots, ranks);
  std::vector<Layer> layers;
  for (std::size_t w = 1; w < windows.size(); ++w)
    add_layers(shape, windows[w - 1], windows[w], layers);
  add_case(file + "/" + std::to_string(slots) + "/" + std::to_string(ranks), shape,
           std::move(layers));
}

}  // namespace

int main(int argc, char** argv) {
  for (const auto& [slots, ranks] : {std::pair{288, 32}, {320, 32}, {320, 64}, {288, 72}}) {
    for (const double stale : {0.0, 0.1, 1.0}) {
      const std::string name = "generator/" + std::to_string(slots) + "/" + std::to_string(ranks) +
                               "/stale" + std::to_string(static_cast<int>(100 * stale));
      const ExpertLoad planned_on = make_load(0.0);
      const ClusterShape shape = shape_of(planned_on, slots, ranks);
      std::vector<Layer> layers;
      add_layers(shape, planned_on, make_load(stale), layers);
      add_case(name, shape, layers);
      const ClusterShape on_nodes = shape_of(planned_on, slots, ranks, 4);
      benchmark::RegisterBenchmark((name + "/near").c_str(), [on_nodes,
                                                              layers](benchmark::State& state) {
        split_near(state, on_nodes, layers);
      })->Unit(benchmark::kMicrosecond);
    }
  }
  add_recorded("dsv2lite_tasks.npy", 80, 8);
  add_recorded("dsv2lite_windows1024.npy", 80, 8);
  add_recorded("gptoss20b_domains.npy", 40, 4);
  add_recorded("gptoss20b_windows2048.npy", 40, 4);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
