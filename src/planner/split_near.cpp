// Splits that leave tokens where they come from. Starts from the split that keeps most on their
// node and brings the hot ranks down by chains of what may leave: first what a node got beyond the
// tokens of its own ranks, then all but those of the replica's own rank, then anything.

#include <algorithm>

#include "core/index.hpp"
#include "planner/split.hpp"

namespace swiftbalancer {
double ReplicaSplit::level_near(std::span<const std::int32_t> slots, std::span<const double> load) {
  limit_ = std::max(level(slots, load), limit_);
  split_near();
  floor_ = near_;
  relieve_above_floors();
  const double part_of_rank = inverse_.back();
  for (const Group& group : std::span(groups_).first(num_groups_)) {
    for (std::int32_t k = group.first; k < group.first + group.count; ++k)
      floor_[index(replicas_[index(k)].slot)] = part_of_rank * group.load;
  }
  relieve_above_floors();
  std::ranges::fill(floor_, 0.0);
  relieve_above_floors();
  return highest();
}

// A node's tokens go to its own replicas, the same to each; those of nodes without one to all.
void ReplicaSplit::split_near() {
  std::ranges::fill(near_, 0.0);
  for (const Group& group : std::span(groups_).first(num_groups_)) {
    const std::span<const Replica> replicas =
        std::span(replicas_).subspan(index(group.first), index(group.count));
    const auto node_of = [&](const Replica& replica) {
      return index(node_of_rank_[index(replica.rank)]);
    };
    std::ranges::fill(on_node_, 0);
    double away = 1.0;  // part of the tokens that come from nodes without a replica
    for (const Replica& replica : replicas) {
      if (on_node_[node_of(replica)]++ == 0) away -= part_of_node_[node_of(replica)];
    }
    away = std::max(0.0, away) * inverse_[replicas.size()];
    for (const Replica& replica : replicas) {
      const std::size_t node = node_of(replica);
      const double near = part_of_node_[node] * inverse_[index(on_node_[node])];
      double& amount = amount_[index(replica.slot)];
      rank_load_[index(replica.rank)] += (near + away) * group.load - amount;
      amount = (near + away) * group.load;
      near_[index(replica.slot)] = near * group.load;
    }
  }
}

void ReplicaSplit::relieve_above_floors() {
  for (std::size_t slot = 0; slot < amount_.size(); ++slot) amount_[slot] -= floor_[slot];
  for (std::int32_t rank = 0; rank < static_cast<std::int32_t>(rank_load_.size()); ++rank)
    relieve(rank);
  for (std::size_t slot = 0; slot < amount_.size(); ++slot) amount_[slot] += floor_[slot];
}

}  // namespace swiftbalancer
