// Whatever is thrown where it must not end serving: every allocation fails once, in turn, on the
// engine's thread and on the worker's, and so does every callback. A program of its own: it
// replaces operator new.

#include <stdexcept>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "allocations.hpp"
#include "runtime/hand_cluster.hpp"
#include "runtime/threads_cluster.hpp"

namespace swiftbalancer {
namespace {

using ::testing::HasSubstr;
using testing_support::allocations;
using testing_support::HandCluster;
using testing_support::make_shape;
using testing_support::RankUnderTest;
using testing_support::run_ranks;

BalancerConfig moving_config(ControlMode mode) {
  BalancerConfig config;
  config.policy = "stress";
  config.rebalance_interval = 3;
  config.max_open_sets = 20;
  config.control_mode = mode;
  return config;
}

struct Outcome {
  bool failed = false;  // the allocation that was to fail was reached
  std::string broken;   // what went wrong that must not
};

// Some steps in the middle of which one allocation fails.
Outcome run_with_failure(ControlMode mode, InstallMode install, std::int64_t number) {
  BalancerConfig config = moving_config(mode);
  config.install_mode = install;
  HandCluster cluster(make_shape(2, 6, 2, 10), config);
  Outcome run;
  // The product's calls, not the test's.
  cluster.on_calls = cluster.on_rounds = [](bool begins) { allocations.watched = begins; };
  allocations = {.watched = false, .left = number};
  for (int step = 0; step < 8 && run.broken.empty(); ++step) {
    if (Status made = cluster.make_step(); !made.ok()) run.broken = made.message();
  }
  run.failed = allocations.has_failed;
  allocations = {};
  const std::uint64_t commits = cluster.core(0).stats().units_committed;
  for (int step = 0; step < 25 && run.broken.empty(); ++step) {
    if (Status made = cluster.make_step(); !made.ok()) run.broken = made.message();
    if (!cluster.slots_hold_their_experts()) run.broken = "wrong bytes or placements";
  }
  if (run.broken.empty() && cluster.core(0).stats().units_committed <= commits)
    run.broken = "balancing does not go on";
  return run;
}

TEST(Containment, ServingAndBalancingGoOnAfterAnyFailedAllocation) {
  for (ControlMode mode : {ControlMode::kReplicated, ControlMode::kLeader}) {
    for (InstallMode install : {InstallMode::kSwap, InstallMode::kCopy}) {
      // A failure is replayed alone by its number.
      const char* only = std::getenv("SWIFTBALANCER_ALLOCATION");
      std::int64_t number = only != nullptr ? std::atoll(only) : 0;
      for (bool reached = true; reached; ++number) {
        const Outcome run = run_with_failure(mode, install, number);
        ASSERT_EQ(run.broken, "") << "allocation " << number << " failed; leader mode "
                                  << (mode == ControlMode::kLeader);
        reached = run.failed;
      }
      EXPECT_GT(number, 200) << "few allocations were reached";
    }
  }
}

// The log is the engine's: it may throw, on either thread.
TEST(Containment, ALogThatThrowsEndsNothing) {
  BalancerConfig config = moving_config(ControlMode::kReplicated);
  std::atomic<int> lines = 0;
  config.log = [&lines](const std::string&) {
    ++lines;
    throw std::runtime_error("no disk");
  };
  config.thread_init = [] { throw std::runtime_error("no such core"); };
  run_ranks(make_shape(2, 8, 2, 12), config, [](RankUnderTest& under_test, int) {
    for (std::uint64_t step = 1; step <= 60; ++step) {
      ASSERT_TRUE(under_test.balancer.begin_step({step}).ok());
      under_test.record_skewed(step);
      ASSERT_TRUE(under_test.balancer.end_step().ok());
    }
    EXPECT_GT(under_test.balancer.stats().units_committed, 0U);
  });
  EXPECT_GE(lines, 2) << "each worker says that thread_init failed";
}

}  // namespace
}  // namespace swiftbalancer
