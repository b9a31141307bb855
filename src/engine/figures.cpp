#include "engine/figures.hpp"

#include <algorithm>
#include <limits>
#include <numeric>

#include <swiftbalancer/policy.hpp>

#include "engine/planned_loads.hpp"

namespace swiftbalancer::engine {
namespace {

// The second window after a switch; the one with the switch in it is number 0.
constexpr int kSettledFrom = 2;

std::vector<Window> make_windows(const RunRecord& run, std::int64_t assignments) {
  std::vector<Window> windows;
  std::int64_t held = 0;
  std::uint64_t first = 1;
  for (std::uint64_t step = 1; step <= run.steps; ++step) {
    held += std::int64_t{run.step_tokens[step - 1]} * run.model.top_k;
    if (held < assignments) continue;
    windows.push_back({first, step, false});
    first = step + 1;
    held = 0;
  }
  return windows;
}

// A window without a segment's first step goes on with the count of the one before.
void mark_settled(std::vector<Window>& windows, const std::vector<Segment>& segments) {
  int number = 0;
  for (Window& window : windows) {
    const bool has_switch =
        std::any_of(segments.begin(), segments.end(), [&](const Segment& segment) {
          return window.first_step <= segment.first_step && segment.first_step <= window.last_step;
        });
    number = has_switch ? 0 : number + 1;
    window.settled = number >= kSettledFrom;
  }
}

class RunView {
 public:
  RunView(const RunRecord& run, const ClusterShape& shape) : run_(run), shape_(shape) {}

  RankLoads loads(std::uint64_t first_step, std::uint64_t last_step) const {
    const auto num_slots = static_cast<std::size_t>(shape_.num_slots());
    RankLoads loads(layers(), std::vector<double>(static_cast<std::size_t>(shape_.num_ranks())));
    for (std::uint64_t step = first_step; step <= std::min(last_step, run_.steps); ++step) {
      const std::uint32_t* slot = run_.slot_tokens.data() + (step - 1) * layers() * num_slots;
      for (std::vector<double>& layer : loads) {
        for (int p = 0; p < shape_.num_slots(); ++p)
          layer[static_cast<std::size_t>(shape_.rank_of_slot(p))] += *slot++;
      }
    }
    return loads;
  }
  RankLoads loads(const Window& window) const { return loads(window.first_step, window.last_step); }

  // Of lost ranks, and before a rank has joined, nothing is known: the others are compared.
  OverLayers imbalance(const RankLoads& loads, std::uint64_t first_step) const {
    std::vector<double> per_layer;
    for (std::vector<double> layer : loads) {
      for (std::size_t rank = 0; rank < run_.counted_since.size(); ++rank) {
        const std::uint64_t since = run_.counted_since[rank];
        if (since == 0 || since > first_step) layer[rank] = -1.0;
      }
      std::erase_if(layer, [](double load) { return load < 0; });
      per_layer.push_back(swiftbalancer::imbalance(layer));
    }
    return aggregate_imbalance(per_layer);
  }

  std::vector<std::int64_t> expert_load(const Window& window, int layer) const {
    const auto experts = static_cast<std::size_t>(shape_.num_logical_experts());
    std::vector<std::int64_t> load(experts);
    for (std::uint64_t step = window.first_step; step <= window.last_step; ++step) {
      const std::size_t row = (step - 1) * layers() + static_cast<std::size_t>(layer);
      for (std::size_t e = 0; e < experts; ++e) load[e] += run_.expert_tokens[row * experts + e];
    }
    return load;
  }

 private:
  std::size_t layers() const { return static_cast<std::size_t>(shape_.num_moe_layers()); }
  const RunRecord& run_;
  const ClusterShape& shape_;
};

// The better of both planners with all moves allowed, layer by layer, from the placement served at
// the start.
std::vector<OverLayers> make_hindsight(const RunView& view, const ClusterShape& shape,
                                       const Placement& start, const std::vector<Window>& windows) {
  const auto eplb = make_policy("eplb"), swift = make_policy("swift");
  std::vector<OverLayers> hindsight;
  for (const Window& window : windows) {
    std::vector<double> per_layer;
    for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
      const auto load = view.expert_load(window, layer);
      LayerProblem problem;
      problem.shape = &shape;
      problem.load = load;
      problem.placement = start.layer(layer);
      per_layer.push_back(std::min(eplb->plan_layer(problem).imbalance_after,
                                   swift->plan_layer(problem).imbalance_after));
    }
    hindsight.push_back(aggregate_imbalance(per_layer));
  }
  return hindsight;
}

double mean(const std::vector<double>& values) {
  if (values.empty()) return std::numeric_limits<double>::quiet_NaN();
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double mean_over(const std::vector<OverLayers>& imbalance, const std::vector<Window>& windows,
                 bool settled_only) {
  std::vector<double> values;
  for (std::size_t w = 0; w < windows.size(); ++w) {
    if (!settled_only || windows[w].settled) values.push_back(imbalance[w].mean_over_layers);
  }
  return mean(values);
}

void add_virtual_times(const RunRecord& run, const std::vector<Window>& windows,
                       RunFigures& figures) {
  if (!run.timed) return;
  const auto total =
      std::accumulate(run.step_time_ns.begin(), run.step_time_ns.end(), std::int64_t{0});
  figures.virtual_seconds = static_cast<double>(total) * 1e-9;
  const double tokens = static_cast<double>(run.tokens) * run.token_scale;
  figures.tokens_per_virtual_second = total > 0 ? tokens / figures.virtual_seconds : 0.0;
  std::vector<double> settled;
  for (const Window& window : windows) {
    for (std::uint64_t step = window.first_step;
         window.settled && step <= std::min(window.last_step, run.steps); ++step) {
      settled.push_back(static_cast<double>(run.step_time_ns[step - 1]) * 1e-3);
    }
  }
  figures.virtual_mean_step_us_after_switch = mean(settled);
}

// A run that never answers is shown at the windows where the others do about the same: from the
// switch on.
void add_rank_loads(const RunRecord& run, const RunView& view, const std::vector<Window>& windows,
                    RunFigures& figures) {
  if (windows.empty()) return;
  figures.first_window = view.loads(windows.front());
  figures.last_window = view.loads(windows.back());
  if (run.traffic.segments.size() < 2) return;
  const std::uint64_t switched = run.traffic.segments[1].first_step;
  const auto answer = std::find_if(run.commits.begin(), run.commits.end(),
                                   [&](const CommitRecord& c) { return c.step >= switched; });
  const auto window_of = [&](std::uint64_t step) {
    const auto found = std::find_if(windows.begin(), windows.end(),
                                    [&](const Window& w) { return step <= w.last_step; });
    return std::min(static_cast<std::size_t>(found - windows.begin()), windows.size() - 1);
  };
  const std::size_t at_switch = window_of(switched);
  const std::size_t at_answer = answer == run.commits.end() ? at_switch : window_of(answer->step);
  figures.before =
      view.loads(windows[std::max(at_switch, at_answer - std::min<std::size_t>(1, at_answer))]);
  figures.after = view.loads(windows[std::min(at_answer + kSettledFrom, windows.size() - 1)]);
}

// Imbalance of the first window that begins after a generation was committed.
double after_commit(const GenerationRecord& generation, const std::vector<Window>& windows,
                    const std::vector<OverLayers>& imbalance) {
  const auto first = std::find_if(windows.begin(), windows.end(), [&](const Window& window) {
    return window.first_step >= generation.finished_step;
  });
  if (generation.result != "committed" || generation.finished_step == 0 || first == windows.end())
    return std::numeric_limits<double>::quiet_NaN();
  return imbalance[static_cast<std::size_t>(first - windows.begin())].mean_over_layers;
}

void add_planned(const RunRecord& run, const ClusterShape& shape, const RunView& view,
                 const std::vector<Window>& windows, RunFigures& figures) {
  constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();
  const std::vector<RankLoads> planned = planned_loads(run, shape, windows);
  for (std::size_t w = 0; w < windows.size(); ++w) {
    figures.planned_per_window.push_back(planned[w].empty()
                                             ? OverLayers{kUnknown, kUnknown}
                                             : view.imbalance(planned[w], windows[w].first_step));
  }
  figures.planned_mean_over_windows = mean_over(figures.planned_per_window, windows, false);
  figures.planned_mean_after_switch = mean_over(figures.planned_per_window, windows, true);
}

RunFigures make_figures(const RunRecord& run, const ClusterShape& shape,
                        const std::vector<Window>& windows) {
  const RunView view(run, shape);
  RunFigures figures;
  for (std::uint64_t step = 1; step <= run.steps; ++step) {
    figures.imbalance_per_step.push_back(
        view.imbalance(view.loads(step, step), step).mean_over_layers);
  }
  for (const Window& window : windows)
    figures.imbalance_per_window.push_back(view.imbalance(view.loads(window), window.first_step));
  figures.mean_over_windows = mean_over(figures.imbalance_per_window, windows, false);
  figures.mean_after_switch = mean_over(figures.imbalance_per_window, windows, true);
  add_planned(run, shape, view, windows, figures);
  for (const CommitRecord& commit : run.commits) {
    figures.moves += commit.moves;
    figures.migrated_bytes += commit.bytes;
  }
  for (const GenerationRecord& generation : run.generations) {
    figures.achieved.push_back(after_commit(generation, windows, figures.imbalance_per_window));
    figures.planned.push_back(after_commit(generation, windows, figures.planned_per_window));
  }
  add_virtual_times(run, windows, figures);
  add_rank_loads(run, view, windows, figures);
  return figures;
}

void check_comparable(const RunRecord& a, const RunRecord& b) {
  const bool same_requests =
      a.traffic.requests.size() == b.traffic.requests.size() &&
      std::equal(a.traffic.requests.begin(), a.traffic.requests.end(), b.traffic.requests.begin(),
                 [](const Request& x, const Request& y) { return x.prompt == y.prompt; });
  if (!same_requests || a.shape.num_ranks != b.shape.num_ranks ||
      a.shape.num_slots != b.shape.num_slots) {
    throw Error(ErrorCode::kInvalidArgument,
                "runs of \"" + a.policy + "\" and \"" + b.policy +
                    "\" cannot be compared: they served different requests or shapes");
  }
}

// Requests that a lost rank left without an answer have none to compare.
bool same_outputs(const RunRecord& a, const RunRecord& b) {
  return std::equal(a.outputs.begin(), a.outputs.end(), b.outputs.begin(), b.outputs.end(),
                    [](const auto& x, const auto& y) { return x.empty() || y.empty() || x == y; });
}

}  // namespace

Comparison compare(std::span<const RunRecord> runs, std::int64_t window_assignments) {
  if (runs.empty())
    throw Error(ErrorCode::kInvalidArgument, "no run to compare: make at least one");
  const ClusterShape shape(runs.front().shape);
  Comparison result;
  result.window_assignments = window_assignments;
  result.windows = make_windows(runs.front(), window_assignments);
  mark_settled(result.windows, runs.front().traffic.segments);
  result.hindsight =
      make_hindsight(RunView(runs.front(), shape), shape, runs.front().initial, result.windows);
  result.hindsight_mean_over_windows = mean_over(result.hindsight, result.windows, false);
  result.hindsight_mean_after_switch = mean_over(result.hindsight, result.windows, true);
  for (const RunRecord& run : runs) {
    check_comparable(runs.front(), run);
    result.outputs_identical = result.outputs_identical && same_outputs(run, runs.front());
    result.runs.push_back(make_figures(run, shape, result.windows));
  }
  return result;
}

}  // namespace swiftbalancer::engine
