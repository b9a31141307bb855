#include "runtime/prepared_plan.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <set>
#include <utility>
#include <vector>

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
    return prepare_plan({0, 1}, plan_, served_, {epoch}, shape_, 0, kEnough, false, false)
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

}  // namespace
}  // namespace swiftbalancer
