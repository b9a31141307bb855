#pragma once
// Replays a series of windows under a schedule of rebalances: steps sampled from each window, plans
// made when the schedule says so, and how far what is served lies from the best plan in hindsight.
// Used by the `replay` command. Pure but for the progress callback; main thread.

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include <swiftbalancer/load.hpp>
#include <swiftbalancer/shape.hpp>

#include "planner/planner.hpp"

namespace swiftbalancer::tool {

struct ReplaySchedule {
  std::string name;         ///< As typed.
  std::string policy;       ///< What plans.
  std::int64_t every = 0;   ///< Steps between plans; 0: ours, when the planner says so.
  std::int64_t window = 0;  ///< Last steps that a plan is made on.
};

/// @param text "ours", "every:K" or "every:K:window:W". @param policy "": swift for ours, else
/// eplb.
/// @throws Error kInvalidArgument
ReplaySchedule parse_schedule(const std::string& text, const std::string& policy);

struct ReplayOptions {
  ShapeOptions shape{};
  std::int64_t assignments_per_step = 0;  ///< Per layer: tokens times top-k.
  std::int64_t steps_per_window = 3000;
  std::uint64_t seed = 0;
  std::uint64_t rebalance_interval = 64;  ///< Of ours, as BalancerConfig::rebalance_interval.
  PlannerConfig planner{};
  std::vector<std::size_t> order{};  ///< Which window is served when.
};

/// Imbalance (max / mean rank load), mean over layers, under an even and under the planned split.
struct EvenAndSplit {
  double even = 0.0;
  double split = 0.0;
};

/// What a schedule made of one window of the series.
struct WindowAnswer {
  std::size_t window = 0;
  std::int64_t first_step = 0;
  double hindsight = 1.0;     ///< Imbalance of the best plan for this window's loads.
  EvenAndSplit at_first{};    ///< What was served before, on this window's loads.
  EvenAndSplit mean{};        ///< Over the steps of the window, on its loads.
  double mean_sampled = 0.0;  ///< The same, planned split, on the sampled steps.
  std::int64_t decided = -1;  ///< Steps until a plan within 0.05 of hindsight; -1: never.
  std::int64_t served = -1;   ///< Steps until it was served.
  int changes = -1;           ///< Of the traffic, as the planner saw them; -1: it does not look.
  int plans = 0;              ///< That changed something.
  std::int64_t moves = 0;
  std::vector<EvenAndSplit> over_time{};  ///< [bin] means, see bins_of_window().
};

struct ReplayResult {
  ReplaySchedule schedule;
  std::vector<WindowAnswer> answers;
};

/// First steps of the bins that a window's steps are gathered in: fine at its start.
std::vector<std::int64_t> bins_of_window(std::int64_t steps_per_window);

/// @param windows of one shape. @param progress (steps done, of how many), now and then.
/// @returns one result per schedule, in their order; all see the same steps.
std::vector<ReplayResult> replay(const ReplayOptions& options, std::span<const ExpertLoad> windows,
                                 std::span<const ReplaySchedule> schedules,
                                 const std::function<void(std::int64_t, std::int64_t)>& progress);

}  // namespace swiftbalancer::tool
