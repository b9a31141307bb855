#include "planner_process/processes.hpp"

#include <cctype>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include <unistd.h>

#include <gtest/gtest.h>

#include "wait_limit.hpp"

namespace swiftbalancer::testing {
namespace {

struct ProcessState {
  char letter = 0;
  pid_t parent = 0;
};

ProcessState look_at(pid_t process) {
  std::ifstream file("/proc/" + std::to_string(process) + "/stat");
  std::string line;
  if (!std::getline(file, line)) return {};
  // The name in parentheses may hold anything.
  std::istringstream rest(line.substr(line.rfind(')') + 1));
  ProcessState state;
  rest >> state.letter >> state.parent;
  return state;
}

}  // namespace

std::string planner_program() { return SWIFTBALANCER_BINARY_DIR "/bin/swiftbalancer-planner"; }
ProcessPlanningOptions real_planner() { return {.program = planner_program()}; }
std::string hostile_program() { return SWIFTBALANCER_BINARY_DIR "/bin/hostile_planner"; }

std::vector<std::string> entries_of(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error))
    names.push_back(entry.path().filename().string());
  return names;
}

std::vector<pid_t> children_of(pid_t parent) {
  std::vector<pid_t> children;
  for (const std::string& name : entries_of("/proc")) {
    if (std::isdigit(static_cast<unsigned char>(name.front())) == 0) continue;
    const pid_t process = std::stoi(name);
    if (look_at(process).parent == parent) children.push_back(process);
  }
  return children;
}

char state_of(pid_t process) { return look_at(process).letter; }

std::size_t num_descriptors() { return entries_of("/proc/self/fd").size(); }

ClusterShape shape_of(int layers, int experts, int ranks, int slots) {
  return ClusterShape({.num_moe_layers = layers,
                       .num_logical_experts = experts,
                       .num_ranks = ranks,
                       .num_slots = slots});
}

ExpertLoad skewed_load(const ClusterShape& shape, int turn) {
  const int experts = shape.num_logical_experts();
  ExpertLoad load(shape.num_moe_layers(), experts);
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    for (int expert = 0; expert < experts; ++expert)
      load.layer(layer)[static_cast<std::size_t>(expert)] =
          (expert + turn + layer) % experts < 3 ? 3000 : 100 + expert;
  }
  return load;
}

DrivenPlanning::DrivenPlanning(ProcessPlanningOptions options, PlannerConfig config) {
  options.clock = [this] { return now_; };
  planning_ = make_process_planning(config, std::move(options));
}

bool DrivenPlanning::run_until(const std::function<bool()>& reached) {
  const auto end = std::chrono::steady_clock::now() + testing_support::kWaitLimit;
  while (!reached()) {
    if (std::chrono::steady_clock::now() > end) return false;
    if (!planning_->advance()) std::this_thread::yield();
  }
  return true;
}

PlanningEvent DrivenPlanning::next() {
  std::optional<Event> event;
  if (run_until([&] { return (event = planning_->next_event()).has_value(); })) return *event;
  ADD_FAILURE() << "no event came";
  return {};
}

PlanningEvent DrivenPlanning::next(Event::Kind kind) {
  while (true) {
    Event event = next();
    if (event.kind == kind || ::testing::Test::HasFailure()) return event;
  }
}

void DrivenPlanning::restart(const ClusterShape& shape) {
  planning_->restart(shape, ServedState::initial(shape));
  wait_until_up();
}

void DrivenPlanning::observe(std::uint64_t step, const ExpertLoad& load) {
  planning_->observe(step, load, Phase::kMixed);
  EXPECT_EQ(next(Event::Kind::kObserved).step, step);
}

pid_t DrivenPlanning::wait_until_up() {
  // It polls while it waits for the program's first word.
  EXPECT_TRUE(run_until([&] {
    return !children_of(getpid()).empty() && planning_->running() && !planning_->must_be_polled();
  }));
  const auto children = children_of(getpid());
  return children.size() == 1 ? children.front() : 0;
}

}  // namespace swiftbalancer::testing
