// CopyExecutor with a transfer that never ends, over several plans (rule 18): nothing it may still
// touch is used for anything else, and the other layers go on.

#include <gtest/gtest.h>

#include <set>
#include <tuple>

#include "fake_cluster.hpp"
#include "migration/copy_tag.hpp"

namespace swiftbalancer::testing {
namespace {

// Three layers on two ranks; each plan moves expert 0 into, or out of, the last slot of every
// layer, which belongs to rank 1. What rank 0 sends to layer 0 in the first plan hangs half done.
class HangingCopy : public ::testing::TestWithParam<std::tuple<bool, bool>> {
 protected:
  static constexpr int kLayers = 3;
  static constexpr int kSetsOfPatience = 40;

  HangingCopy()
      : swap(std::get<1>(GetParam())),
        cluster(make_cluster(kLayers, 2, 2, 4), std::vector<PartBytes>(kLayers, {96, 8}), kBuffers,
                OneCopyCluster::all_layers(kLayers, {0, 1, 1, 1}), can_cancel()) {
    cluster.network.rule = [this](const Transfer& transfer) {
      return transfer.tag == hanging ? Fate::kHalf : Fate::kDeliver;
    };
  }
  static bool can_cancel() { return std::get<0>(GetParam()); }
  MigrationPlan next_plan() {
    Placement target = cluster.served;
    for (int layer = 0; layer < kLayers; ++layer)
      target.layer(layer)[3] = 1 - cluster.served.layer(layer)[3];
    return make_plan(cluster.shape, cluster.served, target, kBuffers, ++step);
  }

  // As the agreement would: commits what is staged everywhere, drops what fails somewhere, and all
  // that is left when the plan does not get on. @returns the layers committed.
  std::set<int> carry_out(const MigrationPlan& plan) {
    cluster.adopt(plan);
    std::vector<bool> pending(plan.units.size(), true);
    std::set<int> committed;
    int patience = kSetsOfPatience;
    ended_by_age = false;
    while (std::ranges::find(pending, true) != pending.end()) {
      cluster.progress(1);
      for (auto& rank : cluster.ranks) {
        const auto failed = rank->executor->failed_unit();
        if (!failed || !pending[*failed]) continue;
        pending[*failed] = false;
        cluster.drop(*failed);
      }
      for (std::uint32_t unit = 0; unit < cluster.smallest_cursor(); ++unit) {
        if (!pending[unit]) continue;
        pending[unit] = false;
        cluster.commit(plan, unit, swap);
        committed.insert(plan.units[unit].moe_layer_id);
        patience = kSetsOfPatience;
      }
      if (--patience > 0) continue;
      ended_by_age = true;
      for (std::uint32_t unit = 0; unit < plan.units.size(); ++unit) {
        if (pending[unit]) cluster.drop(unit, true);
        pending[unit] = false;
      }
    }
    cluster.retire();
    cluster.progress();
    cluster.expect_served();
    return committed;
  }

  static constexpr int kBuffers = 2;
  const bool swap;
  std::uint64_t hanging = 0;  // tag
  std::uint64_t step = 0;
  bool ended_by_age = false;
  FakeCluster cluster;
};

TEST_P(HangingCopy, SpoilsNothingAndHoldsTheOtherLayersBackForTwoPlansAtMost) {
  const MigrationPlan first = next_plan();
  hanging = copy_tag(first.generation, 0, 0);
  EXPECT_EQ(carry_out(first), std::set<int>{});
  EXPECT_TRUE(ended_by_age);

  std::vector<MigrationPlan> plans;  // outlive their transfers
  plans.reserve(10);
  const std::set<int> all{0, 1, 2}, others{1, 2};
  if (can_cancel()) {
    for (int i = 0; i < 4; ++i) EXPECT_EQ(carry_out(plans.emplace_back(next_plan())), all);
    cluster.expect_no_leak();
    return;
  }
  EXPECT_EQ(cluster.pool(1).num_free(), kBuffers - 1) << "the copy may still write its buffer";
  EXPECT_EQ(carry_out(plans.emplace_back(next_plan())), std::set<int>{}) << "it waits for the copy";
  EXPECT_TRUE(ended_by_age);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(carry_out(plans.emplace_back(next_plan())), others) << "plan " << i;
    EXPECT_FALSE(ended_by_age) << "the layer that is given up fails at once";
    EXPECT_EQ(cluster.pool(1).num_free(), kBuffers - 1);
  }

  hanging = 0;  // at last it arrives
  cluster.progress();
  cluster.expect_no_leak();
  EXPECT_EQ(carry_out(plans.emplace_back(next_plan())), all);
  cluster.expect_no_leak();
}

TEST_P(HangingCopy, ASlotThatIsStillReadIsNotOverwritten) {
  const MigrationPlan first = next_plan();
  hanging = copy_tag(first.generation, 0, 0);
  carry_out(first);
  // Now expert 1 goes to where the hanging copy still reads expert 0.
  Placement target = cluster.served;
  std::ranges::copy(std::vector<std::int32_t>{1, 0, 1, 1}, target.layer(0).begin());
  const MigrationPlan second = make_plan(cluster.shape, cluster.served, target, kBuffers, ++step);
  EXPECT_EQ(carry_out(second), can_cancel() ? std::set<int>{0} : std::set<int>{});
  hanging = 0;
  cluster.progress();
  cluster.expect_served();
  cluster.expect_no_leak();
}

// On transports that cannot cancel.
class LingeringCopy : public HangingCopy {};

TEST_P(LingeringCopy, DelaysButFailsNothingIfItEnds) {
  const MigrationPlan first = next_plan();
  hanging = copy_tag(first.generation, 0, 0);
  cluster.adopt(first);
  cluster.progress();
  for (std::uint32_t unit = 0; unit < first.units.size(); ++unit) cluster.drop(unit);  // superseded
  cluster.retire();
  const MigrationPlan second = next_plan();
  cluster.adopt(second);
  cluster.progress();
  EXPECT_EQ(cluster.smallest_cursor(), 0U) << "rule 8";
  for (const auto& rank : cluster.ranks)
    EXPECT_EQ(rank->executor->failed_unit(), std::nullopt) << "it may end yet";
  hanging = 0;
  for (std::uint32_t unit = 0; unit < 3; ++unit) {
    cluster.progress();
    ASSERT_GT(cluster.smallest_cursor(), unit);
    cluster.commit(second, unit, swap);
  }
  cluster.retire();
  cluster.progress();
  cluster.expect_served();
  cluster.expect_no_leak();
}

// The generation's step has 24 bits in a tag. A copy that hangs for so long is met by another of
// its name: that one is not begun.
TEST_P(LingeringCopy, IsNotTakenForOneOfALaterGenerationOfTheSameTag) {
  const MigrationPlan first = next_plan();
  hanging = copy_tag(first.generation, 0, 0);
  carry_out(first);
  step += (std::uint64_t{1} << 24) - 1;
  MigrationPlan later = next_plan();
  std::ranges::rotate(later.units, later.units.begin() + 1);  // the tag is that of layer 1 now
  ASSERT_EQ(copy_tag(later.generation, 0, 0), hanging);
  cluster.adopt(later);
  EXPECT_EQ(cluster.executor(0).failed_unit(), 0U);
  EXPECT_EQ(cluster.executor(1).failed_unit(), 0U);
}

INSTANTIATE_TEST_SUITE_P(CancelAndSwap, HangingCopy,
                         ::testing::Combine(::testing::Bool(), ::testing::Bool()));
INSTANTIATE_TEST_SUITE_P(Swap, LingeringCopy,
                         ::testing::Combine(::testing::Values(false), ::testing::Bool()));

// Rank 1 has one buffer, and a copy that hangs has it: nothing arrives there any more, but
// elsewhere.
TEST(HangingCopies, ThatTakeAWholePoolStopOnlyWhatArrivesThere) {
  FakeCluster cluster(make_cluster(2, 3, 3, 6), std::vector<PartBytes>(2, {96, 8}), 1,
                      OneCopyCluster::all_layers(2, {0, 1, 2, 0, 1, 2}), false);
  const auto plan_to = [&](int layer, const std::vector<std::int32_t>& row, std::uint64_t step) {
    Placement target = cluster.served;
    std::ranges::copy(row, target.layer(layer).begin());
    return make_plan(cluster.shape, cluster.served, target, 1, step);
  };
  std::uint64_t hanging = 0;
  cluster.network.rule = [&](const Transfer& transfer) {
    return transfer.tag == hanging ? Fate::kHold : Fate::kDeliver;
  };
  const MigrationPlan first = plan_to(0, {0, 1, 1, 0, 1, 2}, 1);
  hanging = copy_tag(first.generation, 0, 0);
  cluster.adopt(first);
  cluster.progress();
  cluster.drop(0, true);
  cluster.retire();
  EXPECT_EQ(cluster.pool(1).num_free(), 0);

  const MigrationPlan elsewhere = plan_to(1, {0, 1, 2, 0, 0, 2}, 2);
  cluster.run(elsewhere, true);
  cluster.expect_served();

  const MigrationPlan there = plan_to(1, {0, 1, 1, 0, 0, 2}, 3);
  cluster.adopt(there);
  cluster.progress();
  EXPECT_EQ(cluster.smallest_cursor(), 0U);
  cluster.drop(0, true);
  cluster.retire();
  hanging = 0;
  cluster.progress();
  cluster.expect_served();
  cluster.expect_no_leak();
}

}  // namespace
}  // namespace swiftbalancer::testing
