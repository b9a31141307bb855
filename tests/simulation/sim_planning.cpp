#include "simulation/sim_planning.hpp"

#include <algorithm>

#include <swiftbalancer/dispatch_table.hpp>

namespace swiftbalancer::simulation {

Plan random_plan(const ServedState& base, const ClusterShape& shape, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  Plan plan;
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    if (random() % 4 == 0) continue;
    const auto now = base.placement.layer(layer);
    std::vector<std::int32_t> next(now.begin(), now.end());
    for (std::uint64_t change = random() % 4; change-- > 0;) {
      auto& a = next[random() % next.size()];
      auto& b = next[random() % next.size()];
      if (random() % 2 == 0) {
        std::swap(a, b);
      } else if (std::ranges::count(next, b) > 1) {
        b = a;
      }
    }
    LayerChange entry;
    entry.moe_layer_id = layer;
    entry.plan.placement = next;
    entry.plan.shares = even_shares(next, shape.num_logical_experts());
    entry.plan.moves = count_moves(now, next, shape);
    plan.moves += entry.plan.moves;
    plan.changes.push_back(std::move(entry));
  }
  std::ranges::shuffle(plan.changes, random);
  return plan;
}

}  // namespace swiftbalancer::simulation
