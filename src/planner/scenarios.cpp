#include "planner/scenarios.hpp"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "planner/limits.hpp"

#include "planner/layer_problem.hpp"

namespace swiftbalancer {
namespace {

// Precise enough for any share, and the sum over experts of the largest ones still fits.
constexpr double kEnvelopeUnit = 1099511627776.0;  // 2^40
constexpr int kRounds = 4;                         // of telling bins apart
// Chi-square distance beyond noise that makes two kinds of bins worth planning for apart.
constexpr double kMinScenarioDifference = 0.1;
constexpr int kMinTurns = 3;  // fewer are a drift, and what was before does not come back
constexpr double kScenarioFloor = 0.25;  // of the mean load; below it experts weigh less

void add(ExpertLoad& sum, const ExpertLoad& load) {
  for (int layer = 0; layer < sum.num_moe_layers(); ++layer) {
    const auto from = load.layer(layer);
    const auto to = sum.layer(layer);
    for (std::size_t expert = 0; expert < to.size(); ++expert) to[expert] += from[expert];
  }
}

// Mean over layers of sum((share a - share b)^2 / (mean share + floor)), less what noise explains.
double distance(const ExpertLoad& a, const ExpertLoad& b, double dispersion) {
  double sum = 0.0;
  for (int layer = 0; layer < a.num_moe_layers(); ++layer) {
    const auto first = a.layer(layer), second = b.layer(layer);
    const double n = static_cast<double>(total(first)), m = static_cast<double>(total(second));
    if (n <= 0.0 || m <= 0.0) continue;
    const double floor = kScenarioFloor / static_cast<double>(first.size());
    for (std::size_t expert = 0; expert < first.size(); ++expert) {
      const double p = static_cast<double>(first[expert]) / n;
      const double q = static_cast<double>(second[expert]) / m;
      const double mean = 0.5 * (p + q);
      sum += ((p - q) * (p - q) - dispersion * mean * (1.0 / n + 1.0 / m)) / (mean + floor);
    }
  }
  return sum / a.num_moe_layers();
}

}  // namespace

ExpertLoad blend(std::span<const Scenario> scenarios, std::int64_t sum) {
  const ExpertLoad& first = scenarios.front().load;
  ExpertLoad result(first.num_moe_layers(), first.num_logical_experts());
  for (int layer = 0; layer < first.num_moe_layers(); ++layer) {
    std::vector<double> shares(static_cast<std::size_t>(first.num_logical_experts()), 0.0);
    double weights = 0.0;
    for (const Scenario& scenario : scenarios) {
      const auto load = scenario.load.layer(layer);
      const double tokens = static_cast<double>(total(load));
      if (tokens <= 0.0) continue;
      weights += scenario.weight;
      for (std::size_t expert = 0; expert < shares.size(); ++expert)
        shares[expert] += scenario.weight * static_cast<double>(load[expert]) / tokens;
    }
    if (weights <= 0.0) continue;
    for (std::size_t expert = 0; expert < shares.size(); ++expert) {
      result.layer(layer)[expert] =
          static_cast<std::int64_t>(shares[expert] / weights * static_cast<double>(sum) + 0.5);
    }
  }
  return result;
}

std::vector<std::int64_t> envelope(std::span<const Scenario> scenarios, int moe_layer_id) {
  std::vector<std::int64_t> most(scenarios.front().load.layer(moe_layer_id).size(), 0);
  for (const Scenario& scenario : scenarios) {
    const auto load = scenario.load.layer(moe_layer_id);
    const double tokens = static_cast<double>(total(load));
    if (tokens <= 0.0) continue;
    for (std::size_t expert = 0; expert < most.size(); ++expert) {
      most[expert] = std::max(
          most[expert],
          static_cast<std::int64_t>(static_cast<double>(load[expert]) / tokens * kEnvelopeUnit));
    }
  }
  return most;
}

double mean_imbalance(const ClusterShape& shape, std::span<const std::int32_t> slots,
                      std::span<const std::uint32_t> shares, std::span<const Scenario> scenarios,
                      int moe_layer_id, std::span<const double> rank_speeds) {
  LayerProblem problem{.shape = &shape, .rank_speed = rank_speeds};
  double sum = 0.0, weights = 0.0;
  for (const Scenario& scenario : scenarios) {
    const auto load = scenario.load.layer(moe_layer_id);
    if (static_cast<double>(total(load)) <= 0.0) continue;
    problem.load = load;
    sum += scenario.weight * imbalance_of_times(problem, slots, shares);
    weights += scenario.weight;
  }
  return weights > 0.0 ? sum / weights : 1.0;
}

// Two kinds, begun with the newest bin and the one farthest from it; each bin goes to the nearer.
std::vector<Scenario> scenarios_of(std::span<const ExpertLoad* const> bins, double dispersion) {
  if (bins.size() < 4) return {};
  const ExpertLoad& newest = *bins.back();
  std::size_t farthest = 0;
  double most = 0.0;
  for (std::size_t bin = 0; bin + 1 < bins.size(); ++bin) {
    const double far = distance(newest, *bins[bin], dispersion);
    if (far <= most) continue;
    most = far;
    farthest = bin;
  }
  if (most < kMinScenarioDifference) return {};
  std::pair<ExpertLoad, ExpertLoad> kinds{newest, *bins[farthest]};
  std::vector<bool> is_second(bins.size(), false);
  for (int round = 0; round < kRounds; ++round) {
    const ExpertLoad none(newest.num_moe_layers(), newest.num_logical_experts());
    std::pair<ExpertLoad, ExpertLoad> sums{none, none};
    bool moved = round == 0;
    for (std::size_t bin = 0; bin < bins.size(); ++bin) {
      const bool second = distance(*bins[bin], kinds.second, dispersion) <
                          distance(*bins[bin], kinds.first, dispersion);
      moved |= second != is_second[bin];
      is_second[bin] = second;
      add(second ? sums.second : sums.first, *bins[bin]);
    }
    kinds = std::move(sums);
    if (!moved) break;
  }
  int turns = 0;
  for (std::size_t bin = 1; bin < bins.size(); ++bin) turns += is_second[bin] != is_second[bin - 1];
  if (turns < kMinTurns) return {};
  const auto second = std::ranges::count(is_second, true);
  const auto first = static_cast<std::ptrdiff_t>(bins.size()) - second;
  if (first < 2 || second < 2 ||
      distance(kinds.first, kinds.second, dispersion) < kMinScenarioDifference)
    return {};
  std::vector<Scenario> scenarios;
  scenarios.push_back({std::move(kinds.first), static_cast<double>(first)});
  scenarios.push_back({std::move(kinds.second), static_cast<double>(second)});
  return scenarios;
}

}  // namespace swiftbalancer
