#pragma once
// Where experts go whose only live slots were on lost ranks: one load each, nothing else moves.
// Pure; called inside a reconfiguration, with the same input on every rank.

#include <cstdint>
#include <span>

#include <swiftbalancer/shape.hpp>

namespace swiftbalancer {

/// Gives every expert without a slot one: an empty slot if there is one, else the slot of a
/// replica, taken from the expert with the most; of those the rank that has been given fewest, then
/// the lowest slot. @param row [num_slots] of one layer, may hold kEmptySlot. @returns false when
/// there are fewer slots than experts (row is then half done).
bool rehome_lost_experts(std::span<std::int32_t> row, const ClusterShape& shape);

}  // namespace swiftbalancer
