#include <swiftbalancer/shape.hpp>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <swiftbalancer/error.hpp>

namespace swiftbalancer {
namespace {

ShapeOptions options(int ranks, int slots) {
  ShapeOptions result;
  result.num_moe_layers = 2;
  result.num_logical_experts = 64;
  result.num_ranks = ranks;
  result.num_slots = slots;
  return result;
}

TEST(ClusterShape, SpreadsSlotsEvenlyTheFirstRanksTakeTheRemainder) {
  const ClusterShape shape(options(3, 80));
  EXPECT_EQ(shape.slots_per_rank(0), 27);
  EXPECT_EQ(shape.slots_per_rank(1), 27);
  EXPECT_EQ(shape.slots_per_rank(2), 26);
  EXPECT_EQ(shape.first_slot(2), 54);
  EXPECT_EQ(shape.rank_of_slot(53), 1);
  EXPECT_EQ(shape.rank_of_slot(54), 2);
  EXPECT_EQ(shape.num_redundant_experts(), 16);
  EXPECT_EQ(shape.max_slots_per_rank(), 27);
}

TEST(ClusterShape, PutsRanksOnNodesInContiguousBlocks) {
  ShapeOptions given = options(8, 80);
  given.num_nodes = 2;
  const ClusterShape shape(given);
  EXPECT_EQ(shape.node_of_rank(3), 0);
  EXPECT_EQ(shape.node_of_rank(4), 1);
  EXPECT_EQ(shape.num_nodes(), 2);
}

TEST(ClusterShape, RefusesWhatCannotBeServedAndSaysTheValue) {
  const struct {
    const char* name;
    ShapeOptions given;
    const char* expected;
  } cases[] = {
      {"too few slots", options(8, 60), "60"},
      {"more ranks than slots", options(100, 80), "100"},
      {"no ranks", options(0, 80), "num_ranks is 0"},
      {"negative slots", options(8, -1), "num_slots is -1"},
  };
  for (const auto& item : cases) {
    try {
      const ClusterShape shape(item.given);
      FAIL() << item.name;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument) << item.name;
      EXPECT_THAT(error.what(), testing::HasSubstr(item.expected)) << item.name;
    }
  }
  ShapeOptions groups = options(8, 80);
  groups.num_expert_groups = 7;
  EXPECT_THROW(ClusterShape{groups}, Error);
  ShapeOptions list = options(8, 80);
  list.slots_per_rank = {80};
  EXPECT_THROW(ClusterShape{list}, Error);
}

TEST(ClusterShape, RefusesANodeThatNoRankIsOnAndNamesIt) {
  ShapeOptions given = options(3, 80);
  given.node_of_rank = {2, 0, 1};
  EXPECT_EQ(ClusterShape(given).num_nodes(), 3);
  given.node_of_rank = {3, 0, 1};
  try {
    const ClusterShape shape(given);
    FAIL() << shape.num_nodes() << " nodes";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(),
                 "node_of_rank names node 3, but no rank is on node 2; nodes count from 0 without "
                 "gaps");
  }
}

}  // namespace
}  // namespace swiftbalancer
