#include <algorithm>
#include <limits>
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

// So much above the full plan's imbalance a search counts as stuck.
constexpr double kStuck = 0.002;

// Those that level the ranks best.
std::vector<std::uint32_t> split_shares(const LayerProblem& problem,
                                        std::span<const std::int32_t> slots) {
  ReplicaSplit split(*problem.shape);
  split.level(slots, std::vector<double>(problem.load.begin(), problem.load.end()),
              problem.locality_first);
  std::vector<std::uint32_t> shares(slots.size());
  split.shares(shares);
  return shares;
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

LayerPlan plan_even(const LayerProblem& problem,
                    double reachable = std::numeric_limits<double>::infinity()) {
  const ClusterShape& shape = *problem.shape;
  EvenPath path = search_even(problem, reachable);
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

LayerPlan full_plan(const LayerProblem& problem, std::vector<std::int32_t> slots) {
  const ClusterShape& shape = *problem.shape;
  align_ranks(shape, problem.placement, false, slots);
  align_slots(shape, problem.placement, slots);
  std::vector<std::uint32_t> shares = problem.dispatch == Dispatch::kSplit
                                          ? split_shares(problem, slots)
                                          : even_shares(slots, shape.num_logical_experts());
  return make_plan(problem, std::move(slots), std::move(shares), 0);
}

// Under shares that are even to the last digit: those of a table are rounded, and the search knows
// none.
double exact_imbalance(const LayerProblem& problem, std::span<const std::int32_t> slots) {
  const ClusterShape& shape = *problem.shape;
  const auto replicas = replica_count(slots, shape.num_logical_experts());
  std::vector<double> load(static_cast<std::size_t>(shape.num_ranks()), 0.0);
  for (int slot = 0; slot < shape.num_slots(); ++slot) {
    const auto expert = static_cast<std::size_t>(slots[static_cast<std::size_t>(slot)]);
    load[static_cast<std::size_t>(shape.rank_of_slot(slot))] +=
        static_cast<double>(problem.load[expert]) / replicas[expert];
  }
  return imbalance(load);
}

// Where every expert may move anywhere, the search goes on to what the full plan, which is no worse
// than eplb's, reaches from nothing: 5 us of work that is not counted, 2 ms where a layer has 32
// slots or fewer. Where it ends well above that, the full plan may be worth its moves.
LayerPlan plan_even_without_budget(const LayerProblem& problem) {
  std::vector<std::int32_t> slots = plan_full(*problem.shape, problem.load);
  const double reachable = exact_imbalance(problem, slots);
  LayerPlan plan = plan_even(problem, reachable);
  if (plan.imbalance_after <= reachable + kStuck) return plan;
  LayerPlan full = full_plan(problem, std::move(slots));
  if (full.imbalance_after + problem.min_gain * full.moves >=
      plan.imbalance_after + problem.min_gain * plan.moves)
    return plan;
  full.trade_offs = std::move(plan.trade_offs);
  if (full.trade_offs.empty() || full.trade_offs.back().moves < full.moves)
    full.trade_offs.push_back({full.moves, full.imbalance_after});
  full.work += plan.work;
  return full;
}

LayerPlan plan_split(const LayerProblem& problem) {
  LayerPlan plan = unchanged_plan(problem);
  SearchResult found = search_placement(problem, plan.imbalance_before);
  if (!found.slots.empty()) {
    align_slots(*problem.shape, problem.placement, found.slots);
    std::vector<std::uint32_t> shares = split_shares(problem, found.slots);
    plan = make_plan(problem, std::move(found.slots), std::move(shares), found.work);
  }
  plan.work = found.work;
  plan.trade_offs = std::move(found.trade_offs);
  return plan;
}

class SwiftPolicy final : public Policy {
 public:
  std::string_view name() const noexcept override { return "swift"; }
  PolicyCapabilities capabilities() const noexcept override {
    return {.moves = true,
            .incremental = true,
            .gated = true,
            .planned_shares = true,
            .limited = true,
            .hierarchical = false};
  }
  LayerPlan plan_layer(const LayerProblem& problem) const override {
    if (problem.from_scratch && has_limits(problem)) return plan_within_limits(problem);
    if (!problem.from_scratch && needs_limited_search(problem))
      return improve_within_limits(problem);
    check_problem(problem);
    check_limits(problem);
    if (problem.from_scratch) return full_plan(problem, plan_full(*problem.shape, problem.load));
    if (problem.dispatch == Dispatch::kSplit) return plan_split(problem);
    const bool is_free =
        problem.max_moves < 0 && problem.max_rank_moves < 0 && !has_limits(problem);
    return is_free ? plan_even_without_budget(problem) : plan_even(problem);
  }
};

}  // namespace

std::unique_ptr<Policy> make_swift_policy() { return std::make_unique<SwiftPolicy>(); }

}  // namespace swiftbalancer
