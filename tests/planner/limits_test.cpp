// Plans under limits, full and incremental: whatever is asked for is kept, over random shapes.

#include "planner/limits.hpp"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <string>

#include <swiftbalancer/dispatch_table.hpp>
#include <swiftbalancer/error.hpp>
#include <swiftbalancer/load.hpp>
#include <swiftbalancer/placement.hpp>

#include "planner/rank_moves.hpp"
#include "planner/topology_scenes.hpp"

namespace swiftbalancer {
namespace {

using topology::kShareRounding;
using topology::LayerScene;
using topology::pick;

// Pins some slots, a duplicate of none, and leaves slots for the experts without a pin.
std::vector<std::uint8_t> any_pins(const LayerScene& scene) {
  std::vector<std::uint8_t> pinned(scene.placement.size(), 0);
  for (std::size_t slot = 0; slot < pinned.size(); ++slot) pinned[slot] = pick(0, 3) == 0 ? 1 : 0;
  return pinned;
}

std::string refusal(const LayerProblem& problem) {
  try {
    check_limits(problem);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
  return "";
}

TEST(Limits, PinnedSlotsKeepTheirExperts) {
  int plans = 0;
  EXPECT_TRUE(rc::check([&] {
    LayerScene scene = topology::any_scene();
    scene.pinned = any_pins(scene);
    const LayerProblem problem = scene.problem();
    if (!refusal(problem).empty()) return;
    ++plans;
    const LayerPlan plan = plan_within_limits(problem);
    RC_ASSERT(is_valid_layer(plan.placement, scene.shape));
    for (std::size_t slot = 0; slot < plan.placement.size(); ++slot)
      RC_ASSERT(!scene.pinned[slot] || plan.placement[slot] == scene.placement[slot]);
  }));
  EXPECT_GT(plans, 50);
}

TEST(Limits, PinsHoldOnBoundGroupsToo) {
  int plans = 0;
  EXPECT_TRUE(rc::check([&] {
    LayerScene scene = topology::any_grouped_scene();
    scene.pinned = any_pins(scene);
    scene.max_cross_node_replicas = pick(0, 2);
    LayerPlan plan;
    try {
      plan = plan_within_limits(scene.problem());
    } catch (const Error& error) {
      RC_ASSERT(std::string(error.what()).find("pin") != std::string::npos);
      return;
    }
    if (std::ranges::find(scene.pinned, 1) != scene.pinned.end()) ++plans;
    RC_ASSERT(is_valid_layer(plan.placement, scene.shape));
    for (std::size_t slot = 0; slot < plan.placement.size(); ++slot)
      RC_ASSERT(!scene.pinned[slot] || plan.placement[slot] == scene.placement[slot]);
  }));
  EXPECT_GT(plans, 20);
}

TEST(Limits, NoExpertGetsMoreReplicasThanAllowed) {
  EXPECT_TRUE(rc::check([] {
    LayerScene scene = topology::any_scene();
    scene.max_replicas = pick(1, 4);
    const LayerProblem problem = scene.problem();
    if (!refusal(problem).empty()) {
      RC_ASSERT(scene.max_replicas * scene.shape.num_logical_experts() < scene.shape.num_slots());
      return;
    }
    const LayerPlan plan = plan_within_limits(problem);
    RC_ASSERT(is_valid_layer(plan.placement, scene.shape));
    RC_ASSERT(std::ranges::max(replica_count(plan.placement, scene.shape.num_logical_experts())) <=
              scene.max_replicas);
  }));
}

TEST(Limits, SpeedsNeverMakeTheSlowestRankSlowerThanAPlanThatIgnoresThem) {
  EXPECT_TRUE(rc::check([] {
    LayerScene scene = topology::any_scene();
    const LayerPlan blind = plan_within_limits(scene.problem());
    scene.rank_speed = topology::any_speeds(scene.shape);
    const LayerProblem problem = scene.problem();
    const LayerPlan plan = plan_within_limits(problem);
    RC_ASSERT(is_valid_layer(plan.placement, scene.shape));
    RC_ASSERT(plan.imbalance_after == imbalance_of_times(problem, plan.placement, plan.shares));
    RC_ASSERT(plan.imbalance_after <=
              imbalance_of_times(problem, blind.placement, blind.shares) * kShareRounding);
  }));
}

TEST(Limits, PlannedSharesLevelWhatAnEvenSplitLeaves) {
  EXPECT_TRUE(rc::check([] {
    LayerScene scene = topology::any_scene();
    if (pick(0, 1) == 1) scene.rank_speed = topology::any_speeds(scene.shape);
    const LayerPlan even = plan_within_limits(scene.problem());
    LayerProblem problem = scene.problem();
    problem.dispatch = Dispatch::kSplit;
    const LayerPlan split = plan_within_limits(problem);
    RC_ASSERT(split.placement == even.placement);
    RC_ASSERT(split.imbalance_after <= even.imbalance_after);
    std::vector<std::uint64_t> sums(scene.load.size(), 0);
    for (std::size_t slot = 0; slot < split.placement.size(); ++slot)
      sums[static_cast<std::size_t>(split.placement[slot])] += split.shares[slot];
    RC_ASSERT(std::ranges::count(sums, std::uint64_t{kShareUnit}) == std::ssize(sums));
  }));
}

TEST(Limits, ARankOfHalfTheSpeedGetsHalfTheLoad) {
  const ClusterShape shape(
      {.num_moe_layers = 1, .num_logical_experts = 64, .num_ranks = 8, .num_slots = 80});
  const std::vector<std::int64_t> load = topology::skewed_load(64, 1.0, 5);
  const std::vector<double> speed = {1.0, 1.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0};
  const Placement initial = Placement::initial(shape);
  const LayerPlan plan = plan_within_limits({.shape = &shape,
                                             .load = load,
                                             .placement = initial.layer(0),
                                             .dispatch = Dispatch::kEven,
                                             .rank_speed = speed});
  const std::vector<double> loads = rank_load(shape, plan.placement, plan.shares, load);
  const double all = std::accumulate(loads.begin(), loads.end(), 0.0);
  EXPECT_LT(plan.imbalance_after, 1.005);
  EXPECT_NEAR(loads[2] / all, 0.5 / 7.5, 0.001);
}

TEST(Limits, WithoutPinsNoRankRepeatsAnExpertWhereAvoidable) {
  EXPECT_TRUE(rc::check([] {
    LayerScene scene = topology::any_scene();
    if (pick(0, 1) == 1) scene.rank_speed = topology::any_speeds(scene.shape);
    const LayerPlan plan = plan_within_limits(scene.problem());
    int forced = 0;
    for (int rank = 0; rank < scene.shape.num_ranks(); ++rank)
      forced += std::max(0, scene.shape.slots_per_rank(rank) - scene.shape.num_logical_experts());
    RC_ASSERT(count_same_rank_duplicates(plan.placement, scene.shape) == forced);
  }));
}

TEST(Limits, SameProblemGivesSameBytes) {
  EXPECT_TRUE(rc::check([] {
    LayerScene scene = topology::any_grouped_scene();
    scene.rank_speed = topology::any_speeds(scene.shape);
    const LayerScene copy = scene;
    const LayerPlan first = plan_within_limits(scene.problem());
    const LayerPlan second = plan_within_limits(copy.problem());
    RC_ASSERT(first.placement == second.placement);
    RC_ASSERT(first.shares == second.shares);
    RC_ASSERT(first.work == second.work);
  }));
}

// Random limits and budgets of moves.
LayerProblem any_incremental(LayerScene& scene) {
  if (pick(0, 1) == 1) scene.rank_speed = topology::any_speeds(scene.shape);
  if (pick(0, 1) == 1) scene.pinned = any_pins(scene);
  if (pick(0, 1) == 1) scene.max_replicas = pick(1, 4);
  LayerProblem problem = scene.problem();
  problem.from_scratch = false;
  problem.dispatch = pick(0, 1) == 0 ? Dispatch::kEven : Dispatch::kSplit;
  // Without budgets the search is another one.
  const bool has_budgets = pick(0, 2) > 0;
  problem.max_moves = has_budgets ? pick(-1, 8) : -1;
  problem.max_rank_moves = has_budgets ? pick(-1, 3) : -1;
  return problem;
}

void check_limits_kept(const LayerScene& scene, const LayerProblem& problem,
                       const LayerPlan& plan) {
  RC_ASSERT(is_valid_layer(plan.placement, scene.shape));
  RC_ASSERT(problem.max_moves < 0 || plan.moves <= problem.max_moves);
  RC_ASSERT(plan.moves == count_moves(scene.placement, plan.placement, scene.shape));
  const RankMoves moves = rank_moves(scene.shape, scene.placement, plan.placement);
  if (problem.max_rank_moves >= 0)
    RC_ASSERT(std::ranges::max(moves.received) <= problem.max_rank_moves);
  for (std::size_t slot = 0; slot < scene.pinned.size(); ++slot)
    RC_ASSERT(!scene.pinned[slot] || plan.placement[slot] == scene.placement[slot]);
  const auto before = replica_count(scene.placement, scene.shape.num_logical_experts());
  const auto after = replica_count(plan.placement, scene.shape.num_logical_experts());
  for (std::size_t expert = 0; expert < after.size(); ++expert) {
    RC_ASSERT(scene.max_replicas == 0 ||
              after[expert] <= std::max(scene.max_replicas, before[expert]));
  }
}

TEST(LimitsFromAPlacement, MovesStayWithinTheirBudgetsAndLimitsAreKept) {
  EXPECT_TRUE(rc::check([] {
    LayerScene scene = topology::any_scene();
    const LayerProblem problem = any_incremental(scene);
    if (!refusal(problem).empty()) return;
    const LayerPlan plan = improve_within_limits(problem);
    check_limits_kept(scene, problem, plan);
    if (!plan.trade_offs.empty()) RC_ASSERT(plan.trade_offs.back().moves <= plan.moves);
    RC_ASSERT(improve_within_limits(problem).placement == plan.placement);
  }));
}

// Which search it takes depends on the limits.
TEST(LimitsFromAPlacement, ThePolicyKeepsThemToo) {
  EXPECT_TRUE(rc::check([] {
    LayerScene scene = topology::any_scene();
    const LayerProblem problem = any_incremental(scene);
    if (!refusal(problem).empty()) return;
    check_limits_kept(scene, problem, make_policy("swift")->plan_layer(problem));
  }));
}

TEST(LimitsFromAPlacement, ExpertsThatStayOnARankKeepTheirSlot) {
  EXPECT_TRUE(rc::check([] {
    LayerScene scene = topology::any_scene();
    RC_PRE(count_same_rank_duplicates(scene.placement, scene.shape) == 0);
    LayerProblem problem = any_incremental(scene);
    if (!refusal(problem).empty()) return;
    const LayerPlan plan = improve_within_limits(problem);
    int changed = 0;
    for (std::size_t slot = 0; slot < plan.placement.size(); ++slot)
      changed += plan.placement[slot] != scene.placement[slot] ? 1 : 0;
    RC_ASSERT(changed == plan.moves);
  }));
}

TEST(LimitsFromAPlacement, MoreMovesNeverBalanceWorseAndManyDoAsWellAsAFullPlan) {
  const ClusterShape shape(
      {.num_moe_layers = 1, .num_logical_experts = 64, .num_ranks = 8, .num_slots = 80});
  const std::vector<std::int64_t> load = topology::skewed_load(64, 1.0, 5);
  const std::vector<double> speed = {1.0, 1.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0};
  const Placement initial = Placement::initial(shape);
  for (const Dispatch dispatch : {Dispatch::kEven, Dispatch::kSplit}) {
    LayerProblem problem{.shape = &shape,
                         .load = load,
                         .placement = initial.layer(0),
                         .dispatch = dispatch,
                         .rank_speed = speed};
    double before = imbalance_of_times(problem, initial.layer(0), {});
    for (const int budget : {0, 1, 2, 4, 8, 16, 32, 64}) {
      problem.max_moves = budget;
      const LayerPlan plan = make_policy("swift")->plan_layer(problem);
      EXPECT_LE(plan.moves, budget);
      EXPECT_LE(plan.imbalance_after, before + 1e-9);
      EXPECT_EQ(plan.trade_offs.front().moves, 0);
      EXPECT_EQ(plan.trade_offs.back().moves, plan.moves);
      before = plan.imbalance_after;
    }
    EXPECT_LT(before, 1.01);
    // A price ends the way where moves win less.
    problem.max_moves = -1;
    problem.min_gain = 0.02;
    const LayerPlan cheap = make_policy("swift")->plan_layer(problem);
    EXPECT_LT(cheap.moves, 64);
    EXPECT_GT(cheap.moves, 0);
  }
}

TEST(LimitsFromAPlacement, TooManyReplicasComeDownAsMovesAllow) {
  const ClusterShape shape(
      {.num_moe_layers = 1, .num_logical_experts = 4, .num_ranks = 4, .num_slots = 8});
  const std::vector<std::int64_t> load = {100, 1, 1, 1};
  const std::vector<std::int32_t> served = {0, 1, 0, 2, 0, 3, 0, 1};
  LayerProblem problem{.shape = &shape, .load = load, .placement = served, .max_replicas = 2};
  for (const Dispatch dispatch : {Dispatch::kEven, Dispatch::kSplit}) {
    problem.dispatch = dispatch;
    for (const int budget : {0, 1, 2}) {
      problem.max_moves = budget;
      const LayerPlan plan = make_policy("swift")->plan_layer(problem);
      EXPECT_EQ(replica_count(plan.placement, 4)[0], 4 - budget);
      EXPECT_LE(plan.moves, budget);
    }
  }
}

TEST(LimitsFromAPlacement, BoundGroupsMoveAsAWholeOrNotAtAll) {
  EXPECT_TRUE(rc::check([] {
    LayerScene scene = topology::any_grouped_scene();
    LayerProblem problem = scene.problem();
    problem.from_scratch = false;
    const LayerPlan whole = improve_within_limits(problem);
    RC_ASSERT(whole.placement == plan_within_limits(scene.problem()).placement);
    problem.max_moves = pick(0, 10);
    const LayerPlan plan = improve_within_limits(problem);
    RC_ASSERT(plan.placement ==
              (whole.moves <= problem.max_moves ? whole.placement : scene.placement));
  }));
}

TEST(Limits, SayWhatCannotBeKeptAndWhatWouldDo) {
  const ClusterShape shape(
      {.num_moe_layers = 1, .num_logical_experts = 4, .num_ranks = 2, .num_slots = 6});
  const std::vector<std::int64_t> load = {1, 2, 3, 4};
  const std::vector<std::int32_t> placement = {0, 1, 2, 3, 0, 1};
  LayerProblem problem{.shape = &shape, .load = load, .placement = placement};
  EXPECT_EQ(refusal(problem), "");

  problem.max_replicas = 1;
  EXPECT_EQ(refusal(problem),
            "max_replicas is 1: 4 experts then fill at most 4 of the 6 slots; allow more, or use "
            "fewer slots");
  problem.max_replicas = -2;
  EXPECT_EQ(refusal(problem), "max_replicas is -2; it must be at least 1, or 0 for no limit");
  problem.max_replicas = 0;

  const std::vector<double> short_speeds = {1.0};
  problem.rank_speed = short_speeds;
  EXPECT_EQ(refusal(problem), "rank_speed has 1 entries for 2 ranks; give one per rank");
  for (const double bad : {0.0, -1.0, std::numeric_limits<double>::infinity(),
                           std::numeric_limits<double>::quiet_NaN()}) {
    const std::vector<double> speeds = {1.0, bad};
    problem.rank_speed = speeds;
    EXPECT_NE(refusal(problem).find("rank_speed of rank 1 is "), std::string::npos) << bad;
  }
  for (const std::vector<double>& speeds :
       {std::vector{1.0, 1e-320}, {1e-7, 1.0}, {1e-320, 1e-320}, {1e10, 1e10}}) {
    problem.rank_speed = speeds;
    EXPECT_NE(refusal(problem).find("rank speeds are from "), std::string::npos) << speeds[1];
  }
  const std::vector<double> far_apart = {1.0, 1e-6};
  problem.rank_speed = far_apart;
  EXPECT_EQ(refusal(problem), "");
  problem.rank_speed = {};

  const std::vector<std::uint8_t> short_pins = {1};
  problem.pinned = short_pins;
  EXPECT_EQ(refusal(problem), "pinned has 1 entries for 6 slots; give one per slot");
  const std::vector<std::int32_t> repeated = {0, 0, 0, 1, 2, 3};
  const std::vector<std::uint8_t> first_four = {1, 1, 1, 1, 0, 0};
  problem.placement = repeated;
  problem.pinned = first_four;
  EXPECT_EQ(refusal(problem), "");
  const std::vector<std::uint8_t> first_three_and_last = {1, 1, 1, 0, 0, 1};
  problem.pinned = first_three_and_last;
  EXPECT_EQ(refusal(problem), "");
  problem.max_replicas = 2;
  EXPECT_EQ(refusal(problem),
            "expert 0 has 3 pinned slots, more than max_replicas = 2; pin fewer, or allow more "
            "replicas");
}

TEST(Limits, GroupsThatDoNotFitTheNodesAreNamed) {
  const auto refused = [](ShapeOptions options) {
    options.num_moe_layers = 1;
    const ClusterShape shape(options);
    const std::vector<std::int64_t> load(static_cast<std::size_t>(options.num_logical_experts), 1);
    const Placement initial = Placement::initial(shape);
    const std::string message = refusal({.shape = &shape,
                                         .load = load,
                                         .placement = initial.layer(0),
                                         .max_cross_node_replicas = 0});
    return message.substr(0, message.find(';'));
  };
  EXPECT_EQ(refused({.num_logical_experts = 12,
                     .num_ranks = 6,
                     .num_slots = 18,
                     .num_nodes = 3,
                     .num_expert_groups = 2}),
            "num_expert_groups is 2, fewer than the 3 nodes that groups are bound to");
  EXPECT_EQ(refused({.num_logical_experts = 12,
                     .num_ranks = 2,
                     .num_nodes = 2,
                     .num_expert_groups = 2,
                     .slots_per_rank = {5, 10}}),
            "node 0 has 5 slots, fewer than the 6 experts of a group");
  EXPECT_EQ(refused({.num_logical_experts = 12,
                     .num_ranks = 2,
                     .num_slots = 12,
                     .num_expert_groups = 4,
                     .slots_per_rank = {5, 7},
                     .node_of_rank = {0, 1}}),
            "the nodes have room for 3 of the 4 groups of 3 experts");
}

}  // namespace
}  // namespace swiftbalancer
