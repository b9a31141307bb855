// What becomes of a planner process that is killed, stuck or out of memory: the load history is
// lost and said so once, and it is started again a bounded number of times.

#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <swiftbalancer/error.hpp>

#include "planner_process/processes.hpp"
#include "sanitized.hpp"

namespace swiftbalancer {
namespace {

using namespace std::chrono_literals;
using ::testing::AllOf;
using testing::DrivenPlanning;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::kShape;
using testing::real_planner;
using testing::skewed_load;
using ::testing::StartsWith;
using Kind = PlanningEvent::Kind;

// Takes seconds to plan, a layer at a time.
const ClusterShape kLargeShape = testing::shape_of(1000, 256, 32, 320);
constexpr GenerationId kGeneration{1, 9};

void expect_answers(DrivenPlanning& process, const ClusterShape& shape) {
  process.observe(1, skewed_load(shape, 0));
  process->open(kGeneration);
  const PlanningEvent event = process.next();
  EXPECT_EQ(event.kind, Kind::kPlan) << event.why;
  EXPECT_EQ(event.generation, kGeneration);
  EXPECT_GT(event.plan.moves, 0);
}

TEST(PlannerProcessFailure, KilledWhileIdleIsStartedAgainAndPlansOnceRestarted) {
  DrivenPlanning process(real_planner());
  process.restart(kShape);
  const pid_t first = process.wait_until_up();
  ASSERT_EQ(kill(first, SIGKILL), 0);

  const PlanningEvent lost = process.next();
  EXPECT_EQ(lost.kind, Kind::kLost);
  EXPECT_THAT(lost.why, AllOf(HasSubstr("planner process was killed by signal 9 (Killed)"),
                              HasSubstr("started again in 100 ms (1 of 5 times)")));
  EXPECT_FALSE(process->running());

  process->observe(5, skewed_load(kShape, 0), Phase::kMixed);
  const ServedState served = ServedState::initial(kShape);
  process->on_committed(0, served.placement.layer(0), served.shares[0]);
  process->on_rebalancing(false);
  EXPECT_EQ(process->ignored(), 1U);
  process->open(kGeneration);
  const PlanningEvent failed = process.next();
  EXPECT_EQ(failed.kind, Kind::kFailed);
  EXPECT_EQ(failed.generation, kGeneration);
  EXPECT_EQ(failed.why, "") << "told once already";

  process.pass(99ms);
  EXPECT_TRUE(process.run_until([] { return testing::children_of(getpid()).empty(); }));
  EXPECT_FALSE(process->advance());
  EXPECT_EQ(process->restarts(), 0);
  process.pass(1ms);
  const pid_t second = process.wait_until_up();
  EXPECT_NE(second, first);
  EXPECT_EQ(process->restarts(), 1);

  process->open(kGeneration);
  EXPECT_EQ(process.next().kind, Kind::kFailed) << "its history is that of no other rank";
  process.restart(kShape);
  expect_answers(process, kShape);
}

TEST(PlannerProcessFailure, KilledWhilePlanningFailsTheGeneration) {
  DrivenPlanning process(real_planner());
  process.restart(kLargeShape);
  process.observe(1, skewed_load(kLargeShape, 0));
  const pid_t planner = process.wait_until_up();
  process->open(kGeneration);
  process->on_rebalancing(true);
  // Its first sign of life shows that it plans.
  ASSERT_TRUE(process.run_until([&, moved = 0]() mutable {
    moved += process->advance() ? 1 : 0;
    return moved >= 2;
  }));
  ASSERT_EQ(kill(planner, SIGKILL), 0);

  const PlanningEvent lost = process.next();
  ASSERT_EQ(lost.kind, Kind::kLost) << "kind " << static_cast<int>(lost.kind);
  EXPECT_THAT(lost.why, HasSubstr("was killed by signal 9 (Killed)"));
  const PlanningEvent failed = process.next();
  EXPECT_EQ(failed.kind, Kind::kFailed);
  EXPECT_EQ(failed.generation, kGeneration);
  process->close();
  EXPECT_FALSE(process->next_event().has_value());
}

TEST(PlannerProcessFailure, RestartedBeforeItIsUpAgainItBeginsWithWhatCameSince) {
  DrivenPlanning process(real_planner());
  process.restart(kShape);
  ASSERT_EQ(kill(process.wait_until_up(), SIGKILL), 0);
  EXPECT_EQ(process.next().kind, Kind::kLost);
  process->restart(kShape, ServedState::initial(kShape));
  process->observe(1, skewed_load(kShape, 0), Phase::kMixed);
  process.pass(100ms);
  EXPECT_EQ(process.next().kind, Kind::kObserved);
  EXPECT_EQ(process->restarts(), 1);
  EXPECT_EQ(process->ignored(), 0U);
}

// More is observed during its pause than can be kept: that is told, and puts its start off no
// longer.
TEST(PlannerProcessFailure, ObservationsDuringAPauseDoNotPutItsStartOff) {
  ProcessPlanningOptions options = real_planner();
  options.max_unsent_bytes = 100'000;
  DrivenPlanning process(options);
  process.restart(kShape);
  ASSERT_EQ(kill(process.wait_until_up(), SIGKILL), 0);
  EXPECT_EQ(process.next().kind, Kind::kLost);
  std::uint64_t step = 0;
  for (int pauses = 0; pauses < 9; ++pauses) {
    process.pass(10ms);
    process->restart(kShape, ServedState::initial(kShape));
    for (int more = 0; more < 2'000; ++more)
      process->observe(++step, skewed_load(kShape, 0), Phase::kMixed);
    EXPECT_THAT(process.next(Kind::kLost).why, HasSubstr("was not up in time"));
  }
  process.pass(10ms);
  process->restart(kShape, ServedState::initial(kShape));
  process.wait_until_up();
  EXPECT_EQ(process->restarts(), 1);
}

TEST(PlannerProcessFailure, StuckIsEndedAfterTheDeadline) {
  ProcessPlanningOptions options = real_planner();
  options.deadline = 300ms;
  DrivenPlanning process(options);
  process.restart(kShape);
  const pid_t first = process.wait_until_up();
  ASSERT_EQ(kill(first, SIGSTOP), 0);
  process.pass(1h);  // Nothing is owed: silence is no sign of anything.
  process->advance();
  process->observe(1, skewed_load(kShape, 0), Phase::kMixed);
  process->advance();
  process.pass(299ms);
  process->advance();
  EXPECT_FALSE(process->next_event().has_value());
  process.pass(1ms);

  const PlanningEvent lost = process.next();
  EXPECT_EQ(lost.kind, Kind::kLost);
  EXPECT_THAT(lost.why, HasSubstr("planner process said nothing for 300 ms: ended"));
  EXPECT_EQ(process->ignored(), 1U);
  process.pass(100ms);
  EXPECT_NE(process.wait_until_up(), first);
  process.restart(kShape);
  expect_answers(process, kShape);
}

TEST(PlannerProcessFailure, OneThatDoesNotKeepUpIsEnded) {
  ProcessPlanningOptions options = real_planner();
  options.max_unsent_bytes = 16 << 20;
  DrivenPlanning process(options);
  process.restart(kLargeShape);
  ASSERT_EQ(kill(process.wait_until_up(), SIGSTOP), 0);
  for (std::uint64_t step = 1; step <= 20; ++step)
    process->observe(step, skewed_load(kLargeShape, 0), Phase::kMixed);
  const PlanningEvent lost = process.next();
  EXPECT_EQ(lost.kind, Kind::kLost);
  EXPECT_THAT(lost.why, HasSubstr("planner process does not keep up"));
  EXPECT_EQ(process->ignored(), 20U);
}

TEST(PlannerProcessFailure, OutOfMemoryIsSaid) {
  if (testing_support::is_sanitized())
    GTEST_SKIP() << "a sanitizer's own memory does not fit under a limit";
  ProcessPlanningOptions options = real_planner();
  options.max_memory_bytes = std::size_t{64} << 20;
  DrivenPlanning process(options);
  const ClusterShape huge = testing::shape_of(1000, 2048, 2, 2048);
  process->restart(huge, ServedState::initial(huge));
  process->observe(1, skewed_load(huge, 0), Phase::kMixed);
  const PlanningEvent lost = process.next();
  EXPECT_EQ(lost.kind, Kind::kLost);
  EXPECT_THAT(lost.why, HasSubstr("planner process ran out of memory"));

  process.pass(100ms);
  process.wait_until_up();
  process.restart(kShape);
  expect_answers(process, kShape);
}

TEST(PlannerProcessFailure, AProgramThatEndsAtOnceIsGivenUp) {
  DrivenPlanning process({.program = "/bin/false", .max_restarts = 3});
  process->restart(kShape, ServedState::initial(kShape));
  const std::vector<std::chrono::milliseconds> pauses = {100ms, 200ms, 400ms};
  for (int restart = 0; restart < 3; ++restart) {
    const PlanningEvent lost = process.next();
    EXPECT_EQ(lost.kind, Kind::kLost);
    EXPECT_THAT(lost.why, HasSubstr("planner process ended by itself with status 1"));
    ASSERT_TRUE(process.run_until([] { return testing::children_of(getpid()).empty(); }));
    const auto pause = pauses[static_cast<std::size_t>(restart)];
    process.pass(pause - 1ms);
    EXPECT_FALSE(process->advance());
    EXPECT_EQ(process->restarts(), restart);
    process.pass(1ms);
    EXPECT_TRUE(process->advance());
    EXPECT_EQ(process->restarts(), restart + 1);
  }
  const PlanningEvent off = process.next();
  EXPECT_EQ(off.kind, Kind::kOff);
  EXPECT_THAT(off.why, HasSubstr("balancing is off"));
  EXPECT_FALSE(process->running());

  process.pass(1h);
  process->restart(kShape, ServedState::initial(kShape));
  process->observe(1, skewed_load(kShape, 0), Phase::kMixed);
  process->open(kGeneration);
  EXPECT_EQ(process.next().kind, Kind::kFailed);
  EXPECT_FALSE(process->advance());
  EXPECT_EQ(process->restarts(), 3);
  EXPECT_EQ(process->ignored(), 1U);
  EXPECT_THAT(testing::children_of(getpid()), IsEmpty());
}

TEST(PlannerProcessFailure, AProgramThatIsNoneAnyMoreIsGivenUp) {
  const auto program = std::filesystem::temp_directory_path() /
                       ("swiftbalancer_planner_" + std::to_string(getpid()));
  std::filesystem::copy_file(testing::planner_program(), program);
  DrivenPlanning process({.program = program.string(), .max_restarts = 0});
  std::filesystem::remove(program);
  process->restart(kShape, ServedState::initial(kShape));
  const PlanningEvent off = process.next();
  EXPECT_EQ(off.kind, Kind::kOff);
  EXPECT_THAT(off.why, AllOf(HasSubstr("could not be started"), HasSubstr("No such file")));
}

std::string refusal(ProcessPlanningOptions options, PlannerConfig config = {}) {
  try {
    make_process_planning(config, std::move(options));
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
  return "accepted";
}

TEST(PlannerProcessSetUp, RefusesWhatCannotWork) {
  EXPECT_THAT(refusal({.program = "/no/such/program"}),
              AllOf(HasSubstr("planner_program is '/no/such/program'"),
                    HasSubstr("not an executable file")));
  EXPECT_THAT(refusal({.program = "/etc/passwd"}), HasSubstr("not an executable file"));
  EXPECT_THAT(refusal({.program = "/tmp"}), HasSubstr("not an executable file"));
  EXPECT_THAT(refusal({.program = "no-such-program-anywhere"}), HasSubstr("neither in PATH"));
  EXPECT_THAT(refusal({.program = "/bin/false", .max_restarts = -1}),
              HasSubstr("planner_restarts is -1; allowed"));
  EXPECT_THAT(refusal({.program = "/bin/false", .deadline = 0ms}),
              HasSubstr("planner_deadline is 0 ms; allowed"));
  EXPECT_THAT(refusal({.program = "/bin/false"}, {.policy = "best"}), HasSubstr("best"));
}

TEST(PlannerProcessSetUp, FindsTheProgramBesideThisOneAndByName) {
  EXPECT_EQ(refusal({}), "accepted");  // Tests lie in the same folder as the program.
  EXPECT_EQ(refusal({.program = "false"}), "accepted");
}

TEST(PlannerProgram, StartedByHandSaysWhoStartsIt) {
  FILE* output = popen((testing::planner_program() + " 2>&1").c_str(), "r");
  ASSERT_NE(output, nullptr);
  char text[1000] = {};
  const std::size_t length = fread(text, 1, sizeof text - 1, output);
  const int status = pclose(output);
  EXPECT_THAT(std::string(text, length),
              AllOf(StartsWith("swiftbalancer-planner: started by the balancer"),
                    ::testing::EndsWith("not by hand\n")));
  EXPECT_EQ(WEXITSTATUS(status), 2);
}

}  // namespace
}  // namespace swiftbalancer
