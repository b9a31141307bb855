#include <swiftbalancer/balancer.hpp>

#include <atomic>
#include <map>
#include <mutex>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/threads_cluster.hpp"
#include "wait_limit.hpp"

namespace swiftbalancer {
namespace {

using ::testing::HasSubstr;
using testing_support::make_shape;
using testing_support::RankUnderTest;
using testing_support::run_ranks;

struct Case {
  int ranks;
  InstallMode mode;
  std::uint64_t interval;
  std::uint64_t lag;
  std::size_t staging_experts;
};

class BalancerOnThreads : public testing::TestWithParam<Case> {};

// A random legal placement at every opportunity, real worker threads, real copies.
TEST_P(BalancerOnThreads, EveryRankServesTheSamePlacementAndTheRightBytesAtEveryStep) {
  const Case param = GetParam();
  const ClusterShape shape = make_shape(4, 12, param.ranks, 12 + 2 * param.ranks);
  BalancerConfig config;
  config.policy = "stress";
  config.rebalance_interval = 1;
  config.packet_interval = param.interval;
  config.packet_lag = param.lag;
  config.install_mode = param.mode;
  config.staging_bytes = param.staging_experts * RankUnderTest::kExpertBytes;

  std::mutex mutex;
  std::map<std::uint64_t, Placement> forwards;
  std::atomic<int> mismatches = 0;
  std::atomic<std::uint64_t> commits = 0, waits = 0;
  run_ranks(shape, config, [&](RankUnderTest& under_test, int rank) {
    Balancer& balancer = under_test.balancer;
    for (std::uint64_t step = 1; step <= 400; ++step) {
      ASSERT_TRUE(balancer.begin_step({step, Phase::kDecode, rank == 1}).ok());
      if (!under_test.slots_hold_their_experts()) ++mismatches;
      {
        const std::scoped_lock lock(mutex);
        const auto [first, is_new] = forwards.try_emplace(step, balancer.placement());
        if (!is_new && first->second != balancer.placement()) ++mismatches;
      }
      under_test.record_skewed(step);
      ASSERT_TRUE(balancer.end_step().ok());
    }
    commits = balancer.stats().units_committed;
    waits += balancer.stats().waits_for_plans + balancer.stats().waits_for_copies;
    EXPECT_TRUE(balancer.health().ok) << balancer.health().reason;
  });
  EXPECT_EQ(mismatches, 0);
  EXPECT_EQ(waits, 0U) << "the engine waited for a plan or a copy";
  // A single rank has nothing to move; the others must have been rearranged many times for this
  // test to mean anything.
  if (param.ranks > 1) {
    EXPECT_GT(commits, 10U);
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, BalancerOnThreads,
                         testing::Values(Case{1, InstallMode::kSwap, 1, 1, 4},
                                         Case{2, InstallMode::kSwap, 1, 1, 2},
                                         Case{3, InstallMode::kCopy, 1, 2, 8},
                                         Case{3, InstallMode::kSwap, 3, 2, 1},
                                         Case{8, InstallMode::kCopy, 2, 5, 3}),
                         [](const auto& shape) {
                           return "Ranks" + std::to_string(shape.param.ranks) + "Interval" +
                                  std::to_string(shape.param.interval) + "Lag" +
                                  std::to_string(shape.param.lag) + "Pool" +
                                  std::to_string(shape.param.staging_experts);
                         });

TEST(Balancer, ASkewedLoadIsBalancedAndThenLeftAlone) {
  const ClusterShape shape = make_shape(2, 16, 4, 20);
  BalancerConfig config;
  config.policy = "swift";
  config.rebalance_interval = 16;
  config.window_assignments = 2000;
  std::atomic<std::uint64_t> moves_at_half = 0, moves_at_end = 0;
  std::atomic<std::uint64_t> sets = 0;
  run_ranks(shape, config, [&](RankUnderTest& under_test, int rank) {
    for (std::uint64_t step = 1; step <= 90; ++step) {
      ASSERT_TRUE(under_test.balancer.begin_step({step}).ok());
      under_test.record_skewed(0);
      ASSERT_TRUE(under_test.balancer.end_step().ok());
      if (rank == 0 && step == 45) moves_at_half = under_test.balancer.stats().moves;
    }
    if (rank == 0) {
      moves_at_end = under_test.balancer.stats().moves;
      sets = under_test.balancer.stats().packet_sets;
    }
  });
  EXPECT_GT(moves_at_half, 0U);
  EXPECT_EQ(moves_at_end, moves_at_half)
      << "invariant 7: a stationary load causes no moves after the first good plan";
  EXPECT_EQ(sets, 88U);
}

// ---- Set-up ----

BalancerConfig good_config() { return {}; }

template <typename Change>
std::string refusal(Change change) {
  BalancerConfig config = good_config();
  change(config);
  return testing_support::refusal(make_shape(1, 4, 1, 4), config);
}

TEST(BalancerSetUp, RefusesBadValuesByNameAndValue) {
  EXPECT_THAT(refusal([](auto& c) { c.policy = "fastest"; }),
              testing::AllOf(HasSubstr("fastest"), HasSubstr("swift")));
  EXPECT_THAT(refusal([](auto& c) { c.packet_lag = 0; }), HasSubstr("packet_lag is 0"));
  EXPECT_THAT(refusal([](auto& c) { c.rebalance_interval = 0; }),
              HasSubstr("rebalance_interval is 0"));
  EXPECT_THAT(refusal([](auto& c) { c.imbalance_trigger = 0.5; }),
              HasSubstr("imbalance_trigger is 0.5"));
  EXPECT_THAT(refusal([](auto& c) {
                c.table_kind = TableKind::kDraw;
                c.locality_first = true;
              }),
              testing::AllOf(HasSubstr("table_kind is draw"), HasSubstr("locality_first")));
  EXPECT_THAT(refusal([](auto& c) { c.deadline = std::chrono::milliseconds(0); }),
              HasSubstr("deadline is 0"));
}

TEST(BalancerSetUp, NeedsEverySlotRegisteredAndAPoolOfAtLeastOneExpert) {
  std::byte memory[8];
  const WeightPart part{memory, sizeof memory};
  const ClusterShape shape = make_shape(1, 2, 1, 2);
  {
    Balancer balancer(shape, good_config(), std::move(make_thread_transports(1)[0]));
    balancer.register_weights(0, 0, {&part, 1});
    EXPECT_THAT([&] { balancer.start(Placement::initial(shape)); },
                testing::ThrowsMessage<Error>(HasSubstr("layer 0 slot 1")));
  }
  BalancerConfig config = good_config();
  config.staging_bytes = 7;
  Balancer balancer(shape, config, std::move(make_thread_transports(1)[0]));
  balancer.register_weights(0, 0, {&part, 1});
  balancer.register_weights(0, 1, {&part, 1});
  EXPECT_THAT([&] { balancer.start(Placement::initial(shape)); },
              testing::ThrowsMessage<Error>(HasSubstr("8")));
}

TEST(BalancerSetUp, RanksConfiguredDifferentlyAreRefusedAtStart) {
  const ClusterShape shape = make_shape(1, 4, 2, 4);
  auto transports = make_thread_transports(2);
  std::atomic<int> refused = 0;
  {
    std::vector<std::jthread> threads;
    for (int rank = 0; rank < 2; ++rank) {
      threads.emplace_back([&, rank] {
        BalancerConfig config = good_config();
        config.packet_lag = rank == 0 ? 2 : 3;
        try {
          RankUnderTest under_test(shape, config,
                                   std::move(transports[static_cast<std::size_t>(rank)]));
        } catch (const Error& error) {
          EXPECT_THAT(error.what(), HasSubstr("start all ranks alike"));
          ++refused;
        }
      });
    }
  }
  EXPECT_EQ(refused, 2);
}

TEST(BalancerCalls, OutOfOrderIsAStatusNotACrash) {
  run_ranks(make_shape(1, 4, 1, 4), good_config(), [](RankUnderTest& under_test, int) {
    EXPECT_EQ(under_test.balancer.begin_step({2}).code(), ErrorCode::kInvalidArgument);
    EXPECT_TRUE(under_test.balancer.begin_step({1}).ok());
    EXPECT_EQ(under_test.balancer.begin_step({2}).code(), ErrorCode::kInvalidArgument);
    EXPECT_TRUE(under_test.balancer.end_step().ok());
    EXPECT_EQ(under_test.balancer.end_step().code(), ErrorCode::kInvalidArgument);
  });
}

TEST(BalancerCalls, ALostPeerIsAStatusThatNamesIt) {
  const ClusterShape shape = make_shape(1, 4, 2, 4);
  auto transports = make_thread_transports(2);
  BalancerConfig config = good_config();
  config.deadline = testing_support::kWaitLimit;
  std::latch started(2);
  std::vector<std::jthread> threads;
  threads.emplace_back([&] {
    RankUnderTest under_test(shape, config, std::move(transports[1]));
    started.arrive_and_wait();
  });  // leaves without a step
  threads.emplace_back([&] {
    RankUnderTest under_test(shape, config, std::move(transports[0]));
    started.arrive_and_wait();
    Status status;
    for (std::uint64_t step = 1; step <= 10 && status.ok(); ++step) {
      status = under_test.balancer.begin_step({step});
      if (status.ok()) {
        EXPECT_TRUE(under_test.balancer.end_step().ok());
      }
    }
    EXPECT_EQ(status.code(), ErrorCode::kPeerLost) << status.message();
    EXPECT_THAT(status.message(), HasSubstr("1"));
    EXPECT_FALSE(under_test.balancer.health().ok);
  });
}

TEST(BalancerDispatch, DrawsFollowEveryCommit) {
  const ClusterShape shape = make_shape(2, 12, 3, 18);
  BalancerConfig config;
  config.policy = "stress";
  config.rebalance_interval = 1;
  config.table_kind = TableKind::kDraw;
  std::atomic<int> wrong = 0, spread = 0;
  std::atomic<std::uint64_t> commits = 0;
  run_ranks(shape, config, [&](RankUnderTest& under_test, int rank) {
    Balancer& balancer = under_test.balancer;
    for (std::uint64_t step = 1; step <= 100; ++step) {
      ASSERT_TRUE(balancer.begin_step({step}).ok());
      for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
        const DrawTable* draws = balancer.draw_table(layer);
        ASSERT_NE(draws, nullptr);
        for (std::int32_t expert = 0; expert < 12; ++expert) {
          const std::int32_t first = draws->slot(expert, 0, rank);
          for (std::uint32_t ticket = 0; ticket < 16; ++ticket) {
            const std::int32_t slot = draws->slot(expert, ticket, rank);
            if (balancer.placement().layer(layer)[static_cast<std::size_t>(slot)] != expert)
              ++wrong;
            if (slot != first) ++spread;
          }
        }
      }
      under_test.record_skewed(step);
      ASSERT_TRUE(balancer.end_step().ok());
    }
    commits += balancer.stats().units_committed;
  });
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(spread, 0);
  EXPECT_GT(commits, 0U);
}

// Placements change all the time; the tables of decode steps must follow them like the others.
TEST(BalancerDispatch, DecodeStepsPutEachExpertOnOneSlotWhereSoConfigured) {
  const ClusterShape shape = make_shape(2, 12, 3, 18);
  BalancerConfig config;
  config.policy = "stress";
  config.rebalance_interval = 1;
  config.packet_interval = 2;  // A packet is of both phases, a step's tables are of its own.
  config.decode_dispatch = DispatchObjective::kActivatedExperts;
  std::mutex mutex;
  std::map<std::uint64_t, std::vector<std::int32_t>>
      choices;  // by step, of the rank that came first
  std::atomic<int> wrong = 0, spread = 0;
  std::atomic<std::uint64_t> commits = 0;
  run_ranks(shape, config, [&](RankUnderTest& under_test, int) {
    Balancer& balancer = under_test.balancer;
    for (std::uint64_t step = 1; step <= 100; ++step) {
      const bool decode = step % 2 == 0;
      ASSERT_TRUE(balancer.begin_step({step, decode ? Phase::kDecode : Phase::kPrefill}).ok());
      std::vector<std::int32_t> chosen;
      for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
        for (std::int32_t expert = 0; expert < 12; ++expert) {
          const DispatchView table = balancer.dispatch_table(layer);
          chosen.push_back(table.slot(expert, 0));
          for (std::uint32_t ticket = 0; ticket < kDispatchEntries; ++ticket) {
            const std::int32_t slot = table.slot(expert, ticket);
            if (balancer.placement().layer(layer)[static_cast<std::size_t>(slot)] != expert)
              ++wrong;
            if (slot == chosen.back()) continue;
            ++(decode ? wrong : spread);
          }
        }
      }
      if (decode) {
        const std::scoped_lock lock(mutex);
        const auto [first, is_new] = choices.try_emplace(step, chosen);
        if (!is_new && first->second != chosen) ++wrong;
      }
      under_test.record_skewed(step);
      ASSERT_TRUE(balancer.end_step().ok());
    }
    commits = balancer.stats().units_committed;
  });
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(spread, 0);
  EXPECT_GT(commits, 0U);
}

}  // namespace
}  // namespace swiftbalancer
