#include <algorithm>
#include <memory>
#include <utility>

#include "planner/align.hpp"
#include "planner/even_search.hpp"
#include "planner/full_plan.hpp"
#include "planner/layer_problem.hpp"
#include "planner/limits.hpp"
#include "planner/registry.hpp"
#include "planner/split.hpp"
#include "planner/swift_search.hpp"

#include <swiftbalancer/load.hpp>
#include <swiftbalancer/placement.hpp>

namespace swiftbalancer {
namespace {

// Amounts in units of 1 / kShareUnit of their expert's load: rounded down, the rest to its replica
// with the largest amount. An expert without load, or all of whose amounts are lost to rounding, is
// split evenly.
std::vector<std::uint32_t> shares_of(const ClusterShape& shape, std::span<const std::int32_t> slots,
                                     std::span<const double> amounts) {
  const auto experts = static_cast<std::size_t>(shape.num_logical_experts());
  std::vector<double> total(experts, 0.0);
  for (std::size_t slot = 0; slot < slots.size(); ++slot)
    total[static_cast<std::size_t>(slots[slot])] += amounts[slot];
  std::vector<std::uint32_t> shares = even_shares(slots, shape.num_logical_experts());
  std::vector<std::uint32_t> left(experts, kShareUnit);
  std::vector<std::size_t> largest(experts, slots.size());
  for (std::size_t slot = 0; slot < slots.size(); ++slot) {
    const auto expert = static_cast<std::size_t>(slots[slot]);
    if (total[expert] <= 0.0) continue;
    const double part = std::clamp(amounts[slot] / total[expert], 0.0, 1.0);
    shares[slot] = std::min(left[expert], static_cast<std::uint32_t>(part * kShareUnit));
    left[expert] -= shares[slot];
    if (largest[expert] == slots.size() || amounts[slot] > amounts[largest[expert]])
      largest[expert] = slot;
  }
  for (std::size_t expert = 0; expert < experts; ++expert) {
    if (largest[expert] != slots.size()) shares[largest[expert]] += left[expert];
  }
  return shares;
}

// Amounts follow their experts when slots of a rank are reordered.
std::vector<double> amounts_after_reorder(const ClusterShape& shape,
                                          std::span<const std::int32_t> from,
                                          std::span<const double> amounts,
                                          std::span<const std::int32_t> to) {
  std::vector<double> result(amounts.begin(), amounts.end());
  for (int rank = 0; rank < shape.num_ranks(); ++rank) {
    const auto first = static_cast<std::size_t>(shape.first_slot(rank));
    const auto last = static_cast<std::size_t>(shape.first_slot(rank + 1));
    std::vector<bool> used(last - first, false);
    for (std::size_t slot = first; slot < last; ++slot) {
      std::size_t source = first;
      while (used[source - first] || from[source] != to[slot]) ++source;
      used[source - first] = true;
      result[slot] = amounts[source];
    }
  }
  return result;
}

// The part of a path that a plan may be taken from: each point has more moves than the last.
std::vector<TradeOff> trade_offs_of(const EvenPath& path) {
  std::vector<TradeOff> curve;
  for (const PathPoint& point : path.points) {
    while (!curve.empty() && curve.back().moves >= point.moves) curve.pop_back();
    curve.push_back({point.moves, point.imbalance});
  }
  return curve;
}

// Whether every moved expert can come from a rank that holds it now, none sending too many: sources
// are chosen one by one, those of experts with one holder first.
bool sends_fit(const LayerProblem& problem, std::span<const std::int32_t> slots) {
  if (problem.max_rank_moves < 0) return true;
  const ClusterShape& shape = *problem.shape;
  std::vector<std::vector<int>> holders(problem.load.size());
  const auto experts_of = [&](std::span<const std::int32_t> all, int rank) {
    return all.subspan(static_cast<std::size_t>(shape.first_slot(rank)),
                       static_cast<std::size_t>(shape.slots_per_rank(rank)));
  };
  for (int rank = 0; rank < shape.num_ranks(); ++rank) {
    for (std::int32_t expert : experts_of(problem.placement, rank))
      holders[static_cast<std::size_t>(expert)].push_back(rank);
  }
  std::vector<std::size_t> moved;
  for (int rank = 0; rank < shape.num_ranks(); ++rank) {
    const auto before = experts_of(problem.placement, rank);
    for (std::int32_t expert : experts_of(slots, rank)) {
      if (std::ranges::find(before, expert) == before.end())
        moved.push_back(static_cast<std::size_t>(expert));
    }
  }
  std::ranges::sort(moved, {},
                    [&](std::size_t expert) { return std::pair(holders[expert].size(), expert); });
  std::vector<int> sent(static_cast<std::size_t>(shape.num_ranks()), 0);
  for (std::size_t expert : moved) {
    const auto sends = [&](int rank) { return sent[static_cast<std::size_t>(rank)]; };
    const int source = *std::ranges::min_element(holders[expert], {}, sends);
    if (++sent[static_cast<std::size_t>(source)] > problem.max_rank_moves) return false;
  }
  return true;
}

LayerPlan plan_even(const LayerProblem& problem) {
  const ClusterShape& shape = *problem.shape;
  EvenPath path = search_even(problem);
  if (problem.max_rank_moves >= 0)
    std::erase_if(path.points, [&](const PathPoint& point) {
      return point.moves > 0 && !sends_fit(problem, path.slots(point, problem.placement));
    });
  if (path.points.empty()) return unchanged_plan(problem);
  const auto price = [&](const PathPoint& point) {
    return point.imbalance + problem.min_gain * point.moves;
  };
  const auto best = std::ranges::min_element(path.points, {}, price);
  std::vector<std::int32_t> slots = path.slots(*best, problem.placement);
  if (best->moves > 0) align_slots(shape, problem.placement, slots);
  std::vector<std::uint32_t> shares = even_shares(slots, shape.num_logical_experts());
  LayerPlan plan = make_plan(problem, std::move(slots), std::move(shares), path.work);
  plan.trade_offs = trade_offs_of(path);
  return plan;
}

LayerPlan full_plan(const LayerProblem& problem) {
  const ClusterShape& shape = *problem.shape;
  std::vector<std::int32_t> slots = plan_full(shape, problem.load);
  align_ranks(shape, problem.placement, false, slots);
  align_slots(shape, problem.placement, slots);
  std::vector<std::uint32_t> shares = even_shares(slots, shape.num_logical_experts());
  if (problem.dispatch == Dispatch::kSplit) {
    ReplicaSplit split(shape);
    split.level(slots, std::vector<double>(problem.load.begin(), problem.load.end()));
    split.shares(shares);
  }
  return make_plan(problem, std::move(slots), std::move(shares), 0);
}

class SwiftPolicy final : public Policy {
 public:
  std::string_view name() const noexcept override { return "swift"; }
  PolicyCapabilities capabilities() const noexcept override {
    return {.moves = true,
            .incremental = true,
            .gated = true,
            .planned_shares = true,
            .hierarchical = false};
  }
  LayerPlan plan_layer(const LayerProblem& problem) const override {
    if (has_limits(problem)) return plan_within_limits(problem);
    check_problem(problem);
    if (problem.from_scratch) return full_plan(problem);
    if (problem.dispatch == Dispatch::kEven) return plan_even(problem);
    const ClusterShape& shape = *problem.shape;
    LayerPlan plan = unchanged_plan(problem);
    SearchResult found = search_placement(problem, plan.imbalance_before);
    plan.work = found.work;
    if (found.amounts.empty()) return plan;
    std::vector<std::int32_t> slots = found.slots;
    align_slots(shape, problem.placement, slots);
    const std::vector<double> amounts =
        amounts_after_reorder(shape, found.slots, found.amounts, slots);
    std::vector<std::uint32_t> shares = shares_of(shape, slots, amounts);
    return make_plan(problem, std::move(slots), std::move(shares), found.work);
  }
};

}  // namespace

std::unique_ptr<Policy> make_swift_policy() { return std::make_unique<SwiftPolicy>(); }

}  // namespace swiftbalancer
