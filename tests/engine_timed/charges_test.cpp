#include <gtest/gtest.h>

#include <numeric>

#include <swiftbalancer/error.hpp>

#include "engine_timed/round_profile.hpp"

namespace swiftbalancer::engine {
namespace {

using Rows = std::vector<int>;
using Clocks = std::vector<std::int64_t>;

class TimedDeviceCharges : public ::testing::Test {
 protected:
  TimedDevice device(int rank = 0) { return device_with(options_for(shape_), rank); }
  TimedDevice device_with(const TimedDeviceOptions& options, int rank = 0) {
    return {round_profile(), shape_, rank, options};
  }

  ClusterShape shape_ = even_shape(2);
};

TEST_F(TimedDeviceCharges, AttentionIsBoundByMemoryForFewTokensAndByArithmeticForMany) {
  TimedDevice few = device();
  few.attention(2, 10);  // 5 + max(2 * 200, 500 + 10 * 3)
  EXPECT_EQ(few.now_ns(), 535);
  TimedDevice many = device();
  many.attention(10, 10);  // 5 + max(10 * 200, 530)
  EXPECT_EQ(many.now_ns(), 2005);
  EXPECT_EQ(many.terms().at("attention"), 2005);
}

TEST_F(TimedDeviceCharges, TokenScaleMultipliesTokensAndContextButNotWeights) {
  TimedDeviceOptions options = options_for(shape_);
  options.token_scale = 4;
  TimedDevice memory_bound = device_with(options);
  memory_bound.attention(1, 100);  // 5 + max(4 * 200, 500 + 4 * 100 * 3)
  EXPECT_EQ(memory_bound.now_ns(), 1705);
  TimedDevice experts = device_with(options);
  experts.experts(std::vector<std::uint32_t>{3, 0, 0, 0});  // 5 + max(4 * 3 * 100, 1 * 1000)
  EXPECT_EQ(experts.terms().at("expert_tokens"), 1205);
  TimedDevice rows = device_with(options);
  rows.dispatch(Rows{0, 3}, Rows{0, 0});  // 7 + 4 * 3 * 20
  EXPECT_EQ(rows.now_ns(), 247);
  TimedDevice head = device_with(options);
  head.head(2);  // 5 + max(4 * 2 * 300, 800)
  EXPECT_EQ(head.now_ns(), 2405);
}

TEST_F(TimedDeviceCharges, ARankWithoutTokensDoesNeitherAttentionNorHead) {
  TimedDevice idle = device();
  idle.attention(0, 0);
  idle.head(0);
  EXPECT_EQ(idle.now_ns(), 0);
}

TEST_F(TimedDeviceCharges, ExpertsAreChargedToTokensOrToWeightsWhicheverTakesLonger) {
  TimedDevice weights = device();
  weights.experts(std::vector<std::uint32_t>{1, 0, 2, 0});  // 5 + max(3 * 100, 2 * 1000)
  EXPECT_EQ(weights.terms().at("expert_weights"), 2005);
  EXPECT_EQ(weights.terms().at("expert_tokens"), 0);
  TimedDevice tokens = device();
  tokens.experts(std::vector<std::uint32_t>{1, 0, 30, 0});  // 5 + max(31 * 100, 2 * 1000)
  EXPECT_EQ(tokens.terms().at("expert_tokens"), 3105);
  EXPECT_EQ(tokens.terms().at("expert_weights"), 0);
}

TEST_F(TimedDeviceCharges, DispatchTakesTheBusierDirectionAndOwnRowsAreFree) {
  TimedDevice out = device();
  EXPECT_EQ(out.dispatch(Rows{100, 5}, Rows{100, 2}), 107);  // 7 + 5 * 20
  TimedDevice in = device();
  EXPECT_EQ(in.dispatch(Rows{100, 2}, Rows{100, 6}), 127);  // 7 + 6 * 20
  EXPECT_EQ(in.terms().at("dispatch"), 127);
}

TEST_F(TimedDeviceCharges, CombineHasItsOwnBytesPerRowAndTerm) {
  TimedDevice timed = device();
  EXPECT_EQ(timed.combine(Rows{0, 5}, Rows{0, 2}), 207);  // 7 + 5 * 40
  EXPECT_EQ(timed.terms().at("combine"), 207);
  EXPECT_EQ(timed.terms().at("dispatch"), 0);
}

TEST_F(TimedDeviceCharges, RowsOfOtherNodesGoOverTheNodeLinkBesideTheLink) {
  shape_ = even_shape(4, 2);  // ranks 0, 1 and 2, 3
  TimedDevice far = device();
  EXPECT_EQ(far.dispatch(Rows{9, 5, 2, 1}, Rows{9, 0, 0, 0}), 670);  // 70 + max(5 * 20, 3 * 200)
  TimedDevice near = device();
  EXPECT_EQ(near.dispatch(Rows{9, 50, 2, 1}, Rows{9, 0, 0, 0}),
            1070);  // 70 + max(50 * 20, 3 * 200)
}

TEST_F(TimedDeviceCharges, OneRankHasNoLinkNoBarrierAndNoPackets) {
  shape_ = even_shape(1);
  TimedDevice alone = device();
  for (std::uint64_t step = 1; step <= 4; ++step) {
    EXPECT_EQ(alone.begin_step(step, Clocks{alone.now_ns()}), 0);
    alone.on_events(step, {});
    alone.dispatch(Rows{3}, Rows{3});
    alone.combine(Rows{3}, Rows{3});
  }
  EXPECT_EQ(alone.now_ns(), 4 * 13);  // begin_step_call
}

TEST_F(TimedDeviceCharges, HeadIsBoundByWeightsForFewSequences) {
  TimedDevice timed = device();
  timed.head(2);  // 5 + max(2 * 300, 800)
  EXPECT_EQ(timed.terms().at("head"), 805);
}

TEST_F(TimedDeviceCharges, BalancerCallsAreOnePerLayerAndTheEndOfTheStep) {
  TimedDevice timed = device();
  timed.balancer_calls(58);  // 58 * 2 + 17
  EXPECT_EQ(timed.terms().at("balancer_calls"), 133);
}

TEST_F(TimedDeviceCharges, ABarrierTakesTheLatestClock) {
  TimedDevice early = device(0);
  early.attention(1, 0);  // 505
  early.arrive(Clocks{505, 900});
  EXPECT_EQ(early.now_ns(), 900);
  EXPECT_EQ(early.terms().at("barrier_wait"), 395);
  TimedDevice late = device(1);
  late.arrive(Clocks{0, 0});
  EXPECT_EQ(late.terms().at("barrier_wait"), 0);
}

TEST_F(TimedDeviceCharges, AStepBeginsAtTheLatestClockPlusTheAgreement) {
  TimedDevice timed = device();
  timed.begin_step(1, Clocks{0, 400});
  EXPECT_EQ(timed.now_ns(), 411);
  EXPECT_EQ(timed.terms().at("barrier_wait"), 400);
  EXPECT_EQ(timed.terms().at("step_barrier"), 11);
}

// Packets of step s: 7 + (2 - 1) * 100 bytes * 10 ns after the last rank ended s.
TEST_F(TimedDeviceCharges, AStepWaitsForThePacketsOfPacketLagStepsBefore) {
  TimedDevice timed = device();
  EXPECT_EQ(timed.begin_step(1, Clocks{0, 0}), 0);     // 11
  EXPECT_EQ(timed.begin_step(2, Clocks{11, 500}), 0);  // no set is due before step 3; 511
  EXPECT_EQ(timed.begin_step(3, Clocks{511, 700}),
            796);  // set 1 left at 500, is here at 1507; otherwise 711
  EXPECT_EQ(timed.now_ns(), 1507);
  EXPECT_EQ(timed.terms().at("packet_stall"), 796);
  EXPECT_EQ(timed.begin_step(4, Clocks{1507, 9000}), 0);  // set 2 left at 700
  EXPECT_EQ(timed.visible().observed_step, 2U);
}

TEST_F(TimedDeviceCharges, OnlyDuePacketsAreWaitedFor) {
  TimedDeviceOptions options = options_for(shape_);
  options.packet_interval = 2;
  options.packet_lag = 1;
  TimedDevice timed = device_with(options);
  EXPECT_EQ(timed.begin_step(1, Clocks{0, 0}), 0);
  EXPECT_EQ(timed.begin_step(2, Clocks{11, 11}), 0);    // step 1 posts no packet
  EXPECT_EQ(timed.begin_step(3, Clocks{22, 22}), 996);  // 22 + 1007 - (22 + 11)
  EXPECT_EQ(timed.visible().observed_step, 2U);
  EXPECT_EQ(timed.begin_step(4, Clocks{1029, 1029}), 0);
}

TEST_F(TimedDeviceCharges, PacketsOfMoreRanksTakeLongerAndAcrossNodesTheNodeLink) {
  shape_ = even_shape(4, 2);
  TimedDeviceOptions options = options_for(shape_);
  options.packet_lag = 1;
  for (int rank = 0; rank < 4; ++rank) {
    TimedDevice timed = device_with(options, rank);
    timed.begin_step(1, all_at(shape_, 0));
    EXPECT_EQ(timed.begin_step(2, all_at(shape_, 11)), 70 + 3 * 10'000 - 11);
  }
}

TEST_F(TimedDeviceCharges, TermsAddUpToTheClock) {
  TimedDevice timed = device();
  timed.begin_step(1, Clocks{0, 40});
  timed.on_events(1, {});
  timed.attention(3, 7);
  timed.arrive(Clocks{timed.now_ns() + 3, timed.now_ns()});
  timed.dispatch(Rows{1, 2}, Rows{1, 4});
  timed.experts(std::vector<std::uint32_t>{5, 0, 0, 1});
  timed.combine(Rows{1, 4}, Rows{1, 2});
  timed.head(3);
  timed.balancer_calls(1);
  const auto sum =
      std::accumulate(timed.terms().begin(), timed.terms().end(), std::int64_t{0},
                      [](std::int64_t total, const auto& term) { return total + term.second; });
  EXPECT_EQ(sum, timed.now_ns());
  EXPECT_EQ(timed.terms().size(), 12U);
}

TEST_F(TimedDeviceCharges, FractionsOfANanosecondAreRoundedOncePerCharge) {
  HardwareProfile profile = round_profile();
  profile.constants["record_call"].value = 0.3e-9;
  profile.constants["end_step_call"].value = 0.3e-9;
  TimedDevice timed(profile, shape_, 0, options_for(shape_));
  timed.balancer_calls(1);  // 0.6, not 0.3 and 0.3
  EXPECT_EQ(timed.now_ns(), 1);
}

TEST_F(TimedDeviceCharges, OptionsOutOfRangeAreRefused) {
  const auto broken = [&](auto change) {
    TimedDeviceOptions options = options_for(shape_);
    change(options);
    return options;
  };
  EXPECT_THROW(device_with(broken([](auto& options) { options.token_scale = 0; })), Error);
  EXPECT_THROW(device_with(broken([](auto& options) { options.packet_lag = 0; })), Error);
  EXPECT_THROW(device_with(broken([](auto& options) { options.packet_interval = 0; })), Error);
  EXPECT_THROW(device_with(broken([](auto& options) { options.staging_capacity_per_rank = {1}; })),
               Error);
  EXPECT_THROW(
      device_with(broken([](auto& options) { options.staging_capacity_per_rank = {1, 0}; })),
      Error);
  EXPECT_THROW(device_with(options_for(shape_), 2), Error);
  try {
    device_with(broken([](auto& options) { options.policy = "best"; }));
    FAIL() << "an unknown policy was accepted";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "hardware profile 'round' has no constant 'plan_best'");
  }
}

TEST_F(TimedDeviceCharges, MisuseIsRefusedRatherThanTurnedIntoAWrongTime) {
  TimedDevice timed = device();
  EXPECT_THROW(timed.begin_step(2, Clocks{0, 0}), Error);
  EXPECT_THROW(timed.begin_step(1, Clocks{0}), Error);
  EXPECT_THROW(timed.on_events(1, {}), Error);
  timed.attention(1, 0);
  EXPECT_THROW(timed.arrive(Clocks{0, 10}), Error);  // leaves out this rank's 505
  EXPECT_THROW(timed.dispatch(Rows{1}, Rows{1}), Error);
}

TEST_F(TimedDeviceCharges, AChargeThatCannotBeAClockIsRefused) {
  HardwareProfile profile = round_profile();
  profile.constants["flops"].value = 1e-300;
  TimedDevice timed(profile, shape_, 0, options_for(shape_));
  EXPECT_THROW(timed.attention(1, 0), Error);
}

}  // namespace
}  // namespace swiftbalancer::engine
