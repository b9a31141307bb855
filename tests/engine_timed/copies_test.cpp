#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <random>

#include "engine_timed/round_profile.hpp"

namespace swiftbalancer::engine {
namespace {

using enum BalancerEventKind;
using Events = std::vector<BalancerEvent>;
using Rows = std::vector<int>;

// Two ranks; every step begins with both at the same clock. A step begins 11 ns later (agreement);
// its call costs 13 ns.
class TimedDeviceCopies : public ::testing::Test {
 protected:
  TimedDeviceCopies() { start(options_for(shape_)); }

  void start(const TimedDeviceOptions& options) {
    devices_.clear();
    for (int rank = 0; rank < 2; ++rank)
      devices_.push_back(std::make_unique<TimedDevice>(round_profile(), shape_, rank, options));
    step_ = 0;
  }
  /// Both ranks begin the next step when the later of them is ready, and see these events.
  void step(const Events& events = {}) {
    const std::vector<std::int64_t> clocks = {devices_[0]->now_ns(), devices_[1]->now_ns()};
    ++step_;
    for (auto& device : devices_) {
      device->begin_step(step_, clocks);
      started_ = device->now_ns();
      device->on_events(step_, events);
    }
  }
  /// Both wait at a barrier until `clock`.
  void wait_until(std::int64_t clock) {
    for (auto& device : devices_) device->arrive(all_at(shape_, clock));
  }
  TimedDevice& device(int rank) { return *devices_[static_cast<std::size_t>(rank)]; }
  std::uint32_t cursor(int rank) { return device(rank).visible().staged_cursor; }

  ClusterShape shape_ = even_shape(2);
  std::vector<std::unique_ptr<TimedDevice>> devices_;
  std::uint64_t step_ = 0;
  std::int64_t started_ = 0;  // agreed clock at which the last step began
};

TEST_F(TimedDeviceCopies, APlanIsHeldOnceJudgingAndPlanningAreOver) {
  step({event(kOpened)});
  EXPECT_FALSE(device(0).visible().plan_ready);
  wait_until(started_ + kPlanningNs - 1);
  EXPECT_FALSE(device(0).visible().plan_ready);
  wait_until(started_ + kPlanningNs);
  EXPECT_TRUE(device(0).visible().plan_ready);
}

TEST_F(TimedDeviceCopies, PlanningIsChargedPerPolicy) {
  TimedDeviceOptions options = options_for(shape_);
  options.policy = "static";
  start(options);
  step({event(kOpened)});
  wait_until(started_ + 400);
  EXPECT_FALSE(device(0).visible().plan_ready);
  wait_until(started_ + 401);
  EXPECT_TRUE(device(0).visible().plan_ready);
}

TEST_F(TimedDeviceCopies, AClosedOrAdoptedGenerationIsNoLongerReady) {
  const MigrationPlan plan = plan_of({{copy_between(shape_, 0, 1)}});
  for (const BalancerEvent& end : {event(kClosed), event(kAdopted, &plan)}) {
    step({event(kOpened)});
    wait_until(started_ + kPlanningNs);
    ASSERT_TRUE(device(0).visible().plan_ready);
    step({end});
    EXPECT_FALSE(device(0).visible().plan_ready);
  }
}

TEST_F(TimedDeviceCopies, ACopyArrivesInVirtualTimeWhileStepsGoOn) {
  const MigrationPlan plan = plan_of({{copy_between(shape_, 0, 1)}});
  step({event(kAdopted, &plan)});
  const std::int64_t adopted = started_;
  EXPECT_EQ(cursor(0), 1U);  // receives nothing
  wait_until(adopted + kLinkCopyNs / 2);
  step();
  EXPECT_EQ(cursor(1), 0U);
  wait_until(adopted + kLinkCopyNs - 1);
  EXPECT_EQ(cursor(1), 0U);
  wait_until(adopted + kLinkCopyNs);
  EXPECT_EQ(cursor(1), 1U);
}

TEST_F(TimedDeviceCopies, WithinARankMemoryIsReadAndWritten) {
  const MigrationPlan plan = plan_of({{copy_between(shape_, 1, 1)}});
  step({event(kAdopted, &plan)});
  wait_until(started_ + kLocalCopyNs - 1);
  EXPECT_EQ(cursor(1), 0U);
  wait_until(started_ + kLocalCopyNs);
  EXPECT_EQ(cursor(1), 1U);
}

TEST_F(TimedDeviceCopies, BetweenNodesTheNodeLinkCarriesTheCopy) {
  shape_ = even_shape(2, 2);
  start(options_for(shape_));
  const MigrationPlan plan = plan_of({{copy_between(shape_, 0, 1)}});
  step({event(kAdopted, &plan)});
  wait_until(started_ + kNodeCopyNs - 1);
  EXPECT_EQ(cursor(1), 0U);
  wait_until(started_ + kNodeCopyNs);
  EXPECT_EQ(cursor(1), 1U);
}

TEST_F(TimedDeviceCopies, ACopyUnderWaySlowsTheDirectionThatItUses) {
  const MigrationPlan plan = plan_of({{copy_between(shape_, 0, 1)}});
  step({event(kAdopted, &plan)});
  device(0).dispatch(Rows{0, 30},
                     Rows{0, 0});  // 600 ns alone, 800 ns on three quarters of the link
  EXPECT_EQ(device(0).terms().at("dispatch"), 607);
  EXPECT_EQ(device(0).terms().at("copy_slowdown"), 200);
  device(0).combine(Rows{0, 0}, Rows{0, 30});  // the other direction is free
  EXPECT_EQ(device(0).terms().at("copy_slowdown"), 200);
  device(1).combine(Rows{0, 0}, Rows{30, 0});  // rank 1 receives the copy: 1200 ns alone, 1600 ns
  EXPECT_EQ(device(1).terms().at("copy_slowdown"), 400);
}

TEST_F(TimedDeviceCopies, DispatchIsNotSlowedOnceTheCopyHasArrived) {
  const MigrationPlan plan = plan_of({{copy_between(shape_, 0, 1)}});
  step({event(kAdopted, &plan)});
  wait_until(started_ + kLinkCopyNs);
  device(0).dispatch(Rows{0, 30}, Rows{0, 0});
  EXPECT_EQ(device(0).terms().at("copy_slowdown"), 0);
}

TEST_F(TimedDeviceCopies, CopiesWithinARankDoNotSlowTheLink) {
  const MigrationPlan plan = plan_of({{copy_between(shape_, 0, 0)}});
  step({event(kAdopted, &plan)});
  device(0).dispatch(Rows{0, 30}, Rows{0, 30});
  EXPECT_EQ(device(0).terms().at("copy_slowdown"), 0);
}

TEST_F(TimedDeviceCopies, FewBuffersMakeLaterUnitsWaitForCommits) {
  start(options_for(shape_, 1));
  const MigrationPlan plan =
      plan_of({{copy_between(shape_, 0, 1, 0)}, {copy_between(shape_, 0, 1, 1)}});
  step({event(kAdopted, &plan)});
  wait_until(started_ + 3 * kLinkCopyNs);
  EXPECT_EQ(cursor(1), 1U);
  step({event(kCommitted, &plan, 0)});
  wait_until(started_ + kLinkCopyNs - 1);
  EXPECT_EQ(cursor(1), 1U);
  wait_until(started_ + kLinkCopyNs);
  EXPECT_EQ(cursor(1), 2U);
}

TEST_F(TimedDeviceCopies, ADropLetsTheNextCopyStartAtOnce) {
  const MigrationPlan plan =
      plan_of({{copy_between(shape_, 0, 1, 0)}, {copy_between(shape_, 0, 1, 1)}});
  step({event(kAdopted, &plan)});
  step({event(kDropped, &plan, 0)});
  wait_until(started_ + kLinkCopyNs - 1);
  EXPECT_EQ(cursor(1), 1U);  // the dropped unit counts as passed
  wait_until(started_ + kLinkCopyNs);
  EXPECT_EQ(cursor(1), 2U);
}

TEST_F(TimedDeviceCopies, ASupersedingPlanStartsAfresh) {
  const MigrationPlan old_plan = plan_of({{copy_between(shape_, 0, 1, 0)}});
  const MigrationPlan plan =
      plan_of({{copy_between(shape_, 0, 1, 1)}, {copy_between(shape_, 0, 1, 2)}});
  step({event(kAdopted, &old_plan)});
  step({event(kDropped, &old_plan, 0), event(kRetired), event(kAdopted, &plan),
        event(kDropped, &plan, 0)});
  wait_until(started_ + kLinkCopyNs - 1);
  EXPECT_EQ(cursor(1), 1U);
  wait_until(started_ + kLinkCopyNs);
  EXPECT_EQ(cursor(1), 2U);
}

TEST_F(TimedDeviceCopies, ASwapInstallCostsAFixedTimePerExpertReceivedHere) {
  TimedDeviceOptions options = options_for(shape_);
  options.packet_lag = 8;  // no stall for packets in between
  start(options);
  const MigrationPlan plan =
      plan_of({{copy_between(shape_, 0, 1, 0), copy_between(shape_, 0, 1, 1)}});
  step({event(kAdopted, &plan)});
  wait_until(started_ + 2 * kLinkCopyNs);
  step({event(kCommitted, &plan, 0), event(kRetired)});
  EXPECT_EQ(device(0).terms().at("install"), 23);  // tables alone
  EXPECT_EQ(device(1).terms().at("install"), 23 + 2 * 19);
  EXPECT_EQ(device(1).now_ns() - device(0).now_ns(), 2 * 19);
  const std::int64_t latest = device(1).now_ns();
  step();
  EXPECT_EQ(started_, latest + 11);  // the other rank has waited
}

TEST_F(TimedDeviceCopies, ACopyInstallReadsAndWritesEveryExpertReceived) {
  TimedDeviceOptions options = options_for(shape_);
  options.install_mode = InstallMode::kCopy;
  start(options);
  const MigrationPlan plan =
      plan_of({{copy_between(shape_, 0, 1, 0), copy_between(shape_, 0, 1, 1)}});
  step({event(kAdopted, &plan)});
  wait_until(started_ + 2 * kLinkCopyNs);
  step({event(kCommitted, &plan, 0), event(kRetired)});
  EXPECT_EQ(device(0).terms().at("install"), 23);
  EXPECT_EQ(device(1).terms().at("install"), 23 + 2 * 2 * 1000);
}

// Each rank lives through the same events with work of its own, copies under way, buffers short.
TEST_F(TimedDeviceCopies, SameInputsGiveTheSameTimesOnEveryRun) {
  const auto run = [&](unsigned seed) {
    start(options_for(shape_, 2));
    std::mt19937 random(seed);
    const MigrationPlan plan =
        plan_of({{copy_between(shape_, 0, 1, 0), copy_between(shape_, 1, 0, 1)},
                 {copy_between(shape_, 0, 1, 2)},
                 {copy_between(shape_, 1, 0, 3), copy_between(shape_, 0, 1, 3)}});
    std::vector<std::int64_t> trace;
    std::uint32_t committed = 0;
    for (int i = 0; i < 60; ++i) {
      Events events;
      if (i == 2) events.push_back(event(kOpened));
      if (i == 5) events.push_back(event(kAdopted, &plan));
      for (; i > 6 && committed < std::min(cursor(0), cursor(1)); ++committed)
        events.push_back(event(kCommitted, &plan, committed));
      step(events);
      for (int rank = 0; rank < 2; ++rank) {
        device(rank).attention(static_cast<int>(random() % 9),
                               static_cast<std::int64_t>(random() % 500));
        device(rank).dispatch(
            Rows{static_cast<int>(random() % 90), static_cast<int>(random() % 90)}, Rows{7, 7});
        trace.push_back(device(rank).now_ns());
        trace.push_back(device(rank).terms().at("copy_slowdown"));
        trace.push_back(device(rank).visible().staged_cursor);
      }
    }
    EXPECT_EQ(committed, 3U);
    return trace;
  };
  for (const unsigned seed : {1U, 2U, 3U}) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    EXPECT_EQ(run(seed), run(seed));
  }
}

// Ranks differ in their own work, yet the timetable is agreed: sender and receiver see the copy end
// at the same clock.
TEST_F(TimedDeviceCopies, RanksWithDifferentWorkHaveTheSameTimetable) {
  const MigrationPlan plan = plan_of({{copy_between(shape_, 0, 1)}});
  device(0).attention(50, 1000);
  step({event(kAdopted, &plan)});
  const std::int64_t arrival = started_ + kLinkCopyNs;
  device(1).attention(3, 3);
  const auto slowed_at = [&](int rank, std::int64_t clock) {
    device(rank).arrive(all_at(shape_, clock));
    const std::int64_t before = device(rank).terms().at("copy_slowdown");
    device(rank).dispatch(rank == 0 ? Rows{0, 1} : Rows{0, 0}, rank == 0 ? Rows{0, 0} : Rows{1, 0});
    return device(rank).terms().at("copy_slowdown") > before;
  };
  for (int rank = 0; rank < 2; ++rank) {
    EXPECT_TRUE(slowed_at(rank, arrival - 100)) << rank;
    EXPECT_FALSE(slowed_at(rank, arrival)) << rank;
  }
  EXPECT_EQ(cursor(1), 1U);
}

}  // namespace
}  // namespace swiftbalancer::engine
