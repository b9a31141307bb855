#include "planner/replica_budget.hpp"

#include <algorithm>
#include <limits>
#include <string>

#include <swiftbalancer/error.hpp>

namespace swiftbalancer {
namespace {

constexpr double kAlike = 1.0 + 1e-9;

// One layer goes from its count to a larger one.
struct Step {
  double gain = 0.0;  // per redundant expert
  std::size_t layer = 0;
  std::size_t option = 0;
  int added = 0;
};

void check(std::span<const int> counts, const std::vector<std::vector<double>>& cost) {
  const auto refuse = [](const std::string& message) {
    throw Error(ErrorCode::kInvalidArgument, "replica budget: " + message);
  };
  if (counts.empty()) refuse("no counts of redundant experts are given; give at least one");
  for (std::size_t i = 1; i < counts.size(); ++i) {
    if (counts[i] <= counts[i - 1])
      refuse("count " + std::to_string(counts[i]) + " follows " + std::to_string(counts[i - 1]) +
             "; counts must ascend");
  }
  for (std::size_t layer = 0; layer < cost.size(); ++layer) {
    if (cost[layer].size() != counts.size())
      refuse("layer " + std::to_string(layer) + " has " + std::to_string(cost[layer].size()) +
             " costs for " + std::to_string(counts.size()) + " counts");
  }
}

// Most gain per redundant expert of all steps that fit; of equals the smallest. A curve is walked
// along its lower convex hull that way.
Step best_step(std::span<const int> counts, const std::vector<std::vector<double>>& cost,
               const std::vector<std::size_t>& option, std::int64_t left) {
  Step best;
  for (std::size_t layer = 0; layer < cost.size(); ++layer) {
    const std::size_t at = option[layer];
    for (std::size_t next = at + 1; next < counts.size(); ++next) {
      const int added = counts[next] - counts[at];
      if (added > left) break;
      const double gain = (cost[layer][at] - cost[layer][next]) / added;
      if (gain > best.gain * kAlike) best = {gain, layer, next, added};
    }
  }
  return best;
}

ReplicaBudget budget_of(std::span<const int> counts, const std::vector<std::vector<double>>& cost,
                        const std::vector<std::size_t>& option) {
  ReplicaBudget budget;
  for (std::size_t layer = 0; layer < cost.size(); ++layer) {
    budget.redundant_experts.push_back(counts[option[layer]]);
    budget.total += counts[option[layer]];
    budget.cost += cost[layer][option[layer]];
  }
  return budget;
}

}  // namespace

ReplicaBudget choose_replica_budget(std::span<const int> counts,
                                    const std::vector<std::vector<double>>& cost,
                                    std::int64_t total) {
  check(counts, cost);
  const auto layers = static_cast<std::int64_t>(cost.size());
  std::int64_t left = total - counts.front() * layers;
  if (left < 0) {
    throw Error(ErrorCode::kInvalidArgument,
                "replica budget: " + std::to_string(total) + " redundant experts for " +
                    std::to_string(layers) + " layers of at least " +
                    std::to_string(counts.front()) + " each; give at least " +
                    std::to_string(counts.front() * layers));
  }
  std::vector<std::size_t> option(cost.size(), 0);
  for (Step step = best_step(counts, cost, option, left); step.added > 0;
       step = best_step(counts, cost, option, left)) {
    option[step.layer] = step.option;
    left -= step.added;
  }
  const ReplicaBudget chosen = budget_of(counts, cost, option);

  const auto fits = std::ranges::find_if(counts.rbegin(), counts.rend(),
                                         [&](int count) { return count * layers <= total; });
  const std::vector<std::size_t> same(cost.size(),
                                      static_cast<std::size_t>(counts.rend() - fits) - 1);
  const ReplicaBudget uniform = budget_of(counts, cost, same);
  return uniform.cost < chosen.cost ? uniform : chosen;
}

ReplicaBudget cheapest_replica_budget(std::span<const int> counts,
                                      const std::vector<std::vector<double>>& cost,
                                      double cost_allowed) {
  check(counts, cost);
  std::vector<std::size_t> option(cost.size(), 0);
  ReplicaBudget budget = budget_of(counts, cost, option);
  while (budget.cost > cost_allowed) {
    const Step step = best_step(counts, cost, option, std::numeric_limits<std::int64_t>::max());
    if (step.added == 0) break;
    option[step.layer] = step.option;
    budget = budget_of(counts, cost, option);
  }
  return budget;
}

}  // namespace swiftbalancer
