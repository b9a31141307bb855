// Memberships with real worker threads over the thread transport: a rank is lost, the others go on,
// and a new rank joins.

#include <unistd.h>

#include <atomic>
#include <numeric>
#include <tuple>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/member_rank.hpp"
#include "runtime/threads_cluster.hpp"

namespace swiftbalancer {
namespace {

using testing_support::Attendance;
using testing_support::make_shape;
using testing_support::Meeting;
using testing_support::MemberRank;
using testing_support::moving_config;

// The transports of a membership, between threads or over shared memory.
struct Joined {
  Joined(bool over_shm, int num_ranks) {
    if (!over_shm) {
      ranks = make_thread_transports(num_ranks);
      return;
    }
    static std::atomic<int> made{0};
    group = std::make_unique<ShmGroup>(
        "swiftbalancer." + std::to_string(::getpid()) + ".membership" + std::to_string(made++),
        num_ranks);
    for (int rank = 0; rank < num_ranks; ++rank)
      ranks.push_back(open_shm_transport(group->name(), rank));
  }
  std::unique_ptr<Transport> take(int rank) {
    return std::move(ranks[static_cast<std::size_t>(rank)]);
  }
  std::unique_ptr<ShmGroup> group;
  std::vector<std::unique_ptr<Transport>> ranks;
};

class Membership : public testing::TestWithParam<std::tuple<ControlMode, bool>> {};

// Rank 1 of 3 vanishes in the middle of migrations; ranks 0 and 2 go on; then rank 1 comes back.
TEST_P(Membership, SurvivorsGoOnAndANewRankJoins) {
  const ClusterShape shape = make_shape(3, 8, 3, 18);
  const auto [mode, over_shm] = GetParam();
  const BalancerConfig config = moving_config(mode);
  Joined first(over_shm, 3), second(over_shm, 2), third(over_shm, 3);
  const std::vector<int> survivors = {0, 2}, all = {0, 1, 2};
  constexpr int kSteps = 60;
  Meeting left(3), over(3);
  std::atomic<int> moves_after{0}, loaded{0}, lost{0};
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < 3; ++rank) {
    threads.emplace_back([&, rank] {
      Attendance left_here(left), over_here(over);
      auto member = std::make_unique<MemberRank>(shape, config, rank, first.take(rank));
      for (int step = 0; step < kSteps; ++step) ASSERT_TRUE(member->step().ok());
      // All ranks have used the same sets, so a reconfiguration finds this placement.
      if (rank == 1) lost = member->num_only_here();
      left_here.wait();
      if (rank == 1) {
        member = std::make_unique<MemberRank>(shape, config, rank, third.take(1), all);
        ASSERT_TRUE(member->joined.ok()) << member->joined.message();
      } else {
        const Status status =
            member->balancer->reconfigure(survivors, second.take(rank == 0 ? 0 : 1));
        ASSERT_TRUE(status.ok()) << status.message();
        EXPECT_EQ(member->balancer->shape().num_ranks(), 2);
        const Health health = member->balancer->health();
        EXPECT_TRUE(health.ok) << "the ranks left go on: " << health.reason;
        EXPECT_EQ(health.reason, "rank 1 lost at step 60; 2 ranks go on");
        EXPECT_GE(health.failures, 1U);
        EXPECT_TRUE(member->slots_hold_their_experts());
        for (int step = 0; step < kSteps; ++step) {
          ASSERT_TRUE(member->step().ok());
          ASSERT_TRUE(member->slots_hold_their_experts());
        }
        const Status joined = member->balancer->reconfigure(all, third.take(rank));
        ASSERT_TRUE(joined.ok()) << joined.message();
        EXPECT_GT(member->num_empty(), 0) << "the new rank's slots start empty";
      }
      const auto before = member->balancer->stats().moves;
      for (int step = 0; step < kSteps; ++step) {
        ASSERT_TRUE(member->step().ok());
        ASSERT_TRUE(member->slots_hold_their_experts());
      }
      EXPECT_EQ(member->num_empty(), 0) << "a plan has filled them";
      moves_after += static_cast<int>(member->balancer->stats().moves - before);
      EXPECT_EQ(member->balancer->health().membership, 2U);
      EXPECT_EQ(member->balancer->stats().experts_loaded,
                static_cast<std::uint64_t>(member->loaded));
      loaded += member->loaded;
      over_here.wait();  // nobody's transport closes while a peer still reads
    });
  }
  threads.clear();
  EXPECT_GT(moves_after, 0);
  EXPECT_EQ(loaded, lost) << "what only rank 1 had is loaded once, and nothing else";
}

INSTANTIATE_TEST_SUITE_P(ThreadsAndShm, Membership,
                         testing::Combine(testing::Values(ControlMode::kReplicated,
                                                          ControlMode::kLeader),
                                          testing::Bool()));

// Rank 1 of unequal ones is lost: the plans of those left go by their own speeds.
TEST(MembershipLimits, SpeedsStayWithTheirRanks) {
  const ClusterShape shape = make_shape(2, 8, 3, 18);
  BalancerConfig config = moving_config(ControlMode::kReplicated);
  config.policy = "swift";
  config.limits.rank_speeds = {1.0, 1.0, 0.25};
  config.limits.max_moves_per_rebalance = 5;
  auto first = make_thread_transports(3), second = make_thread_transports(2);
  const std::vector<int> survivors = {0, 2};
  Meeting left(3), over(3);
  std::atomic<std::uint64_t> plans_after{0};
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < 3; ++rank) {
    threads.emplace_back([&, rank] {
      Attendance left_here(left), over_here(over);
      MemberRank member(shape, config, rank, std::move(first[static_cast<std::size_t>(rank)]));
      for (int step = 0; step < 20; ++step) ASSERT_TRUE(member.step().ok());
      left_here.wait();
      if (rank != 1) {
        const Status status =
            member.balancer->reconfigure(survivors, std::move(second[rank == 0 ? 0 : 1]));
        ASSERT_TRUE(status.ok()) << status.message();
        const auto before = member.balancer->stats().plans_adopted;
        for (int step = 0; step < 60; ++step) ASSERT_TRUE(member.step().ok());
        EXPECT_TRUE(member.balancer->health().ok) << member.balancer->health().reason;
        plans_after += member.balancer->stats().plans_adopted - before;
      }
      over_here.wait();
    });
  }
  threads.clear();
  EXPECT_GT(plans_after, 0U);
}

// Rank 1 comes back with another packet_lag: nobody takes it in, and the others go on without it.
TEST(Join, ARankThatWasStartedDifferentlyIsRefusedAndTheOthersGoOn) {
  const ClusterShape shape = make_shape(2, 8, 3, 18);
  const BalancerConfig config = moving_config(ControlMode::kReplicated);
  auto first = make_thread_transports(3), second = make_thread_transports(3),
       third = make_thread_transports(2);
  const std::vector<int> all = {0, 1, 2}, others = {0, 2};
  Meeting left(3), over(3);
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < 3; ++rank) {
    threads.emplace_back([&, rank] {
      Attendance left_here(left), over_here(over);
      const auto at = static_cast<std::size_t>(rank);
      auto member = std::make_unique<MemberRank>(shape, config, rank, std::move(first[at]));
      for (int step = 0; step < 20; ++step) ASSERT_TRUE(member->step().ok());
      left_here.wait();
      Status changed;
      if (rank == 1) {
        BalancerConfig other = config;
        other.packet_lag = 3;
        member = std::make_unique<MemberRank>(shape, other, rank, std::move(second[at]), all);
        changed = member->joined;
      } else {
        changed = member->balancer->reconfigure(all, std::move(second[at]));
      }
      EXPECT_EQ(changed.code(), ErrorCode::kInvalidArgument) << changed.message();
      EXPECT_THAT(changed.message(), testing::HasSubstr("\"packet_lag "));
      over_here.wait();
      if (rank != 1) {
        const Status again =
            member->balancer->reconfigure(others, std::move(third[rank == 0 ? 0 : 1]));
        ASSERT_TRUE(again.ok()) << again.message();
        for (int step = 0; step < 40; ++step) {
          ASSERT_TRUE(member->step().ok());
          ASSERT_TRUE(member->slots_hold_their_experts());
        }
      }
      over_here.wait();
    });
  }
}

TEST(Start, NamesTheSettingInWhichRanksDiffer) {
  const ClusterShape shape = make_shape(1, 4, 2, 4);
  auto transports = make_thread_transports(2);
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      BalancerConfig config = moving_config(ControlMode::kReplicated);
      config.packet_lag = rank == 0 ? 2 : 3;
      try {
        MemberRank member(shape, config, rank,
                          std::move(transports[static_cast<std::size_t>(rank)]));
        ADD_FAILURE() << "the ranks were to be refused";
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
        EXPECT_THAT(error.what(),
                    testing::HasSubstr("\"packet_lag 2\" on the one, \"packet_lag 3\""));
      }
    });
  }
}

}  // namespace
}  // namespace swiftbalancer
