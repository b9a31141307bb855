// Reconfigurations with real threads: what a lost rank takes with it, a join that fails and is
// repeated, a mode that goes on.

#include <atomic>
#include <thread>

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

// Each layer has room for four replicas only, so rank 1 takes experts with it that no other has.
TEST(Reconfigure, WhatOnlyTheLostRankHadIsLoadedOnceAndNothingElse) {
  const ClusterShape shape = make_shape(4, 8, 3, 12);
  BalancerConfig config = moving_config(ControlMode::kReplicated);
  config.policy = "static";
  auto first = make_thread_transports(3), second = make_thread_transports(2);
  const std::vector<int> survivors = {0, 2};
  Meeting left(3), over(3);
  std::atomic<int> lost{0}, loaded{0};
  on_threads(3, [&](int rank) {
    Attendance left_here(left), over_here(over);
    MemberRank member(shape, config, rank, std::move(first[static_cast<std::size_t>(rank)]));
    make_steps(member);
    if (rank == 1) lost = member.num_only_here();
    left_here.wait();
    if (rank != 1) {
      const Status status =
          member.balancer->reconfigure(survivors, std::move(second[rank == 0 ? 0 : 1]));
      ASSERT_TRUE(status.ok()) << status.message();
      make_steps(member);
      loaded += member.loaded;
      EXPECT_EQ(member.balancer->stats().experts_loaded, static_cast<std::uint64_t>(member.loaded));
    }
    over_here.wait();
  });
  EXPECT_GT(lost, 0);
  EXPECT_EQ(loaded, lost);
}

// The attempt of rank 1 to come back fails, since rank 2 is lost meanwhile; the next one works.
TEST(Join, MayBeRepeatedAfterItFailed) {
  const ClusterShape shape = make_shape(3, 8, 3, 18);
  const BalancerConfig config = moving_config(ControlMode::kReplicated);
  auto first = make_thread_transports(3), second = make_thread_transports(3),
       third = make_thread_transports(2);
  const std::vector<int> all = {0, 1, 2}, left_over = {0, 1};
  Meeting left(3), failed(3), over(3);
  on_threads(3, [&](int rank) {
    Attendance left_here(left), failed_here(failed), over_here(over);
    const auto at = static_cast<std::size_t>(rank);
    auto member = std::make_unique<MemberRank>(shape, config, rank, std::move(first[at]));
    make_steps(*member);
    left_here.wait();
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
    failed_here.wait();
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
    over_here.wait();
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
    Meeting left(3), over(3);
    on_threads(3, [&](int rank) {
      Attendance left_here(left), over_here(over);
      MemberRank member(shape, config, rank, std::move(first[static_cast<std::size_t>(rank)]));
      make_steps(member);
      if (rank == asks) member.balancer->set_mode(BalancingMode::kPaused);
      make_steps(member);
      EXPECT_EQ(member.balancer->health().mode, BalancingMode::kPaused);
      left_here.wait();
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
      over_here.wait();
    });
  }
}

}  // namespace
}  // namespace swiftbalancer
