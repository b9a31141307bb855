#include <swiftbalancer/placement.hpp>

#include <algorithm>
#include <string>

#include <swiftbalancer/error.hpp>

namespace swiftbalancer {
namespace {

std::size_t index(int value) { return static_cast<std::size_t>(value); }

std::span<const std::int32_t> slots_of_rank(std::span<const std::int32_t> slots, const ClusterShape& shape, int rank) {
  return slots.subspan(index(shape.first_slot(rank)), index(shape.slots_per_rank(rank)));
}

bool holds(std::span<const std::int32_t> slots, std::int32_t logical_id) {
  return std::find(slots.begin(), slots.end(), logical_id) != slots.end();
}

// Gives each rank its contiguous share of the experts, at most as many as it has slots.
void place_primaries(const ClusterShape& shape, std::span<std::int32_t> slots, std::vector<int>& used) {
  const int experts = shape.num_logical_experts();
  int next = 0;
  for (int rank = 0; rank < shape.num_ranks(); ++rank) {
    const int slots_left = shape.num_slots() - shape.first_slot(rank);
    // In proportion to the slots that remain, so that the rest always fits on the ranks behind.
    const int share = (experts - next) * shape.slots_per_rank(rank) / slots_left;
    const int must = experts - next - (slots_left - shape.slots_per_rank(rank));
    for (int i = std::max(share, must); i > 0; --i) {
      slots[index(shape.first_slot(rank) + used[index(rank)]++)] = next++;
    }
  }
}

}  // namespace

Placement Placement::initial(const ClusterShape& shape) {
  Placement placement(shape.num_moe_layers(), shape.num_slots());
  std::span<std::int32_t> first = placement.layer(0);
  std::fill(first.begin(), first.end(), -1);
  std::vector<int> used(index(shape.num_ranks()), 0);
  place_primaries(shape, first, used);

  const int redundant = shape.num_redundant_experts();
  for (int i = 0; i < redundant; ++i) {
    const auto expert = static_cast<std::int32_t>(static_cast<std::int64_t>(i) * shape.num_logical_experts() / redundant %
                                                  shape.num_logical_experts());
    int target = -1;
    for (int k = 0; k < shape.num_ranks(); ++k) {
      const int rank = (i + k + shape.num_ranks() / 2) % shape.num_ranks();
      if (used[index(rank)] == shape.slots_per_rank(rank)) continue;
      if (target < 0) target = rank;
      if (!holds(slots_of_rank(first, shape, rank), expert)) {
        target = rank;
        break;
      }
    }
    first[index(shape.first_slot(target) + used[index(target)]++)] = expert;
  }
  for (int layer = 1; layer < shape.num_moe_layers(); ++layer) {
    std::copy(first.begin(), first.end(), placement.layer(layer).begin());
  }
  return placement;
}

bool is_valid_layer(std::span<const std::int32_t> slots, const ClusterShape& shape) noexcept {
  if (slots.size() != index(shape.num_slots())) return false;
  for (std::int32_t expert : slots) {
    if (expert < 0 || expert >= shape.num_logical_experts()) return false;
  }
  for (std::int32_t expert = 0; expert < shape.num_logical_experts(); ++expert) {
    if (!holds(slots, expert)) return false;
  }
  return true;
}

void validate(const Placement& placement, const ClusterShape& shape) {
  if (placement.num_moe_layers() != shape.num_moe_layers() || placement.num_slots() != shape.num_slots()) {
    throw Error(ErrorCode::kInvalidArgument,
                "placement is [" + std::to_string(placement.num_moe_layers()) + ", " +
                    std::to_string(placement.num_slots()) + "]; the shape needs [" + std::to_string(shape.num_moe_layers()) +
                    ", " + std::to_string(shape.num_slots()) + "] (layers, slots)");
  }
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    const auto slots = placement.layer(layer);
    for (std::size_t slot = 0; slot < slots.size(); ++slot) {
      if (slots[slot] < 0 || slots[slot] >= shape.num_logical_experts()) {
        throw Error(ErrorCode::kInvalidArgument, "placement layer " + std::to_string(layer) + " slot " +
                                                     std::to_string(slot) + " holds expert " + std::to_string(slots[slot]) +
                                                     "; allowed are 0 to " +
                                                     std::to_string(shape.num_logical_experts() - 1));
      }
    }
    const auto counts = replica_count(slots, shape.num_logical_experts());
    const auto missing = std::find(counts.begin(), counts.end(), 0);
    if (missing != counts.end()) {
      throw Error(ErrorCode::kInvalidArgument, "placement layer " + std::to_string(layer) + " has no slot for expert " +
                                                   std::to_string(missing - counts.begin()) + "; every expert needs one");
    }
  }
}

std::vector<std::int32_t> replica_count(std::span<const std::int32_t> slots, int num_logical_experts) {
  std::vector<std::int32_t> counts(index(num_logical_experts), 0);
  for (std::int32_t expert : slots) ++counts[index(expert)];
  return counts;
}

std::vector<std::int32_t> expert_map(std::span<const std::int32_t> slots, const ClusterShape& shape, int rank) {
  std::vector<std::int32_t> map(index(shape.num_logical_experts()), -1);
  const auto own = slots_of_rank(slots, shape, rank);
  for (std::size_t local = own.size(); local-- > 0;) map[index(own[local])] = static_cast<std::int32_t>(local);
  return map;
}

std::vector<std::int32_t> log2phy(std::span<const std::int32_t> slots, const ClusterShape& shape, int rank) {
  std::vector<std::vector<std::int32_t>> candidates(index(shape.num_logical_experts()));
  std::vector<int> nearness(index(shape.num_logical_experts()), -1);
  for (int slot = 0; slot < shape.num_slots(); ++slot) {
    const int owner = shape.rank_of_slot(slot);
    const int near = owner == rank ? 2 : (shape.node_of_rank(owner) == shape.node_of_rank(rank) ? 1 : 0);
    const auto expert = index(slots[index(slot)]);
    if (near > nearness[expert]) {
      nearness[expert] = near;
      candidates[expert].clear();
    }
    if (near == nearness[expert]) candidates[expert].push_back(slot);
  }
  std::vector<std::int32_t> map;
  map.reserve(candidates.size());
  for (const auto& list : candidates) map.push_back(list.empty() ? -1 : list[index(rank) % list.size()]);
  return map;
}

int count_moves(std::span<const std::int32_t> from, std::span<const std::int32_t> to, const ClusterShape& shape) {
  int moves = 0;
  for (int rank = 0; rank < shape.num_ranks(); ++rank) {
    const auto before = slots_of_rank(from, shape, rank);
    const auto after = slots_of_rank(to, shape, rank);
    for (std::size_t i = 0; i < after.size(); ++i) {
      moves += !holds(before, after[i]) && !holds(after.first(i), after[i]) ? 1 : 0;
    }
  }
  return moves;
}

int count_same_rank_duplicates(std::span<const std::int32_t> slots, const ClusterShape& shape) {
  int duplicates = 0;
  for (int rank = 0; rank < shape.num_ranks(); ++rank) {
    const auto own = slots_of_rank(slots, shape, rank);
    for (std::size_t i = 0; i < own.size(); ++i) duplicates += holds(own.first(i), own[i]) ? 1 : 0;
  }
  return duplicates;
}

}  // namespace swiftbalancer
