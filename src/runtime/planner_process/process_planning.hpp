#pragma once
// Planning in a process of its own: the program `swiftbalancer-planner`, started and watched from
// the worker thread, which never waits for it. Whatever happens to that process (killed, stuck, out
// of memory, talks nonsense), the load history is lost, serving goes on, and it is started again
// after a pause that doubles each time, a bounded number of times.

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "runtime/planning.hpp"

namespace swiftbalancer {

struct ProcessPlanningOptions {
  std::string program;                         ///< As BalancerConfig::planner_program.
  int max_restarts = 5;                        ///< After so many, the next loss is kOff.
  std::chrono::milliseconds deadline{10'000};  ///< Longest silence while an answer is owed.
  std::size_t max_memory_bytes = 0;            ///< Address space of the program; 0: no limit.
  std::size_t max_unsent_bytes = std::size_t{64} << 20;  ///< Waiting for a slow program.
  std::function<std::chrono::steady_clock::time_point()> clock =
      std::chrono::steady_clock::now;  ///< For the pauses and the deadline.
};

/// The program is started by the first advance(), in the thread that calls it, and ends with that
/// thread. running() is false from a loss until the program is up again; restart() then makes it
/// plan again.
/// @throws Error kInvalidArgument: no such program, unknown policy, value out of range.
std::unique_ptr<Planning> make_process_planning(const PlannerConfig& config,
                                                ProcessPlanningOptions options);

}  // namespace swiftbalancer
