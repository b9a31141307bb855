#include "planner/hierarchical.hpp"

#include <algorithm>
#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include <swiftbalancer/dispatch_table.hpp>
#include <swiftbalancer/error.hpp>
#include <swiftbalancer/placement.hpp>

#include "core/index.hpp"
#include "planner/align.hpp"
#include "planner/bounds.hpp"
#include "planner/eplb.hpp"
#include "planner/full_plan.hpp"
#include "planner/limited_layer.hpp"
#include "planner/node_partition.hpp"

namespace swiftbalancer {
namespace {

// Partitions that are placed: the bound of the first is seldom missed, so more are seldom needed.
constexpr int kPartitions = 4;
// Branches of the search for partitions: all of few groups, while for many the first ones are as
// good once they are improved.
constexpr int kFewGroups = 12;
constexpr std::int64_t kBranchesOfFew = 200'000;
constexpr std::int64_t kBranchesOfMany = 5'000;
// As close to the bound as is worth work.
constexpr double kGroupTolerance = 5e-4;
constexpr std::int64_t kDefaultGroupWork = 2'000'000;
// Full plans of nodes may pack about so many slots.
constexpr int kPackedSlots = 800;
// Replicas shift the parts of nodes a little while they are placed: look again.
constexpr int kSpillRounds = 4;

class Placing {
 public:
  explicit Placing(const LayerProblem& problem)
      : problem_(problem),
        shape_(*problem.shape),
        relaxed_(problem.max_cross_node_replicas > 0),
        work_left_(problem.max_work >= 0 ? problem.max_work : kDefaultGroupWork) {
    double speed = 0.0;
    for (std::int64_t tokens : problem.load) all_tokens_ += static_cast<double>(tokens);
    for (const NodeMake& make : node_makes(shape_, problem.rank_speed)) speed += make.speed;
    mean_time_ = all_tokens_ / speed;
  }

  HierarchicalPlacement run() {
    const std::int64_t work = work_left_;
    try_partitions(PartitionGoal::kLowestBound);
    if (relaxed_) try_partitions(PartitionGoal::kLeastTraffic);
    if (!best_) {
      throw Error(ErrorCode::kInvalidArgument,
                  "pinned slots and max_replicas leave no placement that keeps " +
                      std::to_string(shape_.num_expert_groups()) + " expert groups on " +
                      std::to_string(shape_.num_nodes()) +
                      " nodes; pin fewer slots, or allow more replicas");
    }
    try_eplb();
    if (relaxed_) level_further();
    return {std::move(best_->slots), work - work_left_};
  }

 private:
  // Less is better: experts that their rank repeats, then time, then traffic; below the level of
  // relaxed placements only traffic counts.
  using Score = std::tuple<int, double, double, double>;
  struct Candidate {
    Score score;
    std::vector<std::int32_t> slots;
    std::vector<int> home;  // of each expert
  };

  void try_partitions(PartitionGoal goal) {
    const auto partitions = best_node_partitions(
        shape_, problem_.load, problem_.rank_speed,
        {.goal = goal,
         .level = relaxed_ ? kRelaxedLevel : 1.0,
         .max_replicas = problem_.max_replicas,
         .count = kPartitions,
         .max_work = shape_.num_expert_groups() <= kFewGroups ? kBranchesOfFew : kBranchesOfMany});
    for (const NodePartition& partition : partitions) {
      if (best_ && cannot_beat(*best_, partition)) continue;
      place(partition);
    }
  }

  // Strictly kept groups cannot end below their bound, nor leave a node at the level for less.
  bool cannot_beat(const Candidate& best, const NodePartition& partition) const {
    const auto [duplicates, time, share, unused] = best.score;
    if (duplicates > 0) return false;
    if (!relaxed_) return partition.bound * (1.0 + kGroupTolerance) >= time;
    return time <= kRelaxedLevel * mean_time_ && share * all_tokens_ <= partition.excess;
  }

  void place(const NodePartition& partition) {
    std::vector<int> home;
    for (int expert = 0; expert < shape_.num_logical_experts(); ++expert)
      home.push_back(partition.node_of_group[index(shape_.group_of_expert(expert))]);
    const double target = partition.bound * (1.0 + kGroupTolerance);
    LimitedLayer layer(problem_, home);
    if (!start(layer, home, target)) return;
    offer(layer, home);
    for (int round = 0; relaxed_ && round < kSpillRounds; ++round) {
      if (layer.highest_time() <= kRelaxedLevel * mean_time_) break;
      layer.spill(kRelaxedLevel, problem_.max_cross_node_replicas);
      refine(layer, kRelaxedLevel * mean_time_);
      offer(layer, home);
    }
  }

  // The full plan of each node, then what the limits leave to be built, if that may be better.
  bool start(LimitedLayer& layer, const std::vector<int>& home, double target) {
    const std::vector<std::int32_t> planned = plan_nodes(home, target);
    if (!planned.empty()) {
      layer.assign(planned);
      refine(layer, target);
      if (layer.highest_time() <= target && duplicates(layer) == 0) return true;
    }
    LimitedLayer built(problem_, home);
    if (built.build()) {
      refine(built, target);
      if (planned.empty() || std::pair(duplicates(built), built.highest_time()) <
                                 std::pair(duplicates(layer), layer.highest_time()))
        layer.assign(built.slots());
    } else if (planned.empty()) {
      return false;
    }
    return true;
  }

  int duplicates(const LimitedLayer& layer) const {
    return count_same_rank_duplicates(layer.slots(), shape_);
  }

  // Knows neither pins nor speeds. @returns empty where those, or max_replicas, are in the way.
  std::vector<std::int32_t> plan_nodes(const std::vector<int>& home, double target) {
    if (has_pins() || !problem_.rank_speed.empty()) return {};
    std::vector<std::int32_t> slots(index(shape_.num_slots()));
    for (int node = 0; node < shape_.num_nodes(); ++node) {
      if (!plan_node(node, home, target, slots)) return {};
    }
    return slots;
  }

  bool plan_node(int node, const std::vector<int>& home, double target,
                 std::span<std::int32_t> slots) {
    std::vector<std::int32_t> experts;
    std::vector<std::int64_t> load;
    for (int expert = 0; expert < shape_.num_logical_experts(); ++expert) {
      if (home[index(expert)] != node) continue;
      experts.push_back(expert);
      load.push_back(problem_.load[index(expert)]);
    }
    ShapeOptions options{.num_moe_layers = 1,
                         .num_logical_experts = static_cast<int>(experts.size())};
    std::vector<int> ranks;
    for (int rank = 0; rank < shape_.num_ranks(); ++rank) {
      if (shape_.node_of_rank(rank) != node) continue;
      ranks.push_back(rank);
      options.slots_per_rank.push_back(shape_.slots_per_rank(rank));
    }
    options.num_ranks = static_cast<int>(ranks.size());
    const ClusterShape shape(options);
    // A node with less to do than the fullest one need not be level.
    const double bound = std::max(mean_rank_load(shape, load), smallest_largest_piece(shape, load));
    FullPlanner planner(
        shape, {.tolerance = bound > 0.0 ? std::max(kGroupTolerance, target / bound - 1.0) : 0.0,
                .max_packings = std::max(1, kPackedSlots / shape.num_slots())});
    std::vector<std::int32_t> local(index(shape.num_slots()));
    planner.plan_layer(load, local);
    work_left_ -= std::int64_t{planner.packings()} * shape.num_slots();
    const std::vector<std::int32_t> count = replica_count(local, shape.num_logical_experts());
    if (problem_.max_replicas > 0 && std::ranges::max(count) > problem_.max_replicas) return false;
    for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
      const int first = shape.first_slot(static_cast<int>(rank));
      for (int i = 0; i < shape.slots_per_rank(static_cast<int>(rank)); ++i) {
        slots[index(shape_.first_slot(ranks[rank]) + i)] = experts[index(local[index(first + i)])];
      }
    }
    return true;
  }

  bool has_pins() const {
    return std::ranges::any_of(problem_.pinned, [](std::uint8_t pin) { return pin != 0; });
  }

  void refine(LimitedLayer& layer, double target) {
    work_left_ -= layer.refine(target, work_left_);
  }

  void offer(const LimitedLayer& layer, const std::vector<int>& home) {
    const double time = layer.highest_time();
    const double level = relaxed_ ? std::max(time, kRelaxedLevel * mean_time_) : time;
    const Score score{count_same_rank_duplicates(layer.slots(), shape_), level,
                      layer.cross_node_share(), time};
    if (!best_ || score < best_->score) best_ = Candidate{score, layer.slots(), home};
  }

  // What is to be had below the level without sending more tokens to other nodes.
  void level_further() {
    LimitedLayer layer(problem_, best_->home);
    layer.assign(best_->slots);
    refine(layer, mean_time_ * (1.0 + kGroupTolerance));
    offer(layer, best_->home);
  }

  // Never worse than the published algorithm.
  void try_eplb() {
    if (!eplb_is_hierarchical(shape_) || problem_.max_replicas > 0 || has_pins()) return;
    std::vector<std::int32_t> slots = eplb_rebalance(shape_, problem_.load);
    repair_same_rank_duplicates(shape_, problem_.load, true, slots);
    std::vector<int> home(problem_.load.size(), 0);
    for (int slot = 0; slot < shape_.num_slots(); ++slot)
      home[index(slots[index(slot)])] = shape_.node_of_rank(shape_.rank_of_slot(slot));
    LimitedLayer layer(problem_, home);
    layer.assign(slots);
    offer(layer, home);
  }

  const LayerProblem& problem_;
  const ClusterShape& shape_;
  bool relaxed_;
  double all_tokens_ = 0.0;
  double mean_time_ = 0.0;
  std::int64_t work_left_;
  std::optional<Candidate> best_;
};

}  // namespace

bool groups_are_bound(const LayerProblem& problem) {
  return problem.max_cross_node_replicas >= 0 && problem.shape->num_expert_groups() > 1 &&
         problem.shape->num_nodes() > 1;
}

HierarchicalPlacement place_groups_on_nodes(const LayerProblem& problem) {
  return Placing(problem).run();
}

std::vector<int> home_nodes(const ClusterShape& shape, std::span<const std::int32_t> slots,
                            std::span<const std::uint32_t> shares,
                            std::span<const std::int64_t> load) {
  const std::vector<std::uint32_t> even =
      shares.empty() ? even_shares(slots, shape.num_logical_experts())
                     : std::vector<std::uint32_t>(shares.begin(), shares.end());
  // [group][node] tokens and replicas.
  using Served = std::pair<double, int>;
  std::vector<std::vector<Served>> served(index(shape.num_expert_groups()),
                                          std::vector<Served>(index(shape.num_nodes())));
  for (int slot = 0; slot < shape.num_slots(); ++slot) {
    const std::int32_t expert = slots[index(slot)];
    Served& here = served[index(shape.group_of_expert(expert))]
                         [index(shape.node_of_rank(shape.rank_of_slot(slot)))];
    here.first += static_cast<double>(load[index(expert)]) * even[index(slot)];
    ++here.second;
  }
  std::vector<int> home;
  for (const auto& nodes : served)
    home.push_back(static_cast<int>(std::ranges::max_element(nodes) - nodes.begin()));
  return home;
}

CrossNodeTraffic cross_node_traffic(const ClusterShape& shape, std::span<const std::int32_t> slots,
                                    std::span<const std::uint32_t> shares,
                                    std::span<const std::int64_t> load) {
  const std::vector<std::uint32_t> used =
      shares.empty() ? even_shares(slots, shape.num_logical_experts())
                     : std::vector<std::uint32_t>(shares.begin(), shares.end());
  const std::vector<int> home = home_nodes(shape, slots, used, load);
  CrossNodeTraffic traffic;
  double all = 0.0;
  for (int slot = 0; slot < shape.num_slots(); ++slot) {
    const std::int32_t expert = slots[index(slot)];
    const double tokens = static_cast<double>(load[index(expert)]) * used[index(slot)] / kShareUnit;
    all += tokens;
    if (home[index(shape.group_of_expert(expert))] == shape.node_of_rank(shape.rank_of_slot(slot)))
      continue;
    ++traffic.replicas;
    traffic.tokens += tokens;
  }
  traffic.share = all > 0.0 ? traffic.tokens / all : 0.0;
  return traffic;
}

}  // namespace swiftbalancer
