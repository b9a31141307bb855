// Which sets are used and when (rules 1, 14 and 16), and counts at the end of their range.

#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "agreement_ranks.hpp"

namespace swiftbalancer::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr std::uint64_t kMost = std::numeric_limits<std::uint64_t>::max();

Agreement single_rank(std::uint64_t interval, std::uint64_t begin_step) {
  AgreementConfig config = eager_config(1);
  config.packet_interval = interval;
  AgreedState begin;
  begin.step = begin_step;
  return Agreement(config, begin);
}

// A set of one rank, whose own packet is all of it.
Status use(Agreement& agreement, std::uint64_t step, std::vector<BalancerEvent>& decisions) {
  std::vector<PacketHeader> set(1);
  agreement.fill_packet(step, set[0]);
  return agreement.use_set(step, set, decisions);
}
Status use(Agreement& agreement, std::uint64_t step) {
  std::vector<BalancerEvent> decisions;
  return use(agreement, step, decisions);
}

void expect_refused(Agreement& agreement, std::uint64_t step, std::uint64_t next) {
  const std::uint64_t digest = agreement.digest(), used = agreement.used_step();
  std::vector<BalancerEvent> decisions(1);
  const Status status = use(agreement, step, decisions);
  EXPECT_EQ(status.code(), ErrorCode::kInternal) << "step " << step;
  EXPECT_THAT(status.message(), HasSubstr("of step " + std::to_string(step) + ","));
  EXPECT_THAT(status.message(), HasSubstr("that of step " + std::to_string(next)));
  EXPECT_TRUE(decisions.empty());
  EXPECT_EQ(agreement.digest(), digest);
  EXPECT_EQ(agreement.used_step(), used);
  EXPECT_EQ(agreement.next_set(), next);
}

TEST(AgreementSets, OnlyTheNextOneIsUsed) {
  Agreement agreement = single_rank(1, 0);
  expect_refused(agreement, 2, 1);
  expect_refused(agreement, 0, 1);
  EXPECT_TRUE(use(agreement, 1).ok()) << "refusals have spoilt nothing";
  expect_refused(agreement, 1, 2);
  expect_refused(agreement, 4, 2);
  EXPECT_TRUE(use(agreement, 2).ok());
}

TEST(AgreementSets, WithAnIntervalTheNextOneIsAnIntervalOn) {
  Agreement agreement = single_rank(3, 0);
  expect_refused(agreement, 1, 3);
  expect_refused(agreement, 6, 3);
  EXPECT_TRUE(use(agreement, 3).ok());
  expect_refused(agreement, 4, 6);
  expect_refused(agreement, 9, 6);
  EXPECT_TRUE(use(agreement, 6).ok());
}

TEST(AgreementSets, AfterAReconfigurationTheNextOneIsTheFirstOfTheMembership) {
  Agreement between = single_rank(3, 7);
  EXPECT_EQ(between.set_due(8), std::nullopt) << "step 6 was posted before";
  EXPECT_EQ(between.set_due(11), 9U);
  expect_refused(between, 6, 9);
  expect_refused(between, 12, 9);
  EXPECT_TRUE(use(between, 9).ok());

  Agreement on_a_packet = single_rank(3, 9);
  EXPECT_EQ(on_a_packet.set_due(11), std::nullopt) << "step 9 was posted before";
  expect_refused(on_a_packet, 9, 12);
  EXPECT_TRUE(use(on_a_packet, 12).ok());
}

TEST(AgreementSets, ARefusedSetLeavesAPlanAndAnOpenGenerationAsTheyAre) {
  AgreementRanks cluster(eager_config());
  cluster.open();
  const MigrationPlan plan = cluster.plan_of({0, 1}, 7);
  cluster.hold_and_adopt(plan);
  cluster.stage(plan, 2);
  cluster.step();
  Agreement& rank = cluster.ranks[0];
  const std::uint64_t next = rank.next_set();
  std::vector<PacketHeader> later(2);
  for (PacketHeader& packet : later) {
    packet.digest = rank.digest();
    packet.active_step = plan.generation.step;
    packet.staged_cursor = 2;
  }
  std::vector<BalancerEvent> decisions;
  EXPECT_EQ(rank.use_set(next + 1, later, decisions).code(), ErrorCode::kInternal);
  EXPECT_EQ(rank.use_set(next, std::span(later).first(1), decisions).code(), ErrorCode::kInternal)
      << "an incomplete set";
  EXPECT_TRUE(rank.unit_pending(0));
  EXPECT_TRUE(rank.unit_pending(1));
  EXPECT_THAT(cluster.decide(),
              ElementsAre(BalancerEventKind::kCommitted, BalancerEventKind::kCommitted,
                          BalancerEventKind::kRetired, BalancerEventKind::kOpened));
}

TEST(AgreementSets, AnOpenGenerationEndsAfterSoManySetsAtAnyInterval) {
  for (std::uint64_t interval : {1U, 3U}) {
    AgreementConfig config = eager_config();
    config.packet_interval = interval;
    AgreementRanks cluster(config);
    cluster.open();
    int sets = 0;
    do {
      const std::uint64_t used = cluster.ranks[0].used_step();
      cluster.step();
      sets += cluster.ranks[0].used_step() != used ? 1 : 0;
    } while (cluster.last.empty() && sets < 100);
    EXPECT_EQ(sets, 5) << "interval " << interval;
    ASSERT_FALSE(cluster.last.empty());
    EXPECT_EQ(cluster.last[0].reason, Reason::kTooLate);
    EXPECT_EQ(cluster.last[0].rank, 0);
  }
}

TEST(AgreementSets, NoneFollowsTheLastStepThereIs) {
  Agreement agreement = single_rank(3, kMost - 5);  // kMost is a multiple of 3
  EXPECT_TRUE(use(agreement, kMost - 3).ok());
  EXPECT_TRUE(use(agreement, kMost).ok());
  EXPECT_EQ(agreement.next_set(), 0U);
  EXPECT_FALSE(use(agreement, 2).ok());
  EXPECT_FALSE(use(agreement, kMost).ok());

  Agreement rare = single_rank(kMost, 0);
  EXPECT_EQ(rare.next_set(), kMost);
  EXPECT_TRUE(use(rare, kMost).ok());
}

TEST(AgreementSets, AHugeRebalanceIntervalNeverOpensByItself) {
  for (const std::uint64_t interval : {kMost, kMost - 1, kMost / 2}) {
    AgreementConfig config = eager_config();
    config.rebalance_interval = interval;
    AgreedState begin;
    begin.step = begin.last_open_step = 1000;
    AgreementRanks cluster(config, begin);
    EXPECT_TRUE(cluster.decide(50).empty()) << "interval " << interval;
    cluster.ranks[1].set_wants_rebalance(true);
    EXPECT_THAT(cluster.decide(), ElementsAre(BalancerEventKind::kOpened)) << "on request it does";
  }
}

TEST(AgreementSets, ABeginWhoseLastOpenStepLiesAheadWaitsForTheInterval) {
  AgreementConfig config = eager_config();
  config.rebalance_interval = 10;
  AgreedState begin;
  begin.step = 100;
  begin.last_open_step = 200;
  AgreementRanks cluster(config, begin);
  cluster.open();
  EXPECT_EQ(cluster.ranks[0].open_generation().step, 110U);
}

TEST(AgreementSets, HugeLimitsOfSetsAreNeverReached) {
  AgreementConfig config = eager_config();
  config.packet_interval = 2;
  config.max_open_sets = std::uint64_t{1} << 63;  // times the interval: 0
  config.max_active_sets = kMost;
  AgreementRanks cluster(config);
  cluster.open();
  EXPECT_TRUE(cluster.decide(50).empty());
  const MigrationPlan plan = cluster.plan_of({0}, 7);
  cluster.hold_and_adopt(plan);
  EXPECT_TRUE(cluster.decide(50).empty());
}

TEST(AgreementSets, AHugeLagMakesNoSetDueAndNoRequestHeard) {
  AgreementConfig config = eager_config(1);
  config.packet_lag = std::uint64_t{1} << 63;  // twice that: 0
  config.rebalance_interval = kMost;
  Agreement agreement(config);
  EXPECT_EQ(agreement.set_due(kMost / 2), std::nullopt);
  EXPECT_EQ(agreement.set_due(kMost), kMost - config.packet_lag);
  agreement.set_wants_rebalance(true);
  ASSERT_TRUE(use(agreement, 1).ok());  // opens: nothing has changed yet
  agreement.plan_failed(agreement.open_generation());
  ASSERT_TRUE(use(agreement, 2).ok());
  EXPECT_FALSE(agreement.open_generation());
  for (std::uint64_t step = 3; step < 50; ++step) ASSERT_TRUE(use(agreement, step).ok());
  EXPECT_FALSE(agreement.open_generation()) << "answered, for all that packets can tell";
}

}  // namespace
}  // namespace swiftbalancer::testing
