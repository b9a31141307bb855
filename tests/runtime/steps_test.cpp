// What may come between the steps: calls that fail, calls out of order, values that do not exist.

#include <algorithm>
#include <chrono>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/hand_cluster.hpp"
#include "runtime/threads_cluster.hpp"

namespace swiftbalancer {
namespace {

using ::testing::HasSubstr;
using testing_support::HandCluster;
using testing_support::make_shape;

BalancerConfig stress_config() {
  BalancerConfig config;
  config.policy = "stress";
  config.rebalance_interval = 1;
  return config;
}

// Rank 1 pauses, as for a graph capture. Rank 0 goes on as far as it may, and waits as often as it
// likes, but not without the set of its step; once rank 1 is back all go on together.
TEST(FailedStep, MayBeRepeatedAndNothingElseIsAcceptedUntilItSucceeds) {
  BalancerConfig config = stress_config();
  config.deadline = std::chrono::milliseconds(1);
  HandCluster cluster(make_shape(2, 8, 2, 12), config);
  for (int step = 0; step < 20; ++step) ASSERT_TRUE(cluster.make_step().ok());
  BalancerCore& waits = cluster.core(0);
  BalancerCore& pauses = cluster.core(1);
  const auto steps_before = waits.stats().steps;

  std::uint64_t step = 21;
  Status begun = waits.begin_step({step});
  while (begun.ok()) {
    ASSERT_TRUE(waits.end_step().ok());
    cluster.run_workers();
    begun = waits.begin_step({++step});
  }
  EXPECT_EQ(step, 23U) << "sets up to step 20 are complete, and the lag is 2";
  EXPECT_EQ(begun.code(), ErrorCode::kTimeout) << begun.message();
  EXPECT_FALSE(waits.health().ok);
  EXPECT_EQ(waits.end_step().code(), ErrorCode::kInvalidState);
  const Status next = waits.begin_step({step + 1});
  EXPECT_EQ(next.code(), ErrorCode::kInvalidState);
  EXPECT_THAT(next.message(), HasSubstr("begin_step(23) failed; repeat it"));
  EXPECT_EQ(waits.begin_step({step}).code(), ErrorCode::kTimeout) << "waits again";

  for (std::uint64_t late = 21; late <= 22; ++late) {
    ASSERT_TRUE(pauses.begin_step({late}).ok());
    ASSERT_TRUE(pauses.end_step().ok());
    cluster.run_workers();
  }
  ASSERT_TRUE(waits.begin_step({step}).ok());
  EXPECT_TRUE(waits.health().ok) << waits.health().reason;
  ASSERT_TRUE(waits.end_step().ok());
  ASSERT_TRUE(pauses.begin_step({step}).ok());
  ASSERT_TRUE(pauses.end_step().ok());
  cluster.run_workers();
  EXPECT_EQ(waits.agreement()->used_step(), 21U) << "no set was left out";
  EXPECT_EQ(waits.agreement()->digest(), pauses.agreement()->digest());
  EXPECT_EQ(waits.stats().steps, steps_before + 3) << "a repeated call is the same step";
  EXPECT_TRUE(cluster.slots_hold_their_experts());
}

TEST(Record, IgnoresLayersAndSlotsThatDoNotExist) {
  HandCluster cluster(make_shape(2, 4, 1, 6), stress_config());
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
  BalancerConfig config = stress_config();
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

// One rank whose layers have parts of these sizes.
struct Registered {
  Registered(InstallMode mode, std::vector<std::vector<std::size_t>> part_bytes)
      : core(make_shape(2, 2, 1, 2), config(mode), 0), parts_of(std::move(part_bytes)) {}
  static BalancerConfig config(InstallMode mode) {
    BalancerConfig config;
    config.policy = "static";
    config.install_mode = mode;
    config.staging_bytes = 1 << 12;
    return config;
  }
  void add(int layer, int slot) {
    std::vector<WeightPart> parts;
    for (const std::size_t bytes : parts_of[static_cast<std::size_t>(layer)])
      parts.push_back({memory, bytes});
    core.register_weights(layer, slot, parts);
  }
  BalancerCore core;
  std::vector<std::vector<std::size_t>> parts_of;
  std::byte memory[256];
};

// The layer with the largest experts does not have the largest of each part.
TEST(Weights, WithCopiesLayersMayDifferInEveryPart) {
  for (const auto& parts : {std::vector<std::vector<std::size_t>>{{100, 10}, {50, 50}},
                            std::vector<std::vector<std::size_t>>{{100}, {50, 10, 20}}}) {
    Registered rank(InstallMode::kCopy, parts);
    for (const int layer : {0, 1}) {
      for (const int slot : {0, 1}) rank.add(layer, slot);
    }
    auto transports = make_thread_transports(1);
    EXPECT_NO_THROW(
        rank.core.start(Placement::initial(rank.core.shape()), std::move(transports[0])));
    EXPECT_GT(rank.core.staging_capacity(), 0);
  }
}

TEST(Weights, WhatIsRefusedIsNotRegistered) {
  Registered rank(InstallMode::kCopy, {{100, 10}, {50, 50}});
  rank.add(0, 0);
  EXPECT_THROW(rank.add(0, 0), Error) << "twice";
  const WeightPart other[] = {{rank.memory, 100}, {rank.memory, 11}};
  EXPECT_THROW(rank.core.register_weights(0, 1, other), Error) << "another size";
  const WeightPart nowhere[] = {{rank.memory, 100}, {nullptr, 10}};
  EXPECT_THROW(rank.core.register_weights(0, 1, nowhere), Error) << "no address";
  EXPECT_THROW(rank.core.register_weights(0, 1, {}), Error) << "no part";
  for (const int slot : {0, 1}) rank.add(1, slot);
  EXPECT_THROW(rank.core.start_empty(), Error) << "a slot is missing";
  rank.add(0, 1);
  EXPECT_NO_THROW(rank.core.start_empty());
}

// With kCopy a begin_step copies no more than it is allowed; one unit always.
TEST(Install, CopiesNoMoreThanAllowedInOneStep) {
  BalancerConfig config = stress_config();
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
