#include "planner/move_budget.hpp"

#include <algorithm>
#include <cstddef>
#include <limits>

namespace swiftbalancer {
namespace {

constexpr std::int64_t kNoLimit = std::numeric_limits<std::int64_t>::max();

// Between two corners of a layer's hull.
struct Piece {
  std::size_t layer = 0;
  int moves = 0;
  double value = 0.0;  // gain per byte or per move
};

double slope(const TradeOff& from, const TradeOff& to) {
  return (from.imbalance - to.imbalance) / (to.moves - from.moves);
}

// Corners of the lower hull, as far as moves win anything.
std::vector<TradeOff> hull_of(std::span<const TradeOff> points) {
  std::vector<TradeOff> hull;
  for (const TradeOff& point : points) {
    if (!hull.empty() &&
        (point.moves <= hull.back().moves || point.imbalance >= hull.back().imbalance))
      continue;
    while (hull.size() > 1 &&
           slope(hull.back(), point) >= slope(hull[hull.size() - 2], hull.back()))
      hull.pop_back();
    hull.push_back(point);
  }
  return hull;
}

}  // namespace

std::vector<int> spend_budget(std::span<const LayerCurve> curves, const MoveBudget& budget) {
  std::vector<int> moves;
  std::vector<Piece> pieces;
  for (std::size_t layer = 0; layer < curves.size(); ++layer) {
    const LayerCurve& curve = curves[layer];
    const std::vector<TradeOff> hull = hull_of(curve.points);
    moves.push_back(hull.front().moves);
    const double unit = budget.max_bytes < 0 ? 1.0 : static_cast<double>(curve.expert_bytes);
    for (std::size_t i = 1; i < hull.size(); ++i) {
      pieces.push_back(
          {layer, hull[i].moves - hull[i - 1].moves, slope(hull[i - 1], hull[i]) / unit});
    }
  }
  // Stable: the pieces of a layer stay in their order, for their values fall.
  std::ranges::stable_sort(pieces, std::ranges::greater(), &Piece::value);
  std::int64_t moves_left = budget.max_moves < 0 ? kNoLimit : budget.max_moves;
  std::int64_t bytes_left = budget.max_bytes < 0 ? kNoLimit : budget.max_bytes;
  std::vector<bool> cut(curves.size(), false);
  for (const Piece& piece : pieces) {
    const LayerCurve& curve = curves[piece.layer];
    if (cut[piece.layer]) continue;
    const std::int64_t fitting = std::min(moves_left, bytes_left / curve.expert_bytes);
    std::int64_t taken = piece.moves;
    if (fitting < piece.moves) {
      cut[piece.layer] = true;
      taken = curve.divisible ? fitting : 0;
    }
    moves[piece.layer] += static_cast<int>(taken);
    moves_left -= taken;
    bytes_left -= taken * curve.expert_bytes;
  }
  return moves;
}

}  // namespace swiftbalancer
