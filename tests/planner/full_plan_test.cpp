// Full plans over random shapes and loads, and on instances whose optimum is known: exactly by
// search over everything, or from the literature.

#include "planner/full_plan.hpp"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include <swiftbalancer/placement.hpp>

#include "planner/align.hpp"
#include "planner/bounds.hpp"
#include "planner/eplb.hpp"
#include "planner/exact_plan.hpp"
#include "planner/packing.hpp"
#include "planner/topology_scenes.hpp"

namespace swiftbalancer {
namespace {

using topology::any_load;
using topology::LayerScene;
using topology::pick;

// Planners compute in single precision, and stop a little above the bound.
constexpr double kSinglePrecision = 1.0 + 1e-5;
constexpr double kDoublePrecision = 1.0 + 1e-12;

// Without the rounding of shares.
double hottest(const ClusterShape& shape, std::span<const std::int32_t> slots,
               std::span<const std::int64_t> load) {
  const std::vector<std::int32_t> count = replica_count(slots, shape.num_logical_experts());
  std::vector<double> ranks(static_cast<std::size_t>(shape.num_ranks()), 0.0);
  for (int slot = 0; slot < shape.num_slots(); ++slot) {
    const auto expert = static_cast<std::size_t>(slots[static_cast<std::size_t>(slot)]);
    ranks[static_cast<std::size_t>(shape.rank_of_slot(slot))] +=
        static_cast<double>(load[expert]) / count[expert];
  }
  return std::ranges::max(ranks);
}

int avoidable_duplicates(const ClusterShape& shape, std::span<const std::int32_t> slots) {
  int forced = 0;
  for (int rank = 0; rank < shape.num_ranks(); ++rank)
    forced += std::max(0, shape.slots_per_rank(rank) - shape.num_logical_experts());
  return count_same_rank_duplicates(slots, shape) - forced;
}

std::vector<std::int32_t> repaired_eplb(const ClusterShape& shape,
                                        std::span<const std::int64_t> load) {
  std::vector<std::int32_t> slots = eplb_rebalance(shape, load);
  // Within nodes first, which does not help where a rank has more slots than its node experts.
  if (eplb_is_hierarchical(shape)) repair_same_rank_duplicates(shape, load, true, slots);
  repair_same_rank_duplicates(shape, load, false, slots);
  return slots;
}

LayerScene any_even_scene(int most_experts, int most_ranks) {
  ShapeOptions options{.num_moe_layers = 1, .num_logical_experts = pick(1, most_experts)};
  options.num_ranks = pick(1, most_ranks);
  options.num_slots =
      std::max(options.num_logical_experts, options.num_ranks) + pick(0, options.num_ranks * 2);
  return topology::scene_of(options);
}

void expect_sound(const LayerScene& scene) {
  const std::vector<std::int32_t> slots = plan_full(scene.shape, scene.load);
  RC_ASSERT(is_valid_layer(slots, scene.shape));
  RC_ASSERT(std::ranges::min(slots) >= 0);
  RC_ASSERT(avoidable_duplicates(scene.shape, slots) == 0);
}

TEST(FullPlan, HoldsEveryExpertAndRepeatsNoneOnARank) {
  EXPECT_TRUE(rc::check([] { expect_sound(any_even_scene(64, 20)); }));
}

TEST(FullPlan, FillsRanksOfUnevenSizes) {
  EXPECT_TRUE(rc::check([] { expect_sound(topology::any_scene()); }));
}

void expect_no_worse_than_eplb(const LayerScene& scene) {
  const double planned = hottest(scene.shape, plan_full(scene.shape, scene.load), scene.load);
  const std::vector<std::int32_t> eplb = repaired_eplb(scene.shape, scene.load);
  RC_ASSERT(avoidable_duplicates(scene.shape, eplb) == 0);
  RC_ASSERT(planned <= hottest(scene.shape, eplb, scene.load) * kDoublePrecision);
  // The bound allows each expert on a rank but once, which more slots than experts cannot keep.
  if (scene.shape.max_slots_per_rank() <= scene.shape.num_logical_experts())
    RC_ASSERT(planned * kSinglePrecision >= lower_bound(scene.shape, scene.load));
}

TEST(FullPlan, IsNoBetterThanTheBoundAndNoWorseThanRepairedEplb) {
  EXPECT_TRUE(rc::check([] {
    expect_no_worse_than_eplb(pick(0, 1) == 0 ? any_even_scene(64, 20) : topology::any_scene());
  }));
}

// Loads without ties, whose pieces eplb gives to all ranks in turn: the common case of real layers.
TEST(FullPlan, IsNoWorseThanRepairedEplbOnSkewedLoads) {
  EXPECT_TRUE(rc::check([] {
    LayerScene scene = pick(0, 2) > 0 ? any_even_scene(256, 72) : topology::any_scene();
    scene.load = topology::skewed_load(scene.shape.num_logical_experts(), pick(0, 40) / 20.0,
                                       static_cast<unsigned>(pick(1, 1'000'000)));
    for (std::int64_t& tokens : scene.load) tokens = std::max<std::int64_t>(0, tokens - 20);
    expect_no_worse_than_eplb(scene);
  }));
}

// What plans start from, slot by slot.
TEST(Packing, PacksAsEplbDoesAndPartsDuplicatesAsItsRepairDoes) {
  int packed = 0;
  EXPECT_TRUE(rc::check([&packed] {
    LayerScene scene = pick(0, 1) == 0 ? any_even_scene(128, 40) : topology::any_scene();
    const ClusterShape& shape = scene.shape;
    // Where every rank has one slot, eplb takes replicas as they come.
    if (shape.max_slots_per_rank() == 1 || shape.max_slots_per_rank() > shape.num_logical_experts())
      return;
    if (pick(0, 1) == 0) {
      scene.load = topology::skewed_load(shape.num_logical_experts(), pick(0, 30) / 10.0,
                                         static_cast<unsigned>(pick(1, 1'000'000)));
    }
    Packing packing(shape);
    packing.set_load(scene.load);
    packing.choose_replicas();
    if (!packing.pack_as_eplb()) return;
    if (packing.may_have_duplicates() && !packing.part_duplicates_as_eplb()) return;
    std::vector<std::int32_t> slots(static_cast<std::size_t>(shape.num_slots()));
    packing.write(slots);
    RC_ASSERT(slots == repaired_eplb(shape, scene.load));
    ++packed;
  }));
  EXPECT_GT(packed, 30);
}

// Where groups are kept on nodes, eplb is another algorithm.
TEST(FullPlan, IsNoWorseThanEplbWithGroupsOnNodes) {
  EXPECT_TRUE(rc::check([] {
    const int nodes = pick(2, 3), groups = nodes * pick(1, 3);
    ShapeOptions options{.num_moe_layers = 1,
                         .num_logical_experts = groups * pick(1, 6),
                         .num_ranks = nodes * pick(1, 3),
                         .num_nodes = nodes,
                         .num_expert_groups = groups};
    options.num_slots = std::max(options.num_logical_experts, options.num_ranks);
    options.num_slots += options.num_ranks - options.num_slots % options.num_ranks;
    expect_no_worse_than_eplb(topology::scene_of(options));
  }));
}

TEST(FullPlan, GivesTheSameSlotsEveryTime) {
  EXPECT_TRUE(rc::check([] {
    const LayerScene scene = any_even_scene(48, 16);
    FullPlanner planner(scene.shape);
    std::vector<std::int32_t> first(static_cast<std::size_t>(scene.shape.num_slots()));
    std::vector<std::int32_t> again = first;
    planner.plan_layer(scene.load, first);
    planner.plan_layer(any_load(scene.shape.num_logical_experts()), again);
    planner.plan_layer(scene.load, again);
    RC_ASSERT(first == again);
    FullPlanner(scene.shape).plan_layer(scene.load, again);
    RC_ASSERT(first == again);
  }));
}

TEST(FullPlan, SpreadsALayerWithoutLoad) {
  const ClusterShape shape(
      {.num_moe_layers = 1, .num_logical_experts = 16, .num_ranks = 4, .num_slots = 24});
  const std::vector<std::int32_t> slots = plan_full(shape, std::vector<std::int64_t>(16, 0));
  EXPECT_TRUE(is_valid_layer(slots, shape));
  EXPECT_EQ(count_same_rank_duplicates(slots, shape), 0);
}

TEST(FullPlan, TakesTheSmallestShapes) {
  const ClusterShape one(
      {.num_moe_layers = 1, .num_logical_experts = 1, .num_ranks = 1, .num_slots = 1});
  EXPECT_EQ(plan_full(one, std::vector<std::int64_t>{5}), (std::vector<std::int32_t>{0}));
  const ClusterShape copies(
      {.num_moe_layers = 1, .num_logical_experts = 1, .num_ranks = 3, .num_slots = 3});
  EXPECT_EQ(plan_full(copies, std::vector<std::int64_t>{5}), (std::vector<std::int32_t>{0, 0, 0}));
  const ClusterShape forced(
      {.num_moe_layers = 1, .num_logical_experts = 2, .num_ranks = 2, .num_slots = 6});
  EXPECT_TRUE(is_valid_layer(plan_full(forced, std::vector<std::int64_t>{5, 1}), forced));
}

// The example of FlashLB's documentation (vllm-ascend): eplb ends at 232, FlashLB at 205.
TEST(FullPlan, ReachesTheOptimumOfTheEightExpertExample) {
  const ClusterShape shape(
      {.num_moe_layers = 1, .num_logical_experts = 8, .num_ranks = 8, .num_slots = 16});
  const std::vector<std::int64_t> load = {600, 560, 120, 120, 20, 10, 10, 10};
  const std::vector<std::int32_t> slots = plan_full(shape, load);
  EXPECT_NEAR(hottest(shape, slots, load), 560.0 / 3.0 + 10.0, 1e-9);
  EXPECT_NEAR(exact_hottest_rank(shape, load), 560.0 / 3.0 + 10.0, 1e-9);
}

// Small layers are the hard ones: no plan is near the bound there.
void expect_near_the_optimum(const std::vector<int>& slots_per_rank, double worst_allowed,
                             double mean_allowed) {
  constexpr int kLayers = 40;
  double sum = 0.0;
  for (unsigned seed = 1; seed <= kLayers; ++seed) {
    const ClusterShape shape({.num_moe_layers = 1,
                              .num_logical_experts = 8,
                              .num_ranks = static_cast<int>(slots_per_rank.size()),
                              .slots_per_rank = slots_per_rank});
    const std::vector<std::int64_t> load = topology::skewed_load(8, 0.5 + 0.05 * (seed % 20), seed);
    const double best = exact_hottest_rank(shape, load);
    const double gap = hottest(shape, plan_full(shape, load), load) / best - 1.0;
    EXPECT_GE(gap, -1e-9) << "seed " << seed;
    EXPECT_LE(gap, worst_allowed) << "seed " << seed;
    EXPECT_LE(lower_bound(shape, load), best * (1.0 + 1e-9)) << "seed " << seed;
    sum += gap;
  }
  EXPECT_LE(sum / kLayers, mean_allowed);
}

TEST(FullPlan, StaysNearTheExactOptimumOfSmallLayers) {
  expect_near_the_optimum({3, 3, 3, 3}, 0.02, 0.001);
  expect_near_the_optimum({2, 2, 2, 2, 2}, 0.001, 1e-4);
}

TEST(FullPlan, StaysNearTheExactOptimumOfRanksOfUnevenSizes) {
  expect_near_the_optimum({3, 3, 2, 2}, 0.001, 1e-4);
  expect_near_the_optimum({2, 3, 5}, 0.001, 1e-4);
  expect_near_the_optimum({1, 2, 3, 4}, 0.001, 1e-4);
  expect_near_the_optimum({2, 2, 4, 4}, 0.02, 0.001);
}

TEST(FullPlan, IsNearTheBoundOnLayersOfARealSize) {
  const ClusterShape shape(
      {.num_moe_layers = 1, .num_logical_experts = 256, .num_ranks = 32, .num_slots = 288});
  FullPlanner planner(shape);
  std::vector<std::int32_t> slots(288);
  for (unsigned seed = 1; seed <= 20; ++seed) {
    const std::vector<std::int64_t> load = topology::skewed_load(256, 0.7, seed);
    planner.plan_layer(load, slots);
    EXPECT_LE(hottest(shape, slots, load), 1.002 * kSinglePrecision * lower_bound(shape, load));
  }
}

}  // namespace
}  // namespace swiftbalancer
