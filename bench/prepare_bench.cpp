// What follows a plan, for one rank of 32 and all 58 layers x 256 experts -> 288 slots: copies with
// their sources, commit units, dispatch tables, hash (prepare_plan), this rank's send and receive
// lists (transfers_of), expert_map and log2phy. For an incremental plan of 25 moves a layer and for
// a full one; also with tables that prefer near slots. Run: prepare_bench

#include <benchmark/benchmark.h>

#include <algorithm>
#include <random>
#include <vector>

#include <swiftbalancer/dispatch_table.hpp>
#include <swiftbalancer/placement.hpp>

#include "migration/plan_transfers.hpp"
#include "runtime/prepared_plan.hpp"

namespace {

using namespace swiftbalancer;

constexpr int kLayers = 58;

ClusterShape bench_shape() {
  ShapeOptions options;
  options.num_moe_layers = kLayers;
  options.num_logical_experts = 256;
  options.num_ranks = 32;
  options.num_slots = 288;
  options.num_nodes = 4;
  return ClusterShape(options);
}

// Shares as a split plans them: uneven, those of an expert sum to the unit.
std::vector<std::uint32_t> uneven_shares(std::span<const std::int32_t> slots,
                                         std::mt19937& random) {
  std::vector<std::uint32_t> shares = even_shares(slots, 256);
  for (std::size_t a = 0; a < slots.size(); ++a) {
    const auto b =
        std::find(slots.begin() + static_cast<std::ptrdiff_t>(a) + 1, slots.end(), slots[a]) -
        slots.begin();
    if (static_cast<std::size_t>(b) == slots.size()) continue;
    const auto part = static_cast<std::uint32_t>(random() % shares[a]);
    shares[a] -= part;
    shares[static_cast<std::size_t>(b)] += part;
  }
  return shares;
}

// Exchanges slots at random: each exchange is two moves.
Plan random_plan(const ServedState& served, int exchanges) {
  std::mt19937 random(1);
  Plan plan;
  for (int layer = 0; layer < kLayers; ++layer) {
    LayerChange change{layer, {}};
    const auto row = served.placement.layer(layer);
    change.plan.placement.assign(row.begin(), row.end());
    if (exchanges < 0) {
      std::shuffle(change.plan.placement.begin(), change.plan.placement.end(), random);
    }
    for (int i = 0; i < exchanges; ++i) {
      std::swap(change.plan.placement[random() % row.size()],
                change.plan.placement[random() % row.size()]);
    }
    change.plan.shares = uneven_shares(change.plan.placement, random);
    plan.changes.push_back(std::move(change));
  }
  return plan;
}

void after_plan(benchmark::State& state, int exchanges, int capacity, bool locality_first) {
  const ClusterShape shape = bench_shape();
  const ServedState served = ServedState::initial(shape);
  const Plan plan = random_plan(served, exchanges);
  const std::vector<std::uint64_t> epochs(kLayers, 0);
  const int rank = 5;
  int moves = 0;
  for ([[maybe_unused]] auto _ : state) {
    const PreparedPlan prepared =
        prepare_plan({0, 1}, plan, served, epochs, shape, rank, capacity, false, locality_first);
    const PlanTransfers transfers = transfers_of(prepared.migration, shape, rank);
    benchmark::DoNotOptimize(transfers.arrivals.data());
    for (const LayerChange& change : plan.changes) {
      benchmark::DoNotOptimize(expert_map(change.plan.placement, shape, rank).data());
      benchmark::DoNotOptimize(log2phy(change.plan.placement, shape, rank).data());
    }
    moves = prepared.migration.moves;
  }
  state.counters["moves_per_layer"] = static_cast<double>(moves) / kLayers;
}

BENCHMARK_CAPTURE(after_plan, incremental, 13, 16, false)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(after_plan, incremental_small_pool, 13, 2, false)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(after_plan, full, -1, 16, false)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(after_plan, incremental_locality, 13, 16, true)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(after_plan, full_locality, -1, 16, true)->Unit(benchmark::kMillisecond);

}  // namespace

BENCHMARK_MAIN();
