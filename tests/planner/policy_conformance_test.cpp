// Every registered policy is tested for what all must keep and for what it declares, over random
// shapes. A new policy is tested without touching this file.

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>

#include <swiftbalancer/error.hpp>
#include <swiftbalancer/load.hpp>
#include <swiftbalancer/placement.hpp>
#include <swiftbalancer/policy.hpp>

#include "planner/eplb.hpp"

namespace swiftbalancer {
namespace {

int draw(int low, int high) { return *rc::gen::inRange(low, high + 1); }

ClusterShape any_shape() {
  ShapeOptions options;
  options.num_moe_layers = 1;
  options.num_ranks = draw(1, 9);
  options.num_expert_groups = draw(1, 4);
  options.num_logical_experts = options.num_expert_groups * draw(1, 8);
  options.num_nodes = draw(1, std::min(3, options.num_ranks));
  int slots = 0;
  for (int rank = 0; rank < options.num_ranks; ++rank) {
    options.slots_per_rank.push_back(draw(1, 6));
    slots += options.slots_per_rank.back();
  }
  // Too few slots for the experts: the last rank takes the rest.
  const int missing = options.num_logical_experts + draw(0, 3) - slots;
  if (missing > 0) options.slots_per_rank.back() += missing;
  if (*rc::gen::arbitrary<bool>()) {  // even ranks
    options.num_slots = std::max(slots, options.num_logical_experts);
    options.slots_per_rank.clear();
  }
  return ClusterShape(options);
}

std::vector<std::int64_t> any_load(int experts) {
  const auto kind = draw(0, 3);
  std::vector<std::int64_t> load(static_cast<std::size_t>(experts), 0);
  for (auto& tokens : load) {
    if (kind == 1) tokens = 7;
    if (kind == 2) tokens = draw(0, 1000);
    if (kind == 3) tokens = draw(0, 5) == 0 ? draw(0, 1'000'000) : draw(0, 10);
  }
  return load;
}

struct Scene {
  ClusterShape shape;
  std::vector<std::int64_t> load;
  std::vector<std::int32_t> placement;
  std::vector<std::uint32_t> shares;
  int max_moves = -1;
  std::uint64_t seed = 0;

  LayerProblem problem() const {
    return {.shape = &shape,
            .load = load,
            .placement = placement,
            .shares = shares,
            .max_moves = max_moves,
            .seed = seed};
  }
};

Scene any_scene() {
  Scene scene{any_shape(), {}, {}, {}, -1, 0};
  scene.load = any_load(scene.shape.num_logical_experts());
  const Placement initial = Placement::initial(scene.shape);
  scene.placement.assign(initial.layer(0).begin(), initial.layer(0).end());
  scene.seed = static_cast<std::uint64_t>(draw(0, 1'000'000));
  const int start = draw(0, 2);
  if (start == 1) {  // a random legal placement and shares
    const LayerPlan plan = make_policy("stress")->plan_layer(scene.problem());
    scene.placement = plan.placement;
    scene.shares = plan.shares;
  } else if (start == 2) {  // any placement, duplicates included
    const int experts = scene.shape.num_logical_experts();
    std::vector<std::int32_t> slots;
    for (int expert = 0; expert < experts; ++expert) slots.push_back(expert);
    while (slots.size() < scene.placement.size()) slots.push_back(draw(0, experts - 1));
    for (std::size_t i = slots.size(); i > 1; --i) {
      std::swap(slots[i - 1], slots[static_cast<std::size_t>(draw(0, static_cast<int>(i) - 1))]);
    }
    scene.placement = slots;
  }
  return scene;
}

LayerPlan planned(const std::string& name, const Scene& scene) {
  return make_policy(name)->plan_layer(scene.problem());
}

std::span<const std::int32_t> of_rank(std::span<const std::int32_t> slots,
                                      const ClusterShape& shape, int rank) {
  return slots.subspan(static_cast<std::size_t>(shape.first_slot(rank)),
                       static_cast<std::size_t>(shape.slots_per_rank(rank)));
}

// A rank with more slots than experts that may live there must repeat some; every other duplicate
// is avoidable, because replica counts are the policy's choice.
int forced_duplicates(const ClusterShape& shape, bool hierarchical) {
  const int available =
      hierarchical ? shape.num_logical_experts() / shape.num_nodes() : shape.num_logical_experts();
  int forced = 0;
  for (int rank = 0; rank < shape.num_ranks(); ++rank)
    forced += std::max(0, shape.slots_per_rank(rank) - available);
  return forced;
}

bool keeps_nodes(const PolicyCapabilities& capabilities, const ClusterShape& shape) {
  return capabilities.hierarchical && eplb_is_hierarchical(shape);
}

class PolicyConformance : public ::testing::TestWithParam<std::string_view> {
 protected:
  std::string name() const { return std::string(GetParam()); }
  PolicyCapabilities capabilities() const { return make_policy(name())->capabilities(); }
};
INSTANTIATE_TEST_SUITE_P(All, PolicyConformance, ::testing::ValuesIn(policy_names()),
                         [](const auto& test) { return std::string(test.param); });

TEST_P(PolicyConformance, IsFoundUnderItsName) { EXPECT_EQ(make_policy(name())->name(), name()); }

TEST_P(PolicyConformance, LosesNoExpertAndSharesAddUp) {
  EXPECT_TRUE(rc::check([&] {
    const Scene scene = any_scene();
    const LayerPlan plan = planned(name(), scene);
    RC_ASSERT(is_valid_layer(plan.placement, scene.shape));
    RC_ASSERT(plan.shares.size() == plan.placement.size());
    std::map<std::int32_t, std::uint64_t> sums;
    for (std::size_t slot = 0; slot < plan.placement.size(); ++slot)
      sums[plan.placement[slot]] += plan.shares[slot];
    for (const auto& [expert, sum] : sums) RC_ASSERT(sum == kShareUnit);
  }));
}

TEST_P(PolicyConformance, SameProblemGivesSameBytes) {
  EXPECT_TRUE(rc::check([&] {
    const Scene scene = any_scene();
    const Scene copy = scene;
    const auto policy = make_policy(name());
    const LayerPlan first = policy->plan_layer(scene.problem());
    const LayerPlan second = policy->plan_layer(scene.problem());
    const LayerPlan elsewhere = planned(name(), copy);
    for (const LayerPlan* other : {&second, &elsewhere}) {
      RC_ASSERT(first.placement == other->placement);
      RC_ASSERT(first.shares == other->shares);
      RC_ASSERT(first.work == other->work);
      RC_ASSERT(first.imbalance_after == other->imbalance_after);
    }
  }));
}

TEST_P(PolicyConformance, RepeatsNoExpertOnARankWhereAvoidable) {
  if (!capabilities().moves) GTEST_SKIP() << "returns what it is given";
  EXPECT_TRUE(rc::check([&] {
    const Scene scene = any_scene();
    const LayerPlan plan = planned(name(), scene);
    RC_ASSERT(count_same_rank_duplicates(plan.placement, scene.shape) ==
              forced_duplicates(scene.shape, keeps_nodes(capabilities(), scene.shape)));
  }));
}

TEST_P(PolicyConformance, ReportsWhatTheCoreComputes) {
  EXPECT_TRUE(rc::check([&] {
    const Scene scene = any_scene();
    const LayerPlan plan = planned(name(), scene);
    RC_ASSERT(plan.imbalance_before ==
              imbalance(rank_load(scene.shape, scene.placement, scene.shares, scene.load)));
    RC_ASSERT(plan.imbalance_after ==
              imbalance(rank_load(scene.shape, plan.placement, plan.shares, scene.load)));
    RC_ASSERT(plan.moves == count_moves(scene.placement, plan.placement, scene.shape));
  }));
}

TEST_P(PolicyConformance, StaysPutIfItDeclaresNoMoves) {
  if (capabilities().moves) GTEST_SKIP() << "moves";
  EXPECT_TRUE(rc::check([&] {
    const Scene scene = any_scene();
    const LayerPlan plan = planned(name(), scene);
    RC_ASSERT(plan.placement == scene.placement);
    RC_ASSERT(scene.shares.empty() || plan.shares == scene.shares);
  }));
}

TEST_P(PolicyConformance, KeepsSlotsAndBudgetIfIncremental) {
  if (!capabilities().incremental) GTEST_SKIP() << "places from scratch";
  EXPECT_TRUE(rc::check([&] {
    Scene scene = any_scene();
    scene.max_moves = draw(0, 1) == 0 ? -1 : draw(0, 6);
    const LayerPlan plan = planned(name(), scene);
    RC_ASSERT(scene.max_moves < 0 || plan.moves <= scene.max_moves);
    for (int rank = 0; rank < scene.shape.num_ranks(); ++rank) {
      const auto before = of_rank(scene.placement, scene.shape, rank),
                 after = of_rank(plan.placement, scene.shape, rank);
      for (std::int32_t expert : after) {
        if (std::ranges::find(before, expert) == before.end()) continue;
        bool kept = false;
        for (std::size_t i = 0; i < after.size(); ++i)
          kept |= before[i] == expert && after[i] == expert;
        RC_ASSERT(kept);
      }
    }
  }));
}

TEST_P(PolicyConformance, MovesNothingTheSecondTimeIfGated) {
  if (!capabilities().gated) GTEST_SKIP() << "ungated";
  EXPECT_TRUE(rc::check([&] {
    Scene scene = any_scene();
    const LayerPlan first = planned(name(), scene);
    scene.placement = first.placement;
    scene.shares = first.shares;
    LayerProblem again = scene.problem();
    again.min_gain = 0.01;
    RC_ASSERT(make_policy(name())->plan_layer(again).moves == 0 || first.imbalance_after > 1.01);
    LayerProblem never = scene.problem();
    never.min_gain = 1e9;
    RC_ASSERT(make_policy(name())->plan_layer(never).moves == 0);
  }));
}

TEST_P(PolicyConformance, SplitsEvenlyUnlessItPlansShares) {
  if (capabilities().planned_shares) GTEST_SKIP() << "plans shares";
  EXPECT_TRUE(rc::check([&] {
    const Scene scene = any_scene();
    const LayerPlan plan = planned(name(), scene);
    RC_ASSERT(plan.shares == even_shares(plan.placement, scene.shape.num_logical_experts()));
  }));
}

TEST_P(PolicyConformance, KeepsGroupsOnNodesIfHierarchical) {
  if (!capabilities().hierarchical) GTEST_SKIP() << "ignores groups";
  EXPECT_TRUE(rc::check([&] {
    ShapeOptions options;
    options.num_moe_layers = 1;
    options.num_nodes = draw(2, 3);
    options.num_expert_groups = options.num_nodes * draw(1, 3);
    options.num_logical_experts = options.num_expert_groups * draw(1, 4);
    options.num_ranks = options.num_nodes * draw(1, 3);
    // Enough for every node, also where ranks differ by one slot.
    options.num_slots = options.num_logical_experts + options.num_ranks + draw(0, 9);
    Scene scene{ClusterShape(options), {}, {}, {}, -1, 0};
    RC_PRE(eplb_is_hierarchical(scene.shape));
    scene.load = any_load(options.num_logical_experts);
    const Placement initial = Placement::initial(scene.shape);
    scene.placement.assign(initial.layer(0).begin(), initial.layer(0).end());
    const LayerPlan plan = planned(name(), scene);
    std::map<int, std::set<int>> nodes_of_group;
    for (int slot = 0; slot < scene.shape.num_slots(); ++slot) {
      const int expert = plan.placement[static_cast<std::size_t>(slot)];
      nodes_of_group[scene.shape.group_of_expert(expert)].insert(
          scene.shape.node_of_rank(scene.shape.rank_of_slot(slot)));
    }
    for (const auto& [group, nodes] : nodes_of_group) RC_ASSERT(nodes.size() == 1U);
  }));
}

std::string refusal(const std::string& name, const LayerProblem& problem) {
  try {
    make_policy(name)->plan_layer(problem);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
  return "accepted";
}

TEST_P(PolicyConformance, RefusesAProblemThatDoesNotFitItsShape) {
  const ClusterShape shape(
      {.num_moe_layers = 1, .num_logical_experts = 3, .num_ranks = 2, .num_slots = 4});
  const std::vector<std::int64_t> load = {1, 2, 3}, short_load = {1, 2}, negative = {1, -2, 3};
  const std::vector<std::int32_t> slots = {0, 1, 2, 0}, short_slots = {0, 1, 2},
                                  lost = {0, 1, 1, 0}, unknown = {0, 1, 2, 3},
                                  empty = {0, 1, 2, kEmptySlot};
  const std::vector<std::uint32_t> short_shares = {kShareUnit},
                                   wrong_shares = {1, kShareUnit, kShareUnit, 1};
  EXPECT_EQ(refusal(name(), {.shape = nullptr, .load = load, .placement = slots}),
            "LayerProblem::shape is not set; give the ClusterShape of the model");
  EXPECT_EQ(refusal(name(), {.shape = &shape, .load = short_load, .placement = slots}),
            "LayerProblem::load has 2 entries; the shape has 3 logical experts");
  EXPECT_EQ(refusal(name(), {.shape = &shape, .load = load, .placement = short_slots}),
            "LayerProblem::placement has 3 entries; the shape has 4 slots");
  EXPECT_EQ(
      refusal(name(), {.shape = &shape, .load = load, .placement = slots, .shares = short_shares}),
      "LayerProblem::shares has 1 entries; the shape has 4 slots");
  EXPECT_EQ(
      refusal(name(), {.shape = &shape, .load = load, .placement = slots, .shares = wrong_shares}),
      "LayerProblem::shares of expert 0 sum to 2; they must sum to 65536");
  EXPECT_EQ(refusal(name(), {.shape = &shape, .load = negative, .placement = slots}),
            "LayerProblem::load of expert 1 is -2; loads count tokens, at least 0");
  for (const auto& wrong : {lost, unknown, empty}) {
    EXPECT_EQ(refusal(name(), {.shape = &shape, .load = load, .placement = wrong}),
              "LayerProblem::placement has an empty slot, names an expert outside 0 to 2 or has no "
              "slot for one; every slot needs an expert and every expert a slot");
  }
}

TEST(PolicyRegistry, AnUnknownNameIsRefusedWithTheNamesThatExist) {
  try {
    make_policy("none");
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    for (std::string_view name : policy_names())
      EXPECT_NE(std::string(error.what()).find(name), std::string::npos);
  }
}

TEST(PolicyRegistry, NamesAreSortedAndDistinct) {
  const auto names = policy_names();
  EXPECT_TRUE(std::is_sorted(names.begin(), names.end()));
  EXPECT_EQ(std::set<std::string_view>(names.begin(), names.end()).size(), names.size());
}

}  // namespace
}  // namespace swiftbalancer
