#include "planner/metro.hpp"

#include <algorithm>
#include <numeric>

#include <swiftbalancer/dispatch_table.hpp>
#include <swiftbalancer/placement.hpp>

#include "core/index.hpp"

namespace swiftbalancer {
namespace {

constexpr std::int32_t kUnchosen = -1;

class Chooser {
 public:
  Chooser(const ClusterShape& shape, std::span<const std::int32_t> slots,
          std::span<const std::uint8_t> activated)
      : shape_(shape),
        replicas_(index(shape.num_logical_experts())),
        chosen_(replicas_.size(), kUnchosen),
        experts_of_(index(shape.num_ranks())) {
    for (std::int32_t slot = 0; slot < shape.num_slots(); ++slot) {
      const std::int32_t expert = slots[index(slot)];
      if (expert != kEmptySlot && activated[index(expert)] != 0)
        replicas_[index(expert)].push_back(slot);
    }
  }

  ActivationSplit choose() {
    std::vector<std::int32_t> order(replicas_.size());
    std::iota(order.begin(), order.end(), 0);
    std::ranges::stable_sort(order, {},
                             [&](std::int32_t expert) { return replicas_[index(expert)].size(); });
    for (const std::int32_t expert : order) {
      if (replicas_[index(expert)].empty()) continue;
      put(expert, *std::ranges::min_element(replicas_[index(expert)], {}, [&](std::int32_t slot) {
            return activated_on(shape_.rank_of_slot(slot));
          }));
    }
    while (relieve(fullest())) {
    }
    return {std::move(chosen_), activated_on(fullest())};
  }

 private:
  int activated_on(std::int32_t rank) const {
    return static_cast<int>(experts_of_[index(rank)].size());
  }
  std::int32_t fullest() const {
    const auto fullest = std::ranges::max_element(
        experts_of_, {}, [](const std::vector<std::int32_t>& experts) { return experts.size(); });
    return static_cast<std::int32_t>(fullest - experts_of_.begin());
  }

  void put(std::int32_t expert, std::int32_t slot) {
    std::int32_t& chosen = chosen_[index(expert)];
    if (chosen != kUnchosen) std::erase(experts_of_[index(shape_.rank_of_slot(chosen))], expert);
    chosen = slot;
    experts_of_[index(shape_.rank_of_slot(slot))].push_back(expert);
  }

  // Moves an expert along each step of the shortest path to a rank with at least two fewer. One of
  // the fullest ranks for which there is none proves that no choice has a lower maximum: what the
  // ranks it reaches hold can be nowhere else, and all of them hold at least one less than it does.
  bool relieve(std::int32_t full) {
    std::vector<std::int32_t> queue{full}, expert_to(experts_of_.size(), kUnchosen),
        slot_to(experts_of_.size(), kUnchosen);
    for (std::size_t next = 0; next < queue.size(); ++next) {
      for (const std::int32_t expert : experts_of_[index(queue[next])]) {
        for (const std::int32_t slot : replicas_[index(expert)]) {
          const std::int32_t rank = shape_.rank_of_slot(slot);
          if (rank == full || slot_to[index(rank)] != kUnchosen) continue;
          expert_to[index(rank)] = expert;
          slot_to[index(rank)] = slot;
          queue.push_back(rank);
          if (activated_on(rank) + 2 > activated_on(full)) continue;
          move_back_along(rank, full, expert_to, slot_to);
          return true;
        }
      }
    }
    return false;
  }

  void move_back_along(std::int32_t rank, std::int32_t full,
                       std::span<const std::int32_t> expert_to,
                       std::span<const std::int32_t> slot_to) {
    while (rank != full) {
      const std::int32_t expert = expert_to[index(rank)];
      const std::int32_t from = shape_.rank_of_slot(chosen_[index(expert)]);
      put(expert, slot_to[index(rank)]);
      rank = from;
    }
  }

  const ClusterShape& shape_;
  std::vector<std::vector<std::int32_t>> replicas_;    // [num_logical_experts] slots
  std::vector<std::int32_t> chosen_;                   // [num_logical_experts] slot
  std::vector<std::vector<std::int32_t>> experts_of_;  // [num_ranks]
};

}  // namespace

ActivationSplit split_by_activation(const ClusterShape& shape, std::span<const std::int32_t> slots,
                                    std::span<const std::uint8_t> activated) {
  return Chooser(shape, slots, activated).choose();
}

std::vector<std::uint32_t> one_slot_shares(const ClusterShape& shape,
                                           std::span<const std::int32_t> slots) {
  const std::vector<std::uint8_t> all(index(shape.num_logical_experts()), 1);
  return activation_shares(shape, slots, split_by_activation(shape, slots, all));
}

std::vector<std::uint32_t> activation_shares(const ClusterShape& shape,
                                             std::span<const std::int32_t> slots,
                                             const ActivationSplit& split) {
  std::vector<std::uint32_t> shares = even_shares(slots, shape.num_logical_experts());
  for (std::size_t slot = 0; slot < slots.size(); ++slot) {
    if (slots[slot] == kEmptySlot) continue;
    const std::int32_t chosen = split.slot_of_expert[index(slots[slot])];
    if (chosen != kUnchosen) shares[slot] = index(chosen) == slot ? kShareUnit : 0;
  }
  return shares;
}

}  // namespace swiftbalancer
