// A planner process that sends anything at all costs its history, never the engine.

#include <cstdlib>

#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "planner_process/processes.hpp"

namespace swiftbalancer {
namespace {

using namespace std::chrono_literals;
using testing::DrivenPlanning;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::kShape;
using Kind = PlanningEvent::Kind;

struct Lie {
  const char* mode;
  const char* why;
  bool tells_nothing = false;  // Only the deadline ends it.
};

void PrintTo(const Lie& lie, std::ostream* out) { *out << lie.mode; }

class HostilePlanner : public ::testing::TestWithParam<Lie> {
 protected:
  ~HostilePlanner() override { unsetenv("SWIFTBALANCER_HOSTILE"); }
};

TEST_P(HostilePlanner, IsEndedAndItsLastWordsAreNotUsed) {
  setenv("SWIFTBALANCER_HOSTILE", GetParam().mode, 1);
  DrivenPlanning process({.program = testing::hostile_program(), .max_restarts = 1});
  for (int life = 0; life < 2; ++life) {
    process.pass(100ms);
    process->restart(kShape, ServedState::initial(kShape));
    process->observe(7, testing::skewed_load(kShape, 0), Phase::kMixed);
    process->open({.membership = 0, .step = 7});
    process->on_rebalancing(true);
    std::vector<PlanningEvent> events;
    const bool lost = process.run_until([&] {
      while (auto event = process->next_event()) events.push_back(std::move(*event));
      if (GetParam().tells_nothing) process.pass(1ms);
      return !events.empty() && events.front().kind != Kind::kObserved;
    });
    ASSERT_TRUE(lost);
    EXPECT_EQ(events[0].kind, life == 0 ? Kind::kLost : Kind::kOff);
    EXPECT_THAT(events[0].why, HasSubstr(GetParam().why));
    ASSERT_EQ(events.size(), 2U);
    EXPECT_EQ(events[1].kind, Kind::kFailed);
  }
  EXPECT_TRUE(process.run_until([] { return testing::children_of(getpid()).empty(); }));
}

INSTANTIATE_TEST_SUITE_P(
    Lies, HostilePlanner,
    ::testing::Values(Lie{"noise", "planner process "}, Lie{"unknown_kind", "makes no sense"},
                      Lie{"not_asked", "it answered what it was not asked"},
                      Lie{"short_answer", "it is too short"}, Lie{"too_long", "makes no sense"},
                      Lie{"wrong_plan", "plan message for generation 7"},
                      Lie{"repeats_itself", "said nothing for 10000 ms", true},
                      Lie{"long_frame", "makes no sense"}, Lie{"other_frame", "makes no sense"},
                      Lie{"middle_of_message", "makes no sense"},
                      Lie{"silence", "said nothing for 10000 ms", true}),
    [](const auto& test) { return std::string(test.param.mode); });

}  // namespace
}  // namespace swiftbalancer
