// Reconfigurations that go wrong or take long, with real threads: a rank that never comes, one that
// loads for longer than a deadline, a join that fails and is repeated, a mode that goes on.

#include <barrier>
#include <chrono>
#include <latch>
#include <mutex>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/member_rank.hpp"
#include "runtime/threads_cluster.hpp"

namespace swiftbalancer {
namespace {

using ::testing::HasSubstr;
using testing_support::make_shape;
using testing_support::MemberRank;
using testing_support::moving_config;

constexpr int kSteps = 20;

void make_steps(MemberRank& member, int count = kSteps) {
  for (int step = 0; step < count; ++step) {
    const Status status = member.step();
    ASSERT_TRUE(status.ok()) << status.message();
    ASSERT_TRUE(member.slots_hold_their_experts());
  }
}

/// Runs `body` on one thread a rank.
void on_threads(int num_ranks, const std::function<void(int rank)>& body) {
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < num_ranks; ++rank) threads.emplace_back([&body, rank] { body(rank); });
}

// Rank 2 takes no part: the others name it, stay frozen, and go on without it.
TEST(Reconfigure, NamesARankThatDoesNotComeAndMayBeRepeated) {
  const ClusterShape shape = make_shape(2, 8, 3, 18);
  BalancerConfig config = moving_config(ControlMode::kReplicated);
  auto first = make_thread_transports(3), second = make_thread_transports(3),
       third = make_thread_transports(2);
  const std::vector<int> all = {0, 1, 2}, others = {0, 1};
  std::barrier left(3), over(3);
  on_threads(3, [&](int rank) {
    const auto at = static_cast<std::size_t>(rank);
    BalancerConfig mine = config;
    mine.deadline = std::chrono::milliseconds(rank == 2 ? 20'000 : 2'000);
    MemberRank member(shape, mine, rank, std::move(first[at]));
    make_steps(member);
    left.arrive_and_wait();
    if (rank != 2) {
      const Status late = member.balancer->reconfigure(all, std::move(second[at]));
      EXPECT_EQ(late.code(), ErrorCode::kTimeout) << late.message();
      EXPECT_THAT(late.message(), HasSubstr("rank 2"));
      EXPECT_EQ(member.balancer->begin_step({kSteps + 1}).code(), ErrorCode::kInvalidState);
      EXPECT_EQ(member.balancer->end_step().code(), ErrorCode::kInvalidState);
      const Status again = member.balancer->reconfigure(others, std::move(third[at]));
      ASSERT_TRUE(again.ok()) << again.message();
      make_steps(member);
    }
    over.arrive_and_wait();
  });
}

// Each expert takes most of a deadline, all of them several: the other ranks wait, for they hear of
// every one.
TEST(Reconfigure, ARankThatLoadsForLongerThanADeadlineIsNotLost) {
  const ClusterShape shape = make_shape(4, 8, 3, 12);  // half of the experts are on rank 1 alone
  const auto one_expert = std::chrono::milliseconds(1'800);
  auto first = make_thread_transports(3), second = make_thread_transports(2);
  const std::vector<int> survivors = {0, 2};
  std::barrier left(3), over(3);
  std::mutex mutex;
  int most_loaded = 0;
  on_threads(3, [&](int rank) {
    BalancerConfig config = moving_config(ControlMode::kReplicated);
    config.policy = "static";
    config.deadline = std::chrono::milliseconds(3'000);
    MemberRank member(shape, config, rank, std::move(first[static_cast<std::size_t>(rank)]));
    member.while_loading = [&] { std::this_thread::sleep_for(one_expert); };
    make_steps(member);
    left.arrive_and_wait();
    if (rank != 1) {
      const Status status =
          member.balancer->reconfigure(survivors, std::move(second[rank == 0 ? 0 : 1]));
      ASSERT_TRUE(status.ok()) << status.message();
      make_steps(member);
      const std::scoped_lock lock(mutex);
      most_loaded = std::max(most_loaded, member.loaded);
      EXPECT_EQ(member.balancer->stats().experts_loaded, static_cast<std::uint64_t>(member.loaded));
    }
    over.arrive_and_wait();
  });
  EXPECT_GT(most_loaded * one_expert, std::chrono::milliseconds(3'500))
      << "the deadline was not exceeded, so nothing was shown";
}

// The attempt of rank 1 to come back fails, since rank 2 is lost meanwhile; the next one works.
TEST(Join, MayBeRepeatedAfterItFailed) {
  const ClusterShape shape = make_shape(3, 8, 3, 18);
  const BalancerConfig config = moving_config(ControlMode::kReplicated);
  auto first = make_thread_transports(3), second = make_thread_transports(3),
       third = make_thread_transports(2);
  const std::vector<int> all = {0, 1, 2}, left_over = {0, 1};
  std::barrier left(3), failed(3), over(3);
  on_threads(3, [&](int rank) {
    const auto at = static_cast<std::size_t>(rank);
    auto member = std::make_unique<MemberRank>(shape, config, rank, std::move(first[at]));
    make_steps(*member);
    left.arrive_and_wait();
    Status status;
    if (rank == 0) status = member->balancer->reconfigure(all, std::move(second[0]));
    if (rank == 1) {
      member = std::make_unique<MemberRank>(shape, config, rank, std::move(second[1]), all);
      status = member->joined;
      EXPECT_EQ(member->balancer, nullptr);
    }
    if (rank == 2) second[2].reset();  // it is lost
    if (rank != 2) {
      EXPECT_EQ(status.code(), ErrorCode::kPeerLost) << status.message();
    }
    failed.arrive_and_wait();
    if (rank == 0) status = member->balancer->reconfigure(left_over, std::move(third[0]));
    if (rank == 1) {
      member = std::make_unique<MemberRank>(shape, config, rank, std::move(third[1]), left_over);
      status = member->joined;
    }
    if (rank != 2) {
      ASSERT_TRUE(status.ok()) << status.message();
      make_steps(*member, 60);
      EXPECT_EQ(member->num_empty(), 0) << "a plan has filled the slots of the new rank";
    }
    over.arrive_and_wait();
  });
}

// Whoever asked for it, and whoever dies: paused stays paused, and every rank knows.
TEST(Modes, APauseGoesOnWhenTheRankThatAskedForItIsLost) {
  const ClusterShape shape = make_shape(2, 8, 3, 18);
  const BalancerConfig config = moving_config(ControlMode::kReplicated);
  for (int asks : {0, 2}) {
    auto first = make_thread_transports(3), second = make_thread_transports(2);
    std::vector<int> survivors = {0, 1, 2};
    std::erase(survivors, asks);
    std::barrier left(3), over(3);
    on_threads(3, [&](int rank) {
      MemberRank member(shape, config, rank, std::move(first[static_cast<std::size_t>(rank)]));
      make_steps(member);
      if (rank == asks) member.balancer->set_mode(BalancingMode::kPaused);
      make_steps(member);
      EXPECT_EQ(member.balancer->health().mode, BalancingMode::kPaused);
      left.arrive_and_wait();
      if (rank != asks) {
        const auto place = std::ranges::find(survivors, rank) - survivors.begin();
        const Status status = member.balancer->reconfigure(
            survivors, std::move(second[static_cast<std::size_t>(place)]));
        ASSERT_TRUE(status.ok()) << status.message();
        const auto opened = member.balancer->stats().generations_opened;
        make_steps(member);
        EXPECT_EQ(member.balancer->health().mode, BalancingMode::kPaused);
        EXPECT_EQ(member.balancer->stats().generations_opened, opened);
        if (place == 1) member.balancer->set_mode(BalancingMode::kOn);
        make_steps(member);
        EXPECT_EQ(member.balancer->health().mode, BalancingMode::kOn);
        EXPECT_GT(member.balancer->stats().generations_opened, opened);
      }
      over.arrive_and_wait();
    });
  }
}

}  // namespace
}  // namespace swiftbalancer
