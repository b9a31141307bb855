// Budgets and limits of a configuration: refused where they make no sense, compared between ranks,
// and kept by the plans that are served.

#include <algorithm>
#include <atomic>
#include <functional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/config.hpp"
#include "runtime/threads_cluster.hpp"

namespace swiftbalancer {
namespace {

using ::testing::HasSubstr;
using testing_support::make_shape;
using testing_support::RankUnderTest;
using testing_support::run_ranks;

using LimitsChange = std::function<void(PlanLimits&)>;

std::string refusal_of_limits(const LimitsChange& change) {
  BalancerConfig config;
  change(config.limits);
  return testing_support::refusal(make_shape(1, 4, 2, 6), config);
}

TEST(ConfiguredLimits, AreRefusedByName) {
  EXPECT_THAT(refusal_of_limits([](auto& l) { l.max_bytes_per_rank = -5; }),
              HasSubstr("max_bytes_per_rank is -5"));
  EXPECT_THAT(refusal_of_limits([](auto& l) { l.rank_speeds = {1.0, 1.0, 1.0}; }),
              HasSubstr("rank_speeds has 3 entries for 2 ranks"));
  EXPECT_THAT(refusal_of_limits([](auto& l) { l.pinned_experts = {4}; }),
              HasSubstr("pinned_experts: expert 4 does not exist; experts are 0 to 3"));
  EXPECT_THAT(refusal_of_limits([](auto& l) { l.max_replicas = 1; }),
              HasSubstr("max_replicas is 1"));
  EXPECT_THAT(refusal_of_limits([](auto& l) { l.gate = CostGate{0.0, 1.0, 1.0}; }),
              HasSubstr("seconds_per_imbalance is 0"));
}

TEST(ConfiguredLimits, EachOfThemMustBeEqualOnAllRanks) {
  const ClusterShape shape = make_shape(1, 4, 2, 6);
  const std::vector<std::vector<std::size_t>> parts = {{8}};
  const auto text_with = [&](const LimitsChange& change) {
    BalancerConfig config;
    change(config.limits);
    return config_text(config, shape, nullptr, parts);
  };
  const struct {
    const char* name;
    LimitsChange change;
  } differences[] = {
      {"max_moves_per_rebalance", [](auto& l) { l.max_moves_per_rebalance = 3; }},
      {"max_bytes_per_rebalance", [](auto& l) { l.max_bytes_per_rebalance = 3; }},
      {"max_bytes_per_rank", [](auto& l) { l.max_bytes_per_rank = 3; }},
      {"max_rank_moves", [](auto& l) { l.max_rank_moves = 3; }},
      {"max_replicas", [](auto& l) { l.max_replicas = 3; }},
      {"rank_speeds", [](auto& l) { l.rank_speeds = {1.0, 2.0}; }},
      {"pinned_experts", [](auto& l) { l.pinned_experts = {0}; }},
      {"cost gate", [](auto& l) { l.gate = CostGate{1.0, 1.0, 1.0}; }},
  };
  for (const auto& difference : differences) {
    EXPECT_THAT(first_difference(text_with([](auto&) {}), text_with(difference.change)),
                HasSubstr(difference.name));
  }
  EXPECT_NE(first_difference(text_with([](auto& l) { l.rank_speeds = {1.0, 2.0}; }),
                             text_with([](auto& l) { l.rank_speeds = {2.0, 1.0}; })),
            "");
}

TEST(ConfiguredLimits, FollowTheRanksThatAreLeft) {
  BalancerConfig config;
  config.limits.rank_speeds = {1.0, 2.0, 3.0, 4.0};
  config.limits.gate = CostGate{1e-4, 3e-4, 100.0};
  config.limits.max_bytes_per_rank = 77;
  const ClusterShape first = make_shape(2, 4, 4, 8);
  const std::vector<int> live = {0, 3};
  const std::vector<std::size_t> bytes = {10, 20};
  const PlannerConfig planner = planner_config(config, first, live, bytes);
  EXPECT_EQ(planner.limits.rank_speeds, (std::vector{1.0, 4.0}));
  EXPECT_DOUBLE_EQ(planner.limits.gate->seconds_per_imbalance, 2e-4);
  EXPECT_EQ(planner.limits.max_bytes_per_rank, 77);
  EXPECT_EQ(planner.expert_bytes, (std::vector<std::int64_t>{10, 20}));
}

BalancerConfig serving_config(const PlanLimits& limits) {
  BalancerConfig config;
  config.rebalance_interval = 8;
  config.window_assignments = 2000;
  config.limits = limits;
  return config;
}

// Serves loads that change every 100 steps. @param look at rank 0 in every step.
void serve(const PlanLimits& limits, const std::function<void(Balancer&)>& look) {
  run_ranks(make_shape(2, 16, 4, 20), serving_config(limits),
            [&](RankUnderTest& under_test, int rank) {
              for (std::uint64_t step = 1; step <= 250; ++step) {
                ASSERT_TRUE(under_test.balancer.begin_step({step}).ok());
                if (rank == 0) look(under_test.balancer);
                under_test.record_skewed(step);
                ASSERT_TRUE(under_test.balancer.end_step().ok());
              }
              EXPECT_TRUE(under_test.balancer.health().ok) << under_test.balancer.health().reason;
            });
}

// Plans adopted, each seen once.
template <typename Look>
auto on_adopted(Look look) {
  return [look](Balancer& balancer) {
    for (const BalancerEvent& event : balancer.events()) {
      if (event.kind == BalancerEventKind::kAdopted) look(*event.plan);
    }
  };
}

TEST(ServedPlans, StayWithinTheBudgetOfMovesAndBytes) {
  for (const PlanLimits& limits :
       {PlanLimits{.max_moves_per_rebalance = 2},
        PlanLimits{.max_bytes_per_rebalance = 2 * RankUnderTest::kExpertBytes + 50}}) {
    int most = 0, moves = 0;
    serve(limits, on_adopted([&](const MigrationPlan& plan) {
            most = std::max(most, plan.moves);
            moves += plan.moves;
          }));
    EXPECT_LE(most, 2);
    EXPECT_GT(moves, 0);
  }
}

TEST(ServedPlans, StayWithinTheBytesOfEveryRank) {
  const ClusterShape shape = make_shape(2, 16, 4, 20);
  int most = 0, moves = 0;
  serve({.max_bytes_per_rank = RankUnderTest::kExpertBytes},
        on_adopted([&](const MigrationPlan& plan) {
          std::vector<int> received(4, 0), sent(4, 0);
          for (const CommitUnit& unit : plan.units) {
            for (const ExpertCopy& copy : unit.copies) {
              const int from = shape.rank_of_slot(copy.source_slot);
              const int to = shape.rank_of_slot(copy.destination_slot);
              if (from == to) continue;
              most = std::max({most, ++received[static_cast<std::size_t>(to)],
                               ++sent[static_cast<std::size_t>(from)]});
            }
          }
          moves += plan.moves;
        }));
  EXPECT_EQ(most, 1);
  EXPECT_GT(moves, 0);
}

TEST(ServedPlans, LeavePinnedExpertsWhereTheyAre) {
  const Placement initial = Placement::initial(make_shape(2, 16, 4, 20));
  std::uint64_t moves = 0;
  bool stayed = true;
  serve({.pinned_experts = {0, 1}}, [&](Balancer& balancer) {
    for (int layer = 0; layer < 2; ++layer) {
      for (std::size_t slot = 0; slot < 20; ++slot) {
        if (initial.layer(layer)[slot] <= 1)
          stayed &= balancer.placement().layer(layer)[slot] == initial.layer(layer)[slot];
      }
    }
    moves = balancer.stats().moves;
  });
  EXPECT_TRUE(stayed);
  EXPECT_GT(moves, 0U);
}

TEST(ServedPlans, HaveNoMoreReplicasThanAllowed) {
  int most = 0;
  std::uint64_t moves = 0;
  serve({.max_replicas = 2}, [&](Balancer& balancer) {
    for (int layer = 0; layer < 2; ++layer)
      most = std::max(most, std::ranges::max(replica_count(balancer.placement().layer(layer), 16)));
    moves = balancer.stats().moves;
  });
  EXPECT_EQ(most, 2);
  EXPECT_GT(moves, 0U);
}

TEST(ServedPlans, ACostThatNothingPaysForMovesNothing) {
  std::uint64_t moves = 0;
  const auto count = [&](Balancer& balancer) { moves = balancer.stats().moves; };
  serve({.gate = CostGate{1e-4, 1.0, 10.0}}, count);
  EXPECT_EQ(moves, 0U);
  serve({.gate = CostGate{1e-4, 1e-6, 1000.0}}, count);
  EXPECT_GT(moves, 0U);
}

// Even loads are uneven times.
TEST(ServedPlans, GiveASlowRankLess) {
  const ClusterShape shape = make_shape(1, 16, 4, 20);
  std::atomic<std::uint64_t> moves = 0;
  std::atomic<double> before = 0.0, after = 0.0;
  run_ranks(shape, serving_config({.rank_speeds = {0.5, 1.0, 1.0, 1.0}}),
            [&](RankUnderTest& under_test, int rank) {
              Balancer& balancer = under_test.balancer;
              for (std::uint64_t step = 1; step <= 80; ++step) {
                ASSERT_TRUE(balancer.begin_step({step}).ok());
                const auto slots = balancer.placement().layer(0);
                const auto replicas = replica_count(slots, 16);
                std::vector<std::uint32_t> counts;
                for (int slot = shape.first_slot(rank); slot < shape.first_slot(rank + 1); ++slot) {
                  const auto expert =
                      static_cast<std::size_t>(slots[static_cast<std::size_t>(slot)]);
                  counts.push_back(static_cast<std::uint32_t>(
                      (1200 - 60 * expert) / static_cast<std::size_t>(replicas[expert])));
                }
                balancer.record(0, counts);
                ASSERT_TRUE(balancer.end_step().ok());
                if (rank == 0 && before == 0.0 && balancer.stats().plans_adopted == 1)
                  before = balancer.stats().plan_imbalance_before;
              }
              if (rank != 0) return;
              moves = balancer.stats().moves;
              after = balancer.stats().plan_imbalance_after;
            });
  EXPECT_GT(moves, 0U);
  EXPECT_GT(before, 1.5);
  EXPECT_LT(after, 1.2);
}

}  // namespace
}  // namespace swiftbalancer
