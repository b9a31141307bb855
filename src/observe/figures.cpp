#include "observe/figures.hpp"

#include <algorithm>
#include <numeric>

namespace swiftbalancer::observe {

std::vector<bool> windows_after_switches(const RunFile& file) {
  std::vector<bool> counts;
  int since_switch = -1;  // before the first window, which counts as one with a switch
  for (const auto& [first, last] : file.windows) {
    const bool has_switch =
        std::any_of(file.segments.begin(), file.segments.end(), [&](const Segment& segment) {
          return first <= segment.first_step && segment.first_step <= last;
        });
    since_switch = has_switch ? 0 : since_switch + 1;
    counts.push_back(since_switch >= 2);
  }
  return counts;
}

std::optional<double> mean_after_switches(const RunFile& file, const Series& per_window) {
  const std::vector<bool> counts = windows_after_switches(file);
  Series counted;
  for (std::size_t i = 0; i < per_window.size(); ++i) {
    if (counts[i]) counted.push_back(per_window[i]);
  }
  return mean(counted);
}

std::optional<double> mean(const Series& values) {
  if (values.empty()) return std::nullopt;
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

const Run* baseline(const RunFile& file) {
  for (const Run& run : file.runs) {
    if (run.policy == "static" || run.policy == "none") return &run;
  }
  return nullptr;
}

const Run& featured(const RunFile& file) {
  const Run* chosen = &file.runs.front();
  for (const Run& run : file.runs) {
    if (run.policy == "swift") return run;
    if (&run != baseline(file)) chosen = &run;
  }
  return *chosen;
}

std::optional<double> excess_removed(const RunFile& file, const Run& run) {
  const Run* none = baseline(file);
  const auto hindsight = file.hindsight_mean_after_switch;
  if (none == nullptr || none == &run || !hindsight || !none->mean_after_switch ||
      !run.mean_after_switch) {
    return std::nullopt;
  }
  const double excess = *none->mean_after_switch - *hindsight;
  if (excess <= 0) return std::nullopt;
  return (*none->mean_after_switch - *run.mean_after_switch) / excess;
}

double shown_bytes(const Run& run) {
  return run.migrated_bytes_at_scale.value_or(run.migrated_bytes);
}

}  // namespace swiftbalancer::observe
