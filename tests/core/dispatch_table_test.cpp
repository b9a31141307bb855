#include <swiftbalancer/dispatch_table.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numeric>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

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

std::vector<std::int32_t> table(const std::vector<std::int32_t>& slots,
                                const std::vector<std::uint32_t>& shares, const ClusterShape& shape,
                                int rank) {
  std::vector<std::int32_t> out(static_cast<std::size_t>(shape.num_logical_experts()) *
                                kDispatchEntries);
  build_dispatch_table(slots, shares, shape, rank, out);
  return out;
}

TEST(DispatchTable, FollowsThePlannedShares) {
  const ClusterShape shape = shape_of(1, 2, 2);
  const std::vector<std::uint32_t> shares{kShareUnit / 4, kShareUnit - kShareUnit / 4};
  const auto entries = table({0, 0}, shares, shape, 0);
  EXPECT_EQ(std::count(entries.begin(), entries.end(), 0), kDispatchEntries / 4);
}

TEST(DispatchTable, AShareOfZeroGetsNoToken) {
  const auto entries = table({0, 0}, {kShareUnit, 0}, shape_of(1, 2, 2), 1);
  EXPECT_EQ(std::count(entries.begin(), entries.end(), 1), 0);
}

TEST(DispatchTable, RoundingErrorsCancelOverSourceRanks) {
  // Three replicas do not divide the entries: each slot must come out even over all sources.
  const ClusterShape shape = shape_of(1, 3, 3);
  const std::vector<std::int32_t> slots{0, 0, 0};
  std::map<std::int32_t, int> tokens;
  for (int rank = 0; rank < 3; ++rank) {
    for (std::int32_t slot : table(slots, even_shares(slots, 1), shape, rank)) ++tokens[slot];
  }
  EXPECT_EQ(tokens[0], kDispatchEntries);
  EXPECT_EQ(tokens[1], kDispatchEntries);
  EXPECT_EQ(tokens[2], kDispatchEntries);
}

TEST(DispatchTable, AnyRunOfTicketsIsSplitNearlyAsPlanned) {
  const std::vector<std::int32_t> slots{0, 0};
  const auto entries = table(slots, even_shares(slots, 1), shape_of(1, 2, 2), 0);
  const DispatchView view(entries.data());
  for (std::uint32_t start = 0; start < 40; ++start) {
    int first = 0;
    for (std::uint32_t i = 0; i < 8; ++i) first += view.slot(0, start + i) == 0 ? 1 : 0;
    EXPECT_EQ(first, 4) << "from ticket " << start;
  }
}

RC_GTEST_PROP(DispatchTableProperty, EntriesNameSlotsOfTheExpertInProportion, ()) {
  const int experts = *rc::gen::inRange(1, 9);
  const int ranks = *rc::gen::inRange(1, 6);
  const int slots_count = std::max(experts, ranks) + *rc::gen::inRange(0, 9);
  const ClusterShape shape = shape_of(experts, ranks, slots_count);
  std::vector<std::int32_t> slots(static_cast<std::size_t>(slots_count));
  std::iota(slots.begin(), slots.end(), 0);
  for (auto& slot : slots) slot = slot < experts ? slot : *rc::gen::inRange(0, experts);
  const auto shares = even_shares(slots, experts);
  const int rank = *rc::gen::inRange(0, ranks);
  const auto entries = table(slots, shares, shape, rank);
  for (int expert = 0; expert < experts; ++expert) {
    std::vector<int> count(slots.size(), 0);
    for (int i = 0; i < kDispatchEntries; ++i) {
      const auto slot = static_cast<std::size_t>(
          entries[static_cast<std::size_t>(expert * kDispatchEntries + i)]);
      RC_ASSERT(slots[slot] == expert);
      ++count[slot];
    }
    for (std::size_t slot = 0; slot < slots.size(); ++slot) {
      if (slots[slot] != expert) continue;
      const double planned = static_cast<double>(shares[slot]) * kDispatchEntries / kShareUnit;
      RC_ASSERT(std::abs(count[slot] - planned) <= 1.0);
    }
  }
}

// What all sources together send to a slot, and what each sends, against the plan: 4,096 tokens of
// one expert, any shares.
RC_GTEST_PROP(DispatchTableProperty, MeasuredSharesFollowThePlannedOnes, ()) {
  const int ranks = *rc::gen::inRange(4, 33);
  const int replicas = *rc::gen::inRange(2, 9);
  const ClusterShape shape = shape_of(1, ranks, std::max(ranks, replicas));
  std::vector<std::int32_t> slots(static_cast<std::size_t>(shape.num_slots()), kEmptySlot);
  std::vector<std::uint32_t> shares(slots.size(), 0);
  std::uint32_t left = kShareUnit;
  for (int slot = 0; slot < replicas; ++slot) {
    const auto at = static_cast<std::size_t>(slot);
    slots[at] = 0;
    shares[at] = slot + 1 == replicas ? left : *rc::gen::inRange<std::uint32_t>(0, left + 1);
    left -= shares[at];
  }
  constexpr int kTokens = 4096;
  std::vector<double> received(slots.size(), 0.0);
  for (int rank = 0; rank < ranks; ++rank) {
    const auto entries = table(slots, shares, shape, rank);
    const DispatchView view(entries.data());
    const int first = kTokens * rank / ranks, last = kTokens * (rank + 1) / ranks;
    for (int ticket = 0; ticket < last - first; ++ticket)
      ++received[static_cast<std::size_t>(view.slot(0, static_cast<std::uint32_t>(ticket)))];
  }
  for (std::size_t slot = 0; slot < slots.size(); ++slot) {
    const double planned = static_cast<double>(shares[slot]) / kShareUnit;
    RC_ASSERT(std::abs(received[slot] / kTokens - planned) <= 0.01);
  }
}

// Any number of sources, each of which has sent any number of tokens before.
RC_GTEST_PROP(DrawTableProperty, MeasuredSharesFollowThePlannedOnes, ()) {
  const int ranks = *rc::gen::inRange(1, 33);
  const int replicas = *rc::gen::inRange(1, 9);
  const ClusterShape shape = shape_of(1, ranks, std::max(ranks, replicas) + 1);
  std::vector<std::int32_t> slots(static_cast<std::size_t>(shape.num_slots()), kEmptySlot);
  std::vector<std::uint32_t> shares(slots.size(), 0);
  std::uint32_t left = kShareUnit;
  for (int slot = 1; slot <= replicas; ++slot) {
    const auto at = static_cast<std::size_t>(slot);
    slots[at] = 0;
    shares[at] = slot == replicas ? left : *rc::gen::inRange<std::uint32_t>(0, left + 1);
    left -= shares[at];
  }
  DrawTable draws(shape);
  draws.build(slots, shares);
  constexpr int kTokens = 4096;
  std::vector<double> received(slots.size(), 0.0);
  for (int rank = 0; rank < ranks; ++rank) {
    const auto start = *rc::gen::arbitrary<std::uint32_t>();
    const int tokens = kTokens * (rank + 1) / ranks - kTokens * rank / ranks;
    for (int i = 0; i < tokens; ++i)
      ++received[static_cast<std::size_t>(
          draws.slot(0, start + static_cast<std::uint32_t>(i), rank))];
  }
  for (std::size_t slot = 0; slot < slots.size(); ++slot) {
    const double planned = static_cast<double>(shares[slot]) / kShareUnit;
    RC_ASSERT(std::abs(received[slot] / kTokens - planned) <= 0.01);
    if (shares[slot] == 0) RC_ASSERT(received[slot] == 0.0);
  }
}

struct LocalCase {
  ClusterShape shape;
  std::vector<std::int32_t> slots;    // of the one expert
  std::vector<std::uint32_t> shares;  // [num_slots]
  std::vector<std::int64_t> sources;  // [num_ranks]
};

LocalCase any_local_case() {
  ShapeOptions options;
  options.num_moe_layers = 1;
  options.num_logical_experts = 1;
  options.num_ranks = *rc::gen::inRange(1, 17);
  options.num_slots = options.num_ranks;
  options.num_nodes = *rc::gen::inRange(1, options.num_ranks + 1);
  LocalCase result{ClusterShape(options), {}, {}, {}};
  std::uint32_t left = kShareUnit;
  result.shares.resize(static_cast<std::size_t>(options.num_slots));
  for (int slot = 0; slot < options.num_slots; ++slot) {
    result.slots.push_back(slot);
    auto& share = result.shares[static_cast<std::size_t>(slot)];
    share = slot + 1 == options.num_slots ? left : *rc::gen::inRange<std::uint32_t>(0, left + 1);
    left -= share;
  }
  result.sources = *rc::gen::container<std::vector<std::int64_t>>(
      static_cast<std::size_t>(options.num_ranks), rc::gen::inRange<std::int64_t>(1, 1000));
  return result;
}

RC_GTEST_PROP(LocalityFirstProperty, SourcesTogetherFollowTheSharesAndStayAsLocalAsTheyAllow,
              (bool given)) {
  const LocalCase c = any_local_case();
  const std::vector<std::int64_t> equal(c.sources.size(), 1);
  const auto& weight = given ? c.sources : equal;
  LocalityFirst locality(
      c.shape, given ? std::span<const std::int64_t>(c.sources) : std::span<const std::int64_t>());
  const auto total = std::accumulate(weight.begin(), weight.end(), 0.0);
  const auto largest = static_cast<double>(*std::ranges::max_element(weight));
  const double entry = largest / total / kDispatchEntries;
  std::vector<double> got(c.slots.size(), 0.0);
  double own = 0.0, most_own = 0.0;
  std::vector<double> node_open(static_cast<std::size_t>(c.shape.num_nodes()), 0.0),
      node_sources(node_open);
  double node = 0.0, most_node = 0.0;
  for (std::size_t source = 0; source < weight.size(); ++source) {
    std::array<std::int32_t, kDispatchEntries> row{};
    locality.choose(c.slots, c.shares, source, row);
    const double part = static_cast<double>(weight[source]) / total;
    const int of = c.shape.node_of_rank(static_cast<int>(source));
    for (const std::int32_t slot : row) {
      const auto at = static_cast<std::size_t>(slot);
      RC_ASSERT(c.shares[at] > 0U);
      got[at] += part / kDispatchEntries;
      own += at == source ? part / kDispatchEntries : 0.0;
      node += c.shape.node_of_rank(slot) == of ? part / kDispatchEntries : 0.0;
    }
    const double share = static_cast<double>(c.shares[source]) / kShareUnit;
    most_own += std::min(part, share);
    node_open[static_cast<std::size_t>(of)] += share;
    node_sources[static_cast<std::size_t>(of)] += part;
  }
  for (std::size_t of = 0; of < node_open.size(); ++of)
    most_node += std::min(node_open[of], node_sources[of]);
  const auto slots = static_cast<double>(c.slots.size());
  for (std::size_t slot = 0; slot < got.size(); ++slot)
    RC_ASSERT(std::abs(got[slot] - static_cast<double>(c.shares[slot]) / kShareUnit) <=
              2.0 * entry + 1e-9);
  RC_ASSERT(own >= most_own - slots * entry - 1e-9);
  RC_ASSERT(node >= most_node - 2.0 * slots * entry - 1e-9);
}

TEST(DispatchTable, LocalityFirstKeepsTokensOnTheirRankAsFarAsTheSharesAllow) {
  // Two slots with half of the tokens each, on two of four ranks, one a node: each node keeps all.
  ShapeOptions options;
  options.num_moe_layers = options.num_logical_experts = 1;
  options.num_ranks = options.num_slots = 4;
  options.num_nodes = 2;
  const ClusterShape shape(options);
  const std::vector<std::int32_t> slots{0, kEmptySlot, kEmptySlot, 0};
  const std::vector<std::uint32_t> shares{kShareUnit / 2, 0, 0, kShareUnit / 2};
  const std::int32_t kept[] = {0, 0, 3, 3};
  for (int rank = 0; rank < 4; ++rank) {
    std::vector<std::int32_t> row(kDispatchEntries);
    DispatchTableBuilder(shape, true).build(slots, shares, rank, row);
    EXPECT_THAT(row, ::testing::Each(kept[rank])) << "from rank " << rank;
  }
}

RC_GTEST_PROP(DispatchTableProperty, ChangedRowsTurnTheTableBeforeIntoTheTableAfter, ()) {
  const ClusterShape shape = shape_of(6, 4, 12);
  const auto any_row = [&](std::vector<std::int32_t>& slots, std::vector<std::uint32_t>& shares) {
    slots = *rc::gen::container<std::vector<std::int32_t>>(12, rc::gen::inRange(kEmptySlot, 6));
    shares = even_shares(slots, 6);
  };
  std::vector<std::int32_t> before, after;
  std::vector<std::uint32_t> shares_before, shares_after;
  any_row(before, shares_before);
  any_row(after, shares_after);
  for (std::size_t slot = 0; slot < 6; ++slot) after[slot] = before[slot];
  shares_after = even_shares(after, 6);
  const int rank = *rc::gen::inRange(0, 4);
  auto entries = table(before, shares_before, shape, rank);
  const DispatchRows rows =
      DispatchTableBuilder(shape).changed_rows(before, shares_before, after, shares_after, rank);
  rows.copy_to(entries);
  RC_ASSERT(entries == table(after, shares_after, shape, rank));
  for (const std::int32_t expert : rows.experts) {
    bool differs = false;
    for (std::size_t slot = 0; slot < after.size(); ++slot) {
      const bool concerns = before[slot] == expert || after[slot] == expert;
      differs |=
          concerns && (before[slot] != after[slot] || shares_before[slot] != shares_after[slot]);
    }
    RC_ASSERT(differs);
  }
}

}  // namespace
}  // namespace swiftbalancer
