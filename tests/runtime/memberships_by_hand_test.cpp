// Memberships whose order of events matters, in one thread: what is refused, named, missed, or
// cannot be entered.

#include <chrono>
#include <memory>
#include <stdexcept>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/hand_cluster.hpp"
#include "runtime/threads_cluster.hpp"

namespace swiftbalancer {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using testing_support::HandCluster;
using testing_support::make_shape;

using Transports = std::vector<std::unique_ptr<Transport>>;

class MembershipsByHand : public ::testing::Test {
 protected:
  static BalancerConfig config() {
    BalancerConfig config;
    config.policy = "stress";
    config.rebalance_interval = 2;
    config.deadline = std::chrono::milliseconds(20);  // of calls that are to wait in vain
    config.load_expert = [](int layer, int expert, std::span<std::byte* const> parts) {
      HandCluster::fill(parts[0], layer, expert);
    };
    return config;
  }
  MembershipsByHand() : cluster_(make_shape(2, 8, 4, 32), config()) {
    for (int step = 0; step < 10; ++step) EXPECT_TRUE(cluster_.make_step().ok());
  }
  // All of these ranks go on together. @returns the first failure.
  Status reconfigure(const std::vector<int>& live) {
    Transports transports = make_thread_transports(static_cast<int>(live.size()));
    std::vector<std::unique_ptr<Reconfiguration>> changes;
    for (std::size_t i = 0; i < live.size(); ++i) {
      changes.push_back(
          cluster_.core(live[i]).begin_reconfiguration(live, std::move(transports[i])));
    }
    for (bool over = false; !over;) {
      over = true;
      for (auto& change : changes) over &= change->advance();
    }
    for (std::size_t i = 0; i < live.size(); ++i) {
      if (!changes[i]->status().ok()) return changes[i]->status();
      cluster_.core(live[i]).enter(changes[i]->take());
    }
    return {};
  }
  // A step of these ranks.
  void step(const std::vector<int>& live) {
    for (const int rank : live) {
      BalancerCore& core = cluster_.core(rank);
      const Status begun = core.begin_step({core.step() + 1});
      ASSERT_TRUE(begun.ok()) << begun.message();
      ASSERT_TRUE(core.end_step().ok());
    }
    cluster_.run_workers();
  }

  HandCluster cluster_;
};

TEST_F(MembershipsByHand, ATimeoutNamesTheRanksByTheirFirstNumbersAndNoOther) {
  ASSERT_TRUE(reconfigure({0, 2, 3}).ok());
  // Rank 3 begins no more steps; rank 2 does.
  BalancerCore& waits = cluster_.core(2);
  Status begun;
  for (int steps = 0; steps < 5 && begun.ok(); ++steps) {
    for (BalancerCore* core : {&waits, &cluster_.core(0)}) {
      begun = core->begin_step({core->step() + 1});
      if (!begun.ok()) break;
      EXPECT_TRUE(core->end_step().ok());
    }
    cluster_.run_workers();
  }
  EXPECT_EQ(begun.code(), ErrorCode::kTimeout);
  EXPECT_THAT(begun.message(), HasSubstr("rank 2 waited 20 ms at step"));
  EXPECT_THAT(begun.message(), HasSubstr("of rank 3"));
  EXPECT_THAT(begun.message(), Not(HasSubstr("rank 0")));
}

TEST_F(MembershipsByHand, ARankThatDoesNotComeIsNamedAndTheOthersGoOn) {
  const std::vector<int> all = {0, 2, 3};
  Transports transports = make_thread_transports(3);
  const Status late = cluster_.core(2).reconfigure(all, std::move(transports[1]));
  EXPECT_EQ(late.code(), ErrorCode::kTimeout) << late.message();
  EXPECT_THAT(late.message(), HasSubstr("of rank 2: until the deadline nothing came from rank 0, "
                                        "rank 3"));
  EXPECT_EQ(cluster_.core(2).begin_step({11}).code(), ErrorCode::kInvalidState);
  EXPECT_EQ(cluster_.core(2).end_step().code(), ErrorCode::kInvalidState);
  ASSERT_TRUE(reconfigure({2, 3}).ok());
  step({2, 3});
}

TEST_F(MembershipsByHand, ALostRankIsNamedByItsFirstNumber) {
  const std::vector<int> all = {0, 2, 3};
  Transports transports = make_thread_transports(3);
  transports[2].reset();
  const Status lost = cluster_.core(2).reconfigure(all, std::move(transports[1]));
  EXPECT_EQ(lost.code(), ErrorCode::kPeerLost) << lost.message();
  EXPECT_THAT(lost.message(), HasSubstr("lost rank 3"));
}

TEST_F(MembershipsByHand, WhatDoesNotFitIsRefusedAndServingGoesOn) {
  const auto refused = [&](const std::vector<int>& live, int number, int num_ranks) {
    Transports transports = make_thread_transports(num_ranks);
    return cluster_.core(1).reconfigure(live,
                                        std::move(transports[static_cast<std::size_t>(number)]));
  };
  EXPECT_EQ(refused({1, 0}, 0, 2).code(), ErrorCode::kInvalidArgument) << "not ascending";
  EXPECT_EQ(refused({1, 4}, 0, 2).code(), ErrorCode::kInvalidArgument) << "no such rank";
  EXPECT_EQ(refused({0, 2}, 1, 2).code(), ErrorCode::kInvalidArgument) << "not this rank's place";
  EXPECT_EQ(refused({0, 1}, 1, 3).code(), ErrorCode::kInvalidArgument) << "another transport";
  for (int more = 0; more < 5; ++more) EXPECT_TRUE(cluster_.make_step().ok());
}

TEST(FewSlots, ARankThatCannotHoldAllExpertsIsToldSoAndServesOn) {
  BalancerConfig config;
  config.policy = "static";
  HandCluster cluster(make_shape(1, 8, 2, 10), config);
  ASSERT_TRUE(cluster.make_step().ok());
  const std::vector<int> alone = {0};
  Transports transports = make_thread_transports(1);
  const Status few = cluster.core(0).reconfigure(alone, std::move(transports[0]));
  EXPECT_EQ(few.code(), ErrorCode::kUnavailable);
  EXPECT_THAT(few.message(), HasSubstr("5 slots, which cannot hold 8 experts"));
  EXPECT_TRUE(cluster.make_step().ok());
}

// Ranks 0 to 2 take rank 3 for lost, which lives and has missed that membership.
TEST_F(MembershipsByHand, ARankThatMissedAMembershipComesBackAsOneThatJoins) {
  ASSERT_TRUE(reconfigure({0, 1, 2}).ok());
  for (int more = 0; more < 10; ++more) step({0, 1, 2});
  const auto epochs = cluster_.core(0).epochs();
  const std::vector<std::uint64_t> reached(epochs.begin(), epochs.end());
  const Status back = reconfigure({0, 1, 2, 3});
  ASSERT_TRUE(back.ok()) << back.message();
  EXPECT_THAT(cluster_.core(3).epochs(), ::testing::ElementsAreArray(reached));
  EXPECT_EQ(cluster_.core(3).step(), cluster_.core(0).step());
  step({0, 1, 2, 3});
}

// The planner of rank 1 cannot be made when the membership begins: no rank is the worse for it.
TEST(MembershipNotEntered, AnotherAttemptFollows) {
  int made = 0, fails_at = 0;
  const auto make_planning = [&]() -> std::unique_ptr<Planning> {
    if (++made == fails_at) throw std::runtime_error("its program is gone");
    return make_thread_planning({.policy = "stress"}, 5);
  };
  BalancerConfig config;
  config.policy = "stress";
  HandCluster cluster(make_shape(2, 8, 2, 12), config, 0, make_planning);
  for (int step = 0; step < 5; ++step) ASSERT_TRUE(cluster.make_step().ok());
  fails_at = made + 2;
  const std::vector<int> both = {0, 1};
  for (const bool works : {false, true}) {
    Transports transports = make_thread_transports(2);
    std::unique_ptr<Reconfiguration> changes[2];
    for (int rank : both) {
      const auto at = static_cast<std::size_t>(rank);
      changes[at] = cluster.core(rank).begin_reconfiguration(both, std::move(transports[at]));
    }
    while (!(changes[0]->advance() & changes[1]->advance())) {
    }
    ASSERT_TRUE(changes[0]->status().ok()) << changes[0]->status().message();
    ASSERT_TRUE(changes[1]->status().ok()) << changes[1]->status().message();
    cluster.core(0).enter(changes[0]->take());
    if (works) {
      cluster.core(1).enter(changes[1]->take());
    } else {
      EXPECT_THROW(cluster.core(1).enter(changes[1]->take()), std::runtime_error);
      EXPECT_EQ(cluster.core(1).begin_step({6}).code(), ErrorCode::kInvalidState);
    }
  }
  EXPECT_EQ(cluster.core(1).health().membership, 2U);
  for (int step = 0; step < 5; ++step) ASSERT_TRUE(cluster.make_step().ok());
  EXPECT_TRUE(cluster.slots_hold_their_experts());
}

}  // namespace
}  // namespace swiftbalancer
