#include "planner/eplb.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

#include <swiftbalancer/placement.hpp>
#include <swiftbalancer/policy.hpp>

#include "planner/align.hpp"

namespace swiftbalancer {
namespace {

ClusterShape shape_of(ShapeOptions options) { return ClusterShape(options); }

// Example of the README of deepseek-ai/EPLB: two layers, 16 slots, 4 groups, 2 nodes, 8 GPUs.
TEST(Eplb, EqualsThePublishedExample) {
  const ClusterShape shape = shape_of({.num_moe_layers = 2,
                                       .num_logical_experts = 12,
                                       .num_ranks = 8,
                                       .num_slots = 16,
                                       .num_nodes = 2,
                                       .num_expert_groups = 4});
  const std::vector<std::int64_t> first = {90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86};
  const std::vector<std::int64_t> second = {20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27};
  EXPECT_TRUE(eplb_is_hierarchical(shape));
  EXPECT_EQ(eplb_rebalance(shape, first),
            (std::vector<std::int32_t>{5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1}));
  EXPECT_EQ(eplb_rebalance(shape, second),
            (std::vector<std::int32_t>{7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1}));
}

TEST(Eplb, IsGlobalWhereGroupsDoNotFitNodes) {
  EXPECT_FALSE(eplb_is_hierarchical(shape_of({.num_moe_layers = 1,
                                              .num_logical_experts = 12,
                                              .num_ranks = 6,
                                              .num_slots = 18,
                                              .num_nodes = 3,
                                              .num_expert_groups = 4})));
  EXPECT_FALSE(eplb_is_hierarchical(shape_of({.num_moe_layers = 1,
                                              .num_logical_experts = 12,
                                              .num_ranks = 4,
                                              .num_slots = 16,
                                              .num_nodes = 2,
                                              .num_expert_groups = 1})));
  // The first node has 5 slots for 6 experts.
  EXPECT_FALSE(eplb_is_hierarchical(shape_of({.num_moe_layers = 1,
                                              .num_logical_experts = 12,
                                              .num_ranks = 2,
                                              .num_nodes = 2,
                                              .num_expert_groups = 2,
                                              .slots_per_rank = {5, 10}})));
}

TEST(Eplb, FillsUnevenRanksExactlyAndBalancesThem) {
  const ClusterShape shape = shape_of(
      {.num_moe_layers = 1, .num_logical_experts = 8, .num_ranks = 3, .slots_per_rank = {2, 3, 5}});
  const std::vector<std::int64_t> load = {40, 30, 30, 20, 20, 20, 20, 20};
  const auto slots = eplb_rebalance(shape, load);
  EXPECT_TRUE(is_valid_layer(slots, shape));
  EXPECT_EQ(replica_count(slots, 8), (std::vector<std::int32_t>{2, 2, 1, 1, 1, 1, 1, 1}));
}

TEST(Eplb, ReplanOnTheSameLoadMovesNothing) {
  const ClusterShape shape = shape_of({.num_moe_layers = 1,
                                       .num_logical_experts = 24,
                                       .num_ranks = 8,
                                       .num_slots = 32,
                                       .num_nodes = 2,
                                       .num_expert_groups = 4});
  std::mt19937 random(5);
  std::vector<std::int64_t> load(24);
  for (auto& tokens : load) tokens = static_cast<std::int64_t>(random() % 1000);
  const auto policy = make_policy("eplb");
  const Placement initial = Placement::initial(shape);
  const LayerPlan first =
      policy->plan_layer({.shape = &shape, .load = load, .placement = initial.layer(0)});
  const LayerPlan second = policy->plan_layer(
      {.shape = &shape, .load = load, .placement = first.placement, .shares = first.shares});
  EXPECT_GT(first.moves, 0);
  EXPECT_EQ(second.moves, 0);
  EXPECT_EQ(second.placement, first.placement);
}

TEST(Align, RepairSwapsADuplicateAwayWithoutChangingCounts) {
  const ClusterShape shape =
      shape_of({.num_moe_layers = 1, .num_logical_experts = 3, .num_ranks = 2, .num_slots = 4});
  const std::vector<std::int64_t> load = {10, 6, 4};
  std::vector<std::int32_t> slots = {0, 0, 1, 2};
  repair_same_rank_duplicates(shape, load, false, slots);
  EXPECT_EQ(count_same_rank_duplicates(slots, shape), 0);
  EXPECT_EQ(replica_count(slots, 3), (std::vector<std::int32_t>{2, 1, 1}));
}

TEST(Align, RepairGivesTheSlotToAnotherExpertWhereNoSwapHelps) {
  const ClusterShape shape =
      shape_of({.num_moe_layers = 1, .num_logical_experts = 3, .num_ranks = 1, .num_slots = 3});
  const ClusterShape two =
      shape_of({.num_moe_layers = 1, .num_logical_experts = 3, .num_ranks = 2, .num_slots = 6});
  const std::vector<std::int64_t> load = {10, 6, 4};
  std::vector<std::int32_t> slots = {0, 0, 1, 0, 0, 2};
  repair_same_rank_duplicates(two, load, false, slots);
  EXPECT_EQ(count_same_rank_duplicates(slots, two), 0);
  EXPECT_TRUE(is_valid_layer(slots, two));
  std::vector<std::int32_t> whole = {2, 1, 0};
  repair_same_rank_duplicates(shape, load, false, whole);
  EXPECT_EQ(whole, (std::vector<std::int32_t>{2, 1, 0}));
}

TEST(Align, RanksAreRenamedToWhereTheirExpertsAre) {
  const ClusterShape shape = shape_of({.num_moe_layers = 1,
                                       .num_logical_experts = 8,
                                       .num_ranks = 4,
                                       .num_slots = 8,
                                       .num_nodes = 2});
  const std::vector<std::int32_t> current = {0, 1, 2, 3, 4, 5, 6, 7};
  std::vector<std::int32_t> slots = {7, 6, 5, 4, 3, 2, 1, 0};
  align_ranks(shape, current, true, slots);
  align_slots(shape, current, slots);
  EXPECT_EQ(slots, current);
}

TEST(Align, RenamingInsideNodesLeavesExpertsOnTheirNode) {
  // The nodes have ranks of unequal sizes, so they cannot trade places.
  const ClusterShape shape = shape_of({.num_moe_layers = 1,
                                       .num_logical_experts = 8,
                                       .num_ranks = 4,
                                       .slots_per_rank = {2, 2, 1, 3},
                                       .node_of_rank = {0, 0, 1, 1}});
  const std::vector<std::int32_t> current = {0, 1, 2, 3, 4, 5, 6, 7};
  std::vector<std::int32_t> slots = {5, 6, 4, 7, 0, 1, 2, 3};
  align_ranks(shape, current, true, slots);
  EXPECT_EQ(std::set<std::int32_t>(slots.begin(), slots.begin() + 4),
            (std::set<std::int32_t>{4, 5, 6, 7}));
}

}  // namespace
}  // namespace swiftbalancer
