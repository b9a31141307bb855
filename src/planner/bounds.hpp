#pragma once
// Lower bounds on the largest rank load of one layer: how good any placement could be, and so when
// a search may stop. LB3 (of one placement) is in max_flow_split.hpp, LB4 (groups on nodes) in
// node_partition.hpp. Pure functions; loads and bounds are tokens. Used by planner, tool and tests.

#include <cstdint>
#include <span>

#include <swiftbalancer/policy.hpp>
#include <swiftbalancer/shape.hpp>

namespace swiftbalancer {

/// LB0: the mean rank load.
double mean_rank_load(const ClusterShape& shape, std::span<const std::int64_t> load);

/// LB1: the smallest largest piece over all replica counts, an expert on each rank at most once:
/// some slot carries it. Each further replica to the largest load per replica reaches it (Adams'
/// apportionment; Balinski and Young, Fair Representation, 1982). Holds for every split.
/// Cost: O(slots * log experts).
double smallest_largest_piece(const ClusterShape& shape, std::span<const std::int64_t> load);

/// LB2: no rank can hold j + 1 pieces above T / (j + 1). For each j, the smallest T for which
/// replicas can be chosen so that at most j * num_ranks pieces are that large (a knapsack, relaxed
/// to fractions). Even shares only. Cost: O(max_slots_per_rank * experts * log experts) some 40
/// times.
double pigeonhole_bound(const ClusterShape& shape, std::span<const std::int64_t> load);

/// Without redundancy: the hottest expert, and the lightest ones that fill the smallest rank beside
/// it. 0 with redundancy. Cost: O(experts).
double hottest_expert_bound(const ClusterShape& shape, std::span<const std::int64_t> load);

/// The largest of LB0, LB1, the last and, for even shares, LB2.
double lower_bound(const ClusterShape& shape, std::span<const std::int64_t> load,
                   Dispatch dispatch = Dispatch::kEven);

}  // namespace swiftbalancer
