#include "planner/load_history.hpp"

#include <gtest/gtest.h>

#include "planner/routing_traffic.hpp"

namespace swiftbalancer {
namespace {

using testing::RecordedRouting;
using testing::RoutingTraffic;

constexpr std::int64_t kWindow = 4096;

TEST(LoadHistory, SeesNoChangeInOneDomain) {
  const RecordedRouting routing;
  for (unsigned seed = 0; seed < 12; ++seed) {
    SCOPED_TRACE(seed);
    for (int concurrency : {64, 256}) {
      LoadHistory history(RecordedRouting::shape(), kWindow);
      RoutingTraffic traffic(routing, concurrency,
                             static_cast<int>(seed) % RecordedRouting::kDomains, seed);
      while (history.assignments_since_change() < 60 * kWindow && history.num_changes() == 0)
        history.add(traffic.next_step());
      EXPECT_EQ(history.num_changes(), 0) << concurrency << " requests";
    }
  }
}

TEST(LoadHistory, SeesASwitchWithinAWindowAndForgetsWhatWasBefore) {
  const RecordedRouting routing;
  for (int from = 0; from < RecordedRouting::kDomains; ++from) {
    for (int to = 0; to < RecordedRouting::kDomains; ++to) {
      if (from == to) continue;
      SCOPED_TRACE(std::to_string(from) + " to " + std::to_string(to));
      LoadHistory history(RecordedRouting::shape(), kWindow);
      RoutingTraffic traffic(routing, 256, from, static_cast<unsigned>(17 * from + to));
      for (int step = 0; step < 41; ++step)
        history.add(traffic.next_step());  // not at a block's border
      ASSERT_EQ(history.num_changes(), 0);
      traffic.switch_to(to);
      std::int64_t after = 0;
      while (history.num_changes() == 0 && after < 2 * kWindow) {
        history.add(traffic.next_step());
        after += 256 * RecordedRouting::kTopK;
      }
      EXPECT_EQ(history.num_changes(), 1);
      EXPECT_LE(after, kWindow);
      EXPECT_LE(history.assignments_since_change(), after + kWindow / 4);
    }
  }
}

TEST(LoadHistory, SeesASlowDriftInTheEnd) {
  const RecordedRouting routing;
  LoadHistory history(RecordedRouting::shape(), kWindow);
  RoutingTraffic traffic(routing, 256, 0, 1);
  for (int step = 0; step < 200; ++step) history.add(traffic.next_step());
  traffic.drift_to(2);
  for (int step = 0; step < 200; ++step) history.add(traffic.next_step());
  EXPECT_GE(history.num_changes(), 1);
}

TEST(LoadHistory, TokensOfARequestMakeLoadsNoisier) {
  const RecordedRouting routing;
  const auto dispersion = [&](int concurrency) {
    LoadHistory history(RecordedRouting::shape(), kWindow);
    RoutingTraffic traffic(routing, concurrency, 1, 3);
    while (history.num_blocks() < 64) history.add(traffic.next_step());
    return history.dispersion();
  };
  EXPECT_LT(dispersion(256), 1.4);
  EXPECT_GT(dispersion(16), 1.5);
}

TEST(LoadHistory, LastWindowHoldsTheLatestBlocksOnly) {
  const ClusterShape small(
      {.num_moe_layers = 1, .num_logical_experts = 2, .num_ranks = 2, .num_slots = 2});
  LoadHistory history(small, 100);
  ExpertLoad first(1, 2), second(1, 2);
  first.layer(0)[0] = 25;
  second.layer(0)[1] = 25;
  for (int i = 0; i < 3; ++i) history.add(first);
  for (int i = 0; i < 4; ++i) history.add(second);
  EXPECT_EQ(history.last_window(), [] {
    ExpertLoad window(1, 2);
    window.layer(0)[1] = 100;
    return window;
  }());
}

TEST(LoadHistory, IdleStepsAreNoEvidence) {
  LoadHistory history(RecordedRouting::shape(), kWindow);
  for (int i = 0; i < 100; ++i)
    history.add(ExpertLoad(RecordedRouting::kLayers, RecordedRouting::kExperts));
  EXPECT_EQ(history.num_blocks(), 0);
  EXPECT_EQ(history.num_changes(), 0);
}

}  // namespace
}  // namespace swiftbalancer
