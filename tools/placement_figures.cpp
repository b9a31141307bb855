#include "placement_figures.hpp"

#include <algorithm>
#include <numeric>
#include <queue>
#include <utility>

#include "planner/split.hpp"

namespace swiftbalancer::tool {
namespace {

// No placement has its hottest rank below: ranks cannot all be below their mean (LB0), and however
// the redundant slots are dealt, some expert's part per slot is at least as large as when each goes
// to the expert with the largest part (LB1). Holds for tokens split evenly and by any shares.
struct Bounds {
  double mean = 0.0;     // LB0
  double highest = 0.0;  // of both
};

Bounds lower_bounds(const ClusterShape& shape, std::span<const std::int64_t> load,
                    std::span<const double> speed) {
  double total = 0.0;
  std::vector<int> replicas(load.size(), 1);
  std::priority_queue<std::pair<double, std::size_t>> parts;
  for (std::size_t expert = 0; expert < load.size(); ++expert) {
    parts.emplace(static_cast<double>(load[expert]), expert);
    total += static_cast<double>(load[expert]);
  }
  for (int spare = shape.num_redundant_experts(); spare > 0; --spare) {
    const std::size_t expert = parts.top().second;
    if (replicas[expert] == shape.num_ranks()) break;  // It is on every rank.
    parts.pop();
    parts.emplace(static_cast<double>(load[expert]) / ++replicas[expert], expert);
  }
  const double mean = total / std::accumulate(speed.begin(), speed.end(), 0.0);
  return {mean, std::max(mean, parts.top().first / *std::ranges::max_element(speed))};
}

}  // namespace

PlacementFigures figures_of(const ClusterShape& shape, const ServedState& state,
                            const ExpertLoad& load, std::span<const double> rank_speed) {
  std::vector<double> speed(rank_speed.begin(), rank_speed.end());
  if (speed.empty()) speed.assign(static_cast<std::size_t>(shape.num_ranks()), 1.0);
  std::vector<double> imbalances, balancednesses;
  PlacementFigures figures;
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    const std::vector<double> ranks =
        rank_load(shape, state.placement.layer(layer),
                  state.shares[static_cast<std::size_t>(layer)], load.layer(layer));
    double slowest = 0.0;
    for (std::size_t rank = 0; rank < ranks.size(); ++rank)
      slowest = std::max(slowest, ranks[rank] / speed[rank]);
    const Bounds bounds = lower_bounds(shape, load.layer(layer), speed);
    imbalances.push_back(bounds.mean > 0.0 ? slowest / bounds.mean : 1.0);
    balancednesses.push_back(1.0 / imbalances.back());
    if (bounds.mean > 0.0) figures.lower_bound_gap_mean += slowest / bounds.highest - 1.0;
  }
  figures.lower_bound_gap_mean /= shape.num_moe_layers();
  figures.imbalance = aggregate_imbalance(imbalances);
  figures.balancedness = aggregate_balancedness(balancednesses);
  return figures;
}

int same_rank_duplicates(const ClusterShape& shape, const Placement& placement) {
  int duplicates = 0;
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer)
    duplicates += count_same_rank_duplicates(placement.layer(layer), shape);
  return duplicates;
}

ServedState level_shares(const ClusterShape& shape, const Placement& placement,
                         const ExpertLoad& load, std::span<const double> rank_speed) {
  ServedState state = ServedState::even(placement, shape);
  ReplicaSplit split(shape, rank_speed);
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    const auto tokens = load.layer(layer);
    const std::vector<double> amounts(tokens.begin(), tokens.end());
    split.level(placement.layer(layer), amounts);
    split.shares(state.shares[static_cast<std::size_t>(layer)]);
  }
  return state;
}

ServedState served_state(const io::PlacementFile& file, const ClusterShape& shape) {
  ServedState state = ServedState::even(file.placement, shape);
  if (!file.shares.empty()) state.shares = file.shares;
  return state;
}

bool has_even_shares(const ServedState& state, const ClusterShape& shape) {
  return state.shares == ServedState::even(state.placement, shape).shares;
}

}  // namespace swiftbalancer::tool
