// CommitUnitBuilder: examples of each rule, then properties over random shapes and rows.

#include "migration/commit_units.hpp"

#include <algorithm>

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <swiftbalancer/dispatch_table.hpp>
#include <swiftbalancer/error.hpp>
#include <swiftbalancer/placement.hpp>

#include "layer_units.hpp"
#include "random_rows.hpp"

namespace swiftbalancer::testing {
namespace {

using Row = std::vector<std::int32_t>;

ClusterShape make_shape(int experts, std::vector<int> slots_per_rank, int nodes = 1) {
  ShapeOptions options;
  options.num_moe_layers = 1;
  options.num_logical_experts = experts;
  options.num_ranks = static_cast<int>(slots_per_rank.size());
  options.slots_per_rank = std::move(slots_per_rank);
  options.num_nodes = nodes;
  return ClusterShape(options);
}

std::vector<CommitUnit> split(CommitUnitBuilder& builder, const ClusterShape& shape,
                              const Row& before, const Row& after) {
  return add_layer(builder, 0, before, even_shares(before, shape.num_logical_experts()), after,
                   even_shares(after, shape.num_logical_experts()));
}

TEST(CommitUnits, AnUnchangedLayerGivesNoUnit) {
  const ClusterShape shape = make_shape(3, {2, 2});
  CommitUnitBuilder builder(shape, 1);
  EXPECT_TRUE(split(builder, shape, {0, 1, 2, 0}, {0, 1, 2, 0}).empty());
  EXPECT_EQ(builder.num_layers_given_up(), 0);
}

TEST(CommitUnits, ChangedSharesAloneGiveOneUnitWithoutCopies) {
  const ClusterShape shape = make_shape(3, {2, 2});
  CommitUnitBuilder builder(shape, 1);
  const Row row{0, 1, 2, 0};
  const std::vector<std::uint32_t> planned{kShareUnit / 4, kShareUnit, kShareUnit,
                                           kShareUnit - kShareUnit / 4};
  const auto units = add_layer(builder, 5, row, even_shares(row, 3), row, planned);
  ASSERT_EQ(units.size(), 1U);
  EXPECT_EQ(units[0].moe_layer_id, 5);
  EXPECT_TRUE(units[0].copies.empty());
  EXPECT_EQ(units[0].placement, row);
  EXPECT_EQ(units[0].shares, planned);
}

TEST(CommitUnits, AnExpertThatTheRankHoldsIsCopiedWithinTheRank) {
  const ClusterShape shape = make_shape(3, {2, 2, 2});
  CommitUnitBuilder builder(shape, 2);
  const auto units = split(builder, shape, {0, 1, 1, 2, 0, 2}, {0, 1, 2, 2, 0, 1});
  ASSERT_EQ(units.size(), 1U);
  EXPECT_EQ(units[0].copies, (std::vector<ExpertCopy>{{2, 3, 2}, {1, 1, 5}}));
  EXPECT_EQ(std::vector<int>(builder.sends_per_rank().begin(), builder.sends_per_rank().end()),
            (std::vector<int>{1, 0, 0}));
}

TEST(CommitUnits, AHolderOnTheSameNodeIsPreferred) {
  const ClusterShape shape = make_shape(4, {2, 2, 2, 2}, 2);
  CommitUnitBuilder builder(shape, 2);
  const auto units = split(builder, shape, {0, 1, 2, 3, 0, 2, 3, 1}, {0, 1, 2, 3, 0, 2, 3, 0});
  ASSERT_EQ(units.size(), 1U);
  EXPECT_EQ(units[0].copies, (std::vector<ExpertCopy>{{0, 4, 7}}));
}

TEST(CommitUnits, TheHolderThatHasSentLeastSendsNext) {
  const ClusterShape shape = make_shape(2, {1, 1, 1, 1});
  CommitUnitBuilder builder(shape, 1);
  const auto first = split(builder, shape, {0, 0, 1, 1}, {0, 0, 0, 1});
  const auto second = split(builder, shape, {0, 0, 1, 1}, {0, 0, 0, 1});
  ASSERT_EQ(first.size(), 1U);
  ASSERT_EQ(second.size(), 1U);
  EXPECT_EQ(first[0].copies[0].source_slot, 0);
  EXPECT_EQ(second[0].copies[0].source_slot, 1);
}

TEST(CommitUnits, ALayerThatFitsThePoolIsOneUnit) {
  const ClusterShape shape = make_shape(4, {2, 2});
  CommitUnitBuilder builder(shape, 2);
  const auto units = split(builder, shape, {0, 1, 2, 3}, {2, 3, 0, 1});
  ASSERT_EQ(units.size(), 1U);
  EXPECT_EQ(units[0].copies.size(), 4U);
}

TEST(CommitUnits, ASlotIsReadBeforeItIsOverwritten) {
  // Rank 0 takes 2 and 3; expert 2 also moves on inside rank 1, whose slot 2 is then overwritten
  // by 4.
  const ClusterShape shape = make_shape(5, {3, 3});
  CommitUnitBuilder builder(shape, 1);
  const auto units = split(builder, shape, {0, 0, 1, 2, 3, 4}, {2, 3, 1, 0, 3, 4});
  ASSERT_EQ(units.size(), 2U);
  EXPECT_EQ(units[0].copies, (std::vector<ExpertCopy>{{2, 3, 0}, {0, 0, 3}}));
  EXPECT_EQ(units[1].copies, (std::vector<ExpertCopy>{{3, 4, 1}}));
}

TEST(CommitUnits, ExpertsThatChangePlacesShareAUnit) {
  const ClusterShape shape = make_shape(4, {2, 2});
  CommitUnitBuilder builder(shape, 1);
  const auto units = split(builder, shape, {0, 1, 2, 3}, {2, 3, 0, 1});
  ASSERT_EQ(units.size(), 2U);
  EXPECT_EQ(units[0].placement, (Row{2, 1, 0, 3}));
  EXPECT_EQ(units[1].placement, (Row{2, 3, 0, 1}));
}

TEST(CommitUnits, ACycleLargerThanThePoolIsBrokenByReadingAnotherHolder) {
  // Rank 0's experts change places; rank 1 holds one of them too.
  const ClusterShape shape = make_shape(2, {2, 1});
  CommitUnitBuilder builder(shape, 1);
  const auto units = split(builder, shape, {0, 1, 0}, {1, 0, 0});
  ASSERT_EQ(units.size(), 2U);
  EXPECT_EQ(units[0].copies, (std::vector<ExpertCopy>{{1, 1, 0}}));
  EXPECT_EQ(units[1].copies, (std::vector<ExpertCopy>{{0, 2, 1}}));
  EXPECT_EQ(builder.num_layers_given_up(), 0);
}

TEST(CommitUnits, ACycleThatNeitherFitsNorBreaksGivesTheLayerUp) {
  const ClusterShape shape = make_shape(3, {2, 1});
  CommitUnitBuilder builder(shape, 1);
  EXPECT_TRUE(split(builder, shape, {0, 1, 2}, {1, 0, 2}).empty());
  EXPECT_EQ(builder.num_layers_given_up(), 1);
  EXPECT_EQ(std::vector<int>(builder.sends_per_rank().begin(), builder.sends_per_rank().end()),
            (std::vector<int>{0, 0}));
}

TEST(CommitUnits, KnowHowManyExpertsOneRankInstalls) {
  const ClusterShape shape = make_shape(6, {3, 3, 2});
  CommitUnitBuilder builder(shape, 3);
  const Row row{0, 1, 2, 3, 4, 5, 0, 1};
  const auto units = split(builder, shape, row, {3, 1, 4, 0, 2, 5, 5, 1});
  ASSERT_EQ(units.size(), 1U);
  EXPECT_EQ(units[0].copies.size(), 5U);
  EXPECT_EQ(units[0].most_installs, 2U);
  const auto shares = add_layer(builder, 0, row, even_shares(row, 6), row,
                                std::vector<std::uint32_t>(row.size(), kShareUnit));
  ASSERT_EQ(shares.size(), 1U);
  EXPECT_EQ(shares[0].most_installs, 0U);
}

TEST(CommitUnits, ALayerCanHaveAsManyUnitsAsItsBoundSays) {
  // Every slot but the first takes the expert of the slot before it: a chain on one rank.
  constexpr int kSlots = 9;
  const ClusterShape shape = make_shape(kSlots - 1, {kSlots});
  CommitUnitBuilder builder(shape, 1);
  Row before(kSlots), after(kSlots);
  for (int slot = 0; slot < kSlots; ++slot) {
    before[static_cast<std::size_t>(slot)] = slot % (kSlots - 1);  // the first expert twice
    after[static_cast<std::size_t>(slot)] = std::max(0, slot - 1);
  }
  EXPECT_EQ(split(builder, shape, before, after).size(), kSlots - 1U);
  EXPECT_EQ(CommitUnitBuilder::max_units(shape, 1), kSlots - 1U);
}

TEST(CommitUnits, ALayerThatFitsThePoolCountsAsOneUnit) {
  const ClusterShape shape = make_shape(4, {3, 2});
  EXPECT_EQ(CommitUnitBuilder::max_units(shape, 3), 1U);
  EXPECT_EQ(CommitUnitBuilder::max_units(make_shape(1, {1}), 1), 1U);
}

TEST(CommitUnits, APoolWithoutBuffersIsRefused) {
  const ClusterShape shape = make_shape(2, {1, 1});
  EXPECT_THROW(CommitUnitBuilder(shape, 0), Error);
}

// --- Properties ---

void check_shares(const CommitUnit& unit, const ClusterShape& shape) {
  std::vector<std::uint32_t> sums(static_cast<std::size_t>(shape.num_logical_experts()), 0);
  RC_ASSERT(unit.shares.size() == unit.placement.size());
  for (std::size_t slot = 0; slot < unit.shares.size(); ++slot) {
    sums[static_cast<std::size_t>(unit.placement[slot])] += unit.shares[slot];
  }
  for (std::uint32_t sum : sums) RC_ASSERT(sum == kShareUnit);
}

void check_units(const std::vector<CommitUnit>& units, const ClusterShape& shape, int capacity,
                 const Row& before, const Row& after) {
  Row row = before;
  std::vector<bool> overwritten(before.size(), false);
  for (const CommitUnit& unit : units) {
    std::vector<int> arrivals(static_cast<std::size_t>(shape.num_ranks()), 0);
    for (const ExpertCopy& copy : unit.copies) {
      const auto source = static_cast<std::size_t>(copy.source_slot);
      RC_ASSERT(before[source] == copy.logical_id);
      RC_ASSERT(!overwritten[source]);
      const int rank = shape.rank_of_slot(copy.destination_slot);
      RC_ASSERT(++arrivals[static_cast<std::size_t>(rank)] <= capacity);
    }
    RC_ASSERT(static_cast<int>(unit.most_installs) == *std::ranges::max_element(arrivals));
    for (const ExpertCopy& copy : unit.copies) {
      const auto destination = static_cast<std::size_t>(copy.destination_slot);
      RC_ASSERT(!overwritten[destination]);
      RC_ASSERT(before[destination] != copy.logical_id);
      overwritten[destination] = true;
      row[destination] = copy.logical_id;
    }
    RC_ASSERT(unit.placement == row);
    RC_ASSERT(is_valid_layer(row, shape));
    check_shares(unit, shape);
  }
  RC_ASSERT(row == after);
}

struct Case {
  ClusterShape shape;
  int capacity;
  Row before;
  Row after;
};

Case random_case() {
  Random random(*rc::gen::inRange<std::uint64_t>(0, 1U << 30).as("seed of shape and rows"));
  std::vector<int> slots_per_rank(static_cast<std::size_t>(1 + below(random, 6)));
  int slots = 0, largest = 0;
  for (int& count : slots_per_rank) {
    count = 1 + below(random, 7);
    slots += count;
    largest = std::max(largest, count);
  }
  const int ranks = static_cast<int>(slots_per_rank.size());
  ClusterShape shape =
      make_shape(1 + below(random, slots), slots_per_rank, 1 + below(random, ranks));
  Row before = random_row(shape, random);
  Row after = below(random, 2) == 0 ? random_row(shape, random)
                                    : changed_row(before, shape, 1 + below(random, 5), random);
  return {shape, 1 + below(random, largest), before, after};
}

int most_arrivals(const Case& c) {
  std::vector<int> arrivals(static_cast<std::size_t>(c.shape.num_ranks()), 0);
  for (std::size_t slot = 0; slot < c.before.size(); ++slot) {
    const int rank = c.shape.rank_of_slot(static_cast<int>(slot));
    arrivals[static_cast<std::size_t>(rank)] += c.before[slot] != c.after[slot] ? 1 : 0;
  }
  return *std::max_element(arrivals.begin(), arrivals.end());
}

RC_GTEST_PROP(CommitUnitsProperty, UnitsInOrderGiveThePlannedRowAndKeepEveryRule, ()) {
  const Case c = random_case();
  CommitUnitBuilder builder(c.shape, c.capacity);
  const auto units = split(builder, c.shape, c.before, c.after);
  RC_CLASSIFY(units.size() > 1, "split");
  RC_ASSERT(units.size() <= CommitUnitBuilder::max_units(c.shape, c.capacity));
  RC_CLASSIFY(builder.num_layers_given_up() > 0, "given up");
  if (builder.num_layers_given_up() > 0) {
    RC_ASSERT(units.empty());
    RC_ASSERT(most_arrivals(c) > c.capacity);
    return;
  }
  RC_ASSERT(units.empty() == (c.before == c.after));
  check_units(units, c.shape, c.capacity, c.before, c.after);
  if (!units.empty())
    RC_ASSERT(units.back().shares == even_shares(c.after, c.shape.num_logical_experts()));
}

RC_GTEST_PROP(CommitUnitsProperty, NeverMoreSendsThanMovesUnlessARankGetsAnExpertTwice, ()) {
  Case c = random_case();
  c.capacity = c.shape.max_slots_per_rank();
  CommitUnitBuilder builder(c.shape, c.capacity);
  const auto units = split(builder, c.shape, c.before, c.after);
  RC_ASSERT(builder.num_layers_given_up() == 0);
  RC_ASSERT(units.size() <= 1U);
  int sends = 0;
  for (int count : builder.sends_per_rank()) sends += count;
  const int moves = count_moves(c.before, c.after, c.shape);
  RC_ASSERT(sends >= moves);
  RC_ASSERT(sends <= moves + count_same_rank_duplicates(c.after, c.shape));
}

RC_GTEST_PROP(CommitUnitsProperty, TheSameInputGivesTheSameUnits, ()) {
  const Case c = random_case();
  CommitUnitBuilder first(c.shape, c.capacity), second(c.shape, c.capacity);
  const auto a = split(first, c.shape, c.before, c.after),
             b = split(second, c.shape, c.before, c.after);
  RC_ASSERT(a.size() == b.size());
  for (std::size_t unit = 0; unit < a.size(); ++unit) {
    RC_ASSERT(a[unit].copies == b[unit].copies);
    RC_ASSERT(a[unit].placement == b[unit].placement);
    RC_ASSERT(a[unit].shares == b[unit].shares);
  }
}

RC_GTEST_PROP(CommitUnitsProperty, UnitsAreAsFewAsThePoolAllowsWhenNoSourceIsOverwritten, ()) {
  // The first slot of every rank is a spare that changes, the others keep one replica of every
  // expert.
  Random random(*rc::gen::inRange<std::uint64_t>(0, 1U << 30).as("seed of rows"));
  const int ranks = 1 + below(random, 5), spare = 1 + below(random, 6),
            experts = 2 + below(random, 6);
  const ClusterShape shape =
      make_shape(experts, std::vector<int>(static_cast<std::size_t>(ranks), spare + experts));
  Row before, after;
  for (int rank = 0; rank < ranks; ++rank) {
    for (int slot = 0; slot < spare; ++slot) {
      before.push_back(below(random, experts));
      after.push_back(below(random, experts));
    }
    for (std::int32_t expert = 0; expert < experts; ++expert) {
      before.push_back(expert);
      after.push_back(expert);
    }
  }
  const Case c{shape, 1 + below(random, spare), before, after};
  CommitUnitBuilder builder(c.shape, c.capacity);
  const auto units = split(builder, c.shape, c.before, c.after);
  RC_ASSERT(static_cast<int>(units.size()) == (most_arrivals(c) + c.capacity - 1) / c.capacity);
}

TEST(CommitUnits, NoRankSendsMuchMoreThanItsShare) {
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(seed);
    const ClusterShape shape = make_shape(12, std::vector<int>(8, 6));
    CommitUnitBuilder builder(shape, seed % 2 == 0 ? 2 : 6);
    int total = 0;
    for (int layer = 0; layer < 10; ++layer) {
      // Four replicas of each expert, so that nearly every copy has a choice.
      Row before(48);
      for (std::size_t slot = 0; slot < before.size(); ++slot)
        before[slot] = static_cast<std::int32_t>(slot % 12);
      std::shuffle(before.begin(), before.end(), random);
      split(builder, shape, before, changed_row(before, shape, 12, random));
    }
    int most = 0;
    for (int sends : builder.sends_per_rank()) {
      total += sends;
      most = std::max(most, sends);
    }
    EXPECT_LE(most, (total + 7) / 8 + 1) << "of " << total << " sends";
  }
}

}  // namespace
}  // namespace swiftbalancer::testing
