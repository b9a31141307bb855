// What may come between the steps: calls that fail, calls out of order, values that do not exist.

#include <atomic>
#include <latch>
#include <limits>
#include <map>
#include <mutex>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/hand_cluster.hpp"
#include "runtime/threads_cluster.hpp"

namespace swiftbalancer {
namespace {

using testing::HasSubstr;
using testing_support::HandCluster;
using testing_support::make_shape;
using testing_support::RankUnderTest;
using testing_support::run_ranks;

BalancerConfig moving_config() {
  BalancerConfig config;
  config.policy = "stress";
  config.rebalance_interval = 1;
  return config;
}

// Rank 1 pauses, as for a graph capture. Rank 0 may wait as often as it likes, but may not go on
// without the set of its step; once rank 1 is back all go on together.
TEST(FailedStep, MayBeRepeatedAndNothingElseIsAcceptedUntilItSucceeds) {
  const ClusterShape shape = make_shape(2, 8, 2, 12);
  BalancerConfig config = moving_config();
  config.deadline = std::chrono::milliseconds(30);
  constexpr std::uint64_t kPause = 20, kSteps = 60;
  std::latch paused(1), resume(1);
  std::mutex mutex;
  std::map<std::uint64_t, Placement> forwards;
  std::atomic<int> mismatches = 0;
  std::atomic<std::uint64_t> commits = 0;
  run_ranks(shape, config, [&](RankUnderTest& under_test, int rank) {
    Balancer& balancer = under_test.balancer;
    for (std::uint64_t step = 1; step <= kSteps; ++step) {
      if (rank == 1 && step == kPause) {
        paused.count_down();
        resume.wait();
      }
      if (rank == 0 && step == kPause) paused.wait();
      Status begun = balancer.begin_step({step});
      if (rank == 0 && step > kPause && !begun.ok() && !resume.try_wait()) {
        EXPECT_EQ(begun.code(), ErrorCode::kTimeout) << begun.message();
        EXPECT_FALSE(balancer.health().ok);
        EXPECT_EQ(balancer.end_step().code(), ErrorCode::kInvalidState);
        EXPECT_EQ(balancer.begin_step({step + 1}).code(), ErrorCode::kInvalidState);
        EXPECT_EQ(balancer.begin_step({step}).code(), ErrorCode::kTimeout) << "waits again";
        resume.count_down();
      }
      while (begun.code() == ErrorCode::kTimeout) begun = balancer.begin_step({step});
      ASSERT_TRUE(begun.ok()) << begun.message();
      {
        const std::scoped_lock lock(mutex);
        const auto [first, is_new] = forwards.try_emplace(step, balancer.placement());
        if (!is_new && first->second != balancer.placement()) ++mismatches;
      }
      if (!under_test.slots_hold_their_experts()) ++mismatches;
      under_test.record_skewed(step);
      ASSERT_TRUE(balancer.end_step().ok());
    }
    EXPECT_TRUE(balancer.health().ok) << balancer.health().reason;
    EXPECT_EQ(balancer.stats().packet_sets, kSteps - 2) << "no set was left out";
    EXPECT_EQ(balancer.stats().steps, kSteps) << "a repeated call is the same step";
    commits += balancer.stats().units_committed;
  });
  EXPECT_EQ(mismatches, 0);
  EXPECT_GT(commits, 0U);
}

TEST(Record, IgnoresLayersAndSlotsThatDoNotExist) {
  HandCluster cluster(make_shape(2, 4, 1, 6), moving_config());
  BalancerCore& core = cluster.core(0);
  ASSERT_TRUE(core.begin_step({1}).ok());
  const std::vector<std::uint32_t> counts(100, 7);
  for (int layer : {-1, 2, 1'000'000, std::numeric_limits<int>::min()}) core.record(layer, counts);
  core.record(1, counts);
  std::vector<std::int64_t> received(6);
  core.received_tokens(0, received);
  EXPECT_EQ(received, std::vector<std::int64_t>(6, 0));
  core.received_tokens(1, received);
  EXPECT_EQ(received, std::vector<std::int64_t>(6, 7));
  core.received_tokens(2, received);  // changes nothing
  EXPECT_EQ(received, std::vector<std::int64_t>(6, 7));
}

// Packets so rare that a slot's tokens exceed 32 bits: they are told to 32 bits of precision.
TEST(Record, CountsBeyond32BitsInOneWindow) {
  BalancerConfig config = moving_config();
  config.policy = "static";
  config.packet_interval = 4;
  config.packet_lag = 1;
  HandCluster cluster(make_shape(1, 2, 1, 2), config);
  BalancerCore& core = cluster.core(0);
  constexpr std::uint32_t kMany = 2'000'000'000;
  for (std::uint64_t step = 1; step <= 5; ++step) {
    ASSERT_TRUE(core.begin_step({step}).ok());
    core.record(0, std::vector<std::uint32_t>{kMany, 1000});
    ASSERT_TRUE(core.end_step().ok());
    cluster.run_workers();
  }
  EXPECT_EQ(core.worker()->last_observed_step(), 4U);
  EXPECT_EQ(core.worker()->last_observed().layer(0)[0], std::int64_t{4} * kMany);
  EXPECT_EQ(core.worker()->last_observed().layer(0)[1], 4000);
  std::vector<std::int64_t> received(2);
  core.received_tokens(0, received);
  EXPECT_EQ(received[0], std::int64_t{kMany}) << "of the window under way";
}

// With kCopy a begin_step copies no more than it is allowed; one unit always.
TEST(Install, CopiesNoMoreThanAllowedInOneStep) {
  BalancerConfig config = moving_config();
  config.install_mode = InstallMode::kCopy;
  config.staging_bytes = 256 * HandCluster::kExpertBytes;
  config.copy_bytes_per_step = 6 * HandCluster::kExpertBytes;
  const ClusterShape shape = make_shape(8, 16, 2, 24);
  HandCluster cluster(shape, config);
  std::size_t most = 0, units = 0;
  for (int step = 0; step < 60; ++step) {
    ASSERT_TRUE(cluster.make_step().ok());
    std::vector<std::size_t> installs(2, 0);
    std::size_t committed = 0;
    for (const BalancerEvent& event : cluster.core(0).events()) {
      if (event.kind != BalancerEventKind::kCommitted) continue;
      ++committed;
      for (const ExpertCopy& copy : event.plan->units[event.unit].copies)
        ++installs[static_cast<std::size_t>(shape.rank_of_slot(copy.destination_slot))];
    }
    units += committed;
    if (committed > 1) most = std::max({most, installs[0], installs[1]});
    ASSERT_TRUE(cluster.slots_hold_their_experts());
  }
  EXPECT_GT(units, 20U);
  EXPECT_LE(most, 6U);
}

}  // namespace
}  // namespace swiftbalancer
