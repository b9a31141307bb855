#pragma once
// Placements that keep expert groups on nodes: strictly, or but for a few replicas that are charged
// by the tokens they draw out of their node. Used by plan_within_limits(), and by whoever reports
// what a placement costs in traffic. Pure, deterministic.

#include <cstdint>
#include <span>
#include <vector>

#include <swiftbalancer/policy.hpp>

namespace swiftbalancer {

/// Groups bind experts to nodes in this problem.
bool groups_are_bound(const LayerProblem& problem);

/// A relaxed placement lets replicas out of their node until no node is more than this above its
/// part: what is left to win is then worth less than the links it takes.
inline constexpr double kRelaxedLevel = 1.048;

struct HierarchicalPlacement {
  std::vector<std::int32_t> slots;  ///< [num_slots]
  std::int64_t work = 0;
};

/// Best placement found with groups on nodes. @param problem checked by check_limits().
/// @throws Error kInvalidArgument when pins and limits leave no such placement.
HierarchicalPlacement place_groups_on_nodes(const LayerProblem& problem);

/// Which node each group is at home on: the one that serves most of its tokens; without load, the
/// one that holds most of its replicas. @returns [num_expert_groups].
std::vector<int> home_nodes(const ClusterShape& shape, std::span<const std::int32_t> slots,
                            std::span<const std::uint32_t> shares,
                            std::span<const std::int64_t> load);

struct CrossNodeTraffic {
  int replicas = 0;     ///< Slots outside the node of their group.
  double tokens = 0.0;  ///< That those slots draw: they cross to another node than their group's.
  double share = 0.0;   ///< Of all tokens.
};
/// @param shares [num_slots] in kShareUnit, or empty for an even split.
CrossNodeTraffic cross_node_traffic(const ClusterShape& shape, std::span<const std::int32_t> slots,
                                    std::span<const std::uint32_t> shares,
                                    std::span<const std::int64_t> load);

}  // namespace swiftbalancer
