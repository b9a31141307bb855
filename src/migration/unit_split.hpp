#pragma once
// Orders the copies of one layer that is larger than the staging pool into commit units. Pure; used
// by CommitUnitBuilder.

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include <swiftbalancer/migration_plan.hpp>
#include <swiftbalancer/shape.hpp>

namespace swiftbalancer {

/// Splits copies into as few units as a greedy order finds: at most `capacity` arrivals per rank
/// and unit, and a slot is read before, or in the same unit as, it is overwritten. Every expert is
/// then live after every unit: a holder that is overwritten was read no later by the copy that
/// keeps its expert, and no destination is written twice. Copies that read each other's
/// destinations in a cycle share a unit; a cycle too large for that is broken by reading another
/// holder where one exists.
/// @param copies one per destination slot, sources in `before`, which holds every expert. @param
/// before [num_slots].
/// @returns the units, copies by destination slot; nothing when a cycle neither fits nor can be
/// broken.
std::optional<std::vector<std::vector<ExpertCopy>>> split_into_units(
    std::vector<ExpertCopy> copies, std::span<const std::int32_t> before, const ClusterShape& shape,
    int capacity);

}  // namespace swiftbalancer
