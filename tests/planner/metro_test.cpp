// One slot for every activated expert: against all choices there are.

#include "planner/metro.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include <swiftbalancer/dispatch_table.hpp>
#include <swiftbalancer/placement.hpp>

namespace swiftbalancer {
namespace {

ClusterShape shape_of(int experts, int ranks, int slots) {
  ShapeOptions options;
  options.num_moe_layers = 1;
  options.num_logical_experts = experts;
  options.num_ranks = ranks;
  options.num_slots = slots;
  return ClusterShape(options);
}

// The smallest maximum, over all choices of one slot per activated expert.
int best_by_enumeration(const ClusterShape& shape, std::span<const std::int32_t> slots,
                        std::span<const std::uint8_t> activated, std::int32_t expert,
                        std::vector<int>& on_rank) {
  if (expert == shape.num_logical_experts()) return *std::ranges::max_element(on_rank);
  int best = shape.num_logical_experts() + 1;
  if (activated[static_cast<std::size_t>(expert)] == 0)
    return best_by_enumeration(shape, slots, activated, expert + 1, on_rank);
  for (int slot = 0; slot < shape.num_slots(); ++slot) {
    if (slots[static_cast<std::size_t>(slot)] != expert) continue;
    int& count = on_rank[static_cast<std::size_t>(shape.rank_of_slot(slot))];
    ++count;
    best = std::min(best, best_by_enumeration(shape, slots, activated, expert + 1, on_rank));
    --count;
  }
  return best;
}

RC_GTEST_PROP(MetroProperty, NoChoiceHasAFullestRankWithFewer, ()) {
  const int experts = *rc::gen::inRange(1, 7), ranks = *rc::gen::inRange(1, 6);
  const ClusterShape shape =
      shape_of(experts, ranks, std::max(experts, ranks) + *rc::gen::inRange(0, 7));
  std::vector<std::int32_t> slots;
  for (int slot = 0; slot < shape.num_slots(); ++slot)
    slots.push_back(slot < experts ? slot : *rc::gen::inRange(0, experts));
  for (std::size_t i = slots.size(); i > 1; --i)
    std::swap(slots[i - 1], slots[*rc::gen::inRange<std::size_t>(0, i)]);
  const auto activated = *rc::gen::container<std::vector<std::uint8_t>>(
      static_cast<std::size_t>(experts), rc::gen::inRange<std::uint8_t>(0, 2));

  const ActivationSplit split = split_by_activation(shape, slots, activated);

  std::vector<int> on_rank(static_cast<std::size_t>(ranks), 0);
  RC_ASSERT(split.max_activated == best_by_enumeration(shape, slots, activated, 0, on_rank));
  for (std::int32_t expert = 0; expert < experts; ++expert) {
    const auto at = static_cast<std::size_t>(expert);
    const std::int32_t slot = split.slot_of_expert[at];
    RC_ASSERT((slot != -1) == (activated[at] != 0));
    if (slot == -1) continue;
    RC_ASSERT(slots[static_cast<std::size_t>(slot)] == expert);
    ++on_rank[static_cast<std::size_t>(shape.rank_of_slot(slot))];
  }
  RC_ASSERT(*std::ranges::max_element(on_rank) == split.max_activated);
}

TEST(Metro, MovesAlongChainsWhereTheGreedyChoiceIsStuck) {
  // Experts 0 to 3 with two replicas each: in turn they fill rank 0, then only a chain levels.
  const ClusterShape shape = shape_of(6, 3, 9);
  const std::vector<std::int32_t> slots{0, 1, 2, 0, 1, 3, 3, 4, 5};
  const std::vector<std::uint8_t> activated{1, 1, 1, 1, 0, 0};
  EXPECT_EQ(split_by_activation(shape, slots, activated).max_activated, 2);
}

TEST(Metro, SharesPutAnActivatedExpertOnOneSlotAndSplitTheOthersEvenly) {
  const ClusterShape shape = shape_of(2, 2, 4);
  const std::vector<std::int32_t> slots{0, 1, 0, 1};
  const std::vector<std::uint8_t> activated{1, 0};
  const auto shares = activation_shares(shape, slots, split_by_activation(shape, slots, activated));
  EXPECT_EQ(shares[0] + shares[2], kShareUnit);
  EXPECT_EQ(std::min(shares[0], shares[2]), 0U);
  EXPECT_EQ(shares[1], kShareUnit / 2);
  EXPECT_EQ(shares[3], kShareUnit / 2);
}

}  // namespace
}  // namespace swiftbalancer
