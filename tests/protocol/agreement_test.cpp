// The rules one by one, on two ranks driven by hand. The simulation covers their interplay.

#include "protocol/agreement.hpp"

#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "agreement_ranks.hpp"

namespace swiftbalancer::testing {
namespace {

using ::testing::ElementsAre;

class AgreementTest : public ::testing::Test, protected AgreementRanks {
 protected:
  AgreementTest() : AgreementRanks(eager_config()) {}
};

TEST_F(AgreementTest, ASetIsUsedExactlyPacketLagStepsLater) {
  EXPECT_FALSE(ranks[0].set_due(2));
  EXPECT_EQ(ranks[0].set_due(3), 1U);
}

TEST_F(AgreementTest, CommitsUpToTheSmallestCursor) {
  open();
  const MigrationPlan plan = plan_of({2, 0, 1}, 7);
  hold_and_adopt(plan);
  ranks[0].staged(plan.generation, 3);
  ranks[1].staged(plan.generation, 1);
  EXPECT_TRUE(step().empty());
  EXPECT_TRUE(step().empty());
  EXPECT_THAT(step(), ElementsAre(BalancerEventKind::kCommitted))
      << "one unit is staged on both ranks";
  EXPECT_THAT(ranks[0].epochs(), ElementsAre(0, 0, 1));
  ranks[1].staged(plan.generation, 3);
  step();
  step();
  EXPECT_THAT(step(), ElementsAre(BalancerEventKind::kCommitted, BalancerEventKind::kCommitted,
                                  BalancerEventKind::kRetired, BalancerEventKind::kOpened));
  EXPECT_THAT(ranks[1].epochs(), ElementsAre(1, 1, 1));
}

TEST_F(AgreementTest, NotReadyIsNoMismatchButTooManySetsClose) {
  open();
  const MigrationPlan plan = plan_of({0}, 7);
  EXPECT_TRUE(ranks[0].plan_ready(plan));  // rank 1 never is
  std::vector<BalancerEventKind> kinds;
  int sets = 0;
  while ((kinds = step()).empty()) ++sets;
  EXPECT_EQ(kinds[0], BalancerEventKind::kClosed);
  EXPECT_EQ(last[0].reason, Reason::kTooLate);
  EXPECT_EQ(sets, 4);
}

TEST_F(AgreementTest, DifferentHashesCloseAndAreReported) {
  open();
  const MigrationPlan one = plan_of({0}, 7), other = plan_of({0}, 8);
  ranks[0].plan_ready(one);
  ranks[1].plan_ready(other);
  std::vector<BalancerEventKind> kinds;
  while ((kinds = step()).empty()) {
  }
  EXPECT_EQ(last[0].kind, BalancerEventKind::kClosed);
  EXPECT_EQ(last[0].reason, Reason::kDifferentPlans);
}

TEST_F(AgreementTest, AFailedPlannerClosesForAll) {
  open();
  ranks[1].plan_failed(ranks[1].open_generation());
  std::vector<BalancerEventKind> kinds;
  while ((kinds = step()).empty()) {
  }
  EXPECT_EQ(last[0].reason, Reason::kPlannerFailed);
}

TEST_F(AgreementTest, AnEmptyPlanClosesAsNothingToGain) {
  open();
  const MigrationPlan plan = plan_of({}, 7);
  ranks[0].plan_ready(plan);
  ranks[1].plan_ready(plan);
  std::vector<BalancerEventKind> kinds;
  while ((kinds = step()).empty()) {
  }
  EXPECT_EQ(last[0].reason, Reason::kNothingToGain);
}

TEST_F(AgreementTest, AFailedCopyDropsItsUnitAndTheLaterUnitsOfItsLayer) {
  open();
  const MigrationPlan plan = plan_of({1, 2, 1}, 7);
  hold_and_adopt(plan);
  ranks[0].unit_failed(plan.generation, 0);
  ranks[0].staged(plan.generation, 0);
  ranks[1].staged(plan.generation, 3);
  step();
  step();
  EXPECT_THAT(step(), ElementsAre(BalancerEventKind::kDropped, BalancerEventKind::kDropped));
  EXPECT_EQ(last[0].unit, 0U);
  EXPECT_EQ(last[1].unit, 2U);
  ranks[0].staged(plan.generation, 3);
  step();
  step();
  EXPECT_EQ(step()[0], BalancerEventKind::kCommitted) << "the other layer is not held up";
}

TEST_F(AgreementTest, APromisedUnitCannotFailAnyMore) {
  open();
  const MigrationPlan plan = plan_of({0}, 7);
  hold_and_adopt(plan);
  for (Agreement& rank : ranks) rank.staged(plan.generation, 1);
  step();  // the promise is in a packet now
  ranks[0].unit_failed(plan.generation, 0);
  step();
  EXPECT_EQ(step()[0], BalancerEventKind::kCommitted);
}

TEST_F(AgreementTest, ANewPlanDropsWhatIsPendingAndWhatItsBaseHasLost) {
  open();
  const MigrationPlan first = plan_of({0, 1}, 7);
  hold_and_adopt(first);
  for (Agreement& rank : ranks) rank.set_wants_rebalance(true);
  open();  // a generation on the base of now, while the first plan is still moving
  for (Agreement& rank : ranks) {
    rank.set_wants_rebalance(false);
    rank.staged(first.generation, 1);  // layer 0 will be committed after the base was fixed
  }
  const MigrationPlan second = plan_of({0, 2}, 9);
  ranks[0].plan_ready(second);
  ranks[1].plan_ready(second);
  std::vector<BalancerEventKind> all;
  std::vector<Reason> reasons;
  for (int i = 0; i < 6; ++i) {
    for (BalancerEventKind kind : step()) all.push_back(kind);
    for (const BalancerEvent& decision : last) reasons.push_back(decision.reason);
    if (std::ranges::find(all, BalancerEventKind::kAdopted) != all.end()) break;
  }
  EXPECT_THAT(all, ElementsAre(BalancerEventKind::kCommitted, BalancerEventKind::kDropped,
                               BalancerEventKind::kRetired, BalancerEventKind::kAdopted,
                               BalancerEventKind::kDropped));
  EXPECT_EQ(reasons[1], Reason::kSuperseded);
  EXPECT_EQ(reasons[4], Reason::kBaseChanged);
}

TEST_F(AgreementTest, AReportOfAnotherGenerationIsIgnored) {
  open();
  MigrationPlan plan = plan_of({0}, 7);
  plan.generation.step += 1;
  EXPECT_FALSE(ranks[0].plan_ready(plan));
}

TEST_F(AgreementTest, RanksThatDisagreeStopDeciding) {
  open();
  step();
  packets[now - 1][1].digest ^= 1;
  std::vector<BalancerEvent> decisions;
  ++now;
  const auto due = ranks[0].set_due(now);
  const Status status = ranks[0].use_set(*due, packets.at(*due), decisions);
  EXPECT_EQ(status.code(), ErrorCode::kInternal);
  EXPECT_THAT(status.message(), ::testing::HasSubstr("disagree"));
  EXPECT_TRUE(decisions.empty());
}

}  // namespace
}  // namespace swiftbalancer::testing
