// Cost of the balancer's calls and of the worker's share of one packet set, for DeepSeek-V3's shape
// on 8 ranks: the constants that the timed device charges (data/hardware/*.yaml). Ranks take turns
// in one thread, with real threads' transport and workers run by hand, so that each call is timed
// alone.
//
//   build/release/bin/balancer_bench

#include <benchmark/benchmark.h>

#include <chrono>
#include <memory>
#include <vector>

#include "runtime/balancer_core.hpp"

namespace swiftbalancer {
namespace {

constexpr int kLayers = 58, kExperts = 256, kSlots = 288, kRanks = 8;
constexpr std::size_t kExpertBytes = 64;  // installs swap pointers: the size does not matter

ClusterShape deepseek_v3() {
  return ClusterShape({.num_moe_layers = kLayers,
                       .num_logical_experts = kExperts,
                       .num_ranks = kRanks,
                       .num_slots = kSlots});
}

BalancerConfig config_of(const char* policy, std::uint64_t packet_interval,
                         std::uint64_t rebalance_interval) {
  BalancerConfig config;
  config.policy = policy;
  config.packet_interval = packet_interval;
  config.rebalance_interval = rebalance_interval;
  config.staging_bytes = kExpertBytes * 512;
  return config;
}

class Cluster {
 public:
  Cluster(const char* policy, std::uint64_t packet_interval, std::uint64_t rebalance_interval)
      : shape_(deepseek_v3()), counts_(kSlots / kRanks, 40) {
    auto transports = make_thread_transports(kRanks);
    const Placement initial = Placement::initial(shape_);
    for (int rank = 0; rank < kRanks; ++rank) {
      memory_.emplace_back(static_cast<std::size_t>(kLayers * kSlots / kRanks) * kExpertBytes);
      cores_.push_back(std::make_unique<BalancerCore>(
          shape_, config_of(policy, packet_interval, rebalance_interval), rank));
      for (int layer = 0; layer < kLayers; ++layer) {
        for (int slot = 0; slot < kSlots / kRanks; ++slot) {
          const auto at = static_cast<std::size_t>(layer * kSlots / kRanks + slot) * kExpertBytes;
          const WeightPart part{memory_.back().data() + at, kExpertBytes};
          cores_.back()->register_weights(layer, slot, {&part, 1});
        }
      }
      cores_.back()->start_empty();
      cores_.back()->serve(initial, std::move(transports[static_cast<std::size_t>(rank)]));
    }
  }

  BalancerCore& first() { return *cores_[0]; }

  /// One step on all ranks; the time that rank 0 spent in each call.
  struct Times {
    double begin = 0, record = 0, end = 0, observe = 0;
  };
  Times step() {
    ++step_;
    Times times;
    for (int rank = 0; rank < kRanks; ++rank) {
      BalancerCore& core = *cores_[static_cast<std::size_t>(rank)];
      const double begin = timed([&] { benchmark::DoNotOptimize(core.begin_step({step_}).ok()); });
      const double observe = timed([&] { core.worker()->run_once(); });
      for (std::size_t slot = 0; slot < counts_.size(); ++slot) {
        counts_[slot] =
            static_cast<std::uint32_t>(20 + slot * 3 + static_cast<std::size_t>(rank) * 7);
      }
      const double record = timed([&] {
        for (int layer = 0; layer < kLayers; ++layer) core.record(layer, counts_);
      });
      const double end = timed([&] { benchmark::DoNotOptimize(core.end_step().ok()); });
      if (rank == 0) times = {begin, record / kLayers, end, observe};
    }
    for (bool busy = true; busy;) {  // packets, plans and copies, until nothing is left to do
      busy = false;
      for (auto& core : cores_) busy |= core->worker()->run_once();
    }
    return times;
  }

 private:
  template <typename Call>
  static double timed(Call call) {
    const auto start = std::chrono::steady_clock::now();
    call();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

  ClusterShape shape_;
  std::vector<std::uint32_t> counts_;
  std::vector<std::vector<std::byte>> memory_;
  std::vector<std::unique_ptr<BalancerCore>> cores_;
  std::uint64_t step_ = 0;
};

void run(benchmark::State& state, const char* policy, std::uint64_t interval,
         double Cluster::Times::* call) {
  Cluster cluster(policy, interval, 1'000'000);
  for (int warm = 0; warm < 10; ++warm) cluster.step();
  for (auto _ : state) state.SetIterationTime(cluster.step().*call);
}

// Steps in which a set commits: what a commit adds to begin_step, per unit and per expert installed
// on this rank.
void commit(benchmark::State& state) {
  Cluster cluster("stress", 1, 1);
  double idle = 0, busy = 0;
  std::uint64_t idle_steps = 0, units = 0;
  for (auto _ : state) {
    const std::uint64_t before = cluster.first().stats().units_committed;
    const double begin = cluster.step().begin;
    const std::uint64_t committed = cluster.first().stats().units_committed - before;
    if (committed > 0) {
      busy += begin;
      units += committed;
    } else if (cluster.first().events().empty()) {
      idle += begin;
      ++idle_steps;
    }
    state.SetIterationTime(begin);
  }
  if (units > 0) state.counters["seconds_per_unit"] = busy / static_cast<double>(units);
  if (idle_steps > 0) state.counters["seconds_idle"] = idle / static_cast<double>(idle_steps);
}

BENCHMARK_CAPTURE(run, begin_step / nothing_due, "static", 1'000'000, &Cluster::Times::begin)
    ->UseManualTime()
    ->Iterations(2000);
BENCHMARK_CAPTURE(run, end_step / nothing_due, "static", 1'000'000, &Cluster::Times::end)
    ->UseManualTime()
    ->Iterations(2000);
BENCHMARK_CAPTURE(run, begin_step / set_due, "static", 1, &Cluster::Times::begin)
    ->UseManualTime()
    ->Iterations(2000);
BENCHMARK_CAPTURE(run, end_step / packet_due, "static", 1, &Cluster::Times::end)
    ->UseManualTime()
    ->Iterations(2000);
BENCHMARK_CAPTURE(run, record / one_layer, "static", 1, &Cluster::Times::record)
    ->UseManualTime()
    ->Iterations(2000);
BENCHMARK_CAPTURE(run, worker / observe_loads, "swift", 1, &Cluster::Times::observe)
    ->UseManualTime()
    ->Iterations(2000);
BENCHMARK(commit)->UseManualTime()->Iterations(200);

}  // namespace
}  // namespace swiftbalancer

BENCHMARK_MAIN();
