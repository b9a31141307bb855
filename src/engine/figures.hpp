#pragma once
// Figures of one or more runs of the same requests, side by side: imbalance over steps and over
// windows, the plan that hindsight would have made for each window, virtual times. Pure; called by
// run.json, the tool and tests.

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <swiftbalancer/load.hpp>

#include "engine/record.hpp"

namespace swiftbalancer::engine {

/// Consecutive steps, first and last included, with enough assignments per layer to be judged.
struct Window {
  std::uint64_t first_step = 0;
  std::uint64_t last_step = 0;
  bool settled = false;  ///< From the second window after a switch of domain (or the start) until
                         ///< the next switch.
};

/// Rank loads, tokens: [num_moe_layers][num_ranks].
using RankLoads = std::vector<std::vector<double>>;

struct RunFigures {
  std::vector<double>
      imbalance_per_step;  ///< Mean over layers, of the tokens that the ranks received.
  std::vector<OverLayers> imbalance_per_window;
  double mean_over_windows = 0.0;  ///< Of the mean over layers. NaN without a window.
  double mean_after_switch = 0.0;  ///< Over settled windows. NaN without one.
  /// What the windows' loads would have come to by the shares served, whereas the above is what
  /// slots have counted. NaN from the first change of the membership on, also in the means.
  std::vector<OverLayers> planned_per_window;
  double planned_mean_over_windows = 0.0;
  double planned_mean_after_switch = 0.0;
  double virtual_seconds = 0.0;  ///< This and the next two: with a timed device only.
  double virtual_mean_step_us_after_switch = 0.0;
  double tokens_per_virtual_second = 0.0;  ///< Of the named model: tokens times token_scale.
  std::int64_t moves = 0;
  std::int64_t migrated_bytes = 0;
  std::vector<double>
      achieved;                 ///< By generation: imbalance, mean over layers, of the first window
                                ///< that begins after it was committed. NaN: there was none.
  std::vector<double> planned;  ///< By generation: of the same window, by the shares served.
  RankLoads first_window, last_window;
  RankLoads before, after;  ///< Around the first answer to a switch of domain.
};

struct Comparison {
  std::int64_t window_assignments = 0;
  std::vector<Window> windows;  ///< The same for all runs.
  std::vector<OverLayers>
      hindsight;  ///< [windows] a plan made for that very window, any number of moves.
  double hindsight_mean_over_windows = 0.0;  ///< Of the mean over layers.
  double hindsight_mean_after_switch = 0.0;
  std::vector<RunFigures> runs;
  bool outputs_identical = true;
};

/// @param runs of the same traffic on the same shape, at least one.
/// @throws Error kInvalidArgument: no run, or runs of different shapes or requests.
Comparison compare(std::span<const RunRecord> runs, std::int64_t window_assignments);

}  // namespace swiftbalancer::engine
