#pragma once
// Several ExpertRanks over a FakeNetwork, stepped in one thread.

#include <random>

#include "expert_ranks.hpp"
#include "fake_transport.hpp"
#include "random_rows.hpp"

namespace swiftbalancer::testing {

struct FakeCluster {
  FakeCluster(const ClusterShape& cluster, std::vector<PartBytes> part_bytes, int buffers,
              Placement at_start, bool can_cancel = true)
      : shape(cluster), network(shape.num_ranks()), served(std::move(at_start)) {
    network.can_cancel = can_cancel;
    PartBytes largest(part_bytes[0].size(), 0);
    for (const PartBytes& layer : part_bytes) {
      for (std::size_t part = 0; part < layer.size(); ++part)
        largest[part] = std::max(largest[part], layer[part]);
    }
    for (int rank = 0; rank < shape.num_ranks(); ++rank) {
      ranks.push_back(std::make_unique<ExpertRank>(shape, network.transport(rank), part_bytes,
                                                   largest, buffers, served));
    }
  }
  FakeCluster(const ClusterShape& cluster, int buffers)
      : FakeCluster(
            cluster,
            std::vector<PartBytes>(static_cast<std::size_t>(cluster.num_moe_layers()), {96, 8}),
            buffers, Placement::initial(cluster)) {}

  CopyExecutor& executor(int rank) { return *ranks[static_cast<std::size_t>(rank)]->executor; }
  StagingPool& pool(int rank) { return ranks[static_cast<std::size_t>(rank)]->pool; }

  void adopt(const MigrationPlan& plan) {
    for (auto& rank : ranks) rank->executor->adopt(plan);
  }
  void progress(int times = 20) {
    for (int i = 0; i < times; ++i) {
      for (auto& rank : ranks) rank->executor->progress();
    }
  }
  void commit(const MigrationPlan& plan, std::uint32_t unit, bool swap) {
    const CommitUnit& installed = plan.units[unit];
    for (auto& rank : ranks) rank->install(installed, unit, swap);
    std::ranges::copy(installed.placement, served.layer(installed.moe_layer_id).begin());
  }
  void drop(std::uint32_t unit, bool too_old = false) {
    for (auto& rank : ranks) rank->executor->drop(unit, too_old);
  }
  void retire() {
    for (auto& rank : ranks) rank->executor->retire();
  }
  std::uint32_t smallest_cursor() const {
    std::uint32_t cursor = ~0U;
    for (const auto& rank : ranks) cursor = std::min(cursor, rank->executor->staged_cursor());
    return cursor;
  }
  /// Commits all units as they are staged everywhere, then retires the plan.
  void run(const MigrationPlan& plan, bool swap) {
    adopt(plan);
    std::uint32_t next = 0;
    for (int i = 0; i < 10'000 && next < plan.units.size(); ++i) {
      progress(1);
      while (next < smallest_cursor()) commit(plan, next++, swap);
    }
    ASSERT_EQ(next, plan.units.size());
    retire();
  }
  void expect_served() const {
    for (const auto& rank : ranks) rank->expect_placement(served);
  }
  void expect_no_leak() const {
    for (const auto& rank : ranks)
      EXPECT_EQ(rank->pool.num_free(), rank->pool.capacity()) << "rank " << rank->rank;
    EXPECT_EQ(network.num_open(), 0U);
  }

  ClusterShape shape;
  FakeNetwork network;
  Placement served;
  std::vector<std::unique_ptr<ExpertRank>> ranks;
};

inline ClusterShape make_cluster(int layers, int experts, int ranks, int slots) {
  ShapeOptions options;
  options.num_moe_layers = layers;
  options.num_logical_experts = experts;
  options.num_ranks = ranks;
  options.num_slots = slots;
  return ClusterShape(options);
}

/// Two ranks. A plan of one unit per layer brings expert 0 from rank 0 to the last slot of rank 1;
/// nothing else moves.
struct OneCopyCluster : FakeCluster {
  OneCopyCluster(int layers, int buffers)
      : OneCopyCluster(std::vector<PartBytes>(static_cast<std::size_t>(layers), {96, 8}), buffers) {
  }
  OneCopyCluster(const std::vector<PartBytes>& part_bytes, int buffers)
      : FakeCluster(make_cluster(static_cast<int>(part_bytes.size()), 2, 2, 4), part_bytes, buffers,
                    all_layers(static_cast<int>(part_bytes.size()), {0, 1, 1, 1})) {}

  MigrationPlan plan() const {
    return make_plan(shape, served, all_layers(shape.num_moe_layers(), {0, 1, 1, 0}), 1, 7);
  }
  static Placement all_layers(int layers, const std::vector<std::int32_t>& row) {
    Placement placement(layers, static_cast<int>(row.size()));
    for (int layer = 0; layer < layers; ++layer)
      std::ranges::copy(row, placement.layer(layer).begin());
    return placement;
  }
};

}  // namespace swiftbalancer::testing
