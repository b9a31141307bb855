// Lower bounds LB0 to LB4 on small layers, against optima found by trying everything: none is above
// the optimum that it bounds, each is at least the weaker ones, and each is needed.

#include "planner/bounds.hpp"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include <swiftbalancer/placement.hpp>

#include "core/index.hpp"
#include "planner/exact_plan.hpp"
#include "planner/max_flow_split.hpp"
#include "planner/node_partition.hpp"
#include "planner/topology_scenes.hpp"

namespace swiftbalancer {
namespace {

using topology::any_load;
using topology::pick;

constexpr double kUp = 1.0 + 1e-9;

// ---- LB0, LB1, LB2: any placement ----

TEST(Bounds, NeverExceedTheOptimumAndRiseFromOneToTheNext) {
  EXPECT_TRUE(rc::check([] {
    ShapeOptions options{.num_moe_layers = 1, .num_logical_experts = pick(2, 6)};
    options.num_ranks = pick(2, 3);
    options.num_slots = std::max(options.num_logical_experts, options.num_ranks) + pick(0, 2);
    const ClusterShape shape(options);
    if (shape.max_slots_per_rank() > shape.num_logical_experts()) return;
    const std::vector<std::int64_t> load = any_load(options.num_logical_experts);
    const double exact = exact_hottest_rank(shape, load);
    const double pigeonhole = pigeonhole_bound(shape, load);
    RC_ASSERT(mean_rank_load(shape, load) <= pigeonhole * kUp);
    RC_ASSERT(smallest_largest_piece(shape, load) <= pigeonhole * kUp);
    RC_ASSERT(pigeonhole <= exact * kUp);
    RC_ASSERT(hottest_expert_bound(shape, load) <= exact * kUp);
    RC_ASSERT(lower_bound(shape, load, Dispatch::kSplit) <= lower_bound(shape, load) * kUp);
  }));
}

TEST(Bounds, TheLargestPieceSeesWhatTheMeanDoesNot) {
  const ClusterShape shape(
      {.num_moe_layers = 1, .num_logical_experts = 2, .num_ranks = 2, .num_slots = 2});
  const std::vector<std::int64_t> load = {100, 2};
  EXPECT_DOUBLE_EQ(mean_rank_load(shape, load), 51.0);
  EXPECT_DOUBLE_EQ(smallest_largest_piece(shape, load), 100.0);
  EXPECT_DOUBLE_EQ(exact_hottest_rank(shape, load), 100.0);
}

TEST(Bounds, ThePigeonholeBoundSeesWhatMeanAndPiecesDoNot) {
  // Three equal experts on two ranks without redundancy: one rank holds two of them.
  const ClusterShape shape(
      {.num_moe_layers = 1, .num_logical_experts = 3, .num_ranks = 2, .num_slots = 3});
  const std::vector<std::int64_t> load = {10, 10, 10};
  EXPECT_DOUBLE_EQ(mean_rank_load(shape, load), 15.0);
  EXPECT_DOUBLE_EQ(smallest_largest_piece(shape, load), 10.0);
  EXPECT_NEAR(pigeonhole_bound(shape, load), 20.0, 1e-6);
  EXPECT_NEAR(lower_bound(shape, load, Dispatch::kSplit), 15.0, 1e-9);
}

TEST(Bounds, TheHottestExpertBoundSeesWhatMustLieBesideIt) {
  const ClusterShape shape(
      {.num_moe_layers = 1, .num_logical_experts = 6, .num_ranks = 2, .num_slots = 6});
  const std::vector<std::int64_t> load = {50, 9, 8, 7, 6, 5};
  EXPECT_DOUBLE_EQ(smallest_largest_piece(shape, load), 50.0);
  EXPECT_NEAR(pigeonhole_bound(shape, load), 50.0, 1e-6);
  EXPECT_DOUBLE_EQ(hottest_expert_bound(shape, load), 61.0);
  EXPECT_DOUBLE_EQ(lower_bound(shape, load, Dispatch::kSplit), 61.0);
  EXPECT_DOUBLE_EQ(exact_hottest_rank(shape, load), 61.0);
}

// ---- LB3: one placement, any split ----

// The least that the hottest rank can have when whole tokens are split over the replicas.
std::int64_t best_split(const ClusterShape& shape, std::span<const std::int32_t> slots,
                        std::span<const std::int64_t> load) {
  std::vector<std::vector<std::size_t>> ranks_of(load.size());
  for (int slot = 0; slot < shape.num_slots(); ++slot) {
    auto& ranks = ranks_of[index(slots[index(slot)])];
    const std::size_t rank = index(shape.rank_of_slot(slot));
    if (std::ranges::find(ranks, rank) == ranks.end()) ranks.push_back(rank);
  }
  std::vector<std::int64_t> tokens(index(shape.num_ranks()), 0);
  std::int64_t best = std::numeric_limits<std::int64_t>::max();
  const std::function<void(std::size_t, std::size_t, std::int64_t)> give =
      [&](std::size_t expert, std::size_t replica, std::int64_t left) {
        if (expert == load.size()) {
          best = std::min(best, std::ranges::max(tokens));
        } else if (replica + 1 == ranks_of[expert].size()) {
          tokens[ranks_of[expert][replica]] += left;
          give(expert + 1, 0, expert + 1 < load.size() ? load[expert + 1] : 0);
          tokens[ranks_of[expert][replica]] -= left;
        } else {
          for (std::int64_t part = 0; part <= left; ++part) {
            tokens[ranks_of[expert][replica]] += part;
            give(expert, replica + 1, left - part);
            tokens[ranks_of[expert][replica]] -= part;
          }
        }
      };
  give(0, 0, load[0]);
  return best;
}

TEST(Bounds, OfAPlacementIsReachedByTheBestSplitAndAboveWhatHoldsForAll) {
  EXPECT_TRUE(rc::check([] {
    ShapeOptions options{.num_moe_layers = 1, .num_logical_experts = pick(2, 4)};
    options.num_ranks = pick(2, 3);
    options.num_slots = std::max(options.num_logical_experts, options.num_ranks) + pick(0, 3);
    const ClusterShape shape(options);
    std::vector<std::int32_t> slots = topology::scene_of(options).placement;
    std::vector<std::int64_t> load(index(options.num_logical_experts));
    for (std::int64_t& tokens : load) tokens = pick(0, 8);
    const double bound = max_flow_split(shape, slots, load).bound;
    RC_ASSERT(std::ceil(bound / kUp) == static_cast<double>(best_split(shape, slots, load)));
    RC_ASSERT(mean_rank_load(shape, load) <= bound * kUp);
    if (count_same_rank_duplicates(slots, shape) == 0)
      RC_ASSERT(smallest_largest_piece(shape, load) <= bound * kUp);
  }));
}

TEST(Bounds, OfAPlacementSeesExpertsThatShareTooFewRanks) {
  const ClusterShape shape(
      {.num_moe_layers = 1, .num_logical_experts = 4, .num_ranks = 3, .num_slots = 6});
  const std::vector<std::int32_t> slots = {0, 1, 1, 0, 2, 3};
  const std::vector<std::int64_t> load = {10, 10, 1, 3};
  EXPECT_DOUBLE_EQ(lower_bound(shape, load, Dispatch::kSplit), 8.0);
  EXPECT_DOUBLE_EQ(max_flow_split(shape, slots, load).bound, 10.0);
  EXPECT_EQ(best_split(shape, slots, load), 10);
}

// ---- LB4: groups on nodes ----

struct GroupedLayer {
  ClusterShape shape;
  int slots_per_rank;
};

GroupedLayer grouped_layer(int groups, int group_size, int ranks_per_node, int slots_per_rank) {
  constexpr int kNodes = 2;
  return {ClusterShape({.num_moe_layers = 1,
                        .num_logical_experts = groups * group_size,
                        .num_ranks = kNodes * ranks_per_node,
                        .num_slots = kNodes * ranks_per_node * slots_per_rank,
                        .num_nodes = kNodes,
                        .num_expert_groups = groups}),
          slots_per_rank};
}

// The optimum over all ways to give each of two nodes groups, and to place each node.
double best_with_groups_on_nodes(const GroupedLayer& layer, std::span<const std::int64_t> load) {
  const int groups = layer.shape.num_expert_groups();
  const int ranks = layer.shape.num_ranks() / 2;
  double best = std::numeric_limits<double>::infinity();
  for (unsigned first = 1; first + 1 < 1U << groups; ++first) {
    double hottest = 0.0;
    for (unsigned node = 0; node < 2; ++node) {
      std::vector<std::int64_t> own;
      for (std::size_t expert = 0; expert < load.size(); ++expert) {
        const int group = layer.shape.group_of_expert(static_cast<int>(expert));
        if ((first >> group & 1) == node) own.push_back(load[expert]);
      }
      const int slots = ranks * layer.slots_per_rank, experts = static_cast<int>(own.size());
      if (experts > slots || layer.slots_per_rank > experts) {
        hottest = std::numeric_limits<double>::infinity();
        break;
      }
      const ClusterShape shape({.num_moe_layers = 1,
                                .num_logical_experts = experts,
                                .num_ranks = ranks,
                                .num_slots = slots});
      hottest = std::max(hottest, exact_hottest_rank(shape, own));
    }
    best = std::min(best, hottest);
  }
  return best;
}

TEST(Bounds, OfGroupsOnNodesNeverExceedsTheOptimumAndIsAboveWhatHoldsForAll) {
  EXPECT_TRUE(rc::check([] {
    const int groups = pick(2, 3), group_size = pick(2, 3);
    const GroupedLayer layer = grouped_layer(groups, group_size, 2, group_size);
    const std::vector<std::int64_t> load = any_load(layer.shape.num_logical_experts());
    const auto partitions = best_node_partitions(layer.shape, load, {}, {});
    RC_ASSERT(partitions.size() == 1U);
    RC_ASSERT(partitions[0].bound <= best_with_groups_on_nodes(layer, load) * kUp);
    RC_ASSERT(mean_rank_load(layer.shape, load) <= partitions[0].bound * kUp);
    RC_ASSERT(smallest_largest_piece(layer.shape, load) <= partitions[0].bound * kUp);
  }));
}

TEST(Bounds, OfGroupsOnNodesSeesTheGroupThatNoNodeCanShare) {
  const GroupedLayer layer = grouped_layer(2, 2, 2, 2);
  const std::vector<std::int64_t> load = {40, 40, 10, 10};
  EXPECT_DOUBLE_EQ(lower_bound(layer.shape, load), 25.0);
  EXPECT_DOUBLE_EQ(best_node_partitions(layer.shape, load, {}, {})[0].bound, 40.0);
  EXPECT_DOUBLE_EQ(best_with_groups_on_nodes(layer, load), 40.0);
}

}  // namespace
}  // namespace swiftbalancer
