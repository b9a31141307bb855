#pragma once
// Incremental local search of the swift policy under planned shares: starts from what is served and
// changes as few slots as bring the hottest rank down. Each step takes the change with most gain
// per move, judged by shares that minimise the squares of all rank loads; the points of its path
// are measured under the best shares (ReplicaSplit), and that with the best balance net of the
// price of its moves is the result. Pure; budgets count candidate evaluations.

#include <cstdint>
#include <vector>

#include <swiftbalancer/policy.hpp>

namespace swiftbalancer {

struct SearchResult {
  std::vector<std::int32_t> slots;   ///< Empty: neither moves nor better shares are worth it.
  std::vector<TradeOff> trade_offs;  ///< Fewest moves first.
  std::int64_t work = 0;
};

/// @param served_imbalance of the given placement under the shares served now: what a change must
/// beat.
SearchResult search_placement(const LayerProblem& problem, double served_imbalance);

}  // namespace swiftbalancer
