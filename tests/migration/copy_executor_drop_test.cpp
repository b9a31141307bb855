// CopyExecutor when units are dropped and transfers fail: buffers come back untouched, promises are
// kept.

#include <gtest/gtest.h>

#include "fake_cluster.hpp"
#include "migration/copy_tag.hpp"

namespace swiftbalancer::testing {
namespace {

constexpr std::byte kCanary{0xC5};

// Fills all free buffers; anything that writes into a returned buffer shows.
void fill_free_buffers(StagingPool& pool) {
  std::vector<int> granted;
  while (const auto buffer = pool.grant()) {
    granted.push_back(*buffer);
    for (std::size_t part = 0; part < pool.part_bytes().size(); ++part) {
      std::fill_n(pool.parts(*buffer)[part], pool.part_bytes()[part], kCanary);
    }
  }
  while (!granted.empty()) {
    pool.release(granted.back());
    granted.pop_back();
  }
}

int canaries(StagingPool& pool) {
  int intact = 0;
  for (int buffer = 0; buffer < pool.capacity(); ++buffer) {
    bool same = true;
    for (std::size_t part = 0; part < pool.part_bytes().size(); ++part) {
      const std::byte* bytes = pool.parts(buffer)[part];
      same = same && std::all_of(bytes, bytes + pool.part_bytes()[part],
                                 [](std::byte b) { return b == kCanary; });
    }
    intact += same ? 1 : 0;
  }
  return intact;
}

TEST(CopyExecutorDrop, AStagedUnitReturnsItsBuffers) {
  OneCopyCluster cluster(2, 2);
  const MigrationPlan plan = cluster.plan();
  cluster.adopt(plan);
  cluster.progress();
  EXPECT_EQ(cluster.pool(1).num_free(), 0);
  cluster.drop(0);
  EXPECT_EQ(cluster.pool(1).num_free(), 1);
  EXPECT_TRUE(cluster.executor(1).staged(0).empty());
  EXPECT_EQ(cluster.executor(1).staged_cursor(), 2U);
  cluster.commit(plan, 1, true);
  cluster.retire();
  cluster.expect_served();
  cluster.expect_no_leak();
}

TEST(CopyExecutorDrop, AHalfReceivedUnitIsCancelledBeforeItsBufferServesAgain) {
  OneCopyCluster cluster(2, 1);
  const MigrationPlan plan = cluster.plan();
  const auto half = [](const Transfer&) { return Fate::kHalf; };
  cluster.network.rule = half;
  cluster.adopt(plan);
  cluster.progress();
  // The sender hears of the drop later than the receiver.
  cluster.executor(1).drop(0);
  EXPECT_EQ(cluster.pool(1).num_free(), 1);
  fill_free_buffers(cluster.pool(1));
  cluster.network.rule = [](const Transfer&) { return Fate::kDeliver; };
  for (int i = 0; i < 5; ++i) cluster.executor(0).progress();
  EXPECT_EQ(canaries(cluster.pool(1)), 1);

  cluster.executor(0).drop(0);
  cluster.progress();
  EXPECT_EQ(cluster.smallest_cursor(), 2U);
  cluster.commit(plan, 1, false);
  cluster.retire();
  cluster.expect_served();
  cluster.expect_no_leak();
}

TEST(CopyExecutorDrop, AUnitWithoutBuffersIsSkipped) {
  OneCopyCluster cluster(3, 1);
  const MigrationPlan plan = cluster.plan();
  cluster.network.rule = [](const Transfer&) { return Fate::kHold; };
  cluster.adopt(plan);
  cluster.progress();
  cluster.drop(1);
  cluster.network.rule = [](const Transfer&) { return Fate::kDeliver; };
  cluster.progress();
  EXPECT_EQ(cluster.executor(1).staged_cursor(), 2U);
  cluster.commit(plan, 0, true);
  cluster.progress();
  EXPECT_EQ(cluster.executor(1).staged_cursor(), 3U);
  cluster.commit(plan, 2, true);
  cluster.retire();
  cluster.expect_served();
  cluster.expect_no_leak();
}

TEST(CopyExecutorDrop, CopiesWithinTheRankThatWaitAreGivenUp) {
  FakeCluster cluster(make_cluster(1, 3, 1, 3), 3);
  Placement target = cluster.served;
  std::ranges::rotate(target.layer(0), target.layer(0).begin() + 1);
  const MigrationPlan plan = make_plan(cluster.shape, cluster.served, target, 3, 1);
  cluster.adopt(plan);
  EXPECT_TRUE(cluster.executor(0).progress());
  cluster.drop(0);
  EXPECT_EQ(cluster.pool(0).num_free(), 3);
  fill_free_buffers(cluster.pool(0));
  EXPECT_FALSE(cluster.executor(0).progress());
  EXPECT_EQ(canaries(cluster.pool(0)), 3);
  cluster.retire();
}

TEST(CopyExecutorDrop, AFailedTransferStopsTheCursorUntilTheUnitIsDropped) {
  OneCopyCluster cluster(4, 4);
  const MigrationPlan plan = cluster.plan();
  cluster.network.rule = [&](const Transfer& transfer) {
    return transfer.tag == copy_tag(plan.generation, 1, 0) ? Fate::kFailBoth : Fate::kDeliver;
  };
  cluster.adopt(plan);
  cluster.progress();
  EXPECT_EQ(cluster.executor(1).failed_unit(), 1U);
  EXPECT_EQ(cluster.executor(1).staged_cursor(), 1U);
  EXPECT_TRUE(cluster.executor(1).staged(1).empty());
  EXPECT_EQ(cluster.executor(1).staged(3).size(), 1U);
  EXPECT_EQ(cluster.pool(1).num_free(), 0);
  cluster.drop(1);
  EXPECT_EQ(cluster.executor(1).failed_unit(), std::nullopt);
  EXPECT_EQ(cluster.smallest_cursor(), 4U);
  for (std::uint32_t unit : {0U, 2U, 3U}) cluster.commit(plan, unit, true);
  cluster.retire();
  cluster.expect_served();
  cluster.expect_no_leak();
}

TEST(CopyExecutorDrop, AFailedSendStopsAUnitThatStillWaitsForItsOwnBytes) {
  // The ranks exchange experts, so that each both sends and receives; what rank 0 sends fails while
  // rank 1's is held.
  FakeCluster cluster(make_cluster(1, 2, 2, 2), 1);
  Placement target = cluster.served;
  std::ranges::reverse(target.layer(0));
  const MigrationPlan plan = make_plan(cluster.shape, cluster.served, target, 1, 1);
  cluster.network.rule = [](const Transfer& transfer) {
    return transfer.sender == 0 ? Fate::kFailSend : Fate::kHold;
  };
  cluster.adopt(plan);
  cluster.progress();
  EXPECT_EQ(cluster.executor(0).failed_unit(), 0U);
  cluster.network.rule = [](const Transfer&) { return Fate::kDeliver; };
  cluster.progress();
  EXPECT_EQ(cluster.executor(0).staged_cursor(), 0U);
  cluster.drop(0);
  cluster.retire();
  cluster.expect_served();
  cluster.expect_no_leak();
}

TEST(CopyExecutorDrop, AFailedSendDoesNotTakeBackWhatCountedAsStaged) {
  OneCopyCluster cluster(1, 1);
  const MigrationPlan plan = cluster.plan();
  cluster.network.rule = [](const Transfer&) { return Fate::kHold; };
  cluster.adopt(plan);
  cluster.progress();
  ASSERT_EQ(cluster.executor(0).staged_cursor(), 1U);
  cluster.network.rule = [](const Transfer&) { return Fate::kFailBoth; };
  cluster.progress();
  EXPECT_EQ(cluster.executor(0).staged_cursor(), 1U);
  EXPECT_EQ(cluster.executor(0).failed_unit(), std::nullopt);
  EXPECT_EQ(cluster.executor(1).failed_unit(), 0U);
}

TEST(CopyExecutorDrop, AShortMessageIsAFailure) {
  OneCopyCluster cluster(1, 1);
  const MigrationPlan plan = cluster.plan();
  cluster.executor(1).adopt(plan);
  const std::vector<std::byte> few(5);
  const std::vector<std::span<const std::byte>> parts{few};
  cluster.network.transport(0).post_send(1, copy_tag(plan.generation, 0, 0), parts,
                                         Delivery::kRendezvous);
  cluster.executor(1).progress();
  cluster.executor(1).progress();
  EXPECT_EQ(cluster.executor(1).failed_unit(), 0U);
}

// Plans one after the other under random fates, commits and drops, on seeds that a failure prints.
TEST(CopyExecutorDrop, RandomCommitsDropsAndFailuresNeverSpoilASlotOrLoseABuffer) {
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(seed);
    const int ranks = 1 + below(random, 4), buffers = 1 + below(random, 4);
    const bool swap = below(random, 2) == 0;
    FakeCluster cluster(make_cluster(3, 5, ranks, 5 + below(random, 6)), buffers);
    cluster.network.rule = [&](const Transfer&) {
      const int draw = below(random, 100);
      return draw < 40   ? Fate::kDeliver
             : draw < 70 ? Fate::kHold
             : draw < 98 ? Fate::kHalf
                         : Fate::kFailBoth;
    };
    for (std::uint64_t step = 1; step <= 4; ++step) {
      Placement target = cluster.served;
      for (int layer = 0; layer < 3; ++layer)
        std::ranges::copy(random_row(cluster.shape, random), target.layer(layer).begin());
      const MigrationPlan plan = make_plan(cluster.shape, cluster.served, target, buffers, step);
      cluster.adopt(plan);
      std::vector<bool> pending(plan.units.size(), true);
      const auto drop_with_later = [&](std::uint32_t unit) {
        for (std::uint32_t u = unit; u < plan.units.size(); ++u) {
          if (!pending[u] || plan.units[u].moe_layer_id != plan.units[unit].moe_layer_id) continue;
          pending[u] = false;
          cluster.drop(u);
        }
      };
      for (int i = 0; i < 5000 && std::ranges::find(pending, true) != pending.end(); ++i) {
        cluster.executor(below(random, ranks)).progress();
        for (auto& rank : cluster.ranks) {
          if (const auto failed = rank->executor->failed_unit(); failed && pending[*failed])
            drop_with_later(*failed);
        }
        for (std::uint32_t unit = 0; unit < cluster.smallest_cursor(); ++unit) {
          if (!pending[unit]) continue;
          pending[unit] = false;
          cluster.commit(plan, unit, swap);
        }
        if (below(random, 60) == 0 && !plan.units.empty()) {
          drop_with_later(
              static_cast<std::uint32_t>(below(random, static_cast<int>(plan.units.size()))));
        }
      }
      ASSERT_EQ(std::ranges::find(pending, true), pending.end());
      cluster.retire();
      cluster.expect_served();
      cluster.expect_no_leak();
    }
  }
}

}  // namespace
}  // namespace swiftbalancer::testing
