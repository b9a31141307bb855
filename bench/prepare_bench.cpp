// What follows a plan, for one rank of 32 and all 58 layers x 256 experts -> 288 slots: copies with
// their sources, commit units, dispatch tables, hash (prepare_plan), this rank's send and receive
// lists (transfers_of), expert_map and log2phy. For an incremental plan of 25 moves a layer and for
// a full one; also with tables that prefer near slots. Of a pool of one buffer, which makes some
// 500 units of a plan, also the longest piece of it, which a packet may have to wait for, and what
// the worker notes of a set that commits them all. Run: prepare_bench

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <random>
#include <vector>

#include <swiftbalancer/dispatch_table.hpp>
#include <swiftbalancer/placement.hpp>

#include "migration/plan_transfers.hpp"
#include "runtime/planning.hpp"
#include "runtime/prepared_plan.hpp"
#include "runtime/window_loads.hpp"

namespace {

using namespace swiftbalancer;

constexpr int kLayers = 58;
constexpr int kAll = -1;  // slots are shuffled
// Each slot of one rank is exchanged with one of another rank: in a pool of one buffer 9 units a
// layer, 522 of a plan.
constexpr int kOneRank = -2;

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

// Exchanges slots at random, or as above: each exchange is two moves.
Plan random_plan(const ServedState& served, int exchanges) {
  std::mt19937 random(1);
  Plan plan;
  for (int layer = 0; layer < kLayers; ++layer) {
    LayerChange change{layer, {}};
    const auto row = served.placement.layer(layer);
    change.plan.placement.assign(row.begin(), row.end());
    if (exchanges == kAll)
      std::shuffle(change.plan.placement.begin(), change.plan.placement.end(), random);
    for (std::size_t slot = 0; exchanges == kOneRank && slot < 9; ++slot)
      std::swap(change.plan.placement[slot], change.plan.placement[(slot + 1) * 9 + slot]);
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
    const PreparedPlan prepared = prepare_plan(
        {0, 1}, plan, served, epochs, shape,
        {.rank = rank, .staging_capacity = capacity, .locality_first = locality_first});
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

void time_longest_piece(benchmark::State& state, const ClusterShape& shape,
                        const ServedState& served, const Plan& plan, int capacity) {
  const std::vector<std::uint64_t> epochs(static_cast<std::size_t>(shape.num_moe_layers()), 0);
  std::size_t pieces = 0, units = 0;
  for ([[maybe_unused]] auto _ : state) {
    PlanPreparation preparation({0, 1}, plan, served, epochs, shape,
                                {.rank = 0, .staging_capacity = capacity});
    std::chrono::duration<double> longest{0};
    pieces = 0;
    for (bool done = false; !done; ++pieces) {
      const auto begin = std::chrono::steady_clock::now();
      done = preparation.advance();
      longest = std::max<std::chrono::duration<double>>(longest,
                                                        std::chrono::steady_clock::now() - begin);
    }
    units = preparation.take().units.size();
    state.SetIterationTime(longest.count());
  }
  state.counters["pieces"] = static_cast<double>(pieces);
  state.counters["units"] = static_cast<double>(units);
}

void longest_piece(benchmark::State& state, int exchanges, int capacity) {
  const ServedState served = ServedState::initial(bench_shape());
  time_longest_piece(state, bench_shape(), served, random_plan(served, exchanges), capacity);
}

// Two ranks keep a slot of each expert and change 522 more, one buffer at a time.
void longest_piece_of_one_layer(benchmark::State& state) {
  constexpr int kExperts = 4, kUnits = 522;
  const ClusterShape shape({.num_moe_layers = 1,
                            .num_logical_experts = kExperts,
                            .num_ranks = 2,
                            .num_slots = 2 * (kExperts + kUnits)});
  ServedState served = ServedState::initial(shape);
  LayerChange change{0, {}};
  for (std::int32_t& expert : served.placement.layer(0)) {
    const auto local = static_cast<int>(change.plan.placement.size()) % (kExperts + kUnits);
    expert = local < kExperts ? local : 0;
    change.plan.placement.push_back(local < kExperts ? local : 1);
  }
  change.plan.shares = even_shares(change.plan.placement, kExperts);
  Plan plan;
  plan.changes.push_back(std::move(change));
  time_longest_piece(state, shape, served, plan, 1);
}

void commits_of_a_set(benchmark::State& state, int exchanges) {
  const ClusterShape shape = bench_shape();
  const ServedState served = ServedState::initial(shape);
  const Plan plan = random_plan(served, exchanges);
  const PreparedPlan prepared =
      prepare_plan({0, 1}, plan, served, std::vector<std::uint64_t>(kLayers, 0), shape,
                   {.rank = 5, .staging_capacity = 1});
  WindowLoads loads(shape, served.placement, 6);
  const auto planning = make_thread_planning({}, 0);
  planning->restart(shape, served);
  planning->on_rebalancing(true);
  std::uint32_t ring_slot = 0;
  for ([[maybe_unused]] auto _ : state) {
    for (const CommitUnit& unit : prepared.migration.units) {
      loads.committed(unit.moe_layer_id, unit.placement);
      planning->on_committed(unit.moe_layer_id, unit.placement, unit.shares);
    }
    loads.window_ended(ring_slot++ % 6);
  }
  state.counters["units"] = static_cast<double>(prepared.units.size());
}

void window_without_commits(benchmark::State& state) {
  const ClusterShape shape = bench_shape();
  WindowLoads loads(shape, Placement::initial(shape), 6);
  std::uint32_t ring_slot = 0;
  for ([[maybe_unused]] auto _ : state) loads.window_ended(ring_slot++ % 6);
}

void loads_of_a_set(benchmark::State& state) {
  const ClusterShape shape = bench_shape();
  PacketRing ring(PacketLayout(shape), shape.num_ranks(), 1, 2);
  WindowLoads loads(shape, Placement::initial(shape), ring.num_slots());
  loads.window_ended(0);
  ExpertLoad load(shape.num_moe_layers(), shape.num_logical_experts());
  for ([[maybe_unused]] auto _ : state) {
    loads.map(ring, 0, load);
    benchmark::DoNotOptimize(load.layer(0).data());
  }
}

BENCHMARK_CAPTURE(after_plan, incremental, 13, 16, false)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(after_plan, incremental_small_pool, 13, 2, false)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(after_plan, full, kAll, 16, false)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(after_plan, incremental_locality, 13, 16, true)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(after_plan, full_locality, kAll, 16, true)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(after_plan, one_buffer, kOneRank, 1, false)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(longest_piece, one_buffer, kOneRank, 1)
    ->Unit(benchmark::kMicrosecond)
    ->UseManualTime();
BENCHMARK_CAPTURE(longest_piece, full, kAll, 16)->Unit(benchmark::kMicrosecond)->UseManualTime();
BENCHMARK(longest_piece_of_one_layer)->Unit(benchmark::kMicrosecond)->UseManualTime();
BENCHMARK_CAPTURE(commits_of_a_set, one_buffer, kOneRank)->Unit(benchmark::kMicrosecond);
BENCHMARK(window_without_commits)->Unit(benchmark::kMicrosecond);
BENCHMARK(loads_of_a_set)->Unit(benchmark::kMicrosecond);

}  // namespace

BENCHMARK_MAIN();
