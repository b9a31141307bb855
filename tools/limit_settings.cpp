#include "limit_settings.hpp"

#include <cmath>

#include <fmt/format.h>

#include <swiftbalancer/error.hpp>

#include "planner/hierarchical.hpp"
#include "planner/limits.hpp"

#include "parse_number.hpp"
#include "refuse.hpp"

namespace swiftbalancer::tool {
namespace {

std::vector<int> integers(const std::vector<std::string>& items, const char* flag,
                          const char* what) {
  std::vector<int> numbers;
  for (const std::string& item : items) {
    const auto number = parse_number<int>(item);
    if (!number || *number < 0)
      refuse(fmt::format("{}: '{}' is no {}; give numbers from 0, with commas", flag, item, what));
    numbers.push_back(*number);
  }
  return numbers;
}

std::vector<double> speeds_of(const std::vector<std::string>& items) {
  std::vector<double> speeds;
  for (const std::string& item : items) {
    const auto speed = parse_number<double>(item);
    if (!speed || !std::isfinite(*speed) || *speed <= 0.0) {
      refuse(
          fmt::format("--rank-speeds: '{}' is no speed; give numbers above 0, with commas", item));
    }
    speeds.push_back(*speed);
  }
  return speeds;
}

}  // namespace

void LimitSettings::declare(Settings& settings) {
  settings.list("rank_speeds", rank_speeds_,
                "Relative speed of each rank, with commas: the time of a rank is its load / speed");
  settings.list("pinned_experts", pinned_experts_,
                "Experts that stay in the slots that hold them, in every layer");
  settings.integer("max_replicas", limits_.max_replicas, 0, 1'000'000,
                   "Slots of one expert at most; 0: no limit");
}

void LimitSettings::declare_budgets(Settings& settings) {
  constexpr std::int64_t kMostMoves = 1'000'000'000;
  constexpr std::int64_t kMostBytes = std::int64_t{1} << 60;
  settings.integer("max_moves_per_rebalance", limits_.max_moves_per_rebalance, -1, kMostMoves,
                   "Moves over all layers, spent where they win most; -1: no limit");
  settings.integer("max_bytes_per_rebalance", limits_.max_bytes_per_rebalance, -1, kMostBytes,
                   "Bytes of moved experts, likewise; -1: no limit");
  settings.integer("max_bytes_per_rank", limits_.max_bytes_per_rank, -1, kMostBytes,
                   "Bytes that a rank receives in a rebalance, and that it sends; -1: no limit");
  settings.integer("max_rank_moves", limits_.max_rank_moves, -1, 1'000'000,
                   "Moves that a rank receives in one layer, and that it sends; -1: no limit");
}

void LimitSettings::declare_offline(Settings& settings) {
  settings.integer("max_cross_node_replicas", max_cross_node_replicas_, -1, 1'000'000,
                   "Keeps expert groups on nodes, but for so many replicas a layer; -1: groups "
                   "bind nothing. Not given: 0 in plans from nothing for groups and nodes");
  settings.list("dead_ranks", dead_ranks_,
                "Ranks of --from that are lost: plans for those that are left");
}

void LimitSettings::bind_groups(const Settings& settings, const ShapeOptions& shape) {
  const bool has_both =
      shape.num_expert_groups > 1 && (shape.num_nodes > 1 || !shape.node_of_rank.empty());
  if (!settings.given("max_cross_node_replicas")) {
    if (has_both) max_cross_node_replicas_ = 0;
  } else if (!has_both && max_cross_node_replicas_ >= 0) {
    refuse(
        fmt::format("--max-cross-node-replicas is {}, which needs groups and nodes to keep them "
                    "on: --num-expert-groups, and --num-nodes or --nodes, above 1",
                    max_cross_node_replicas_));
  }
}

bool LimitSettings::given() const noexcept {
  return !rank_speeds_.empty() || !pinned_experts_.empty() || limits_.max_replicas > 0 ||
         binds_groups();
}

bool LimitSettings::binds_groups(const ClusterShape& shape) const {
  return groups_are_bound({.shape = &shape, .max_cross_node_replicas = max_cross_node_replicas_});
}

std::vector<int> LimitSettings::dead_ranks() const {
  return integers(dead_ranks_, "--dead-ranks", "rank");
}

PlanLimits LimitSettings::limits() const {
  PlanLimits limits = limits_;
  limits.rank_speeds = speeds_of(rank_speeds_);
  limits.pinned_experts = integers(pinned_experts_, "--pinned-experts", "expert");
  return limits;
}

void LimitSettings::prepare(const ClusterShape& shape, const Placement* placement) {
  speed_ = speeds_of(rank_speeds_);
  if (!speed_.empty() && speed_.size() != static_cast<std::size_t>(shape.num_ranks())) {
    refuse(fmt::format("--rank-speeds has {} speeds for {} ranks; give one per rank", speed_.size(),
                       shape.num_ranks()));
  }
  check_speed_range(speed_);

  pinned_.clear();
  if (pinned_experts_.empty()) return;
  if (placement == nullptr)
    refuse("--pinned-experts goes with --from: a plan from nothing has no slots to keep");
  std::vector<bool> pinned(static_cast<std::size_t>(shape.num_logical_experts()), false);
  for (int expert : integers(pinned_experts_, "--pinned-experts", "expert")) {
    if (expert >= shape.num_logical_experts()) {
      refuse(fmt::format("--pinned-experts: expert {} does not exist; experts are 0 to {}", expert,
                         shape.num_logical_experts() - 1));
    }
    pinned[static_cast<std::size_t>(expert)] = true;
  }
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    std::vector<std::uint8_t>& row = pinned_.emplace_back();
    for (std::int32_t expert : placement->layer(layer))
      row.push_back(pinned[static_cast<std::size_t>(expert)] ? 1 : 0);
  }
}

void LimitSettings::fill(int moe_layer_id, LayerProblem& problem) const {
  problem.rank_speed = speed_;
  problem.max_replicas = limits_.max_replicas;
  problem.max_cross_node_replicas = max_cross_node_replicas_;
  if (!pinned_.empty()) problem.pinned = pinned_[static_cast<std::size_t>(moe_layer_id)];
}

}  // namespace swiftbalancer::tool
