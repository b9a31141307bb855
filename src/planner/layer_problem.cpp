#include "planner/layer_problem.hpp"

#include <numeric>
#include <string>
#include <utility>

#include <swiftbalancer/error.hpp>
#include <swiftbalancer/load.hpp>
#include <swiftbalancer/placement.hpp>

#include "planner/refuse.hpp"

namespace swiftbalancer {
namespace {

void check_size(const char* name, std::size_t given, int needed, const char* unit) {
  if (given == static_cast<std::size_t>(needed)) return;
  refuse(std::string("LayerProblem::") + name + " has " + std::to_string(given) +
         " entries; the shape has " + std::to_string(needed) + " " + unit);
}

// Every slot an expert, every expert a slot; in one pass: this runs for every layer of every plan.
bool holds_every_expert(std::span<const std::int32_t> slots, const ClusterShape& shape) {
  std::vector<std::uint8_t> seen(static_cast<std::size_t>(shape.num_logical_experts()), 0);
  int distinct = 0;
  for (const std::int32_t expert : slots) {
    if (expert < 0 || expert >= shape.num_logical_experts()) return false;
    std::uint8_t& mark = seen[static_cast<std::size_t>(expert)];
    distinct += mark == 0 ? 1 : 0;
    mark = 1;
  }
  return distinct == shape.num_logical_experts();
}

void check_shares(const LayerProblem& problem) {
  std::vector<std::uint64_t> sums(problem.load.size(), 0);
  for (std::size_t slot = 0; slot < problem.shares.size(); ++slot) {
    sums[static_cast<std::size_t>(problem.placement[slot])] += problem.shares[slot];
  }
  for (std::size_t expert = 0; expert < sums.size(); ++expert) {
    if (sums[expert] == kShareUnit) continue;
    refuse("LayerProblem::shares of expert " + std::to_string(expert) + " sum to " +
           std::to_string(sums[expert]) + "; they must sum to " + std::to_string(kShareUnit));
  }
}

}  // namespace

void check_problem(const LayerProblem& problem) {
  if (problem.shape == nullptr)
    refuse("LayerProblem::shape is not set; give the ClusterShape of the model");
  const ClusterShape& shape = *problem.shape;
  check_size("load", problem.load.size(), shape.num_logical_experts(), "logical experts");
  check_size("placement", problem.placement.size(), shape.num_slots(), "slots");
  if (!problem.shares.empty())
    check_size("shares", problem.shares.size(), shape.num_slots(), "slots");
  for (std::size_t expert = 0; expert < problem.load.size(); ++expert) {
    if (problem.load[expert] < 0) {
      refuse("LayerProblem::load of expert " + std::to_string(expert) + " is " +
             std::to_string(problem.load[expert]) + "; loads count tokens, at least 0");
    }
  }
  if (!holds_every_expert(problem.placement, shape)) {
    refuse("LayerProblem::placement has an empty slot, names an expert outside 0 to " +
           std::to_string(shape.num_logical_experts() - 1) +
           " or has no slot for one; every slot needs an expert and every expert a slot");
  }
  if (!problem.shares.empty()) check_shares(problem);
}

LayerPlan make_plan(const LayerProblem& problem, std::vector<std::int32_t> placement,
                    std::vector<std::uint32_t> shares, std::int64_t work) {
  LayerPlan plan;
  plan.imbalance_before =
      imbalance(rank_load(*problem.shape, problem.placement, problem.shares, problem.load));
  plan.imbalance_after = imbalance(rank_load(*problem.shape, placement, shares, problem.load));
  plan.moves = count_moves(problem.placement, placement, *problem.shape);
  plan.work = work;
  plan.placement = std::move(placement);
  plan.shares = std::move(shares);
  return plan;
}

LayerPlan unchanged_plan(const LayerProblem& problem) {
  std::vector<std::int32_t> placement(problem.placement.begin(), problem.placement.end());
  std::vector<std::uint32_t> shares(problem.shares.begin(), problem.shares.end());
  if (shares.empty()) shares = even_shares(placement, problem.shape->num_logical_experts());
  return make_plan(problem, std::move(placement), std::move(shares), 0);
}

std::int64_t total(std::span<const std::int64_t> counts) noexcept {
  return std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
}

}  // namespace swiftbalancer
