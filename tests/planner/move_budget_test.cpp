#include "planner/move_budget.hpp"

#include <algorithm>
#include <functional>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

namespace swiftbalancer {
namespace {

// Falls with every point, in steps of one to three moves; convex in steps of one if asked for.
LayerCurve any_curve(bool convex, std::int64_t bytes) {
  LayerCurve curve{{{0, 10.0}}, bytes, true};
  std::vector<int> gains = *rc::gen::container<std::vector<int>>(
      *rc::gen::inRange<std::size_t>(0, 5), rc::gen::inRange(1, 100));
  if (convex) std::ranges::sort(gains, std::ranges::greater());
  for (const int gain : gains) {
    const TradeOff last = curve.points.back();
    curve.points.push_back(
        {last.moves + (convex ? 1 : *rc::gen::inRange(1, 4)), last.imbalance - gain / 64.0});
  }
  return curve;
}

std::vector<LayerCurve> any_curves(bool convex, bool same_bytes) {
  std::vector<LayerCurve> curves;
  const int layers = *rc::gen::inRange(1, 5);
  for (int layer = 0; layer < layers; ++layer)
    curves.push_back(any_curve(convex, same_bytes ? 3 : *rc::gen::inRange(1, 6)));
  return curves;
}

// What is won at the last point that the moves reach.
double gain_of(const LayerCurve& curve, int moves) {
  double imbalance = curve.points.front().imbalance;
  for (const TradeOff& point : curve.points) {
    if (point.moves <= moves) imbalance = std::min(imbalance, point.imbalance);
  }
  return curve.points.front().imbalance - imbalance;
}

double gain_of(std::span<const LayerCurve> curves, std::span<const int> moves) {
  double gain = 0.0;
  for (std::size_t layer = 0; layer < curves.size(); ++layer)
    gain += gain_of(curves[layer], moves[layer]);
  return gain;
}

std::int64_t bytes_of(std::span<const LayerCurve> curves, std::span<const int> moves) {
  std::int64_t bytes = 0;
  for (std::size_t layer = 0; layer < curves.size(); ++layer)
    bytes += moves[layer] * curves[layer].expert_bytes;
  return bytes;
}

bool within(std::span<const LayerCurve> curves, std::span<const int> moves,
            const MoveBudget& budget) {
  return (budget.max_moves < 0 ||
          std::accumulate(moves.begin(), moves.end(), 0) <= budget.max_moves) &&
         (budget.max_bytes < 0 || bytes_of(curves, moves) <= budget.max_bytes);
}

// Over all choices of points.
double best_gain(std::span<const LayerCurve> curves, const MoveBudget& budget) {
  double best = 0.0;
  std::vector<int> moves(curves.size(), 0);
  const std::function<void(std::size_t)> try_layer = [&](std::size_t layer) {
    if (layer == curves.size()) {
      if (within(curves, moves, budget)) best = std::max(best, gain_of(curves, moves));
      return;
    }
    for (const TradeOff& point : curves[layer].points) {
      moves[layer] = point.moves;
      try_layer(layer + 1);
    }
  };
  try_layer(0);
  return best;
}

MoveBudget any_budget() {
  return {*rc::gen::inRange<std::int64_t>(-1, 16), *rc::gen::inRange<std::int64_t>(-1, 50)};
}

RC_GTEST_PROP(MoveBudget, IsNeverExceededAndSpentWithinTheCurves, ()) {
  std::vector<LayerCurve> curves = any_curves(*rc::gen::arbitrary<bool>(), false);
  for (LayerCurve& curve : curves) curve.divisible = *rc::gen::arbitrary<bool>();
  const MoveBudget budget = any_budget();
  const std::vector<int> moves = spend_budget(curves, budget);
  RC_ASSERT(moves.size() == curves.size());
  RC_ASSERT(within(curves, moves, budget));
  for (std::size_t layer = 0; layer < curves.size(); ++layer) {
    RC_ASSERT(moves[layer] >= 0 && moves[layer] <= curves[layer].points.back().moves);
    RC_ASSERT(curves[layer].divisible ||
              std::ranges::find(curves[layer].points, moves[layer], &TradeOff::moves) !=
                  curves[layer].points.end());
  }
}

RC_GTEST_PROP(MoveBudget, WithoutALimitEveryLayerGetsItsWholePlan, ()) {
  const std::vector<LayerCurve> curves = any_curves(false, false);
  const std::vector<int> moves = spend_budget(curves, {});
  for (std::size_t layer = 0; layer < curves.size(); ++layer)
    RC_ASSERT(moves[layer] == curves[layer].points.back().moves);
  const MoveBudget enough{std::accumulate(moves.begin(), moves.end(), 0), bytes_of(curves, moves)};
  RC_ASSERT(spend_budget(curves, enough) == moves);
}

RC_GTEST_PROP(MoveBudget, IsSpentBestOnConvexCurvesOfSingleMoves, ()) {
  const std::vector<LayerCurve> curves = any_curves(true, true);
  const MoveBudget budget = any_budget();
  RC_ASSERT(gain_of(curves, spend_budget(curves, budget)) == best_gain(curves, budget));
}

RC_GTEST_PROP(MoveBudget, MissesTheBestByLessThanOnePieceOtherwise, ()) {
  const std::vector<LayerCurve> curves = any_curves(false, false);
  const MoveBudget budget{-1, *rc::gen::inRange<std::int64_t>(0, 50)};
  double largest = 0.0;
  for (const LayerCurve& curve : curves)
    largest = std::max(largest, gain_of(curve, curve.points.back().moves));
  RC_ASSERT(gain_of(curves, spend_budget(curves, budget)) >= best_gain(curves, budget) - largest);
}

TEST(MoveBudget, GoesWhereAByteWinsMostAndTiesToTheLowerLayer) {
  const LayerCurve steep{{{0, 2.0}, {2, 1.2}, {4, 1.0}}, 10, true};
  const LayerCurve flat{{{0, 1.5}, {2, 1.1}}, 10, true};
  const LayerCurve flat_but_small{{{0, 1.5}, {2, 1.1}}, 4, true};
  EXPECT_EQ(spend_budget(std::vector{flat, steep}, {2, -1}), (std::vector{0, 2}));
  EXPECT_EQ(spend_budget(std::vector{flat, steep}, {5, -1}), (std::vector{2, 3}));
  EXPECT_EQ(spend_budget(std::vector{steep, flat_but_small}, {-1, 8}), (std::vector{0, 2}));
  EXPECT_EQ(spend_budget(std::vector{flat, flat}, {3, -1}), (std::vector{2, 1}));
}

TEST(MoveBudget, ALayerThatCannotBeCutIsLeftOutAndTheNextIsServed) {
  LayerCurve whole{{{0, 2.0}, {9, 1.0}}, 1, false};
  const LayerCurve small{{{0, 1.1}, {2, 1.0}}, 1, true};
  EXPECT_EQ(spend_budget(std::vector{whole, small}, {8, -1}), (std::vector{0, 2}));
  whole.divisible = true;
  EXPECT_EQ(spend_budget(std::vector{whole, small}, {8, -1}), (std::vector{8, 0}));
}

}  // namespace
}  // namespace swiftbalancer
