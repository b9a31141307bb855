// What a planner process is given, and that nothing is left of it: no process, no zombie, no
// descriptor, no shared memory with a name.

#include <algorithm>
#include <csignal>
#include <fstream>
#include <thread>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "planner_process/processes.hpp"
#include "wait_limit.hpp"

namespace swiftbalancer {
namespace {

using namespace std::chrono_literals;
using testing::DrivenPlanning;
using ::testing::IsEmpty;
using testing::kShape;
using testing::real_planner;
using ::testing::UnorderedElementsAre;

std::vector<std::string> own_shared_memory() {
  auto names = testing::entries_of("/dev/shm");
  std::erase_if(names, [](const std::string& name) {
    return name.find(std::to_string(getpid())) == std::string::npos;
  });
  return names;
}

TEST(PlannerProcessTraces, NoneAreLeftHoweverItEnds) {
  const std::size_t descriptors = testing::num_descriptors();
  for (const int signal : {0, SIGSTOP, SIGKILL, SIGTERM}) {
    DrivenPlanning process(real_planner());
    process.restart(kShape);
    const pid_t planner = process.wait_until_up();
    EXPECT_EQ(testing::num_descriptors(), descriptors) << "the memory needs none";
    EXPECT_THAT(own_shared_memory(), IsEmpty());
    ASSERT_EQ(kill(planner, signal), 0);
    process.end();
    EXPECT_THAT(testing::children_of(getpid()), IsEmpty()) << "signal " << signal;
    EXPECT_EQ(testing::num_descriptors(), descriptors);
    EXPECT_THAT(own_shared_memory(), IsEmpty());
  }
}

TEST(PlannerProcessTraces, ManyLossesLeaveNone) {
  const std::size_t descriptors = testing::num_descriptors();
  ProcessPlanningOptions options = real_planner();
  options.max_restarts = 30;
  DrivenPlanning process(options);
  for (int loss = 0; loss < 30; ++loss) {
    process.restart(kShape);
    ASSERT_EQ(kill(process.wait_until_up(), SIGKILL), 0);
    ASSERT_EQ(process.next().kind, PlanningEvent::Kind::kLost);
    process.pass(10s);
  }
  process.wait_until_up();
  EXPECT_EQ(process->restarts(), 30);
  EXPECT_EQ(testing::children_of(getpid()).size(), 1U);
  EXPECT_EQ(testing::num_descriptors(), descriptors);
}

TEST(PlannerProcessTraces, TheProgramGetsTheStandardDescriptorsAndIsKilledFirst) {
  const int ours = open("/dev/null", O_RDONLY);  // Inherited by what is started carelessly.
  ASSERT_GE(ours, 0);
  DrivenPlanning process(real_planner());
  process.restart(kShape);
  const std::string folder = "/proc/" + std::to_string(process.wait_until_up());
  EXPECT_THAT(testing::entries_of(folder + "/fd"), UnorderedElementsAre("0", "1", "2"));
  int score = 0;
  std::ifstream(folder + "/oom_score_adj") >> score;
  EXPECT_EQ(score, 1000);
  close(ours);
}

TEST(PlannerProcessTraces, TheProgramEndsWithItsParent) {
  int pipe_ends[2];
  ASSERT_EQ(pipe(pipe_ends), 0);
  const pid_t parent = fork();
  if (parent == 0) {
    DrivenPlanning process(real_planner());
    process.restart(kShape);
    const pid_t planner = process.wait_until_up();
    _exit(write(pipe_ends[1], &planner, sizeof planner) == sizeof planner && pause() != 0 ? 0 : 1);
  }
  pid_t planner = 0;
  close(pipe_ends[1]);
  ASSERT_EQ(read(pipe_ends[0], &planner, sizeof planner), ssize_t{sizeof planner});
  close(pipe_ends[0]);
  ASSERT_GT(planner, 0);
  EXPECT_NE(testing::state_of(planner), 0);
  ASSERT_EQ(kill(parent, SIGKILL), 0);
  ASSERT_EQ(waitpid(parent, nullptr, 0), parent);
  const auto end = std::chrono::steady_clock::now() + testing_support::kWaitLimit;
  const auto gone = [&] {
    const char state = testing::state_of(planner);
    return state == 0 || state == 'Z' || state == 'X';  // Whoever inherits it collects it.
  };
  while (!gone() && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  EXPECT_TRUE(gone());
}

}  // namespace
}  // namespace swiftbalancer
