#pragma once
// Replica choice where weights, not tokens, set the time: in decode a rank reads every expert that
// any token activates once, however few tokens it gets. Each activated expert goes to one of its
// slots, so that the rank with the most activated experts has as few as the placement allows (the
// objective of METRO). Pure functions, balancer worker, any thread.

#include <cstdint>
#include <span>
#include <vector>

#include <swiftbalancer/shape.hpp>

namespace swiftbalancer {

struct ActivationSplit {
  /// [num_logical_experts] the one slot that gets its tokens; -1 where not activated or not held.
  std::vector<std::int32_t> slot_of_expert;
  int max_activated = 0;  ///< Activated experts of the rank with the most; no choice has fewer.
};

/// Experts with the fewest replicas choose first, the rank with the fewest so far; then augmenting
/// paths move experts off the fullest ranks until none leads to a rank with two fewer (optimal
/// semi-matching, Harvey et al. 2006).
/// @param slots [num_slots], may hold kEmptySlot. @param activated [num_logical_experts], != 0:
/// some token goes there. Deterministic. Cost: O(slots) a path, as many paths as the greedy choice
/// is off.
ActivationSplit split_by_activation(const ClusterShape& shape, std::span<const std::int32_t> slots,
                                    std::span<const std::uint8_t> activated);

/// The shares [num_slots] in kShareUnit of steps that may activate any expert: each is on one slot.
std::vector<std::uint32_t> one_slot_shares(const ClusterShape& shape,
                                           std::span<const std::int32_t> slots);

/// The same as shares [num_slots] in kShareUnit: all on the chosen slot. Experts that are not
/// activated are split evenly.
std::vector<std::uint32_t> activation_shares(const ClusterShape& shape,
                                             std::span<const std::int32_t> slots,
                                             const ActivationSplit& split);

}  // namespace swiftbalancer
