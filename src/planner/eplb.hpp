#pragma once
// DeepSeek's published expert placement, as published, for one layer: pack expert groups onto
// nodes, replicate by load per replica within each node, pack the replicas onto the node's ranks.
// Pure; the eplb policy adds repair and alignment. Source: deepseek-ai/EPLB, eplb.py
// (rebalance_experts) and README. Extension: packs of unequal capacity.

#include <cstdint>
#include <span>
#include <vector>

#include <swiftbalancer/shape.hpp>

namespace swiftbalancer {

/// True when eplb_rebalance() keeps expert groups on nodes: several of both, groups divide evenly
/// over nodes, and every node has room for its experts.
bool eplb_is_hierarchical(const ClusterShape& shape);

/// @param load [num_logical_experts]. @returns [num_slots] logical experts. Same-rank duplicates
/// are possible, as in the source; ties go to the lower index, as there.
std::vector<std::int32_t> eplb_rebalance(const ClusterShape& shape,
                                         std::span<const std::int64_t> load);

}  // namespace swiftbalancer
