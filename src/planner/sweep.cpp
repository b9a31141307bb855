#include "planner/sweep.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <utility>

#include <swiftbalancer/error.hpp>
#include <swiftbalancer/placement.hpp>

#include "planner/hierarchical.hpp"
#include "planner/limits.hpp"
#include "planner/split.hpp"

namespace swiftbalancer {
namespace {

// Of two costs this close neither is worth memory.
constexpr double kAsGood = 1.001;
constexpr double kBytesPerGib = 1024.0 * 1024.0 * 1024.0;
constexpr double kMostBytes = 4611686018427387904.0;  // 2^62: differences of two fit too

// Costs of all layers with one count.
struct Column {
  SweepRow row;
  // [num_moe_layers] under the chosen dispatch; seconds are empty without a step model, what comes
  // next without a load to score on.
  std::vector<double> imbalance;
  std::vector<double> seconds;
  std::vector<double> next_imbalance;
  std::vector<double> next_seconds;
};

std::vector<int> checked_counts(const SweepOptions& options) {
  const auto refuse = [](const std::string& message) {
    throw Error(ErrorCode::kInvalidArgument, "sweep: " + message);
  };
  std::vector<int> counts = options.counts;
  if (counts.empty()) refuse("no counts of redundant experts are given; give at least one");
  std::ranges::sort(counts);
  if (counts.front() < 0)
    refuse("count " + std::to_string(counts.front()) + " is below 0; 0 means no redundant experts");
  const auto twice = std::ranges::adjacent_find(counts);
  if (twice != counts.end()) refuse("count " + std::to_string(*twice) + " is given twice");
  return counts;
}

std::vector<std::uint32_t> split_shares(const LayerProblem& problem,
                                        std::span<const std::int32_t> placement,
                                        ReplicaSplit& split) {
  const std::vector<double> load(problem.load.begin(), problem.load.end());
  split.level(placement, load);
  std::vector<std::uint32_t> shares(placement.size());
  split.shares(shares);
  return shares;
}

class Sweep {
 public:
  Sweep(const SweepOptions& options, const ExpertLoad& load, const ExpertLoad* score)
      : options_(options), load_(load), score_(score), counts_(checked_counts(options)) {}

  SweepResult run() {
    if (score_ != nullptr && (score_->num_moe_layers() != load_.num_moe_layers() ||
                              score_->num_logical_experts() != load_.num_logical_experts())) {
      throw Error(ErrorCode::kInvalidArgument,
                  "sweep: the load to score on is not of the same layers and experts");
    }
    for (int count : counts_) columns_.push_back(checked_column(count));
    SweepResult result;
    for (const Column& column : columns_) result.rows.push_back(column.row);
    recommend(result);
    const std::vector<std::vector<double>> costs = cost_of_layers();
    const auto& chosen = result.rows[result.recommended];
    double allowed = 0.0;
    for (const auto& layer : costs) allowed += layer[result.recommended];
    const ReplicaBudget cheaper = cheapest_replica_budget(counts_, costs, allowed * kAsGood);
    if (cheaper.total < std::int64_t{chosen.redundant_experts} * load_.num_moe_layers())
      result.cheaper = judged(cheaper);
    if (options_.total_redundant_experts >= 0) {
      result.shared_out =
          judged(choose_replica_budget(counts_, costs, options_.total_redundant_experts));
    }
    return result;
  }

 private:
  ClusterShape shape_with(int redundant_experts) const {
    ShapeOptions shape = options_.shape;
    shape.num_moe_layers = load_.num_moe_layers();
    shape.num_logical_experts = load_.num_logical_experts();
    shape.num_slots = load_.num_logical_experts() + redundant_experts;
    shape.slots_per_rank.clear();
    return ClusterShape(shape);
  }

  Column checked_column(int count) const {
    try {
      return column(count);
    } catch (const Error& error) {
      throw Error(error.code(),
                  "with " + std::to_string(count) + " redundant experts: " + error.what());
    }
  }

  Column column(int count) const {
    const ClusterShape shape = shape_with(count);
    const Placement initial = Placement::initial(shape);
    ReplicaSplit splitter(shape, options_.rank_speed);
    Column column;
    std::array<std::vector<double>, 2> even;  // of the load planned for, and of the next
    std::array<std::vector<double>, 2> split;
    std::array<std::vector<double>, 2> seconds;
    for (int layer = 0; layer < load_.num_moe_layers(); ++layer) {
      LayerProblem problem{.shape = &shape,
                           .load = load_.layer(layer),
                           .placement = initial.layer(layer),
                           .dispatch = Dispatch::kEven,
                           .from_scratch = true,
                           .rank_speed = options_.rank_speed,
                           .max_replicas = options_.max_replicas,
                           .max_cross_node_replicas = options_.max_cross_node_replicas};
      const LayerPlan plan = plan_within_limits(problem);
      const std::vector<std::uint32_t> shares = split_shares(problem, plan.placement, splitter);
      const std::span<const std::uint32_t> used =
          is_split() ? std::span<const std::uint32_t>(shares) : std::span<const std::uint32_t>{};
      for (const std::size_t next : {0U, 1U}) {
        if (next == 1 && score_ == nullptr) break;
        if (next == 1) problem.load = score_->layer(layer);
        even[next].push_back(imbalance_of_times(problem, plan.placement, {}));
        split[next].push_back(imbalance_of_times(problem, plan.placement, shares));
        if (options_.step)
          seconds[next].push_back(layer_seconds(*options_.step, problem, plan.placement, used));
      }
      if (groups_are_bound(problem)) {
        column.row.cross_node_share +=
            cross_node_traffic(shape, plan.placement, used, problem.load).share /
            load_.num_moe_layers();
      }
    }
    column.row.redundant_experts = count;
    column.row.num_slots = shape.num_slots();
    column.row.imbalance_even = aggregate_imbalance(even[0]);
    column.row.imbalance_split = aggregate_imbalance(split[0]);
    if (score_ != nullptr) {
      column.row.next_imbalance_even = aggregate_imbalance(even[1]);
      column.row.next_imbalance_split = aggregate_imbalance(split[1]);
    }
    column.row.memory_bytes = memory(std::vector<int>(num_layers(), count));
    column.row.step_seconds = step_seconds(seconds[score_ != nullptr ? 1 : 0]);
    column.seconds = std::move(seconds[0]);
    column.next_seconds = std::move(seconds[1]);
    column.imbalance = std::move(is_split() ? split[0] : even[0]);
    column.next_imbalance = std::move(is_split() ? split[1] : even[1]);
    return column;
  }

  bool is_split() const { return options_.dispatch == Dispatch::kSplit; }
  std::size_t num_layers() const { return static_cast<std::size_t>(load_.num_moe_layers()); }

  std::optional<std::int64_t> memory(const std::vector<int>& redundant_experts) const {
    if (options_.expert_bytes <= 0.0) return std::nullopt;
    std::int64_t slots = 0;
    for (int count : redundant_experts) slots += shape_with(count).max_slots_per_rank();
    const double bytes = static_cast<double>(slots) * options_.expert_bytes;
    if (!(bytes <= kMostBytes)) {
      throw Error(ErrorCode::kInvalidArgument, "expert_bytes is too large: the " +
                                                   std::to_string(slots) +
                                                   " slots of a rank have more bytes than can be "
                                                   "counted (2^62)");
    }
    return std::llround(bytes);
  }

  std::optional<double> step_seconds(const std::vector<double>& of_layers) const {
    if (!options_.step) return std::nullopt;
    double sum = seconds_outside_layers(*options_.step, options_.shape.num_ranks);
    for (double seconds : of_layers) sum += seconds;
    return sum;
  }

  // [num_moe_layers][counts] what a budget lowers: of the load planned for, because a choice by the
  // next one would be hindsight.
  std::vector<std::vector<double>> cost_of_layers() const {
    std::vector<std::vector<double>> costs(num_layers());
    for (const Column& column : columns_) {
      const std::vector<double>& cost = options_.step ? column.seconds : column.imbalance;
      for (std::size_t layer = 0; layer < costs.size(); ++layer)
        costs[layer].push_back(cost[layer]);
    }
    return costs;
  }

  SweepBudget judged(const ReplicaBudget& budget) const {
    SweepBudget judged{budget, 0.0, {}, {}, memory(budget.redundant_experts)};
    double next = 0.0;
    std::vector<double> seconds;
    for (std::size_t layer = 0; layer < num_layers(); ++layer) {
      const auto option = static_cast<std::size_t>(
          std::ranges::lower_bound(counts_, budget.redundant_experts[layer]) - counts_.begin());
      const Column& column = columns_[option];
      judged.imbalance_mean += column.imbalance[layer] / load_.num_moe_layers();
      if (score_ != nullptr) next += column.next_imbalance[layer] / load_.num_moe_layers();
      if (options_.step)
        seconds.push_back((score_ != nullptr ? column.next_seconds : column.seconds)[layer]);
    }
    if (score_ != nullptr) judged.next_imbalance_mean = next;
    judged.step_seconds = step_seconds(seconds);
    return judged;
  }

  double cost(const SweepRow& row) const {
    if (row.step_seconds) return *row.step_seconds;
    const OverLayers even = row.next_imbalance_even.value_or(row.imbalance_even);
    const OverLayers split = row.next_imbalance_split.value_or(row.imbalance_split);
    return (is_split() ? split : even).mean_over_layers;
  }

  // The knee: the fewest that no larger count beats by what its memory is worth.
  void recommend(SweepResult& result) const {
    double best = cost(result.rows.front());
    for (const SweepRow& row : result.rows) best = std::min(best, cost(row));
    while (cost(result.rows[result.recommended]) > best * (1.0 + kWorthItsMemory))
      ++result.recommended;
    result.reason = reason(result, best);
  }

  std::string reason(const SweepResult& result, double best) const {
    const std::size_t chosen = result.recommended;
    const SweepRow& row = result.rows[chosen];
    const std::string what = std::string(options_.step ? "expected step time" : "mean imbalance") +
                             (score_ != nullptr ? " on the window to score on" : "");
    std::string text = std::to_string(row.redundant_experts) + " redundant experts: " + what +
                       " is within " + percent(cost(row) / best - 1.0) +
                       " of the best of all counts";
    if (chosen > 0) {
      const SweepRow& fewer = result.rows[chosen - 1];
      text += ", with " + std::to_string(fewer.redundant_experts) + " it is " +
              percent(cost(fewer) / best - 1.0) + " above";
    }
    if (chosen + 1 < result.rows.size() && row.memory_bytes) {
      const SweepRow& most = result.rows.back();
      char gib[32];
      std::snprintf(gib, sizeof gib, "%.2f GiB",
                    static_cast<double>(*most.memory_bytes - *row.memory_bytes) / kBytesPerGib);
      text += ", and " + std::to_string(most.redundant_experts) + " would take " + gib +
              " more on every rank";
    }
    return text;
  }

  static std::string percent(double part) {
    char text[32];
    std::snprintf(text, sizeof text, "%.2f %%", 100.0 * part);
    return text;
  }

  const SweepOptions& options_;
  const ExpertLoad& load_;
  const ExpertLoad* score_;  // null: placements are judged on what they are planned for
  std::vector<int> counts_;  // ascending
  std::vector<Column> columns_;
};

}  // namespace

SweepResult run_sweep(const SweepOptions& options, const ExpertLoad& load,
                      const ExpertLoad* score) {
  return Sweep(options, load, score).run();
}

}  // namespace swiftbalancer
