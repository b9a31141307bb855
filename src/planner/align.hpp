#pragma once
// Finishing touches that turn a freshly computed placement into one that is cheap to reach and
// wastes no slot. Used by policies that place from scratch. Pure functions on one layer; ties go to
// the lower rank, slot or expert.

#include <cstdint>
#include <span>

#include <swiftbalancer/shape.hpp>

namespace swiftbalancer {

/// Removes same-rank duplicates: swaps with the rank where the heavier of the two ends lightest,
/// else puts the heaviest missing expert there. What stays is forced by ranks with more slots than
/// experts to hold.
/// @param keep_nodes experts never leave or join a node (hierarchical placements).
void repair_same_rank_duplicates(const ClusterShape& shape, std::span<const std::int64_t> load,
                                 bool keep_nodes, std::span<std::int32_t> slots);

/// Renames ranks of equal slot counts so that most experts stay where they are (optimal assignment
/// on the overlap).
/// @param keep_nodes renames whole nodes of equal make, then ranks within a node.
void align_ranks(const ClusterShape& shape, std::span<const std::int32_t> current, bool keep_nodes,
                 std::span<std::int32_t> slots);

/// Reorders the slots of each rank so that experts that stay on it keep their slot.
void align_slots(const ClusterShape& shape, std::span<const std::int32_t> current,
                 std::span<std::int32_t> slots);

}  // namespace swiftbalancer
