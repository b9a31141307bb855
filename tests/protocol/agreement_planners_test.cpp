// What is agreed about planners: lost histories (rules 11 and 17), planners that are gone for good,
// leader mode.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "agreement_ranks.hpp"

namespace swiftbalancer::testing {
namespace {

using ::testing::ElementsAre;

// Opens on request only.
AgreementConfig patient_config(int num_ranks = 3) {
  AgreementConfig config = eager_config(num_ranks);
  config.rebalance_interval = 1'000'000;
  config.max_open_sets = 1000;
  return config;
}

class AgreementPlanners : public ::testing::Test, protected AgreementRanks {
 protected:
  explicit AgreementPlanners(const AgreementConfig& config = patient_config())
      : AgreementRanks(config) {}

  void open_on_request() {
    ranks[0].set_wants_rebalance(true);
    open();
    ranks[0].set_wants_rebalance(false);
    steps(10);  // until no packet asks any more
  }
};

TEST_F(AgreementPlanners, ALostHistoryClosesTheOpenGenerationInTheSameSet) {
  open_on_request();
  const MigrationPlan plan = plan_of({0}, 7);
  EXPECT_TRUE(ranks[0].plan_ready(plan));  // goes on being reported; rank 2 has dropped its job
  const GenerationId opened = ranks[0].open_generation();
  ranks[2].planner_lost();
  ranks[1].planner_lost();
  EXPECT_THAT(decide(5),
              ElementsAre(BalancerEventKind::kClosed, BalancerEventKind::kPlannersReset));
  EXPECT_EQ(last[0].reason, Reason::kPlannersReset);
  EXPECT_EQ(last[0].generation, opened);
  EXPECT_EQ(last[0].rank, 1) << "the lowest that told of a loss";
  EXPECT_EQ(last[1].rank, 1);
  EXPECT_FALSE(ranks[0].open_generation());
  EXPECT_FALSE(ranks[0].plan_ready(plan)) << "it is closed for good";
}

TEST_F(AgreementPlanners, APlanThatAllHoldIsAdoptedBeforeTheReset) {
  open_on_request();
  const MigrationPlan plan = plan_of({0}, 7);
  hold(plan);
  ranks[2].planner_lost();
  EXPECT_THAT(decide(5),
              ElementsAre(BalancerEventKind::kAdopted, BalancerEventKind::kPlannersReset));
}

TEST_F(AgreementPlanners, AResetWithNothingOpenIsJustAReset) {
  ranks[0].planner_lost();
  EXPECT_THAT(decide(5), ElementsAre(BalancerEventKind::kPlannersReset));
  EXPECT_TRUE(decide(20).empty()) << "told no more";
}

TEST_F(AgreementPlanners, AResetVoidsRequestsFromBefore) {
  steps(20);
  ranks[1].set_wants_rebalance(true);
  ranks[2].planner_lost();
  step();
  ranks[1].set_wants_rebalance(false);
  std::vector<BalancerEventKind> all;
  for (int i = 0; i < 20; ++i) {
    for (const BalancerEventKind kind : step()) all.push_back(kind);
  }
  EXPECT_THAT(all, ElementsAre(BalancerEventKind::kPlannersReset));
}

// Interval, lag.
class PlannerLosses : public ::testing::TestWithParam<std::pair<std::uint64_t, std::uint64_t>> {};

TEST_P(PlannerLosses, OfSeveralRanksBeforeTheResetIsKnownAreMendedByOne) {
  const auto [interval, lag] = GetParam();
  for (std::uint64_t apart = 0; apart < lag; ++apart) {
    AgreementConfig config = patient_config();
    config.packet_interval = interval;
    config.packet_lag = lag;
    AgreementRanks cluster(config);
    cluster.steps(4 * interval);
    while (!cluster.ranks[0].packet_due(cluster.now + 1)) cluster.step();
    cluster.ranks[0].planner_lost();  // told in the packet of the next step
    cluster.steps(apart);
    std::size_t resets = 0;
    const auto count = [&](const std::vector<BalancerEventKind>& kinds) {
      resets +=
          static_cast<std::size_t>(std::ranges::count(kinds, BalancerEventKind::kPlannersReset));
    };
    if (apart > 0) cluster.ranks[1].planner_lost();
    for (std::uint64_t i = 0; i < 6 * (interval + lag); ++i) count(cluster.step());
    EXPECT_EQ(resets, 1U) << "apart " << apart;
    EXPECT_EQ(cluster.packets.rbegin()->second[1].flags & kPlannerLost, 0U);
  }
}

TEST_P(PlannerLosses, AfterTheResetIsKnownNeedAnother) {
  const auto [interval, lag] = GetParam();
  AgreementConfig config = patient_config();
  config.packet_interval = interval;
  config.packet_lag = lag;
  AgreementRanks cluster(config);
  for (int loss = 0; loss < 3; ++loss) {
    cluster.ranks[static_cast<std::size_t>(loss)].planner_lost();
    EXPECT_THAT(cluster.decide(), ElementsAre(BalancerEventKind::kPlannersReset))
        << "loss " << loss;
    EXPECT_EQ(cluster.last[0].rank, loss);
    // The step that has made it known: what is lost from here on was begun anew before.
  }
}

INSTANTIATE_TEST_SUITE_P(IntervalAndLag, PlannerLosses,
                         ::testing::Values(std::pair{1, 1}, std::pair{1, 3}, std::pair{2, 3},
                                           std::pair{2, 5}, std::pair{3, 2}, std::pair{5, 1}));

TEST(PlannerLossFlag, IsOldNewsWhereItWasPostedBeforeTheResetWasKnown) {
  AgreementConfig config = patient_config(1);
  config.packet_lag = 3;
  Agreement agreement(config);
  std::vector<std::uint64_t> resets;
  for (std::uint64_t step = 1; step <= 11; ++step) {
    agreement.planner_lost();  // in every packet
    std::vector<PacketHeader> set(1);
    std::vector<BalancerEvent> decisions;
    agreement.fill_packet(step, set[0]);
    ASSERT_TRUE(agreement.use_set(step, set, decisions).ok());
    if (!decisions.empty()) resets.push_back(step);
  }
  EXPECT_THAT(resets, ElementsAre(1, 4, 7, 10)) << "end_step(4) comes after begin_step(4)";
}

TEST_F(AgreementPlanners, OneThatIsOffForGoodEndsBalancingOnceForAll) {
  open_on_request();
  const GenerationId opened = ranks[0].open_generation();
  ranks[2].planner_off();
  EXPECT_THAT(decide(5), ElementsAre(BalancerEventKind::kClosed, BalancerEventKind::kBalancingOff));
  EXPECT_EQ(last[0].reason, Reason::kPlannerFailed);
  EXPECT_EQ(last[0].generation, opened);
  EXPECT_EQ(last[0].rank, 2);
  EXPECT_EQ(last[1].rank, 2);
  EXPECT_TRUE(ranks[0].balancing_off());
  ranks[1].planner_off();
  for (Agreement& rank : ranks) rank.set_wants_rebalance(true);
  EXPECT_TRUE(decide(50).empty());
}

TEST_F(AgreementPlanners, OneThatIsOffLeavesThePlanThatMigrates) {
  open_on_request();
  const MigrationPlan plan = plan_of({0, 1}, 7);
  hold_and_adopt(plan);
  ranks[1].planner_off();
  EXPECT_THAT(decide(5), ElementsAre(BalancerEventKind::kBalancingOff));
  stage(plan, 2);
  EXPECT_THAT(decide(5), ElementsAre(BalancerEventKind::kCommitted, BalancerEventKind::kCommitted,
                                     BalancerEventKind::kRetired));
}

TEST_F(AgreementPlanners, AMembershipWithoutTheOneThatIsOffBalancesAgain) {
  ranks[2].planner_off();
  EXPECT_THAT(decide(5), ElementsAre(BalancerEventKind::kBalancingOff));
  AgreedState next;
  next.membership = 1;
  next.step = now;
  AgreementRanks survivors(patient_config(2), next);
  EXPECT_FALSE(survivors.ranks[0].balancing_off());
  survivors.ranks[1].set_wants_rebalance(true);
  EXPECT_THAT(survivors.decide(5), ElementsAre(BalancerEventKind::kOpened));
}

TEST_F(AgreementPlanners, DecisionsNameTheRankConcerned) {
  open_on_request();
  ranks[1].plan_failed(ranks[1].open_generation());
  ASSERT_EQ(decide(5)[0], BalancerEventKind::kClosed);
  EXPECT_EQ(last[0].reason, Reason::kPlannerFailed);
  EXPECT_EQ(last[0].rank, 1);

  open_on_request();
  const MigrationPlan same = plan_of({0}, 7), other = plan_of({0}, 8);
  ranks[0].plan_ready(same);
  ranks[1].plan_ready(same);
  ranks[2].plan_ready(other);
  ASSERT_EQ(decide(5)[0], BalancerEventKind::kClosed);
  EXPECT_EQ(last[0].reason, Reason::kDifferentPlans);
  EXPECT_EQ(last[0].rank, 2);

  open_on_request();
  const MigrationPlan plan = plan_of({1, 2, 1}, 7);
  hold_and_adopt(plan);
  ranks[1].unit_failed(plan.generation, 0);
  EXPECT_THAT(decide(5), ElementsAre(BalancerEventKind::kDropped, BalancerEventKind::kDropped));
  EXPECT_EQ(last[0].rank, 1);
  EXPECT_EQ(last[1].rank, 1) << "the later unit of the layer falls with it";
  stage(plan, 3);
  EXPECT_THAT(decide(5), ElementsAre(BalancerEventKind::kCommitted, BalancerEventKind::kRetired));
  EXPECT_EQ(last[0].rank, -1);
}

class AgreementLeader : public AgreementPlanners {
 protected:
  static AgreementConfig leader_config() {
    AgreementConfig config = patient_config();
    config.leader_plans = true;
    return config;
  }
  AgreementLeader() : AgreementPlanners(leader_config()) {}
};

TEST_F(AgreementLeader, OnlyTheFirstRanksPlannerCounts) {
  for (std::size_t rank : {1U, 2U}) {
    ranks[rank].planner_lost();
    ranks[rank].planner_off();
    ranks[rank].set_wants_rebalance(true);
  }
  EXPECT_TRUE(decide(20).empty());
  EXPECT_FALSE(ranks[0].balancing_off());
  ranks[0].planner_lost();
  EXPECT_THAT(decide(5), ElementsAre(BalancerEventKind::kPlannersReset));
  EXPECT_EQ(last[0].rank, 0);
  ranks[0].planner_off();
  EXPECT_THAT(decide(5), ElementsAre(BalancerEventKind::kBalancingOff));
}

TEST_F(AgreementLeader, StillNeedsThePlanOnEveryRank) {
  open_on_request();
  const MigrationPlan plan = plan_of({0}, 7);
  ranks[0].plan_ready(plan);
  ranks[1].plan_ready(plan);
  EXPECT_TRUE(decide(20).empty()) << "rank 2 does not hold it yet";
  ranks[2].plan_ready(plan);
  EXPECT_THAT(decide(5), ElementsAre(BalancerEventKind::kAdopted));
}

TEST_F(AgreementLeader, ModesMayBeAskedForAnywhere) {
  ranks[2].ask_mode(BalancingMode::kPaused);
  steps(3);
  EXPECT_EQ(ranks[0].mode(), BalancingMode::kPaused);
}

}  // namespace
}  // namespace swiftbalancer::testing
