// The active plan: its age limit (rule 18), bounded installs, roll forward (rules 12 and 13).

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "agreement_ranks.hpp"

namespace swiftbalancer::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;

AgreementConfig config_with(std::uint64_t interval) {
  AgreementConfig config = eager_config();
  config.packet_interval = interval;
  config.max_active_sets = 6;
  return config;
}

class PlanAge : public ::testing::TestWithParam<std::uint64_t>, protected AgreementRanks {
 protected:
  PlanAge() : AgreementRanks(config_with(GetParam())) {}
  // @returns the sets used until something is decided, that one included.
  int sets_until_decided() {
    int sets = 0;
    for (int i = 0; i < 100; ++i) {
      const std::uint64_t used = ranks[0].used_step();
      const bool decided = !step().empty();
      sets += ranks[0].used_step() != used ? 1 : 0;
      if (decided) return sets;
    }
    return -1;
  }
};

TEST_P(PlanAge, APlanThatDoesNotGetOnEndsInOneSet) {
  open();
  const MigrationPlan plan = plan_of({0, 1, 0}, 7);
  hold_and_adopt(plan);
  ranks[0].staged(plan.generation, 3);  // rank 1 gets nothing
  EXPECT_EQ(sets_until_decided(), 6);
  ASSERT_EQ(last.size(), 5U);
  for (std::uint32_t unit = 0; unit < 3; ++unit) {
    EXPECT_EQ(last[unit].kind, BalancerEventKind::kDropped);
    EXPECT_EQ(last[unit].reason, Reason::kTooOld);
    EXPECT_EQ(last[unit].unit, unit);
    EXPECT_EQ(last[unit].rank, 1) << "it is furthest behind";
  }
  EXPECT_EQ(last[3].kind, BalancerEventKind::kRetired);
  EXPECT_EQ(last[4].kind, BalancerEventKind::kOpened) << "balancing goes on";
  EXPECT_THAT(ranks[0].epochs(), ElementsAre(0, 0, 0));
  EXPECT_EQ(ranks[0].active_plan(), nullptr);
}

TEST_P(PlanAge, AgeCountsFromTheLastCommit) {
  open();
  const MigrationPlan plan = plan_of({0, 1, 2}, 7);
  hold_and_adopt(plan);
  for (std::uint32_t unit = 1; unit <= 2; ++unit) {
    stage(plan, unit);
    EXPECT_LT(sets_until_decided(), 6);
    EXPECT_EQ(last[0].kind, BalancerEventKind::kCommitted);
  }
  EXPECT_EQ(sets_until_decided(), 6);
  EXPECT_EQ(last[0].kind, BalancerEventKind::kDropped);
  EXPECT_EQ(last[0].reason, Reason::kTooOld);
  EXPECT_EQ(last[0].unit, 2U);
  EXPECT_THAT(ranks[0].epochs(), ElementsAre(1, 1, 0));
}

TEST_P(PlanAge, WhatIsStagedInTheLastSetIsCommittedNotDropped) {
  open();
  const MigrationPlan plan = plan_of({0}, 7);
  hold_and_adopt(plan);
  const std::uint64_t last_set = ranks[0].used_step() + 6 * GetParam();
  while (now + 1 < last_set) EXPECT_TRUE(step().empty());
  stage(plan, 1);
  decide();
  EXPECT_EQ(last[0].kind, BalancerEventKind::kCommitted);
}

TEST_P(PlanAge, ReportsOfAPlanThatWasEndedAreIgnored) {
  open();
  const MigrationPlan plan = plan_of({0}, 7);
  hold_and_adopt(plan);
  EXPECT_EQ(sets_until_decided(), 6);
  stage(plan, 1);
  ranks[1].unit_failed(plan.generation, 0);
  open();
  const MigrationPlan next = plan_of({0}, 9);
  hold_and_adopt(next);
  EXPECT_TRUE(decide(static_cast<int>(GetParam()) * 2).empty());
  stage(next, 1);
  decide();
  EXPECT_EQ(last[0].kind, BalancerEventKind::kCommitted);
  EXPECT_EQ(last[0].generation, next.generation);
}

INSTANTIATE_TEST_SUITE_P(Intervals, PlanAge, ::testing::Values(1, 3));

class BoundedInstalls : public ::testing::Test {
 protected:
  // Units committed set by set, all staged at once.
  static std::vector<std::size_t> commits_per_set(std::uint32_t limit,
                                                  const std::vector<std::uint32_t>& installs) {
    AgreementConfig config = eager_config();
    config.max_installs_per_set = limit;
    config.max_active_sets = 3;  // shorter than the plan: commits are progress
    AgreementRanks cluster(config);
    cluster.open();
    MigrationPlan plan = cluster.plan_of(std::vector<int>(installs.size(), 0), 7);
    for (std::size_t unit = 0; unit < installs.size(); ++unit)
      plan.units[unit].most_installs = installs[unit];
    cluster.hold_and_adopt(plan);
    cluster.stage(plan, static_cast<std::uint32_t>(installs.size()));
    std::vector<std::size_t> commits;
    std::uint32_t next = 0;
    while (cluster.ranks[0].active_plan() == &plan && commits.size() < 50) {
      std::size_t committed = 0;
      cluster.step();
      for (const BalancerEvent& decision : cluster.last) {
        if (decision.kind != BalancerEventKind::kCommitted) continue;
        EXPECT_EQ(decision.unit, next++) << "in plan order";
        ++committed;
      }
      if (committed > 0 || !commits.empty()) commits.push_back(committed);
    }
    EXPECT_EQ(cluster.ranks[0].epochs()[0], installs.size());
    return commits;
  }
};

TEST_F(BoundedInstalls, ASetCommitsAsManyUnitsAsFit) {
  EXPECT_THAT(commits_per_set(4, {2, 2, 2, 1, 1, 3, 1}), ElementsAre(2, 3, 2));
}

TEST_F(BoundedInstalls, AUnitLargerThanTheLimitIsCommittedAlone) {
  EXPECT_THAT(commits_per_set(4, {1, 9, 1, 9, 9}), ElementsAre(1, 1, 1, 1, 1));
}

TEST_F(BoundedInstalls, UnitsWithoutCopiesCostNothing) {
  EXPECT_THAT(commits_per_set(1, {0, 0, 1, 0, 0, 1}), ElementsAre(5, 1));
}

TEST_F(BoundedInstalls, WithoutALimitAllThatIsStagedIsCommittedAtOnce) {
  EXPECT_THAT(commits_per_set(0, {2, 9, 0xFFFFFFFF, 0xFFFFFFFF}), ElementsAre(4));
}

TEST_F(BoundedInstalls, SumsDoNotWrap) {
  EXPECT_THAT(commits_per_set(0xFFFFFFFF, {0xFFFFFFFF, 0xFFFFFFFF}), ElementsAre(1, 1));
}

class RollForward : public ::testing::Test, protected AgreementRanks {
 protected:
  RollForward() : AgreementRanks(config()) {}
  static AgreementConfig config() {
    AgreementConfig config = eager_config();
    config.max_installs_per_set = 1;
    return config;
  }
  static std::vector<BalancerEventKind> kinds(const std::vector<BalancerEvent>& decisions) {
    std::vector<BalancerEventKind> kinds;
    for (const BalancerEvent& decision : decisions) kinds.push_back(decision.kind);
    return kinds;
  }
  std::vector<BalancerEvent> decisions;
};

TEST_F(RollForward, CommitsWhatOthersHaveDropsTheRestAndClosesWhatIsOpen) {
  open();
  MigrationPlan plan = plan_of({0, 0, 1, 2}, 7);
  for (CommitUnit& unit : plan.units) unit.most_installs = 5;
  hold_and_adopt(plan);
  ranks[0].set_wants_rebalance(true);
  open();
  stage(plan, 3);
  step();  // promised
  const std::vector<std::uint64_t> target{2, 1, 0};
  EXPECT_TRUE(ranks[1].roll_forward(target, decisions).ok());
  EXPECT_THAT(kinds(decisions),
              ElementsAre(BalancerEventKind::kCommitted, BalancerEventKind::kCommitted,
                          BalancerEventKind::kCommitted, BalancerEventKind::kDropped,
                          BalancerEventKind::kRetired, BalancerEventKind::kClosed))
      << "however many experts that installs";
  EXPECT_EQ(decisions[3].reason, Reason::kReconfigured);
  EXPECT_EQ(decisions[5].reason, Reason::kReconfigured);
  EXPECT_THAT(ranks[1].epochs(), ElementsAreArray(target));
}

TEST_F(RollForward, CommitsNoFurtherThanTheFurthestRank) {
  open();
  const MigrationPlan plan = plan_of({0, 0, 0}, 7);
  hold_and_adopt(plan);
  stage(plan, 3);
  step();
  const std::vector<std::uint64_t> target{2, 0, 0};
  EXPECT_TRUE(ranks[0].roll_forward(target, decisions).ok());
  EXPECT_THAT(kinds(decisions),
              ElementsAre(BalancerEventKind::kCommitted, BalancerEventKind::kCommitted,
                          BalancerEventKind::kDropped, BalancerEventKind::kRetired));
}

TEST_F(RollForward, RefusesWhatWasNeverPromisedHere) {
  open();
  const MigrationPlan plan = plan_of({0, 1}, 7);
  hold_and_adopt(plan);
  ranks[0].staged(plan.generation, 2);  // no packet has told it
  const std::vector<std::uint64_t> target{1, 0, 0};
  EXPECT_EQ(ranks[0].roll_forward(target, decisions).code(), ErrorCode::kInternal);
  EXPECT_THAT(kinds(decisions),
              ElementsAre(BalancerEventKind::kDropped, BalancerEventKind::kDropped,
                          BalancerEventKind::kRetired));
  std::vector<PacketHeader> set(2);
  EXPECT_FALSE(ranks[0].use_set(ranks[0].next_set(), set, decisions).ok());
}

TEST_F(RollForward, OfARankWithNothingUnderWayDecidesNothing) {
  const std::vector<std::uint64_t> same{0, 0, 0}, ahead{0, 1, 0};
  EXPECT_TRUE(ranks[0].roll_forward(same, decisions).ok());
  EXPECT_TRUE(decisions.empty());
  EXPECT_FALSE(ranks[1].roll_forward(ahead, decisions).ok());
}

}  // namespace
}  // namespace swiftbalancer::testing
