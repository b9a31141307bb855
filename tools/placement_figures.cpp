#include "placement_figures.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

#include "planner/bounds.hpp"
#include "planner/split.hpp"

namespace swiftbalancer::tool {
namespace {

struct Bounds {
  double mean = 0.0;
  double highest = 0.0;
};

// Of ranks of unequal speed only the simplest bounds are known.
Bounds lower_bounds(const ClusterShape& shape, std::span<const std::int64_t> load,
                    std::span<const double> speed, Dispatch dispatch) {
  if (speed.empty()) return {mean_rank_load(shape, load), lower_bound(shape, load, dispatch)};
  const double total = mean_rank_load(shape, load) * shape.num_ranks();
  const double mean = total / std::accumulate(speed.begin(), speed.end(), 0.0);
  return {mean,
          std::max(mean, smallest_largest_piece(shape, load) / *std::ranges::max_element(speed))};
}

}  // namespace

PlacementFigures figures_of(const ClusterShape& shape, const ServedState& state,
                            const ExpertLoad& load, std::span<const double> rank_speed) {
  const Dispatch dispatch = has_even_shares(state, shape) ? Dispatch::kEven : Dispatch::kSplit;
  std::vector<double> imbalances, balancednesses;
  PlacementFigures figures;
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    const std::vector<double> ranks =
        rank_load(shape, state.placement.layer(layer),
                  state.shares[static_cast<std::size_t>(layer)], load.layer(layer));
    double slowest = 0.0;
    for (std::size_t rank = 0; rank < ranks.size(); ++rank)
      slowest =
          std::max(slowest, rank_speed.empty() ? ranks[rank] : ranks[rank] / rank_speed[rank]);
    const Bounds bounds = lower_bounds(shape, load.layer(layer), rank_speed, dispatch);
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
