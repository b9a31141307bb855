#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "observe/charts.hpp"
#include "observe/figures.hpp"
#include "observe/format.hpp"
#include "observe/report.hpp"
#include "observe/run_file.hpp"

namespace swiftbalancer::observe {
namespace {

std::string milliseconds(double us) { return fmt::format("{:.3f}", us / 1000); }

/// Policy names are a user's text: one line, and no more of it than the column holds.
std::string cell(std::string text) {
  std::replace_if(
      text.begin(), text.end(), [](unsigned char c) { return c < ' ' || c >= 0x7f; }, '?');
  return text.size() <= 10 ? text : text.substr(0, 9) + "~";
}

template <typename... Cells>
std::string line(const Cells&... cells) {
  std::string text =
      fmt::format("{:<10} {:>8} {:>8} {:>8} {:>9} {:>7} {:>9} {:>9} {:>9}  {}", cells...);
  text.erase(text.find_last_not_of(' ') + 1);
  return text + "\n";
}

std::string outputs(const RunFile& file, const Run& run) {
  if (file.outputs_identical) return "identical";
  return run.output_digest == file.runs.front().output_digest ? "as first" : "DIFFERENT";
}

std::string row(const RunFile& file, const Run& run) {
  const auto step_us = run.mean_step_us_after_switch;
  return line(cell(run.label), or_na(run.mean_over_windows, format_ratio),
              or_na(run.mean_after_switch, format_ratio),
              or_na(mean_after_switches(file, run.worst_layer_per_window), format_ratio),
              or_na(excess_removed(file, run), format_percent),
              format_count(static_cast<double>(run.moves)), format_bytes(shown_bytes(run)),
              or_na(step_us, milliseconds),
              format_us(run.virtual_stall_us.value_or(run.packet_wait_ms * 1000)),
              outputs(file, run));
}

// What slots counted, beside what the same tokens come to by the planned shares; and how many
// tokens stayed near.
std::string shares_lines(const RunFile& file) {
  constexpr const char* kColumns = "{:<10} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}\n";
  std::string text =
      "\n" +
      fmt::format(kColumns, "imbalance", "counted", "by shares", "counted", "by shares",
                  "tokens on", "tokens on") +
      fmt::format(kColumns, "", "all", "all", "after sw.", "after sw.", "own rank", "own node");
  for (const Run& run : file.runs) {
    text += fmt::format(kColumns, cell(run.label), or_na(run.mean_over_windows, format_ratio),
                        or_na(run.mean_over_windows_by_shares, format_ratio),
                        or_na(run.mean_after_switch, format_ratio),
                        or_na(run.mean_after_switch_by_shares, format_ratio),
                        format_percent(run.own_rank), format_percent(run.own_node));
  }
  return text;
}

std::string cut(const std::string& text) {
  const std::string head = text.substr(0, 99);
  return head.substr(0, head.find_last_not_of(' ') + 1) + "\n";
}

/// One line per run: virtual microseconds per step of each charged term, names in two lines of
/// header.
std::string terms(const RunFile& file) {
  std::string upper = fmt::format("{:<10}", "virtual"), lower = fmt::format("{:<10}", "us/step");
  std::vector<std::string> rows;
  for (const Run& run : file.runs) rows.push_back(fmt::format("{:<10}", cell(run.label)));
  for (const std::string& term : charged_terms(file)) {
    const std::size_t split = term.find('_');
    const bool two = split != std::string::npos;
    const std::string above = two ? cell(term.substr(0, split)) : "";
    const std::string below = cell(two ? term.substr(split + 1) : term);
    const std::size_t width = 1 + std::max({above.size(), below.size(), std::size_t{7}});
    upper += fmt::format("{:>{}}", above, width);
    lower += fmt::format("{:>{}}", below, width);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const Run& run = file.runs[i];
      const double steps = static_cast<double>(std::max<std::int64_t>(run.steps, 1));
      rows[i] += fmt::format("{:>{}.1f}", term_us(run, term) / steps, width);
    }
  }
  std::string text = "\n" + cut(upper) + cut(lower);
  for (const std::string& row : rows) text += cut(row);
  return text;
}

// What is out of the ordinary comes first: the line may be cut.
std::string health_line(const Run& run) {
  std::string text = fmt::format("{:<10}{}", cell(run.label),
                                 !run.healthy                ? "NOT OK"
                                 : run.health_reason.empty() ? "ok"
                                                             : "recovered");
  for (const auto& [rank, requests] : run.losses)
    text += fmt::format("; rank {} lost with {} requests", rank, requests);
  if (run.mode != "on") text += "; mode " + run.mode;
  if (!run.planner_running) text += "; planner down";
  const auto add = [&](std::int64_t number, const char* what) {
    if (number > 0) text += fmt::format("; {} {}", number, what);
  };
  add(run.planner_restarts, "planner restarts");
  add(run.dropped_samples, "dropped samples");
  add(run.membership, "reconfigurations");
  if (run.warm_start) text += "; warm start";
  std::string results;
  for (const auto& [result, number] : run.rebalances)
    results += fmt::format("{}{} {}", results.empty() ? "" : ", ", number, result);
  return cut(text + "; rebalances: " + (results.empty() ? "none" : results));
}

}  // namespace

std::string render_table(const std::string& run_json) {
  const RunFile file = parse_run_file(run_json);
  std::string text = line("", "imbal.", "imbal.", "worst", "excess", "", "", "virtual", "", "");
  text += line("policy", "all", "after sw.", "layer", "removed", "moves", "moved", "ms/step",
               "stall", "outputs");
  for (const Run& run : file.runs) text += row(file, run);
  text += line("hindsight", or_na(file.hindsight_mean_over_windows, format_ratio),
               or_na(file.hindsight_mean_after_switch, format_ratio),
               or_na(mean_after_switches(file, file.hindsight_worst_layer), format_ratio), "", "",
               "", "", "", "");
  text += fmt::format(
      "\nimbalance = max / mean rank load, mean over layers, windows of >= {} token-expert "
      "assignments;\n"
      "after sw. = windows from the second after each switch (also: worst layer, excess, "
      "ms/step);\n"
      "excess    = what no balancing has above hindsight, a plan made for each window with its own "
      "load.\n",
      file.window_assignments);
  if (file.hardware) {
    text +=
        "virtual   = timed device: computed for real, times charged by a hardware profile (see the "
        "report);\n"
        "moved     = at the size of the named large model's experts; stall is virtual.\n";
    text += cut(fmt::format("profile   = {}; model {}; token_scale {}.", file.hardware->name,
                            file.hardware->model, format_exact(file.hardware->token_scale)));
    text += terms(file);
  } else {
    text +=
        "moved     = bytes really copied; stall = wall time waiting for packets; virtual time: "
        "n/a.\n";
  }
  text += shares_lines(file);
  text += "\nhealth\n";
  for (const Run& run : file.runs) text += health_line(run);
  for (const Run& run : file.runs) {
    if (run.health_reason.empty()) continue;
    text +=
        cut(fmt::format("{}: {}: {}", cell(run.label),
                        run.healthy ? "recovered from" : "balancing is not ok", run.health_reason));
  }
  return text;
}

}  // namespace swiftbalancer::observe
