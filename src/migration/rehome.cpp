#include "migration/rehome.hpp"

#include <tuple>
#include <vector>

#include <swiftbalancer/placement.hpp>

namespace swiftbalancer {

bool rehome_lost_experts(std::span<std::int32_t> row, const ClusterShape& shape) {
  std::vector<std::int32_t> replicas = replica_count(row, shape.num_logical_experts());
  std::vector<int> given(static_cast<std::size_t>(shape.num_ranks()), 0);
  for (std::int32_t expert = 0; expert < shape.num_logical_experts(); ++expert) {
    if (replicas[static_cast<std::size_t>(expert)] > 0) continue;
    int best = -1;
    std::tuple<bool, std::int32_t, int> best_cost;
    for (int slot = 0; slot < shape.num_slots(); ++slot) {
      const std::int32_t held = row[static_cast<std::size_t>(slot)];
      const bool empty = held == kEmptySlot;
      const std::int32_t spare = empty ? 0 : replicas[static_cast<std::size_t>(held)] - 1;
      if (!empty && spare == 0) continue;
      const int rank = shape.rank_of_slot(slot);
      const std::tuple cost{!empty, -spare, given[static_cast<std::size_t>(rank)]};
      if (best >= 0 && cost >= best_cost) continue;
      best = slot;
      best_cost = cost;
    }
    if (best < 0) return false;
    std::int32_t& taken = row[static_cast<std::size_t>(best)];
    if (taken != kEmptySlot) --replicas[static_cast<std::size_t>(taken)];
    taken = expert;
    replicas[static_cast<std::size_t>(expert)] = 1;
    ++given[static_cast<std::size_t>(shape.rank_of_slot(best))];
  }
  return true;
}

}  // namespace swiftbalancer
