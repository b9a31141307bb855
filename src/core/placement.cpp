#include <swiftbalancer/placement.hpp>

#include <algorithm>
#include <string>

#include <swiftbalancer/error.hpp>

#include "core/index.hpp"

namespace swiftbalancer {
namespace {

std::span<const std::int32_t> slots_of_rank(std::span<const std::int32_t> slots,
                                            const ClusterShape& shape, int rank) {
  return slots.subspan(index(shape.first_slot(rank)), index(shape.slots_per_rank(rank)));
}

bool holds(std::span<const std::int32_t> slots, std::int32_t logical_id) {
  return std::find(slots.begin(), slots.end(), logical_id) != slots.end();
}

// Gives each rank its contiguous share of the experts, at most as many as it has slots.
void place_primaries(const ClusterShape& shape, std::span<std::int32_t> slots,
                     std::vector<int>& used) {
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

// Spare slots take experts spread evenly over all: the fewest replicas first, from a start that
// advances with each slot.
void fill_spare_slots(const ClusterShape& shape, std::span<std::int32_t> slots,
                      const std::vector<int>& used) {
  const int experts = shape.num_logical_experts();
  std::vector<int> replicas(index(experts), 1);
  int filled = 0;
  for (int rank = 0; rank < shape.num_ranks(); ++rank) {
    const auto own = slots_of_rank(slots, shape, rank);
    for (int local = used[index(rank)]; local < shape.slots_per_rank(rank); ++local, ++filled) {
      const int start = static_cast<int>(static_cast<std::int64_t>(filled) * experts /
                                         shape.num_redundant_experts()) +
                        experts / 2;
      int best = -1;
      for (int k = 0; k < experts; ++k) {
        const int expert = (start + k) % experts;
        if (holds(own, expert)) continue;
        if (best < 0 || replicas[index(expert)] < replicas[index(best)]) best = expert;
      }
      if (best < 0)
        best = start % experts;  // More slots than experts: a duplicate cannot be avoided.
      ++replicas[index(best)];
      slots[index(shape.first_slot(rank) + local)] = best;
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

  fill_spare_slots(shape, first, used);
  for (int layer = 1; layer < shape.num_moe_layers(); ++layer) {
    std::copy(first.begin(), first.end(), placement.layer(layer).begin());
  }
  return placement;
}

bool is_valid_layer(std::span<const std::int32_t> slots, const ClusterShape& shape) noexcept {
  if (slots.size() != index(shape.num_slots())) return false;
  for (std::int32_t expert : slots) {
    if (expert < kEmptySlot || expert >= shape.num_logical_experts()) return false;
  }
  for (std::int32_t expert = 0; expert < shape.num_logical_experts(); ++expert) {
    if (!holds(slots, expert)) return false;
  }
  return true;
}

void validate(const Placement& placement, const ClusterShape& shape) {
  if (placement.num_moe_layers() != shape.num_moe_layers() ||
      placement.num_slots() != shape.num_slots()) {
    throw Error(ErrorCode::kInvalidArgument,
                "placement is [" + std::to_string(placement.num_moe_layers()) + ", " +
                    std::to_string(placement.num_slots()) + "]; the shape needs [" +
                    std::to_string(shape.num_moe_layers()) + ", " +
                    std::to_string(shape.num_slots()) + "] (layers, slots)");
  }
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    const auto slots = placement.layer(layer);
    for (std::size_t slot = 0; slot < slots.size(); ++slot) {
      if (slots[slot] < 0 || slots[slot] >= shape.num_logical_experts()) {
        throw Error(ErrorCode::kInvalidArgument,
                    "placement layer " + std::to_string(layer) + " slot " + std::to_string(slot) +
                        " holds expert " + std::to_string(slots[slot]) + "; allowed are 0 to " +
                        std::to_string(shape.num_logical_experts() - 1));
      }
    }
    const auto counts = replica_count(slots, shape.num_logical_experts());
    const auto missing = std::find(counts.begin(), counts.end(), 0);
    if (missing != counts.end()) {
      throw Error(ErrorCode::kInvalidArgument,
                  "placement layer " + std::to_string(layer) + " has no slot for expert " +
                      std::to_string(missing - counts.begin()) + "; every expert needs one");
    }
  }
}

std::vector<std::int32_t> replica_count(std::span<const std::int32_t> slots,
                                        int num_logical_experts) {
  std::vector<std::int32_t> counts(index(num_logical_experts), 0);
  for (std::int32_t expert : slots) {
    if (expert != kEmptySlot) ++counts[index(expert)];
  }
  return counts;
}

std::vector<std::int32_t> expert_map(std::span<const std::int32_t> slots, const ClusterShape& shape,
                                     int rank) {
  std::vector<std::int32_t> map(index(shape.num_logical_experts()), -1);
  const auto own = slots_of_rank(slots, shape, rank);
  for (std::size_t local = own.size(); local-- > 0;) {
    if (own[local] != kEmptySlot) map[index(own[local])] = static_cast<std::int32_t>(local);
  }
  return map;
}

std::vector<std::int32_t> log2phy(std::span<const std::int32_t> slots, const ClusterShape& shape,
                                  int rank) {
  const auto nearness_of = [&](int owner) {
    return owner == rank ? 2 : (shape.node_of_rank(owner) == shape.node_of_rank(rank) ? 1 : 0);
  };
  struct Nearest {
    int nearness = -1;
    int count = 0;  // slots that near; then those still to pass
  };
  std::vector<Nearest> nearest(index(shape.num_logical_experts()));
  for (int owner = 0; owner < shape.num_ranks(); ++owner) {
    const int near = nearness_of(owner);
    for (const std::int32_t expert : slots_of_rank(slots, shape, owner)) {
      if (expert == kEmptySlot) continue;
      Nearest& of_expert = nearest[index(expert)];
      if (near > of_expert.nearness) of_expert = {near, 0};
      of_expert.count += near == of_expert.nearness ? 1 : 0;
    }
  }
  for (Nearest& of_expert : nearest) {
    of_expert.count = of_expert.count > 1 ? rank % of_expert.count : 0;
  }
  std::vector<std::int32_t> map(nearest.size(), -1);
  for (int owner = 0; owner < shape.num_ranks(); ++owner) {
    const int near = nearness_of(owner);
    for (int slot = shape.first_slot(owner); slot < shape.first_slot(owner + 1); ++slot) {
      const std::int32_t expert = slots[index(slot)];
      if (expert == kEmptySlot) continue;
      Nearest& of_expert = nearest[index(expert)];
      if (near == of_expert.nearness && of_expert.count-- == 0) map[index(expert)] = slot;
    }
  }
  return map;
}

int count_moves(std::span<const std::int32_t> from, std::span<const std::int32_t> to,
                const ClusterShape& shape) {
  // The last rank that holds, before or after, the expert.
  std::vector<int> holder(index(shape.num_logical_experts()), -1);
  int moves = 0;
  for (int rank = 0; rank < shape.num_ranks(); ++rank) {
    for (const std::int32_t expert : slots_of_rank(from, shape, rank)) {
      if (expert != kEmptySlot) holder[index(expert)] = rank;
    }
    for (const std::int32_t expert : slots_of_rank(to, shape, rank)) {
      if (expert == kEmptySlot || holder[index(expert)] == rank) continue;
      holder[index(expert)] = rank;
      ++moves;
    }
  }
  return moves;
}

int count_same_rank_duplicates(std::span<const std::int32_t> slots, const ClusterShape& shape) {
  int duplicates = 0;
  for (int rank = 0; rank < shape.num_ranks(); ++rank) {
    const auto own = slots_of_rank(slots, shape, rank);
    for (std::size_t i = 0; i < own.size(); ++i)
      duplicates += own[i] != kEmptySlot && holds(own.first(i), own[i]) ? 1 : 0;
  }
  return duplicates;
}

}  // namespace swiftbalancer
