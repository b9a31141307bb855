#pragma once
// Which expert groups live on which node (group-limited routing: a token's experts come from few
// groups, so groups that stay together keep its traffic on few nodes). The partition bounds what
// any placement can reach, so the best few are found by branch and bound. Called by the
// hierarchical planner and by tests. Pure, deterministic.

#include <cstdint>
#include <span>
#include <vector>

#include <swiftbalancer/shape.hpp>

namespace swiftbalancer {

/// What a node offers to its groups.
struct NodeMake {
  int num_ranks = 0;
  int num_slots = 0;
  int largest_rank = 0;     ///< Slots of its rank that has most.
  double speed = 0.0;       ///< Sum over its ranks; 1 each where speeds are not given.
  double best_speed = 0.0;  ///< Of its fastest rank.
  friend bool operator==(const NodeMake&, const NodeMake&) = default;
};

/// @param rank_speed [num_ranks] or empty. @returns [num_nodes].
std::vector<NodeMake> node_makes(const ClusterShape& shape, std::span<const double> rank_speed);

/// Whether the groups fit on the nodes: every node holds at least one group, and has a slot for
/// each expert of its groups.
bool groups_fit_nodes(const ClusterShape& shape);

struct NodePartition {
  std::vector<int> node_of_group;  ///< [num_expert_groups]
  /// No placement that keeps these groups on these nodes has a rank that takes less: load / speed.
  double bound = 0.0;
  /// Load of all nodes beyond `level` times their part of all load: what has to leave its node to
  /// bring every node down to that level.
  double excess = 0.0;
};

/// What makes one partition better than another.
enum class PartitionGoal : std::uint8_t {
  kLowestBound,   ///< For groups that may not leave their node.
  kLeastTraffic,  ///< For groups that may, at a price: least excess.
};

struct PartitionSearch {
  PartitionGoal goal = PartitionGoal::kLowestBound;
  double level = 1.0;  ///< For NodePartition::excess.
  int max_replicas = 0;
  int count = 1;  ///< Partitions wanted.
  /// Branches looked at; exact while they suffice, which they do for 10 groups or fewer.
  std::int64_t max_work = 200'000;
};

/// The best partitions, best first; partitions that differ only by nodes of the same make count
/// once. Every node has an expert for each slot of its largest rank or is full, so that ranks
/// repeat none while that is avoidable, unless no such partition exists. @param load
/// [num_logical_experts], >= 0. @returns none where no partition fits (see groups_fit_nodes; also
/// where max_replicas leaves slots of a node empty).
std::vector<NodePartition> best_node_partitions(const ClusterShape& shape,
                                                std::span<const std::int64_t> load,
                                                std::span<const double> rank_speed,
                                                const PartitionSearch& search);

}  // namespace swiftbalancer
