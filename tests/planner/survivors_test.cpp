// Dead ranks offline: experts that lost all copies get a slot again, with the fewest moves.

#include "planner/survivors.hpp"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <string>

#include <swiftbalancer/error.hpp>
#include <swiftbalancer/load.hpp>

#include "core/index.hpp"
#include "planner/topology_scenes.hpp"

namespace swiftbalancer {
namespace {

using topology::LayerScene;
using topology::pick;

ExpertLoad load_of_layer(const std::vector<std::int64_t>& tokens) {
  ExpertLoad load(1, static_cast<int>(tokens.size()));
  std::ranges::copy(tokens, load.layer(0).begin());
  return load;
}

// What the survivors hold before anything is placed again.
std::vector<std::int32_t> left_over(const ClusterShape& shape, std::span<const std::int32_t> slots,
                                    const Survivors& survivors) {
  std::vector<std::int32_t> row;
  for (int rank : survivors.ranks) {
    for (int slot = shape.first_slot(rank); slot < shape.first_slot(rank + 1); ++slot)
      row.push_back(slots[index(slot)]);
  }
  return row;
}

// Fewest moves to any placement at all that has every expert.
int fewest_moves(const ClusterShape& shape, std::span<const std::int32_t> row) {
  std::vector<std::int32_t> slots(row.size(), 0);
  int fewest = std::numeric_limits<int>::max();
  while (true) {
    if (is_valid_layer(slots, shape)) fewest = std::min(fewest, count_moves(row, slots, shape));
    std::size_t at = 0;
    while (at < slots.size() && ++slots[at] == shape.num_logical_experts()) slots[at++] = 0;
    if (at == slots.size()) return fewest;
  }
}

std::string refusal(const ClusterShape& shape, const std::vector<int>& dead) {
  try {
    survivors_of(shape, dead);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
  return "";
}

TEST(Survivors, LostExpertsArePlacedWithTheFewestMovesThereAre) {
  EXPECT_TRUE(rc::check([] {
    ShapeOptions options{.num_moe_layers = 1, .num_logical_experts = pick(2, 4)};
    options.num_ranks = 3;
    options.slots_per_rank = {2, pick(1, 3), pick(1, 3)};
    options.slots_per_rank[2] += std::max(
        0, options.num_logical_experts - options.slots_per_rank[1] - options.slots_per_rank[2]);
    const ClusterShape shape(options);
    const Placement placement = Placement::initial(shape);
    const ExpertLoad load = load_of_layer(topology::any_load(options.num_logical_experts));
    const std::vector<int> dead = {0};
    const Recovered recovered = recover(shape, placement, load, dead);
    const ClusterShape left(recovered.survivors.options);
    const auto row = left_over(shape, placement.layer(0), recovered.survivors);
    const auto after = recovered.placement.layer(0);
    RC_ASSERT(is_valid_layer(after, left));
    RC_ASSERT(std::ranges::equal(recovered.held.layer(0), row));
    RC_ASSERT(count_moves(row, after, left) == recovered.lost_experts[0]);
    RC_ASSERT(count_moves(row, after, left) == fewest_moves(left, row));
  }));
}

TEST(Survivors, NothingElseMovesAndPinnedSlotsStay) {
  EXPECT_TRUE(rc::check([] {
    const topology::LayerScene scene = topology::any_scene();
    const ClusterShape& shape = scene.shape;
    std::vector<std::int32_t> row = scene.placement;
    std::vector<std::uint8_t> pinned(row.size(), 0);
    // Some slots are empty, as on a rank that has just joined; a part of the others is pinned.
    int empty = 0;
    for (std::size_t slot = 0; slot < row.size(); ++slot) {
      const int kind = pick(0, 5);
      if (kind == 0) row[slot] = kEmptySlot, ++empty;
      if (kind == 1) pinned[slot] = 1;
    }
    const std::vector<std::int32_t> before = row;
    try {
      place_lost_experts(shape, {.load = scene.load, .pinned = pinned}, row);
    } catch (const Error&) {
      RC_ASSERT(std::ranges::count(pinned, 1) > 0);  // without pins there is room for all
      return;
    }
    RC_ASSERT(is_valid_layer(row, shape));
    const auto replicas = replica_count(before, shape.num_logical_experts());
    for (std::size_t slot = 0; slot < row.size(); ++slot) {
      if (row[slot] == before[slot]) continue;
      RC_ASSERT(pinned[slot] == 0);
      RC_ASSERT(replicas[index(row[slot])] == 0);
    }
  }));
}

TEST(Survivors, PinnedExpertsKeepEverySlotThatIsLeft) {
  int recoveries = 0;
  EXPECT_TRUE(rc::check([&] {
    // 12 slots are left for 8 experts, some of which only rank 1 held.
    const LayerScene scene = topology::scene_of(
        {.num_moe_layers = 1, .num_logical_experts = 8, .num_ranks = 4, .num_slots = 16});
    Placement placement(1, 16);
    std::ranges::copy(scene.placement, placement.layer(0).begin());
    const std::vector<int> pinned = {pick(0, 3), pick(4, 7)};
    const std::vector<int> dead = {1};
    Recovered recovered;
    try {
      recovered = recover(scene.shape, placement, load_of_layer(scene.load), dead,
                          {.pinned_experts = pinned});
    } catch (const Error&) {
      return;
    }
    ++recoveries;
    RC_ASSERT(
        is_valid_layer(recovered.placement.layer(0), ClusterShape(recovered.survivors.options)));
    const auto held = recovered.held.layer(0);
    for (std::size_t slot = 0; slot < held.size(); ++slot) {
      if (std::ranges::find(pinned, held[slot]) == pinned.end()) continue;
      RC_ASSERT(recovered.placement.layer(0)[slot] == held[slot]);
    }
  }));
  EXPECT_GT(recoveries, 50);
}

TEST(Survivors, ALostExpertAvoidsASlowRank) {
  const ClusterShape shape(
      {.num_moe_layers = 1, .num_logical_experts = 3, .num_ranks = 3, .num_slots = 6});
  Placement placement(1, 6);
  std::ranges::copy(std::vector<std::int32_t>{0, 1, 2, 2, 0, 1}, placement.layer(0).begin());
  const ExpertLoad load = load_of_layer({10, 10, 100});
  const std::vector<int> dead = {1};
  const auto rank_of_lost = [&](const std::vector<double>& speed) {
    const Recovered recovered = recover(shape, placement, load, dead, {.rank_speed = speed});
    const auto row = recovered.placement.layer(0);
    return (std::ranges::find(row, 2) - row.begin()) / 2;
  };
  EXPECT_EQ(rank_of_lost({1.0, 0.1}), 0);
  EXPECT_EQ(rank_of_lost({0.1, 1.0}), 1);
  try {
    rank_of_lost({1.0, 1.0, 1.0});
    FAIL() << "three speeds for two ranks";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
  }
}

TEST(Survivors, ALostExpertGoesWhereTheLeastLoadedReplicaCanBeSpared) {
  const ClusterShape shape(
      {.num_moe_layers = 1, .num_logical_experts = 4, .num_ranks = 3, .num_slots = 6});
  // Expert 3 is lost; 0 and 1 can spare a slot, on the heavier and on the lighter rank.
  const std::vector<std::int64_t> load = {100, 10, 60, 20};
  std::vector<std::int32_t> row = {0, 1, 0, 1, 2, 0};
  EXPECT_EQ(place_lost_experts(shape, {.load = load}, row), 1);
  EXPECT_EQ(replica_count(row, 4), (std::vector<std::int32_t>{3, 1, 1, 1}));
}

TEST(Survivors, ALostExpertStaysOnTheNodeOfItsGroupWhereThatHasASlotToSpare) {
  const ClusterShape shape({.num_moe_layers = 1,
                            .num_logical_experts = 4,
                            .num_ranks = 4,
                            .num_slots = 8,
                            .num_nodes = 2,
                            .num_expert_groups = 2});
  const std::vector<std::int64_t> load = {1000, 900, 1, 1};
  const std::vector<std::int32_t> start = {0, 0, 0, 0, 2, 3, 2, 3};
  std::vector<std::int32_t> anywhere = start;
  place_lost_experts(shape, {.load = load}, anywhere);
  EXPECT_GE(std::ranges::find(anywhere, 1) - anywhere.begin(), 4);
  std::vector<std::int32_t> at_home = start;
  place_lost_experts(shape, {.load = load, .keep_groups = true}, at_home);
  EXPECT_LT(std::ranges::find(at_home, 1) - at_home.begin(), 4);
}

TEST(Survivors, ShapeKeepsSizesAndDropsNodesWithoutRanks) {
  const ClusterShape shape({.num_moe_layers = 2,
                            .num_logical_experts = 6,
                            .num_ranks = 4,
                            .slots_per_rank = {2, 3, 4, 5},
                            .node_of_rank = {0, 0, 1, 2}});
  const Survivors survivors = survivors_of(shape, std::vector<int>{2});
  EXPECT_EQ(survivors.ranks, (std::vector<int>{0, 1, 3}));
  EXPECT_EQ(survivors.options.slots_per_rank, (std::vector<int>{2, 3, 5}));
  EXPECT_EQ(survivors.options.node_of_rank, (std::vector<int>{0, 0, 1}));
  EXPECT_EQ(ClusterShape(survivors.options).num_nodes(), 2);
}

TEST(Survivors, DeadRanksThatCannotBeAreNamed) {
  const ClusterShape shape(
      {.num_moe_layers = 1, .num_logical_experts = 4, .num_ranks = 3, .num_slots = 6});
  EXPECT_EQ(refusal(shape, {1}), "");
  EXPECT_EQ(refusal(shape, {3}), "dead rank 3 does not exist; ranks are 0 to 2");
  EXPECT_EQ(refusal(shape, {-1}), "dead rank -1 does not exist; ranks are 0 to 2");
  EXPECT_EQ(refusal(shape, {1, 1}), "dead rank 1 is named twice");
  EXPECT_EQ(refusal(shape, {0, 2}),
            "the 1 ranks that are left have 2 slots for 4 experts; every expert needs one");
}

}  // namespace
}  // namespace swiftbalancer
