#pragma once
// How many moves each layer of a rebalance gets where all together are limited: the budget goes
// where a byte wins most. Called by plan jobs. Pure; fixed order of all arithmetic.

#include <cstdint>
#include <span>
#include <vector>

#include <swiftbalancer/policy.hpp>

namespace swiftbalancer {

/// What a layer wins for how many moves.
struct LayerCurve {
  /// The first with 0 moves, then ascending; the last is the whole plan. Need not be convex.
  std::vector<TradeOff> points;
  std::int64_t expert_bytes = 1;  ///< Of a move, >= 1.
  bool divisible = true;  ///< Whether the layer can be planned with any number of moves below.
};

/// Over all layers; < 0: no limit.
struct MoveBudget {
  std::int64_t max_moves = -1;
  std::int64_t max_bytes = -1;
};

/// Greedy over the lower convex hulls of the curves: the piece with most gain per byte first (per
/// move where only moves are limited), ties to the lower layer. A piece that does not fit as a
/// whole is cut where the layer is divisible, else left out with what comes after it.
/// @returns [layers] moves. Optimal for convex curves of single moves and equal bytes; else the
/// gain misses the optimum by less than the first piece that did not fit.
std::vector<int> spend_budget(std::span<const LayerCurve> curves, const MoveBudget& budget);

}  // namespace swiftbalancer
