#include "placement_figures.hpp"

#include <algorithm>

#include "planner/split.hpp"

namespace swiftbalancer::tool {

PlacementFigures figures_of(const ClusterShape& shape, const ServedState& state,
                            const ExpertLoad& load, Dispatch) {
  std::vector<double> imbalances, balancednesses;
  PlacementFigures figures;
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    const std::vector<double> ranks =
        rank_load(shape, state.placement.layer(layer), state.shares[static_cast<std::size_t>(layer)],
                  load.layer(layer));
    imbalances.push_back(imbalance(ranks));
    balancednesses.push_back(balancedness(ranks));
  }
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
                         const ExpertLoad& load) {
  ServedState state = ServedState::even(placement, shape);
  ReplicaSplit split(shape);
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
