#pragma once
// Redundant experts where they win most: layers differ in what a replica brings, so the same memory
// serves better when each layer gets its own number. Called by the sweep. Pure, deterministic.

#include <cstdint>
#include <span>
#include <vector>

namespace swiftbalancer {

struct ReplicaBudget {
  std::vector<int> redundant_experts;  ///< [num_moe_layers], each one of the counts looked at.
  std::int64_t total = 0;              ///< Their sum.
  double cost = 0.0;                   ///< Sum over layers of what the curve says there.
};

/// Chooses a count for every layer: greedily, most gain per redundant expert first. The best choice
/// where every curve falls ever more slowly and the counts are equally far apart; never worse than
/// the same count for every layer.
/// @param counts ascending, distinct, at least one. @param cost [num_moe_layers][counts.size()]: of
/// a layer with that many redundant experts, e.g. its imbalance.
/// @param total redundant experts over all layers. @throws Error kInvalidArgument: less than every
/// layer's smallest count, or curves that do not fit the counts.
ReplicaBudget choose_replica_budget(std::span<const int> counts,
                                    const std::vector<std::vector<double>>& cost,
                                    std::int64_t total);

/// As few redundant experts as the same greedy steps need for a cost of at most `cost_allowed`; all
/// steps that win anything where that is out of reach.
ReplicaBudget cheapest_replica_budget(std::span<const int> counts,
                                      const std::vector<std::vector<double>>& cost,
                                      double cost_allowed);

}  // namespace swiftbalancer
