// What counts as one failure, and when health is good again.

#include <vector>

#include <gtest/gtest.h>

#include "runtime/health_keeper.hpp"

namespace swiftbalancer {
namespace {

TEST(HealthKeeper, TheUnitsThatASetDropsForOneReasonAreOneFailure) {
  std::vector<std::string> said;
  HealthKeeper health(0, [&](const std::string& line) { said.push_back(line); });
  MigrationPlan plan;
  plan.units.resize(5);
  const std::vector<PacketHeader> set(2);
  const std::vector<int> ranks = {0, 1};
  const auto drop = [&](std::uint32_t unit, Reason reason, std::uint64_t step) {
    health.hear({BalancerEventKind::kDropped, reason, {0, 40}, unit, &plan, 1}, set, ranks, step);
  };
  for (std::uint32_t unit = 0; unit < 3; ++unit) drop(unit, Reason::kTooOld, 100);
  EXPECT_EQ(health.health().failures, 1U);
  drop(3, Reason::kCopyFailed, 100);
  EXPECT_EQ(health.health().failures, 2U) << "another reason";
  drop(4, Reason::kCopyFailed, 101);
  EXPECT_EQ(health.health().failures, 3U) << "another set";
  EXPECT_FALSE(health.health().ok);
  EXPECT_EQ(said.size(), 1U) << "one line for what goes on failing";
  health.seen_to_work({0, 100}, 2);
  EXPECT_TRUE(health.health().ok);
}

TEST(HealthKeeper, SaysWhatGoesWrongBesideWhatIsWrongForGood) {
  std::vector<std::string> said;
  HealthKeeper health(0, [&](const std::string& line) { said.push_back(line); });
  health.take({.kind = Report::Kind::kPlannerOff}, 10);
  health.step_failed(20, "rank 0 waited for rank 3");
  health.step_failed(20, "rank 0 waited for rank 3");
  ASSERT_EQ(said.size(), 2U);
  EXPECT_EQ(said[1], "rank 0: rank 0 waited for rank 3");
  EXPECT_EQ(health.health().reason, "the planner was restarted too often: balancing is off")
      << "as of when it became bad";
  EXPECT_EQ(health.health().failures, 3U);
  health.step_begun();
  EXPECT_FALSE(health.health().ok);
}

}  // namespace
}  // namespace swiftbalancer
