// Modes: who may ask, what counts, what each one does.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "agreement_ranks.hpp"

namespace swiftbalancer::testing {
namespace {

using ::testing::ElementsAre;
using enum BalancingMode;

class AgreementModes : public ::testing::Test, protected AgreementRanks {
 protected:
  AgreementModes() : AgreementRanks(eager_config(3)) {}
  BalancingMode mode() const {
    for (const Agreement& rank : ranks) EXPECT_EQ(rank.mode(), ranks[0].mode());
    return ranks[0].mode();
  }
};

TEST_F(AgreementModes, AnyRankMayAskAndItStays) {
  for (int asking : {2, 1, 0}) {
    const BalancingMode asked = asking == 1 ? kOn : kPaused;
    ranks[static_cast<std::size_t>(asking)].ask_mode(asked);
    step();
    EXPECT_NE(mode(), asked);
    steps(2);
    EXPECT_EQ(mode(), asked) << "rank " << asking << " asked; its packet's set is used";
    steps(10);
    EXPECT_EQ(mode(), asked) << "nobody asks any more";
  }
}

TEST_F(AgreementModes, ARequestIsInOnePacketOnly) {
  ranks[1].ask_mode(kPlanOnly);
  steps(3);
  EXPECT_EQ(packets[1][1].flags & kAsksMode, kAsksMode);
  EXPECT_EQ(packets[1][1].mode, static_cast<std::uint32_t>(kPlanOnly));
  for (std::uint64_t later : {2U, 3U}) {
    EXPECT_EQ(packets[later][1].flags & kAsksMode, 0U);
    EXPECT_EQ(packets[later][1].mode, 0U);
  }
  EXPECT_EQ(packets[1][0].flags & kAsksMode, 0U);
}

TEST_F(AgreementModes, OfOneSetsRequestsTheMostRestrictiveCounts) {
  const struct {
    BalancingMode asked[3];
    BalancingMode counts;
  } cases[] = {{{kOn, kPlanOnly, kPaused}, kPaused},
               {{kPlanOnly, kOn, kOn}, kPlanOnly},
               {{kPaused, kPlanOnly, kPlanOnly}, kPaused},
               {{kOn, kOn, kOn}, kOn}};
  for (const auto& each : cases) {
    for (std::size_t rank = 0; rank < 3; ++rank) ranks[rank].ask_mode(each.asked[rank]);
    steps(3);
    EXPECT_EQ(mode(), each.counts);
  }
}

TEST_F(AgreementModes, ALaterSetsRequestCountsHoweverMild) {
  ranks[0].ask_mode(kPaused);
  step();
  ranks[2].ask_mode(kOn);
  steps(2);
  EXPECT_EQ(mode(), kPaused);
  step();
  EXPECT_EQ(mode(), kOn);
}

TEST_F(AgreementModes, PausedOpensNothingAndFinishesWhatIsMigrating) {
  open();
  const MigrationPlan plan = plan_of({0, 1}, 7);
  hold_and_adopt(plan);
  ranks[2].ask_mode(kPaused);
  steps(5);
  ranks[1].set_wants_rebalance(true);
  EXPECT_TRUE(decide(20).empty());
  stage(plan, 2);
  EXPECT_THAT(decide(), ElementsAre(BalancerEventKind::kCommitted, BalancerEventKind::kCommitted,
                                    BalancerEventKind::kRetired));
  EXPECT_TRUE(decide(20).empty());
  ranks[0].ask_mode(kOn);
  EXPECT_THAT(decide(), ElementsAre(BalancerEventKind::kOpened));
}

// The request rides in the same set as the last hash: from that set on nothing is adopted.
TEST_F(AgreementModes, NothingIsAdoptedFromTheRequestsSetOn) {
  for (const BalancingMode asked : {kPaused, kPlanOnly}) {
    open();
    const MigrationPlan plan = plan_of({0}, 7);
    hold(plan);
    ranks[1].ask_mode(asked);
    steps(3);
    ASSERT_FALSE(last.empty());
    EXPECT_EQ(last[0].kind, BalancerEventKind::kClosed);
    EXPECT_EQ(last[0].reason, asked == kPaused ? Reason::kPaused : Reason::kPlanOnly);
    EXPECT_EQ(last[0].plan, &plan) << "which says what it would have won";
    EXPECT_EQ(ranks[0].active_plan(), nullptr);
    ranks[1].ask_mode(kOn);
    steps(3);
  }
}

TEST_F(AgreementModes, PlanOnlyGoesOnPlanning) {
  ranks[2].ask_mode(kPlanOnly);
  steps(3);
  for (int i = 0; i < 3; ++i) {
    open();
    const MigrationPlan plan = plan_of({0}, 7);
    hold(plan);
    EXPECT_EQ(decide()[0], BalancerEventKind::kClosed);
    EXPECT_EQ(last[0].reason, Reason::kPlanOnly);
  }
}

TEST_F(AgreementModes, AreInTheDigest) {
  AgreedState paused;
  paused.mode = kPaused;
  EXPECT_NE(Agreement(eager_config(), paused).digest(), Agreement(eager_config()).digest());
  const std::uint64_t before = ranks[0].digest();
  ranks[0].ask_mode(kPaused);
  std::vector<PacketHeader> set(3);
  for (std::size_t rank = 0; rank < 3; ++rank) ranks[rank].fill_packet(1, set[rank]);
  std::vector<BalancerEvent> decisions;
  ASSERT_TRUE(ranks[1].use_set(1, set, decisions).ok());
  EXPECT_TRUE(decisions.empty());
  EXPECT_NE(ranks[1].digest(), before);
}

TEST_F(AgreementModes, ARequestIsUnheardUntilItsSetIsUsed) {
  Agreement& rank = ranks[1];
  EXPECT_EQ(rank.unheard_mode(), std::nullopt);
  rank.ask_mode(kPlanOnly);
  EXPECT_EQ(rank.unheard_mode(), kPlanOnly) << "no packet has carried it";
  step();
  EXPECT_EQ(rank.unheard_mode(), kPlanOnly) << "it is under way";
  rank.ask_mode(kPaused);
  EXPECT_EQ(rank.unheard_mode(), kPaused) << "the newest";
  EXPECT_EQ(rank.unheard_mode(1'000'000), kPaused) << "no packet has carried it";
  steps(2);
  EXPECT_EQ(mode(), kPlanOnly);
  EXPECT_EQ(rank.unheard_mode(), kPaused);
  step();
  EXPECT_EQ(mode(), kPaused);
  EXPECT_EQ(rank.unheard_mode(), std::nullopt);
}

TEST_F(AgreementModes, ARequestOutlivesTheMembershipThatDidNotHearIt) {
  ranks[2].ask_mode(kPaused);
  step();
  std::vector<BalancerEvent> decisions;
  ASSERT_TRUE(ranks[2].roll_forward(ranks[2].epochs(), decisions).ok());
  ASSERT_EQ(ranks[2].unheard_mode(), kPaused);
  AgreedState next;
  next.membership = 1;
  next.step = now;
  AgreementRanks survivors(eager_config(2), next);
  survivors.ranks[1].ask_mode(*ranks[2].unheard_mode());
  survivors.steps(3);
  EXPECT_EQ(survivors.ranks[0].mode(), kPaused);
}

TEST_F(AgreementModes, APauseOutlivesTheRankThatAskedForIt) {
  ranks[0].ask_mode(kPaused);
  steps(3);
  AgreedState next;
  next.membership = 1;
  next.step = now;
  next.mode = mode();
  AgreementRanks survivors(eager_config(2), next);
  EXPECT_TRUE(survivors.decide(20).empty());
  EXPECT_EQ(survivors.ranks[1].mode(), kPaused);
}

}  // namespace
}  // namespace swiftbalancer::testing
