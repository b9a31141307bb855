#include "planner/limits.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include <swiftbalancer/dispatch_table.hpp>
#include <swiftbalancer/error.hpp>
#include <swiftbalancer/load.hpp>
#include <swiftbalancer/placement.hpp>

#include "core/index.hpp"
#include "planner/align.hpp"
#include "planner/full_plan.hpp"
#include "planner/hierarchical.hpp"
#include "planner/layer_problem.hpp"
#include "planner/limited_layer.hpp"
#include "planner/node_partition.hpp"
#include "planner/rank_moves.hpp"
#include "planner/refuse.hpp"
#include "planner/split.hpp"

namespace swiftbalancer {
namespace {

constexpr double kLimitedTolerance = 5e-4;
constexpr std::int64_t kDefaultLimitedWork = 2'000'000;
constexpr std::int64_t kDefaultIncrementalWork = 400'000;
constexpr int kMostChanges = 400;
// Planned shares level what is left; a finer balance is far below any sampling noise.
constexpr double kSplitTolerance = 5e-3;
// Times are loads over speeds: they stay finite, and no rank drowns in another's rounding.
constexpr double kLeastSpeed = 1e-9;
constexpr double kMostSpeed = 1e9;
constexpr double kLeastSpeedRatio = 1e-6;

std::string text(std::int64_t number) { return std::to_string(number); }

bool is_pinned(const LayerProblem& problem, int slot) {
  return !problem.pinned.empty() && problem.pinned[index(slot)] != 0;
}

bool has_pins(const LayerProblem& problem) {
  return std::ranges::any_of(problem.pinned, [](std::uint8_t pin) { return pin != 0; });
}

void check_speeds(const LayerProblem& problem) {
  const int ranks = problem.shape->num_ranks();
  if (problem.rank_speed.empty()) return;
  if (problem.rank_speed.size() != index(ranks)) {
    refuse("rank_speed has " + std::to_string(problem.rank_speed.size()) + " entries for " +
           text(ranks) + " ranks; give one per rank");
  }
  for (int rank = 0; rank < ranks; ++rank) {
    const double speed = problem.rank_speed[index(rank)];
    if (std::isfinite(speed) && speed > 0.0) continue;
    refuse("rank_speed of rank " + text(rank) + " is " + std::to_string(speed) +
           "; a speed is finite and above 0 (a rank that does nothing is a dead rank)");
  }
  check_speed_range(problem.rank_speed);
}

void check_replicas(const LayerProblem& problem) {
  const ClusterShape& shape = *problem.shape;
  if (problem.max_replicas < 0)
    refuse("max_replicas is " + text(problem.max_replicas) +
           "; it must be at least 1, or 0 for no limit");
  if (problem.max_replicas == 0) return;
  const std::int64_t most = std::int64_t{problem.max_replicas} * shape.num_logical_experts();
  if (most < shape.num_slots()) {
    refuse("max_replicas is " + text(problem.max_replicas) + ": " +
           text(shape.num_logical_experts()) + " experts then fill at most " + text(most) +
           " of the " + text(shape.num_slots()) + " slots; allow more, or use fewer slots");
  }
}

void check_pins(const LayerProblem& problem) {
  const ClusterShape& shape = *problem.shape;
  if (problem.pinned.empty()) return;
  if (problem.pinned.size() != index(shape.num_slots())) {
    refuse("pinned has " + std::to_string(problem.pinned.size()) + " entries for " +
           text(shape.num_slots()) + " slots; give one per slot");
  }
  std::vector<int> count(problem.load.size(), 0);
  int free_slots = 0;
  for (int slot = 0; slot < shape.num_slots(); ++slot) {
    if (!is_pinned(problem, slot)) {
      ++free_slots;
      continue;
    }
    const std::int32_t expert = problem.placement[index(slot)];
    if (++count[index(expert)] <= problem.max_replicas || problem.max_replicas == 0) continue;
    refuse("expert " + text(expert) + " has " + text(count[index(expert)]) +
           " pinned slots, more than max_replicas = " + text(problem.max_replicas) +
           "; pin fewer, or allow more replicas");
  }
  const auto unpinned = std::ranges::count(count, 0);
  if (unpinned > free_slots) {
    refuse("pinned slots leave " + text(free_slots) + " slots for the " + text(unpinned) +
           " experts without a pinned one; pin fewer");
  }
}

void check_groups(const LayerProblem& problem) {
  const ClusterShape& shape = *problem.shape;
  if (!groups_are_bound(problem) || groups_fit_nodes(shape)) return;
  const int groups = shape.num_expert_groups();
  const int size = shape.num_logical_experts() / groups;
  const std::string advice =
      "; use another number of nodes or more slots, or let groups bind nothing "
      "(max_cross_node_replicas -1)";
  if (groups < shape.num_nodes()) {
    refuse("num_expert_groups is " + text(groups) + ", fewer than the " + text(shape.num_nodes()) +
           " nodes that groups are bound to" + advice);
  }
  int room = 0;
  const std::vector<NodeMake> makes = node_makes(shape, {});
  for (std::size_t node = 0; node < makes.size(); ++node) {
    if (makes[node].num_slots < size) {
      refuse("node " + std::to_string(node) + " has " + text(makes[node].num_slots) +
             " slots, fewer than the " + text(size) + " experts of a group" + advice);
    }
    room += makes[node].num_slots / size;
  }
  refuse("the nodes have room for " + text(room) + " of the " + text(groups) + " groups of " +
         text(size) + " experts" + advice);
}

// Experts that stay on a rank keep their slot, above all the pinned ones.
void keep_slots(const LayerProblem& problem, std::span<std::int32_t> slots) {
  const ClusterShape& shape = *problem.shape;
  align_slots(shape, problem.placement, slots);
  for (int slot = 0; slot < shape.num_slots(); ++slot) {
    const std::int32_t expert = problem.placement[index(slot)];
    if (!is_pinned(problem, slot) || slots[index(slot)] == expert) continue;
    const int rank = shape.rank_of_slot(slot);
    for (int other = shape.first_slot(rank); other < shape.first_slot(rank + 1); ++other) {
      const bool settled =
          is_pinned(problem, other) && problem.placement[index(other)] == slots[index(other)];
      if (slots[index(other)] != expert || settled) continue;
      std::swap(slots[index(slot)], slots[index(other)]);
      break;
    }
  }
}

double mean_time(const LayerProblem& problem) {
  double all = 0.0;
  for (std::int64_t tokens : problem.load) all += static_cast<double>(tokens);
  const double speed = problem.rank_speed.empty() ? static_cast<double>(problem.shape->num_ranks())
                                                  : std::accumulate(problem.rank_speed.begin(),
                                                                    problem.rank_speed.end(), 0.0);
  return all / speed;
}

struct Placed {
  std::vector<std::int32_t> slots;
  std::int64_t work = 0;
};

// Experts on any node. @param start a placement within the limits, or empty: from nothing.
Placed place_from(const LayerProblem& problem, std::span<const std::int32_t> start,
                  std::int64_t max_work) {
  LimitedLayer layer(problem, {});
  if (!start.empty()) {
    layer.assign(start);
  } else if (!layer.build()) {
    refuse("pinned slots and max_replicas = " + text(problem.max_replicas) +
           " leave slots that no expert may fill; allow more replicas");
  }
  const std::int64_t work = layer.refine(mean_time(problem) * (1.0 + kLimitedTolerance), max_work);
  return {layer.slots(), work};
}

// The full plan, which knows no limits, where it keeps them and is better.
void offer_full_plan(const LayerProblem& problem, Placed& placed) {
  if (has_pins(problem)) return;
  std::vector<std::int32_t> slots = plan_full(*problem.shape, problem.load);
  const std::vector<std::int32_t> count =
      replica_count(slots, problem.shape->num_logical_experts());
  if (problem.max_replicas > 0 && std::ranges::max(count) > problem.max_replicas) return;
  if (imbalance_of_times(problem, slots, {}) < imbalance_of_times(problem, placed.slots, {}))
    placed.slots = std::move(slots);
}

Placed place_anywhere(const LayerProblem& problem) {
  const std::int64_t max_work = problem.max_work >= 0 ? problem.max_work : kDefaultLimitedWork;
  Placed placed = place_from(problem, {}, max_work);
  offer_full_plan(problem, placed);
  if (problem.rank_speed.empty()) return placed;
  // Speeds must never make things worse: a placement that ignores them is a start too.
  LayerProblem blind = problem;
  blind.rank_speed = {};
  Placed start = place_from(blind, {}, max_work - placed.work);
  Placed other = place_from(problem, start.slots, max_work - placed.work - start.work);
  other.work += placed.work + start.work;
  const double time = imbalance_of_times(problem, placed.slots, {});
  if (imbalance_of_times(problem, other.slots, {}) < time) return other;
  placed.work = other.work;
  return placed;
}

// Under split dispatch the level ones, unless the even ones are better already: the split stops a
// little above its optimum. Replicas outside their node keep their even part: levelling would send
// them more tokens than the placement was charged for.
std::vector<std::uint32_t> shares_of(const LayerProblem& problem,
                                     std::span<const std::int32_t> slots) {
  std::vector<std::uint32_t> even = even_shares(slots, problem.shape->num_logical_experts());
  const bool relaxed = groups_are_bound(problem) && problem.max_cross_node_replicas > 0;
  if (problem.dispatch == Dispatch::kEven || relaxed) return even;
  ReplicaSplit split(*problem.shape, problem.rank_speed);
  const std::vector<double> load(problem.load.begin(), problem.load.end());
  split.level(slots, load, problem.locality_first);
  std::vector<std::uint32_t> level(slots.size());
  split.shares(level);
  return imbalance_of_times(problem, slots, level) < imbalance_of_times(problem, slots, even)
             ? level
             : even;
}

bool has_too_many_replicas(const LayerProblem& problem) {
  if (problem.max_replicas <= 0) return false;
  std::vector<int> count(index(problem.shape->num_logical_experts()), 0);
  return std::ranges::any_of(problem.placement, [&](std::int32_t expert) {
    return expert >= 0 && index(expert) < count.size() &&
           ++count[index(expert)] > problem.max_replicas;
  });
}

LayerPlan make_limited_plan(const LayerProblem& problem, std::vector<std::int32_t> slots,
                            std::int64_t work) {
  std::vector<std::uint32_t> shares = shares_of(problem, slots);
  LayerPlan plan = make_plan(problem, std::move(slots), std::move(shares), work);
  plan.imbalance_before = imbalance_of_times(problem, problem.placement, problem.shares);
  plan.imbalance_after = imbalance_of_times(problem, plan.placement, plan.shares);
  return plan;
}

}  // namespace

void check_speed_range(std::span<const double> rank_speed) {
  if (rank_speed.empty()) return;
  const auto [slowest, fastest] = std::ranges::minmax(rank_speed);
  if (slowest >= kLeastSpeed && fastest <= kMostSpeed && slowest >= kLeastSpeedRatio * fastest)
    return;
  const auto number = [](double speed) {
    std::array<char, 32> digits{};
    return std::string(digits.data(),
                       std::to_chars(digits.data(), digits.data() + digits.size(), speed).ptr);
  };
  refuse("rank speeds are from " + number(slowest) + " to " + number(fastest) +
         "; allowed are 1e-9 to 1e9, and none below a millionth of the fastest (a rank that does "
         "nothing is a dead rank)");
}

bool has_limits(const LayerProblem& problem) {
  return !problem.rank_speed.empty() || has_pins(problem) || problem.max_replicas > 0 ||
         groups_are_bound(problem);
}

void check_limits(const LayerProblem& problem) {
  check_speeds(problem);
  check_replicas(problem);
  check_pins(problem);
  check_groups(problem);
}

double imbalance_of_times(const LayerProblem& problem, std::span<const std::int32_t> placement,
                          std::span<const std::uint32_t> shares) {
  const std::vector<double> load = rank_load(*problem.shape, placement, shares, problem.load);
  if (problem.rank_speed.empty()) return imbalance(load);
  double highest = 0.0;
  for (std::size_t rank = 0; rank < load.size(); ++rank)
    highest = std::max(highest, load[rank] / problem.rank_speed[rank]);
  const double mean = mean_time(problem);
  return mean > 0.0 ? highest / mean : 1.0;
}

bool needs_limited_search(const LayerProblem& problem) {
  if (!problem.rank_speed.empty() || groups_are_bound(problem) || has_too_many_replicas(problem))
    return true;
  return problem.dispatch == Dispatch::kSplit &&
         (has_pins(problem) || problem.max_replicas > 0 || problem.max_rank_moves >= 0);
}

LayerPlan plan_within_limits(const LayerProblem& problem) {
  check_problem(problem);
  check_limits(problem);
  std::vector<std::int32_t> slots;
  std::int64_t work = 0;
  const bool bound = groups_are_bound(problem);
  if (bound) {
    HierarchicalPlacement placed = place_groups_on_nodes(problem);
    slots = std::move(placed.slots);
    work = placed.work;
  } else {
    Placed placed = place_anywhere(problem);
    slots = std::move(placed.slots);
    work = placed.work;
  }
  // Ranks are alike only without speeds and pins.
  if (problem.rank_speed.empty() && !has_pins(problem))
    align_ranks(*problem.shape, problem.placement, bound, slots);
  keep_slots(problem, slots);
  return make_limited_plan(problem, std::move(slots), work);
}

LayerPlan improve_within_limits(const LayerProblem& problem) {
  check_problem(problem);
  check_limits(problem);
  std::vector<std::int32_t> served(problem.placement.begin(), problem.placement.end());
  if (groups_are_bound(problem)) {
    LayerPlan plan = plan_within_limits(problem);
    const bool fits =
        (problem.max_moves < 0 || plan.moves <= problem.max_moves) &&
        rank_moves(*problem.shape, served, plan.placement).fit(problem.max_rank_moves);
    return fits ? plan : make_limited_plan(problem, std::move(served), plan.work);
  }
  LimitedLayer layer(problem, {});
  layer.assign(served);
  layer.limit_moves(problem.max_moves, problem.max_rank_moves);
  LayerPlan best = make_limited_plan(problem, std::move(served), 0);
  std::vector<TradeOff> curve{{0, best.imbalance_after}};
  const auto price = [&](const LayerPlan& plan) {
    return plan.imbalance_after + problem.min_gain * plan.moves;
  };
  const auto offer = [&](bool at_any_price) {
    std::vector<std::int32_t> slots = layer.slots();
    keep_slots(problem, slots);
    LayerPlan plan = make_limited_plan(problem, std::move(slots), 0);
    while (!curve.empty() && curve.back().moves >= plan.moves) curve.pop_back();
    curve.push_back({plan.moves, plan.imbalance_after});
    if (at_any_price || price(plan) < price(best)) best = std::move(plan);
  };
  layer.make_room();
  if (layer.moves() > 0) offer(true);
  const std::int64_t most = problem.max_work >= 0 ? problem.max_work : kDefaultIncrementalWork;
  const double target = mean_time(problem) * (1.0 + kLimitedTolerance);
  const double good = problem.dispatch == Dispatch::kSplit ? 1.0 + kSplitTolerance : 1.0;
  int changes = 0;
  while (changes++ < kMostChanges && best.imbalance_after > good && layer.work() < most &&
         layer.highest_time() > target && 1.0 + problem.min_gain * layer.moves() < price(best) &&
         layer.improve_once()) {
    offer(false);
  }
  best.work = layer.work();
  std::erase_if(curve, [&](const TradeOff& point) { return point.moves > best.moves; });
  best.trade_offs = std::move(curve);
  return best;
}

}  // namespace swiftbalancer
