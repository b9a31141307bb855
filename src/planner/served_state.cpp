#include "planner/served_state.hpp"

#include <algorithm>
#include <cstddef>

#include <swiftbalancer/dispatch_table.hpp>

#include "planner/limits.hpp"

namespace swiftbalancer {

ServedState ServedState::even(const Placement& placement, const ClusterShape& shape) {
  ServedState served{placement, {}};
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    served.shares.push_back(
        even_shares(served.placement.layer(layer), shape.num_logical_experts()));
  }
  return served;
}

ServedState without_empty_slots(const ServedState& served, const ClusterShape& shape) {
  ServedState filled = served;
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer)
    fill_empty_slots(filled.placement.layer(layer), shape);
  return filled;
}

void fill_empty_slots(std::span<std::int32_t> placement, const ClusterShape& shape) {
  if (std::ranges::find(placement, kEmptySlot) == placement.end()) return;
  std::vector<std::int32_t> replicas = replica_count(placement, shape.num_logical_experts());
  for (int slot = 0; slot < shape.num_slots(); ++slot) {
    if (placement[static_cast<std::size_t>(slot)] != kEmptySlot) continue;
    const int rank = shape.rank_of_slot(slot);
    const auto own = placement.subspan(static_cast<std::size_t>(shape.first_slot(rank)),
                                       static_cast<std::size_t>(shape.slots_per_rank(rank)));
    std::int32_t best = -1;
    for (std::int32_t expert = 0; expert < shape.num_logical_experts(); ++expert) {
      if (std::ranges::find(own, expert) != own.end()) continue;
      const auto count = [&](std::int32_t e) { return replicas[static_cast<std::size_t>(e)]; };
      if (best < 0 || count(expert) < count(best)) best = expert;
    }
    if (best < 0) best = 0;  // More slots than experts: a duplicate cannot be avoided.
    placement[static_cast<std::size_t>(slot)] = best;
    ++replicas[static_cast<std::size_t>(best)];
  }
}

std::vector<double> imbalance_per_layer(const ClusterShape& shape, const ServedState& served,
                                        const ExpertLoad& load,
                                        std::span<const double> rank_speeds) {
  std::vector<double> result;
  LayerProblem problem{.shape = &shape, .rank_speed = rank_speeds};
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    problem.load = load.layer(layer);
    result.push_back(imbalance_of_times(problem, served.placement.layer(layer),
                                        served.shares[static_cast<std::size_t>(layer)]));
  }
  return result;
}

}  // namespace swiftbalancer
