#include "runtime/prepared_plan.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include <swiftbalancer/dispatch_table.hpp>

#include "protocol/packet.hpp"

namespace swiftbalancer {
namespace {

// One layer whose ranks exchange their experts: as many copies as slots.
class HashedPlan {
 public:
  explicit HashedPlan(int experts)
      : shape_({.num_moe_layers = 1,
                .num_logical_experts = experts,
                .num_ranks = experts,
                .num_slots = experts}),
        served_(ServedState::initial(shape_)) {
    LayerChange change{0, {}};
    for (int slot = 0; slot < experts; ++slot) {
      change.plan.placement.push_back((slot + 1) % experts);
      change.plan.shares.push_back(static_cast<std::uint32_t>(100 + slot));
    }
    plan_.changes.push_back(std::move(change));
  }

  LayerPlan& layer() { return plan_.changes[0].plan; }
  std::uint64_t hash(std::uint64_t epoch = 0) const {
    constexpr int kEnough = 16;
    return prepare_plan({0, 1}, plan_, served_, {epoch}, shape_, {.staging_capacity = kEnough})
        .migration.hash;
  }

 private:
  ClusterShape shape_;
  ServedState served_;
  Plan plan_;
};

// Of any number of words, so that no lane and no rest of one is left out.
TEST(PlanHash, CoversEveryWordAndItsPlace) {
  for (int experts = 2; experts <= 12; ++experts) {
    SCOPED_TRACE(experts);
    const auto count = static_cast<std::size_t>(experts);
    HashedPlan plan(experts);
    std::set<std::uint64_t> hashes{plan.hash(), plan.hash(1)};
    std::size_t expected = 2;
    for (std::size_t i = 0; i < count; ++i) {
      ++plan.layer().shares[i];
      hashes.insert(plan.hash()), ++expected;
      --plan.layer().shares[i];
      for (const std::size_t j : {i + 1, i + 2, i + 4, i + 8}) {
        if (j >= count) continue;
        std::swap(plan.layer().shares[i], plan.layer().shares[j]);
        hashes.insert(plan.hash()), ++expected;
        std::swap(plan.layer().shares[i], plan.layer().shares[j]);
        if (experts == 2) continue;  // Would be what is served: another plan, without copies.
        std::swap(plan.layer().placement[i], plan.layer().placement[j]);
        hashes.insert(plan.hash()), ++expected;
        std::swap(plan.layer().placement[i], plan.layer().placement[j]);
      }
    }
    EXPECT_EQ(hashes.size(), expected);
  }
}

// ---- Piece by piece ----

struct PlanCase {
  std::vector<int> slots_per_rank;
  int experts = 0;
  int capacity = 0;
  bool decode_tables = false;
  bool locality_first = false;
  /// Of eight random plans, as they were prepared in one piece.
  std::uint64_t digest = 0;
};

ClusterShape shape_of(const PlanCase& c) {
  return ClusterShape({.num_moe_layers = 6,
                       .num_logical_experts = c.experts,
                       .num_ranks = static_cast<int>(c.slots_per_rank.size()),
                       .num_nodes = 2,
                       .slots_per_rank = c.slots_per_rank});
}

void change_at_random(std::vector<std::int32_t>& row, std::mt19937& random) {
  for (auto change = random() % 12; change-- > 0;) {
    auto& a = row[random() % row.size()];
    auto& b = row[random() % row.size()];
    if (random() % 2 == 0) {
      std::swap(a, b);
    } else if (std::ranges::count(row, b) > 1) {
      b = a;
    }
  }
}

Plan random_plan(const ServedState& served, const ClusterShape& shape, std::mt19937& random) {
  Plan plan;
  plan.imbalance_before.mean_over_layers = 1.5;
  plan.imbalance_after.mean_over_layers = 1.1;
  for (int turn = 0; turn < shape.num_moe_layers(); ++turn) {
    if (random() % 4 == 0) continue;
    LayerChange change{(turn * 5 + 3) % shape.num_moe_layers(), {}};
    const auto row = served.placement.layer(change.moe_layer_id);
    change.plan.placement.assign(row.begin(), row.end());
    change_at_random(change.plan.placement, random);
    change.plan.shares = even_shares(change.plan.placement, shape.num_logical_experts());
    for (std::size_t a = 0; a < row.size(); ++a) {
      for (std::size_t b = a + 1; b < row.size(); ++b) {
        if (change.plan.placement[a] != change.plan.placement[b]) continue;
        const auto part = static_cast<std::uint32_t>(random() % change.plan.shares[a]);
        change.plan.shares[a] -= part;
        change.plan.shares[b] += part;
      }
    }
    plan.changes.push_back(std::move(change));
  }
  return plan;
}

// Of all that is in it.
std::uint64_t digest_of(const PreparedPlan& prepared) {
  std::uint64_t digest = prepared.migration.hash;
  const auto add = [&digest](std::uint64_t word) { digest = mix(digest, word); };
  const auto add_rows = [&](const DispatchRows& rows) {
    for (const std::int32_t expert : rows.experts) add(static_cast<std::uint64_t>(expert));
    for (const std::int32_t slot : rows.entries) add(static_cast<std::uint64_t>(slot));
  };
  add(static_cast<std::uint64_t>(prepared.migration.moves));
  add(static_cast<std::uint64_t>(prepared.layers_given_up));
  add(static_cast<std::uint64_t>(100 * prepared.migration.imbalance_before));
  add(static_cast<std::uint64_t>(100 * prepared.migration.imbalance_after));
  for (const std::uint64_t epoch : prepared.migration.base_epochs) add(epoch);
  for (std::size_t i = 0; i < prepared.units.size(); ++i) {
    const CommitUnit& unit = prepared.migration.units[i];
    add(static_cast<std::uint64_t>(unit.moe_layer_id));
    for (const ExpertCopy& copy : unit.copies) {
      for (const std::int32_t word : {copy.logical_id, copy.source_slot, copy.destination_slot})
        add(static_cast<std::uint64_t>(word));
    }
    for (const std::int32_t expert : unit.placement) add(static_cast<std::uint64_t>(expert));
    for (const std::uint32_t share : unit.shares) add(share);
    const PreparedUnit& ready = prepared.units[i];
    add_rows(ready.dispatch_rows);
    add_rows(ready.decode_rows);
    for (const Install& install : ready.installs)
      add(static_cast<std::uint64_t>(install.local_slot));
    add(static_cast<std::uint64_t>(ready.moves));
  }
  add(prepared.migration.units.size());
  return digest;
}

const PlanCase kCases[] = {
    {{3, 2, 4}, 6, 1, false, false, 15791933898627428614U},
    {{5, 5, 5, 5}, 12, 2, true, false, 11874096754015921730U},
    {{9, 9, 9, 9, 9}, 32, 1, false, true, 6596977569839889014U},
    {{12, 10, 8}, 20, 100, true, true, 7222143398534458679U},
};

TEST(PlanPreparation, GivesWhatOnePieceGave) {
  for (const PlanCase& c : kCases) {
    const ClusterShape shape = shape_of(c);
    const ServedState served = ServedState::initial(shape);
    std::uint64_t digest = 0;
    for (unsigned seed = 1; seed <= 8; ++seed) {
      std::mt19937 random(seed);
      const Plan plan = random_plan(served, shape, random);
      digest =
          mix(digest, digest_of(prepare_plan({3, seed}, plan, served, {1, 2, 3, 4, 5, 6}, shape,
                                             {.rank = 1,
                                              .staging_capacity = c.capacity,
                                              .decode_tables = c.decode_tables,
                                              .locality_first = c.locality_first})));
    }
    EXPECT_EQ(digest, c.digest) << c.experts << " experts";
  }
}

// So that a packet waits for one unit at most, however many a layer has.
TEST(PlanPreparation, MakesAUnitAPieceEvenWhereALayerHasMany) {
  constexpr int kUnits = 32, kExperts = 4;
  const ClusterShape shape({.num_moe_layers = 2,
                            .num_logical_experts = kExperts,
                            .num_ranks = 2,
                            .num_slots = 2 * (kUnits + kExperts)});
  ServedState served = ServedState::initial(shape);
  Plan plan;
  for (int layer = 0; layer < 2; ++layer) {
    // On either rank one slot of each expert stays; all others change from one expert to another.
    LayerChange change{layer, {}};
    for (std::int32_t& expert : served.placement.layer(layer)) {
      const auto local = static_cast<int>(change.plan.placement.size()) % (kUnits + kExperts);
      expert = local < kExperts ? local : 0;
      change.plan.placement.push_back(local < kExperts ? local : 1);
    }
    change.plan.shares = even_shares(change.plan.placement, kExperts);
    plan.changes.push_back(std::move(change));
  }
  PlanPreparation preparation({0, 1}, plan, served, {0, 0}, shape, {.staging_capacity = 1});
  std::size_t pieces = 1;
  while (!preparation.advance()) ++pieces;
  EXPECT_TRUE(preparation.advance()) << "it stays done";
  const PreparedPlan prepared = preparation.take();
  ASSERT_EQ(prepared.units.size(), std::size_t{2 * kUnits});
  EXPECT_GE(pieces, 2 * prepared.units.size()) << "its copies, and its tables";
}

TEST(PlanPreparation, OfNothingIsDoneAtOnce) {
  const ClusterShape shape = shape_of(kCases[0]);
  PlanPreparation preparation({0, 1}, {}, ServedState::initial(shape),
                              std::vector<std::uint64_t>(6, 0), shape, {});
  EXPECT_TRUE(preparation.advance());
  const PreparedPlan prepared = preparation.take();
  EXPECT_TRUE(prepared.units.empty());
  EXPECT_NE(prepared.migration.hash, 0U);
}

}  // namespace
}  // namespace swiftbalancer
