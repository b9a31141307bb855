#pragma once
// Incremental local search of the swift policy: starts from what is served and changes as few slots
// as bring the hottest rank down. Each step takes the change with most gain per move; the point of
// the whole path with the best balance net of the price of its moves is the result. Pure; budgets
// count candidate evaluations.

#include <cstdint>
#include <vector>

#include <swiftbalancer/policy.hpp>

namespace swiftbalancer {

struct SearchResult {
  std::vector<std::int32_t> slots;
  std::vector<double> amounts;  ///< Load carried by each slot.
  std::int64_t work = 0;
};

/// @param served_imbalance of the given placement under the shares served now: what a change must
/// beat.
/// @returns the best point; its slots equal the given placement when no move is worth it.
SearchResult search_placement(const LayerProblem& problem, double served_imbalance);

}  // namespace swiftbalancer
