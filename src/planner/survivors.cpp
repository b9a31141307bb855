#include "planner/survivors.hpp"

#include <algorithm>
#include <numeric>
#include <string>
#include <tuple>
#include <utility>

#include <swiftbalancer/error.hpp>

#include "core/index.hpp"
#include "planner/refuse.hpp"

namespace swiftbalancer {
namespace {

class LayerRecovery {
 public:
  LayerRecovery(const ClusterShape& shape, const LostExperts& layer, std::span<std::int32_t> row)
      : shape_(shape),
        layer_(layer),
        row_(row),
        replicas_(replica_count(row, shape.num_logical_experts())),
        load_(index(shape.num_ranks()), 0.0),
        home_(layer.keep_groups ? homes() : std::vector<int>{}) {
    for (int slot = 0; slot < shape.num_slots(); ++slot) {
      const std::int32_t expert = row[index(slot)];
      if (expert != kEmptySlot) load_[index(shape.rank_of_slot(slot))] += piece(expert);
    }
  }

  int run() {
    std::vector<std::int32_t> lost;
    for (std::int32_t expert = 0; expert < shape_.num_logical_experts(); ++expert) {
      if (replicas_[index(expert)] == 0) lost.push_back(expert);
    }
    std::ranges::stable_sort(lost, [&](std::int32_t a, std::int32_t b) {
      return layer_.load[index(a)] > layer_.load[index(b)];
    });
    for (std::int32_t expert : lost) place(expert);
    return static_cast<int>(lost.size());
  }

 private:
  double load_of(std::int32_t expert) const {
    return static_cast<double>(layer_.load[index(expert)]);
  }
  double piece(std::int32_t expert) const { return load_of(expert) / replicas_[index(expert)]; }
  double time(int rank, double added) const {
    const double speed = layer_.rank_speed.empty() ? 1.0 : layer_.rank_speed[index(rank)];
    return (load_[index(rank)] + added) / speed;
  }

  // [num_expert_groups] the node with most replicas of the group; -1: it has none left.
  std::vector<int> homes() const {
    std::vector<std::vector<int>> held(index(shape_.num_expert_groups()),
                                       std::vector<int>(index(shape_.num_nodes()), 0));
    for (int slot = 0; slot < shape_.num_slots(); ++slot) {
      const std::int32_t expert = row_[index(slot)];
      if (expert == kEmptySlot) continue;
      const int node = shape_.node_of_rank(shape_.rank_of_slot(slot));
      ++held[index(shape_.group_of_expert(expert))][index(node)];
    }
    std::vector<int> homes;
    for (const auto& nodes : held) {
      const auto most = std::ranges::max_element(nodes);
      homes.push_back(*most > 0 ? static_cast<int>(most - nodes.begin()) : -1);
    }
    return homes;
  }

  bool is_foreign(int slot, std::int32_t expert) const {
    if (home_.empty()) return false;
    const int home = home_[index(shape_.group_of_expert(expert))];
    return home >= 0 && home != shape_.node_of_rank(shape_.rank_of_slot(slot));
  }

  bool can_be_spared(int slot) const {
    if (!layer_.pinned.empty() && layer_.pinned[index(slot)] != 0) return false;
    const std::int32_t held = row_[index(slot)];
    return held == kEmptySlot || replicas_[index(held)] > 1;
  }

  // Of the ranks that this changes.
  double time_after(int slot, std::int32_t expert) const {
    const std::int32_t leaving = row_[index(slot)];
    const int rank = shape_.rank_of_slot(slot);
    if (leaving == kEmptySlot) return time(rank, load_of(expert));
    const double grown = load_of(leaving) / (replicas_[index(leaving)] - 1);
    double own = load_of(expert) - piece(leaving);
    double highest = 0.0;
    for (int other = 0; other < shape_.num_slots(); ++other) {
      if (other == slot || row_[index(other)] != leaving) continue;
      const int other_rank = shape_.rank_of_slot(other);
      if (other_rank == rank) own += grown - piece(leaving);
      highest = std::max(highest, time(other_rank, grown - piece(leaving)));
    }
    return std::max(highest, time(rank, own));
  }

  void place(std::int32_t expert) {
    int best = -1;
    std::pair<bool, double> least;
    for (int slot = 0; slot < shape_.num_slots(); ++slot) {
      if (!can_be_spared(slot)) continue;
      const std::pair cost{is_foreign(slot, expert), time_after(slot, expert)};
      if (best >= 0 && cost >= least) continue;
      best = slot;
      least = cost;
    }
    if (best < 0) {
      refuse("expert " + std::to_string(expert) +
             " has lost all copies and no slot can be spared for it; pin fewer slots or plan for "
             "more ranks");
    }
    replace(best, expert);
  }

  void replace(int slot, std::int32_t expert) {
    const std::int32_t leaving = row_[index(slot)];
    const int rank = shape_.rank_of_slot(slot);
    if (leaving != kEmptySlot) {
      const double before = piece(leaving);
      --replicas_[index(leaving)];
      load_[index(rank)] -= before;
      row_[index(slot)] = kEmptySlot;
      for (int other = 0; other < shape_.num_slots(); ++other) {
        if (row_[index(other)] == leaving)
          load_[index(shape_.rank_of_slot(other))] += piece(leaving) - before;
      }
    }
    row_[index(slot)] = expert;
    replicas_[index(expert)] = 1;
    load_[index(rank)] += load_of(expert);
  }

  const ClusterShape& shape_;
  const LostExperts& layer_;
  std::span<std::int32_t> row_;
  std::vector<std::int32_t> replicas_;  // [num_logical_experts]
  std::vector<double> load_;            // [num_ranks]
  std::vector<int> home_;               // [num_expert_groups]; empty: groups have none
};

}  // namespace

Survivors survivors_of(const ClusterShape& shape, std::span<const int> dead_ranks) {
  std::vector<bool> dead(index(shape.num_ranks()), false);
  for (int rank : dead_ranks) {
    if (rank < 0 || rank >= shape.num_ranks()) {
      refuse("dead rank " + std::to_string(rank) + " does not exist; ranks are 0 to " +
             std::to_string(shape.num_ranks() - 1));
    }
    if (dead[index(rank)]) refuse("dead rank " + std::to_string(rank) + " is named twice");
    dead[index(rank)] = true;
  }
  Survivors survivors;
  ShapeOptions& options = survivors.options;
  options.num_moe_layers = shape.num_moe_layers();
  options.num_logical_experts = shape.num_logical_experts();
  options.num_expert_groups = shape.num_expert_groups();
  std::vector<int> number(index(shape.num_nodes()), -1);
  options.num_nodes = 0;
  for (int rank = 0; rank < shape.num_ranks(); ++rank) {
    if (dead[index(rank)]) continue;
    int& node = number[index(shape.node_of_rank(rank))];
    if (node < 0) node = options.num_nodes++;
    survivors.ranks.push_back(rank);
    options.slots_per_rank.push_back(shape.slots_per_rank(rank));
    options.node_of_rank.push_back(node);
  }
  options.num_ranks = static_cast<int>(survivors.ranks.size());
  options.num_slots =
      std::accumulate(options.slots_per_rank.begin(), options.slots_per_rank.end(), 0);
  if (options.num_slots < options.num_logical_experts) {
    refuse("the " + std::to_string(options.num_ranks) + " ranks that are left have " +
           std::to_string(options.num_slots) + " slots for " +
           std::to_string(options.num_logical_experts) + " experts; every expert needs one");
  }
  return survivors;
}

int place_lost_experts(const ClusterShape& shape, const LostExperts& layer,
                       std::span<std::int32_t> row) {
  return LayerRecovery(shape, layer, row).run();
}

Recovered recover(const ClusterShape& shape, const Placement& placement, const ExpertLoad& load,
                  std::span<const int> dead_ranks, const RecoveryLimits& limits) {
  Recovered recovered;
  recovered.survivors = survivors_of(shape, dead_ranks);
  const ClusterShape left(recovered.survivors.options);
  if (!limits.rank_speed.empty() && limits.rank_speed.size() != index(left.num_ranks())) {
    refuse("rank speeds are given for " + std::to_string(limits.rank_speed.size()) + " ranks; " +
           std::to_string(left.num_ranks()) + " are left: give one for each of those");
  }
  recovered.held = Placement(left.num_moe_layers(), left.num_slots());
  for (int layer = 0; layer < left.num_moe_layers(); ++layer) {
    for (int rank = 0; rank < left.num_ranks(); ++rank) {
      const int before = recovered.survivors.ranks[index(rank)];
      const auto held = placement.layer(layer).subspan(index(shape.first_slot(before)),
                                                       index(shape.slots_per_rank(before)));
      std::ranges::copy(held, recovered.held.layer(layer).begin() + left.first_slot(rank));
    }
  }
  recovered.placement = recovered.held;
  std::vector<std::uint8_t> pinned(index(left.num_slots()), 0);
  for (int layer = 0; layer < left.num_moe_layers(); ++layer) {
    const auto row = recovered.placement.layer(layer);
    std::ranges::transform(row, pinned.begin(), [&](std::int32_t expert) -> std::uint8_t {
      return std::ranges::find(limits.pinned_experts, expert) != limits.pinned_experts.end() ? 1
                                                                                             : 0;
    });
    recovered.lost_experts.push_back(place_lost_experts(left,
                                                        {.load = load.layer(layer),
                                                         .rank_speed = limits.rank_speed,
                                                         .pinned = pinned,
                                                         .keep_groups = limits.keep_groups},
                                                        row));
  }
  return recovered;
}

}  // namespace swiftbalancer
