// CopyExecutor over a network in memory: what it stages and installs, in which order, and how it
// refuses misuse.

#include "migration/copy_executor.hpp"

#include <gtest/gtest.h>

#include <set>
#include <tuple>

#include <swiftbalancer/error.hpp>

#include "fake_cluster.hpp"
#include "migration/copy_tag.hpp"

namespace swiftbalancer::testing {
namespace {

Placement random_placement(const ClusterShape& shape, Random& random) {
  Placement placement(shape.num_moe_layers(), shape.num_slots());
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    std::ranges::copy(random_row(shape, random), placement.layer(layer).begin());
  }
  return placement;
}

// Ranks, pool, swap installs.
class EveryInstall : public ::testing::TestWithParam<std::tuple<int, int, bool>> {};

TEST_P(EveryInstall, LeavesThePlannedBytesInEverySlot) {
  const auto [ranks, buffers, swap] = GetParam();
  const std::uint64_t seed = static_cast<std::uint64_t>(ranks * 100 + buffers);
  SCOPED_TRACE("seed " + std::to_string(seed));
  Random random(seed);
  FakeCluster cluster(make_cluster(4, 7, ranks, 7 + ranks), buffers);
  for (std::uint64_t step = 1; step <= 4; ++step) {
    const MigrationPlan plan = make_plan(cluster.shape, cluster.served,
                                         random_placement(cluster.shape, random), buffers, step);
    cluster.run(plan, swap);
    cluster.expect_served();
    cluster.expect_no_leak();
  }
}

INSTANTIATE_TEST_SUITE_P(CopyExecutor, EveryInstall,
                         ::testing::Combine(::testing::Values(1, 2, 3, 5),
                                            ::testing::Values(1, 2, 8), ::testing::Bool()));

TEST(CopyExecutor, StagesLayersWhosePartsDiffer) {
  Random random(11);
  FakeCluster cluster(make_cluster(2, 4, 2, 6), {{64, 8}, {40, 16}}, 3,
                      Placement::initial(make_cluster(2, 4, 2, 6)));
  const MigrationPlan plan =
      make_plan(cluster.shape, cluster.served, random_placement(cluster.shape, random), 3, 1);
  cluster.run(plan, false);
  cluster.expect_served();
  cluster.expect_no_leak();
}

TEST(CopyExecutor, HasSeveralLayersInFlight) {
  OneCopyCluster cluster(3, 3);
  cluster.network.rule = [](const Transfer&) { return Fate::kHold; };
  const MigrationPlan plan = cluster.plan();
  ASSERT_EQ(plan.units.size(), 3U);
  cluster.adopt(plan);
  cluster.progress();
  EXPECT_EQ(cluster.network.num_open(), 6U);
}

TEST(CopyExecutor, GrantsBuffersInPlanOrderWhateverArrivesFirst) {
  OneCopyCluster cluster(4, 2);
  const MigrationPlan plan = cluster.plan();
  cluster.network.rule = [&](const Transfer& transfer) {
    return transfer.tag == copy_tag(plan.generation, 1, 0) ? Fate::kDeliver : Fate::kHold;
  };
  cluster.adopt(plan);
  cluster.progress();
  const auto received_tags = [&] {
    std::vector<std::uint64_t> tags;
    for (const Post& post : cluster.network.posts) {
      if (!post.is_send) tags.push_back(post.transfer.tag);
    }
    return tags;
  };
  const auto tag = [&](std::uint32_t unit) { return copy_tag(plan.generation, unit, 0); };
  EXPECT_EQ(received_tags(), (std::vector{tag(0), tag(1)}));
  EXPECT_EQ(cluster.executor(1).staged_cursor(), 0U);
  EXPECT_EQ(cluster.executor(1).staged(1).size(), 1U);

  cluster.network.rule = [](const Transfer&) { return Fate::kDeliver; };
  cluster.progress();
  EXPECT_EQ(cluster.executor(1).staged_cursor(), 2U);
  EXPECT_EQ(received_tags(), (std::vector{tag(0), tag(1)}));
  cluster.commit(plan, 0, true);
  cluster.progress();
  EXPECT_EQ(received_tags(), (std::vector{tag(0), tag(1), tag(2)}));
  EXPECT_EQ(cluster.executor(1).staged_cursor(), 3U);
}

TEST(CopyExecutor, KeepsFewSendsToAPeerInFlight) {
  OneCopyCluster cluster(20, 20);
  cluster.network.rule = [](const Transfer&) { return Fate::kHold; };
  const MigrationPlan plan = cluster.plan();
  cluster.adopt(plan);
  cluster.progress();
  EXPECT_EQ(cluster.network.num_open_sends(0, 1), 4U);
  cluster.network.rule = [](const Transfer&) { return Fate::kDeliver; };
  cluster.progress();
  EXPECT_EQ(cluster.executor(1).staged_cursor(), 20U);
}

TEST(CopyExecutor, CopiesOneExpertWithinTheRankPerCallAndAsksToBeCalledAgain) {
  FakeCluster cluster(make_cluster(1, 4, 1, 4), 4);
  Placement target = cluster.served;
  std::ranges::reverse(target.layer(0));
  const MigrationPlan plan = make_plan(cluster.shape, cluster.served, target, 4, 1);
  cluster.adopt(plan);
  EXPECT_TRUE(cluster.executor(0).progress());
  EXPECT_TRUE(cluster.executor(0).progress());
  EXPECT_TRUE(cluster.executor(0).progress());
  EXPECT_EQ(cluster.executor(0).staged_cursor(), 0U);
  EXPECT_FALSE(cluster.executor(0).progress());
  EXPECT_EQ(cluster.executor(0).staged_cursor(), 1U);
  cluster.commit(plan, 0, false);
  cluster.expect_served();
  EXPECT_TRUE(cluster.network.posts.empty());
}

TEST(CopyExecutor, AUnitWithoutCopiesIsStagedAtOnce) {
  OneCopyCluster cluster(1, 1);
  MigrationPlan plan;
  plan.generation = {0, 3};
  plan.units.push_back({0, {}, {0, 1, 0, 1}, {}});
  cluster.adopt(plan);
  EXPECT_EQ(cluster.smallest_cursor(), 1U);
}

TEST(CopyExecutor, DoesNotTouchTheTransportWithoutAPlan) {
  OneCopyCluster cluster(1, 1);
  cluster.progress();
  EXPECT_FALSE(cluster.executor(0).active());
  EXPECT_EQ(cluster.network.polls, 0);
}

TEST(CopyExecutor, ItsEndCancelsTransfersAndReturnsBuffers) {
  OneCopyCluster cluster(3, 2);
  const MigrationPlan plan = cluster.plan();
  cluster.network.rule = [&](const Transfer& transfer) {
    return transfer.tag == copy_tag(plan.generation, 0, 0) ? Fate::kDeliver : Fate::kHalf;
  };
  cluster.adopt(plan);
  cluster.progress();
  for (auto& rank : cluster.ranks) rank->executor.reset();
  cluster.expect_no_leak();
}

TEST(CopyExecutor, RefusesCallsOutOfOrder) {
  OneCopyCluster cluster(2, 1);
  const MigrationPlan plan = cluster.plan();
  CopyExecutor& executor = cluster.executor(1);
  EXPECT_THROW(executor.retire(), Error);
  EXPECT_THROW(executor.drop(0), Error);
  cluster.adopt(plan);
  EXPECT_THROW(executor.adopt(plan), Error);
  EXPECT_THROW(executor.committed(0, true), Error);
  EXPECT_THROW(executor.drop(2), Error);
  EXPECT_THROW(executor.retire(), Error);
  cluster.drop(0);
  EXPECT_THROW(executor.drop(0), Error);
  cluster.drop(1);
  cluster.retire();
  EXPECT_FALSE(executor.active());
  cluster.expect_no_leak();
}

TEST(CopyExecutor, RefusesToSwapExpertsThatDifferFromTheBuffers) {
  OneCopyCluster cluster(std::vector<PartBytes>{{64, 8}, {40, 8}}, 2);
  const MigrationPlan plan = cluster.plan();
  cluster.adopt(plan);
  cluster.progress();
  EXPECT_THROW(cluster.executor(1).committed(1, true), Error);
}

TEST(CopyExecutor, RefusesExpertsLargerThanTheBuffersAndTransportsThatCannotCancel) {
  const ClusterShape shape = make_cluster(1, 2, 2, 4);
  FakeNetwork network(2);
  StagingPool pool(PartBytes{64, 8}, 72);
  LocalSlots slots;
  slots.part_bytes = {{64, 9}};
  EXPECT_THROW(CopyExecutor(shape, network.transport(0), pool, slots), Error);
  slots.part_bytes = {{64, 8, 1}};
  EXPECT_THROW(CopyExecutor(shape, network.transport(0), pool, slots), Error);
  slots.part_bytes = {{64, 8}};
  EXPECT_NO_THROW(CopyExecutor(shape, network.transport(0), pool, slots));
}

TEST(CopyTag, DiffersForEveryGenerationUnitAndCopyAndFromOtherMessages) {
  std::set<std::uint64_t> tags;
  std::size_t count = 0;
  for (std::uint32_t membership : {0U, 1U, 7U}) {
    for (std::uint64_t step : {1ULL, 2ULL, 0xFF'FFFFULL}) {
      for (std::uint32_t unit : {0U, 1U, 0xF'FFFFU}) {
        for (std::uint32_t copy : {0U, 1U, 0xFFFFU}) {
          tags.insert(copy_tag({membership, step}, unit, copy));
          ++count;
        }
      }
    }
  }
  EXPECT_EQ(tags.size(), count);
  EXPECT_GE(*tags.begin(), std::uint64_t{1} << 63);
}

}  // namespace
}  // namespace swiftbalancer::testing
