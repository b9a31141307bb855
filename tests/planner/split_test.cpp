// How the tokens of replicated experts are divided over their slots: the quick split against the
// exact one, and that against Hall's condition by enumeration.

#include "planner/split.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include <swiftbalancer/dispatch_table.hpp>
#include <swiftbalancer/error.hpp>
#include <swiftbalancer/placement.hpp>

#include "planner/max_flow_split.hpp"

namespace swiftbalancer {
namespace {

struct SplitCase {
  ClusterShape shape;
  std::vector<std::int32_t> slots;
  std::vector<std::int64_t> load;
  std::vector<double> speed;

  std::vector<double> tokens() const { return {load.begin(), load.end()}; }
};

ClusterShape make_shape(int experts, int ranks, int slots, int nodes = 1) {
  ShapeOptions options;
  options.num_moe_layers = 1;
  options.num_logical_experts = experts;
  options.num_ranks = ranks;
  options.num_slots = slots;
  options.num_nodes = nodes;
  return ClusterShape(options);
}

// Any placement that holds every expert, same-rank duplicates and empty slots among them.
SplitCase any_case(int max_experts, bool with_speeds) {
  const int ranks = *rc::gen::inRange(1, 9);
  const int experts = *rc::gen::inRange(1, max_experts + 1);
  const int slots = std::max(ranks, experts) + *rc::gen::inRange(0, 13);
  SplitCase result{make_shape(experts, ranks, slots), {}, {}, {}};
  for (int slot = 0; slot < slots; ++slot)
    result.slots.push_back(slot < experts ? slot : *rc::gen::inRange(kEmptySlot, experts));
  for (std::size_t i = result.slots.size(); i > 1; --i)
    std::swap(result.slots[i - 1], result.slots[*rc::gen::inRange<std::size_t>(0, i)]);
  result.load = *rc::gen::container<std::vector<std::int64_t>>(
      static_cast<std::size_t>(experts), rc::gen::inRange<std::int64_t>(0, 100'000));
  if (with_speeds) {
    result.speed = *rc::gen::container<std::vector<double>>(
        static_cast<std::size_t>(ranks), rc::gen::map(rc::gen::inRange(1, 9), [](int eighths) {
          return eighths / 8.0;  // Whole kSpeedSteps whatever the fastest is: powers of two.
        }));
    result.speed[0] = 1.0;
  }
  return result;
}

std::vector<double> sums_per_expert(const SplitCase& c, std::span<const double> amounts) {
  std::vector<double> sums(c.load.size(), 0.0);
  for (std::size_t slot = 0; slot < c.slots.size(); ++slot) {
    if (c.slots[slot] != kEmptySlot) sums[static_cast<std::size_t>(c.slots[slot])] += amounts[slot];
  }
  return sums;
}

// max over sets of experts: tokens / speed of the ranks that hold any of them.
double bound_by_enumeration(const SplitCase& c) {
  double bound = 0.0;
  for (unsigned set = 1; set < 1U << c.load.size(); ++set) {
    double tokens = 0.0, speed = 0.0;
    for (std::size_t expert = 0; expert < c.load.size(); ++expert)
      tokens += (set >> expert & 1U) != 0 ? static_cast<double>(c.load[expert]) : 0.0;
    for (int rank = 0; rank < c.shape.num_ranks(); ++rank) {
      bool holds = false;
      for (int slot = c.shape.first_slot(rank); slot < c.shape.first_slot(rank + 1); ++slot) {
        const std::int32_t expert = c.slots[static_cast<std::size_t>(slot)];
        holds |= expert != kEmptySlot && (set >> expert & 1U) != 0;
      }
      if (holds) speed += c.speed.empty() ? 1.0 : c.speed[static_cast<std::size_t>(rank)];
    }
    bound = std::max(bound, tokens / speed);
  }
  return bound;
}

RC_GTEST_PROP(MaxFlowSplitProperty, ReachesHallsBound, (bool with_speeds)) {
  const SplitCase c = any_case(7, with_speeds);
  const MaxFlowSplit exact = max_flow_split(c.shape, c.slots, c.load, c.speed);
  const double bound = bound_by_enumeration(c);
  RC_ASSERT(std::abs(exact.bound - bound) <= 1e-9 * bound);
}

RC_GTEST_PROP(MaxFlowSplitProperty, HardlyRoundsSpeedsThatAreNoWholeSteps, ()) {
  SplitCase c = any_case(7, false);
  c.speed = *rc::gen::container<std::vector<double>>(
      static_cast<std::size_t>(c.shape.num_ranks()),
      rc::gen::map(rc::gen::inRange(10, 100), [](int part) { return part / 97.0; }));
  const double exact = bound_by_enumeration(c);
  RC_ASSERT(std::abs(max_flow_split(c.shape, c.slots, c.load, c.speed).bound - exact) <=
            1e-4 * exact);
}

RC_GTEST_PROP(MaxFlowSplitProperty, QuotasAreWholeTokensWithinTheBoundRoundedUp, ()) {
  const SplitCase c = any_case(20, false);
  const MaxFlowSplit exact = max_flow_split(c.shape, c.slots, c.load);
  std::vector<std::int64_t> of_rank(static_cast<std::size_t>(c.shape.num_ranks()), 0);
  std::vector<std::int64_t> of_expert(c.load.size(), 0);
  for (std::size_t slot = 0; slot < c.slots.size(); ++slot) {
    RC_ASSERT(exact.quotas[slot] >= 0);
    if (c.slots[slot] == kEmptySlot) continue;
    of_expert[static_cast<std::size_t>(c.slots[slot])] += exact.quotas[slot];
    of_rank[static_cast<std::size_t>(c.shape.rank_of_slot(static_cast<int>(slot)))] +=
        exact.quotas[slot];
  }
  RC_ASSERT(of_expert == c.load);
  RC_ASSERT(static_cast<double>(*std::ranges::max_element(of_rank)) == std::ceil(exact.bound));
}

TEST(MaxFlowSplit, RefusesTokensWithoutASlotAndTooMany) {
  const ClusterShape shape = make_shape(2, 2, 2);
  const std::vector<std::int32_t> lost{0, kEmptySlot}, both{0, 1};
  const std::vector<std::int64_t> load{5, 7}, huge{INT64_MAX / 2, 1};
  EXPECT_THROW(max_flow_split(shape, lost, load), Error);
  EXPECT_THROW(max_flow_split(shape, both, huge), Error);
}

RC_GTEST_PROP(ReplicaSplitProperty, IsWithinATenthOfAPercentOfTheOptimum, (bool with_speeds)) {
  const SplitCase c = any_case(40, with_speeds);
  ReplicaSplit split(c.shape, c.speed);
  const double highest = split.level(c.slots, c.tokens());
  const double bound = max_flow_split(c.shape, c.slots, c.load, c.speed).bound;
  RC_ASSERT(highest >= bound * (1.0 - 1e-9));
  RC_ASSERT(highest <= bound * (1.001));
  RC_ASSERT(split.lower_bound() <= bound * (1.0 + 1e-9));
}

RC_GTEST_PROP(ReplicaSplitProperty, SplitsAllTokensAndReportsWhatRanksGet, (bool with_speeds)) {
  const SplitCase c = any_case(40, with_speeds);
  ReplicaSplit split(c.shape, c.speed);
  const double highest = split.level(c.slots, c.tokens());
  const double total = std::accumulate(c.load.begin(), c.load.end(), 1.0);
  const std::vector<double> sums = sums_per_expert(c, split.amounts());
  for (std::size_t expert = 0; expert < sums.size(); ++expert)
    RC_ASSERT(std::abs(sums[expert] - static_cast<double>(c.load[expert])) <= 1e-9 * total);
  double hottest = 0.0;
  for (int rank = 0; rank < c.shape.num_ranks(); ++rank) {
    double tokens = 0.0;
    for (int slot = c.shape.first_slot(rank); slot < c.shape.first_slot(rank + 1); ++slot) {
      RC_ASSERT(split.amounts()[static_cast<std::size_t>(slot)] >= 0.0);
      tokens += split.amounts()[static_cast<std::size_t>(slot)];
    }
    const auto at = static_cast<std::size_t>(rank);
    RC_ASSERT(std::abs(tokens - split.rank_loads()[at]) <= 1e-9 * total);
    hottest = std::max(hottest, split.rank_loads()[at] / (with_speeds ? c.speed[at] : 1.0));
  }
  RC_ASSERT(std::abs(hottest - highest) <= 1e-9 * total);
}

RC_GTEST_PROP(ReplicaSplitProperty, SharesOfAnExpertSumToTheUnitExactly, ()) {
  const SplitCase c = any_case(40, false);
  ReplicaSplit split(c.shape);
  split.level(c.slots, c.tokens());
  std::vector<std::uint32_t> shares(c.slots.size());
  split.shares(shares);
  std::vector<std::uint32_t> sums(c.load.size(), 0);
  for (std::size_t slot = 0; slot < c.slots.size(); ++slot) {
    if (c.slots[slot] == kEmptySlot) {
      RC_ASSERT(shares[slot] == 0U);
      continue;
    }
    const auto expert = static_cast<std::size_t>(c.slots[slot]);
    sums[expert] += shares[slot];
    if (c.load[expert] == 0) continue;
    const double planned = split.amounts()[slot] / static_cast<double>(c.load[expert]);
    RC_ASSERT(std::abs(shares[slot] - planned * kShareUnit) <= c.shape.num_ranks());
  }
  for (const std::uint32_t sum : sums) RC_ASSERT(sum == kShareUnit);
}

// The workspace carries nothing from one layer to the next.
RC_GTEST_PROP(ReplicaSplitProperty, TheSameLayerGivesTheSameBytesWhateverWasSplitBefore, ()) {
  const SplitCase c = any_case(40, false);
  ReplicaSplit used(c.shape), fresh(c.shape);
  std::vector<std::int32_t> other(c.slots.rbegin(), c.slots.rend());
  std::vector<double> tokens = c.tokens();
  std::ranges::reverse(tokens);
  used.level(other, tokens);
  used.level(c.slots, c.tokens());
  fresh.level(c.slots, c.tokens());
  RC_ASSERT(std::ranges::equal(used.amounts(), fresh.amounts()));
}

// Tokens that can stay on their rank and on their node, all ranks sending the same.
struct Near {
  double own_rank = 0.0;
  double own_node = 0.0;
};

Near near_of(const SplitCase& c, std::span<const double> amounts) {
  const auto ranks = static_cast<double>(c.shape.num_ranks());
  Near near;
  for (std::size_t expert = 0; expert < c.load.size(); ++expert) {
    const auto load = static_cast<double>(c.load[expert]);
    std::vector<double> on_node(static_cast<std::size_t>(c.shape.num_nodes()), 0.0);
    for (std::size_t slot = 0; slot < c.slots.size(); ++slot) {
      if (c.slots[slot] != static_cast<int>(expert)) continue;
      const int rank = c.shape.rank_of_slot(static_cast<int>(slot));
      near.own_rank += std::min(amounts[slot], load / ranks);
      on_node[static_cast<std::size_t>(c.shape.node_of_rank(rank))] += amounts[slot];
    }
    for (const double tokens : on_node)
      near.own_node += std::min(tokens, load / static_cast<double>(on_node.size()));
  }
  return near;
}

RC_GTEST_PROP(NearSplitProperty, LosesNoTokensAndMakesNoRankHotter, (bool with_speeds)) {
  const SplitCase c = any_case(40, with_speeds);
  const double total = std::accumulate(c.load.begin(), c.load.end(), 0.0);
  ReplicaSplit split(c.shape, c.speed);
  const double leveled = split.level(c.slots, c.tokens());
  const double most = std::max(leveled, split.lower_bound() * (1.0 + ReplicaSplit::kTolerance));
  RC_ASSERT(split.level(c.slots, c.tokens(), true) <= most + 1e-9 * total);
  const std::vector<double> sums = sums_per_expert(c, split.amounts());
  for (std::size_t expert = 0; expert < sums.size(); ++expert)
    RC_ASSERT(std::abs(sums[expert] - static_cast<double>(c.load[expert])) <= 1e-9 * total);
  for (const double amount : split.amounts()) RC_ASSERT(amount >= 0.0);
}

TEST(NearSplit, GivesANodeTheTokensOfItsRanksWhereTheBoundHolds) {
  // Expert 0 is held once on node 0 and twice on node 1: a half to the one, a quarter to each of
  // the others, though all three ranks have room for a third.
  const ClusterShape shape = make_shape(5, 4, 8, 2);
  const std::vector<std::int32_t> slots{0, 1, 2, 3, 0, 4, 0, 4};
  const std::vector<double> tokens{120.0, 40.0, 100.0, 40.0, 100.0};
  ReplicaSplit split(shape);
  split.level(slots, tokens);
  EXPECT_NEAR(split.amounts()[0], 40.0, 1.0);
  split.level(slots, tokens, true);
  EXPECT_NEAR(split.amounts()[0], 60.0, 1e-9);
  EXPECT_NEAR(split.amounts()[4], 30.0, 1e-9);
}

TEST(NearSplit, KeepsMoreTokensNearThanTheLevelSplit) {
  std::mt19937 random(7);
  std::normal_distribution<double> normal;
  Near leveled, near;
  for (int i = 0; i < 20; ++i) {
    SplitCase c{make_shape(64, 8, 96, 2), {}, {}, {}};
    for (int slot = 0; slot < 96; ++slot)
      c.slots.push_back(slot < 64 ? slot : static_cast<int>(random() % 16));
    std::shuffle(c.slots.begin(), c.slots.end(), random);
    for (int expert = 0; expert < 64; ++expert)
      c.load.push_back(
          static_cast<std::int64_t>((expert < 16 ? 4e4 : 1e4) * std::exp(0.5 * normal(random))));
    ReplicaSplit split(c.shape);
    split.level(c.slots, c.tokens());
    const Near before = near_of(c, split.amounts());
    split.level(c.slots, c.tokens(), true);
    const Near after = near_of(c, split.amounts());
    leveled.own_rank += before.own_rank;
    leveled.own_node += before.own_node;
    near.own_rank += after.own_rank;
    near.own_node += after.own_node;
  }
  EXPECT_GT(near.own_rank, 1.02 * leveled.own_rank);
  EXPECT_GT(near.own_node, 1.02 * leveled.own_node);
}

TEST(ReplicaSplit, ReachesRanksThatOnlyAChainOfReplicasLeadsTo) {
  // Each rank shares one expert with the next; what rank 0 has too much must end up on rank 3.
  const ClusterShape shape = make_shape(7, 4, 10);
  const std::vector<std::int32_t> slots{3, 0, 5, 4, 0, 1, 6, 1, 2, 2};
  const std::vector<double> tokens{200.0, 200.0, 200.0, 100.0, 100.0, 0.0, 0.0};
  ReplicaSplit split(shape);
  EXPECT_LE(split.level(slots, tokens), 200.0 * (1.0 + ReplicaSplit::kTolerance));
}

}  // namespace
}  // namespace swiftbalancer
