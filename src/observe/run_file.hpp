#pragma once
// run.json as plain data, checked: every list has the length it must have, every number is finite.
// Report and table draw from it and never touch JSON. Used inside observe; thread-compatible
// values.

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace swiftbalancer::observe {

using Series = std::vector<double>;
using Matrix =
    std::vector<Series>;  ///< [layers][ranks] tokens; empty in a run too short for a window

struct Segment {
  std::string domain;
  std::int64_t first_step = 0;
};

struct Constant {
  std::string name;
  double value = 0.0;
  std::string unit;
  std::string source;
};

struct Hardware {
  std::string name;
  std::string model;
  double token_scale = 1.0;
  std::vector<Constant> constants;
};

struct Commit {
  std::int64_t step = 0;
  std::int64_t generation = 0;
  std::int64_t moe_layer_id = 0;
  std::int64_t moves = 0;
  double bytes = 0.0;
};

struct Generation {
  std::int64_t opened_step = 0;
  std::optional<std::int64_t> adopted_step;
  std::optional<std::int64_t> finished_step;
  std::string result;
  std::int64_t moves = 0;
  double bytes = 0.0;
  double imbalance_before = 1.0;
  double imbalance_after = 1.0;
  std::optional<double> imbalance_achieved;
  std::optional<double> imbalance_by_shares;  ///< In the same window, had all followed the shares.
  double seconds = 0.0;
};

struct Run {
  std::string label;  ///< The policy; numbered when several runs have the same.
  std::string policy;
  bool gated = false;
  std::string output_digest;
  double wall_seconds = 0.0;
  std::int64_t steps = 0;
  double tokens = 0.0;
  Series imbalance_per_step;
  Series imbalance_per_window;
  Series worst_layer_per_window;
  std::optional<double> mean_over_windows;
  std::optional<double> mean_after_switch;
  std::optional<double> mean_over_windows_by_shares;  ///< Had all tokens followed the shares.
  std::optional<double> mean_after_switch_by_shares;
  double own_rank = 0.0;  ///< Part of the dispatched rows that stayed there.
  double own_node = 0.0;  ///< Likewise, own rank included.
  Series step_time_us;    ///< Virtual; empty without a timed device, as the next four are.
  std::optional<double> virtual_seconds;
  std::optional<double> mean_step_us_after_switch;
  std::optional<double> tokens_per_virtual_second;
  std::vector<std::pair<std::string, double>> virtual_terms_us;
  std::vector<Commit> commits;
  std::vector<Generation> generations;
  std::int64_t moves = 0;
  double migrated_bytes = 0.0;
  std::optional<double> migrated_bytes_at_scale;
  std::int64_t waits_for_packets = 0;
  std::int64_t waits_for_plans = 0;
  std::int64_t waits_for_copies = 0;
  double packet_wait_ms = 0.0;
  std::optional<double> virtual_stall_us;
  std::optional<double> timed_device_ms;
  Matrix load_before;  ///< Just before the first switch was answered; the first window where there
                       ///< was no switch.
  Matrix
      load_after;  ///< Second window after the answer; the last window where there was no switch.
  bool healthy = true;
  std::string health_reason;  ///< Why not; what it has recovered from where it is.
  std::int64_t failures = 0;
  std::vector<std::pair<std::int64_t, std::int64_t>> losses;  ///< Rank, and requests lost with it.
  std::string mode;
  bool warm_start = false;
  std::int64_t membership = 0;
  bool planner_running = true;
  std::int64_t planner_restarts = 0;
  std::int64_t dropped_samples = 0;
  std::optional<std::int64_t> plan_age_steps;
  std::vector<std::pair<std::string, std::int64_t>> rebalances;  ///< By result.
};

struct RunFile {
  std::string version;
  std::string created;
  std::string command;
  std::vector<std::pair<std::string, std::string>> machine;  ///< As in the file, values as text.
  std::vector<std::pair<std::string, std::string>> model;
  std::vector<std::pair<std::string, std::string>> shape;
  std::vector<std::pair<std::string, std::string>> config;
  std::int64_t num_layers = 0;
  std::int64_t num_ranks = 0;
  std::vector<Segment> segments;
  std::vector<std::pair<std::string, std::string>> traffic;
  std::optional<Hardware> hardware;
  std::int64_t window_assignments = 0;
  std::vector<std::pair<std::int64_t, std::int64_t>> windows;  ///< First and last step of each.
  Series hindsight;
  Series hindsight_worst_layer;
  std::optional<double> hindsight_mean_over_windows;
  std::optional<double> hindsight_mean_after_switch;
  std::vector<Run> runs;  ///< At least one.
  bool outputs_identical = false;
  std::int64_t slot_bytes_verified = 0;
};

/// @throws Error kInvalidArgument: one line that names the key (runs[1].moves) and what is wrong
/// with it.
RunFile parse_run_file(const std::string& run_json);

}  // namespace swiftbalancer::observe
