#include <algorithm>
#include <map>
#include <utility>

#include "observe/chart_parts.hpp"
#include "observe/charts.hpp"
#include "observe/figures.hpp"

namespace swiftbalancer::observe {
namespace {

Json run_dash(const RunFile& file) {
  Json dash = run_colour(file);
  Json range = Json::array();
  for (std::size_t i = 0; i < file.runs.size(); ++i) range.push_back({1, 0});
  range.push_back({5, 4});
  dash["scale"]["range"] = range;
  return dash;
}

std::int64_t last_step(const RunFile& file) {
  std::int64_t last = 1;
  for (const Run& run : file.runs) last = std::max(last, run.steps);
  return last;
}

Json step_axis(const RunFile& file) {
  return {{"field", "step"},
          {"type", "quantitative"},
          {"title", "step"},
          {"axis", {{"grid", false}, {"tickMinStep", 1}, {"labelOverlap", true}}},
          {"scale", {{"domain", {1, last_step(file)}}, {"nice", false}}}};
}

Json value_axis(const char* title, double low, double high) {
  return {{"field", "value"},
          {"type", "quantitative"},
          {"title", title},
          {"axis", {{"tickCount", 5}}},
          {"scale", {{"domain", {rounded(low), rounded(high)}}, {"zero", false}, {"nice", false}}}};
}

double middle(const std::pair<std::int64_t, std::int64_t>& window) {
  return static_cast<double>(window.first + window.second) / 2;
}

void add_windows(const RunFile& file, const std::string& label, const Series& per_window,
                 Json& values) {
  for (std::size_t i = 0; i < per_window.size(); ++i) {
    values.push_back({{"step", middle(file.windows[i])},
                      {"value", rounded(per_window[i])},
                      {"run", label},
                      {"first", file.windows[i].first},
                      {"last", file.windows[i].second}});
  }
}

/// One point per step with commits, at the height of the run's line there.
Json commit_points(const RunFile& file) {
  Json values = Json::array();
  for (const Run& run : file.runs) {
    std::map<std::int64_t, std::pair<std::int64_t, std::int64_t>> by_step;  // layers, moves
    for (const Commit& commit : run.commits) {
      auto& [layers, moves] = by_step[commit.step];
      ++layers;
      moves += commit.moves;
    }
    for (const auto& [step, sums] : by_step) {
      for (std::size_t i = 0; i < file.windows.size(); ++i) {
        if (step > file.windows[i].second) continue;
        values.push_back({{"step", step},
                          {"value", rounded(run.imbalance_per_window[i])},
                          {"run", run.label},
                          {"layers", sums.first},
                          {"moves", sums.second}});
        break;
      }
    }
  }
  return values;
}

/// Rules at the domain switches, names on two alternating rows so that short segments do not
/// overprint each other.
Json switch_layers(const RunFile& file, double top) {
  Json values = Json::array();
  for (std::size_t i = 0; i < file.segments.size(); ++i) {
    const Segment& segment = file.segments[i];
    values.push_back({{"step", segment.first_step},
                      {"value", rounded(top)},
                      {"domain", segment.domain},
                      {"row", i % 2}});
  }
  if (values.empty()) return Json::array();
  const std::string space =
      "max(28, 1.8 * width / " + std::to_string(file.segments.size()) + " - 10)";
  const Json y = {{"field", "value"}, {"type", "quantitative"}};
  Json layers = Json::array();
  layers.push_back({{"data", {{"values", values}}},
                    {"mark", {{"type", "rule"}, {"style", "switch"}}},
                    {"encoding", {{"x", step_axis(file)}}}});
  for (const int row : {0, 1}) {
    layers.push_back({{"data", {{"values", values}}},
                      {"transform", {{{"filter", "datum.row == " + std::to_string(row)}}}},
                      {"mark",
                       {{"type", "text"},
                        {"style", "switch-name"},
                        {"align", "left"},
                        {"baseline", "top"},
                        {"dx", 4},
                        {"dy", 2 + 13 * row},
                        {"limit", {{"expr", space}}},
                        {"tooltip", {{"content", "data"}}}}},
                      {"encoding",
                       {{"x", step_axis(file)},
                        {"y", y},
                        {"text", {{"field", "domain"}, {"type", "nominal"}}}}}});
  }
  return layers;
}

Json noise_layer(const RunFile& file, const Json& axis,
                 const std::vector<std::pair<const Run*, Series>>& lines) {
  Json values = Json::array();
  bool dense = false;
  for (const auto& [run, per_step] : lines) {
    dense = dense || per_step.size() > kMaxPointsPerLine;
    for (const auto& [step, value] : thinned(per_step)) {
      values.push_back({{"step", step}, {"value", rounded(value)}, {"run", run->label}});
    }
  }
  return {{"data", {{"values", values}}},
          {"mark", {{"type", "line"}, {"style", dense ? "dense-noise" : "noise"}, {"clip", true}}},
          {"encoding", {{"x", step_axis(file)}, {"y", axis}, {"color", run_colour(file)}}}};
}

Json tooltip(const char* title) {
  return Json::array({{{"field", "run"}, {"title", "run"}},
                      {{"field", "value"}, {"title", title}, {"format", ".3f"}},
                      {{"field", "first"}, {"title", "first step"}},
                      {{"field", "last"}, {"title", "last step"}}});
}

void add_line_layers(const RunFile& file, const Json& axis, const Json& values, const char* title,
                     Json& layers) {
  layers.push_back({{"data", {{"values", values}}},
                    {"mark", {{"type", "line"}, {"style", "windows"}}},
                    {"encoding",
                     {{"x", step_axis(file)},
                      {"y", axis},
                      {"color", run_colour(file)},
                      {"strokeDash", run_dash(file)}}}});
  // Invisible points that answer the pointer.
  layers.push_back({{"data", {{"values", values}}},
                    {"mark", {{"type", "point"}, {"opacity", 0}, {"size", 90}, {"filled", true}}},
                    {"encoding",
                     {{"x", step_axis(file)},
                      {"y", axis},
                      {"color", run_colour(file)},
                      {"tooltip", tooltip(title)}}}});
}

void append(Json& layers, const Json& more) {
  for (const Json& layer : more) layers.push_back(layer);
}

/// From 1 to a little above the highest value: room for the names of the domains, which stand on
/// top.
std::pair<double, double> with_headroom(double low, const Series& values) {
  double high = low + 0.05;
  for (const double value : values) high = std::max(high, value);
  return {low, high + 0.16 * (high - low)};
}

Series all_windows(const RunFile& file, Series Run::* per_window, const Series& hindsight) {
  Series all = hindsight;
  for (const Run& run : file.runs)
    all.insert(all.end(), (run.*per_window).begin(), (run.*per_window).end());
  return all;
}

Json window_values(const RunFile& file, Series Run::* per_window, const Series& hindsight) {
  Json values = Json::array();
  for (const Run& run : file.runs) add_windows(file, run.label, run.*per_window, values);
  add_windows(file, kHindsight, hindsight, values);
  return values;
}

}  // namespace

std::vector<std::pair<std::int64_t, double>> thinned(const Series& per_step) {
  const std::size_t size = per_step.size();
  std::vector<std::pair<std::int64_t, double>> points;
  const auto add = [&](std::size_t i) {
    points.emplace_back(static_cast<std::int64_t>(i) + 1, per_step[i]);
  };
  if (size <= kMaxPointsPerLine) {
    for (std::size_t i = 0; i < size; ++i) add(i);
    return points;
  }
  const std::size_t num_buckets = kMaxPointsPerLine / 2;
  for (std::size_t bucket = 0; bucket < num_buckets; ++bucket) {
    const auto begin = per_step.begin() + static_cast<std::ptrdiff_t>(bucket * size / num_buckets);
    const auto end =
        per_step.begin() + static_cast<std::ptrdiff_t>((bucket + 1) * size / num_buckets);
    const auto [low, high] = std::minmax_element(begin, end);
    const auto first = static_cast<std::size_t>(std::min(low, high) - per_step.begin());
    const auto second = static_cast<std::size_t>(std::max(low, high) - per_step.begin());
    add(first);
    if (second != first) add(second);
  }
  return points;
}

Spec imbalance_chart(const RunFile& file) {
  const auto [low, high] =
      with_headroom(1.0, all_windows(file, &Run::imbalance_per_window, file.hindsight));
  const Json axis = value_axis("imbalance (max / mean rank load)", low, high);
  std::vector<std::pair<const Run*, Series>> noise;
  for (const Run& run : file.runs) noise.emplace_back(&run, run.imbalance_per_step);
  Json layers = Json::array({noise_layer(file, axis, noise)});
  append(layers, switch_layers(file, high));
  add_line_layers(file, axis, window_values(file, &Run::imbalance_per_window, file.hindsight),
                  "imbalance", layers);
  const Json commits = commit_points(file);
  if (!commits.empty()) {
    const Json tips = Json::array({{{"field", "run"}, {"title", "commit of"}},
                                   {{"field", "step"}, {"title", "at step"}},
                                   {{"field", "layers"}, {"title", "layers"}},
                                   {{"field", "moves"}, {"title", "moves"}}});
    layers.push_back(
        {{"data", {{"values", commits}}},
         {"mark", {{"type", "point"}, {"style", "commit"}, {"filled", true}}},
         {"encoding",
          {{"x", step_axis(file)}, {"y", axis}, {"color", run_colour(file)}, {"tooltip", tips}}}});
  }
  return finished({{"layer", layers}}, 340);
}

Spec worst_layer_chart(const RunFile& file) {
  const auto [low, high] = with_headroom(
      1.0, all_windows(file, &Run::worst_layer_per_window, file.hindsight_worst_layer));
  const Json axis = value_axis("imbalance of the worst layer", low, high);
  Json layers = switch_layers(file, high);
  add_line_layers(file, axis,
                  window_values(file, &Run::worst_layer_per_window, file.hindsight_worst_layer),
                  "worst layer", layers);
  return finished({{"layer", layers}}, 240);
}

Spec step_time_chart(const RunFile& file) {
  std::vector<std::pair<const Run*, Series>> noise;
  Json values = Json::array();
  Series means;
  for (const Run& run : file.runs) {
    Series steps = run.step_time_us;
    for (double& value : steps) value /= 1000;
    Series per_window;
    for (const auto& [first, last] : file.windows) {
      const auto begin = std::clamp<std::int64_t>(first - 1, 0, std::ssize(steps));
      const auto end = std::clamp<std::int64_t>(last, begin, std::ssize(steps));
      const auto window = mean(Series(steps.begin() + begin, steps.begin() + end));
      per_window.push_back(window.value_or(0.0));
    }
    add_windows(file, run.label, per_window, values);
    means.insert(means.end(), per_window.begin(), per_window.end());
    noise.emplace_back(&run, std::move(steps));
  }
  const auto [low, high] = with_headroom(0.0, means);
  const Json axis = value_axis("virtual time per step, ms", low, high);
  Json layers = Json::array({noise_layer(file, axis, noise)});
  append(layers, switch_layers(file, high));
  add_line_layers(file, axis, values, "virtual ms per step", layers);
  return finished({{"layer", layers}}, 300);
}

Spec moves_over_time_chart(const RunFile& file) {
  Json values = Json::array();
  double high = 1;
  for (const Run& run : file.runs) {
    std::map<std::int64_t, std::int64_t> by_step;
    for (const Commit& commit : run.commits) by_step[commit.step] += commit.moves;
    std::int64_t sum = 0;
    values.push_back({{"step", 1}, {"value", 0}, {"run", run.label}});
    for (const auto& [step, moves] : by_step) {
      sum += moves;
      values.push_back({{"step", step}, {"value", sum}, {"run", run.label}});
    }
    values.push_back({{"step", run.steps}, {"value", sum}, {"run", run.label}});
    high = std::max(high, static_cast<double>(sum));
  }
  Json axis = value_axis("moves so far", 0, high * 1.16);
  axis["axis"]["format"] = "~s";
  Json layers = switch_layers(file, high * 1.16);
  layers.push_back(
      {{"data", {{"values", values}}},
       {"mark",
        {{"type", "line"}, {"style", "windows"}, {"interpolate", "step-after"}, {"tooltip", true}}},
       {"encoding", {{"x", step_axis(file)}, {"y", axis}, {"color", run_colour(file)}}}});
  return finished({{"layer", layers}}, 220);
}

}  // namespace swiftbalancer::observe
