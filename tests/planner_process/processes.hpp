#pragma once
// What tests of the planner process share: a planning driven by hand with a clock that only the
// test moves, and a look at this process's children and descriptors.

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <sys/types.h>

#include "runtime/planner_process/process_planning.hpp"

namespace swiftbalancer::testing {

std::string planner_program();
std::string hostile_program();
/// Options that run the planner program of this build.
ProcessPlanningOptions real_planner();

/// All children of this process, zombies too.
std::vector<pid_t> children_of(pid_t parent);
/// Letter of /proc/PID/stat; 0: there is no such process.
char state_of(pid_t process);
std::vector<std::string> entries_of(const std::string& folder);
std::size_t num_descriptors();

ClusterShape shape_of(int layers, int experts, int ranks, int slots);
inline const ClusterShape kShape = shape_of(4, 32, 4, 40);
/// The same number of tokens for every expert but a few hot ones, which move with `turn`.
ExpertLoad skewed_load(const ClusterShape& shape, int turn);

class DrivenPlanning {
 public:
  using Event = PlanningEvent;
  explicit DrivenPlanning(ProcessPlanningOptions options, PlannerConfig config = {});

  Planning& operator*() noexcept { return *planning_; }
  Planning* operator->() noexcept { return planning_.get(); }
  /// Lets the planning work until `reached`. @returns false after a long time.
  bool run_until(const std::function<bool()>& reached);
  /// The next event, which must come; its `why` says so if it does not.
  Event next();
  /// The same, of that kind; others before it are dropped.
  Event next(Event::Kind kind);
  /// Begins anew on the first placement, and waits until the program is up.
  void restart(const ClusterShape& shape);
  /// Observes and waits for the answer.
  void observe(std::uint64_t step, const ExpertLoad& load);
  /// Until the program is up. @returns its process.
  pid_t wait_until_up();
  void pass(std::chrono::milliseconds time) { now_ += time; }
  void end() { planning_.reset(); }

 private:
  std::chrono::steady_clock::time_point now_{std::chrono::hours(1)};
  std::unique_ptr<Planning> planning_;
};

}  // namespace swiftbalancer::testing
