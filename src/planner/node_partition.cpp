#include "planner/node_partition.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>

#include "core/index.hpp"

namespace swiftbalancer {
namespace {

constexpr int kBisections = 60;
// An exchange must win more than rounding can.
constexpr double kLeastPartitionGain = 1e-9;

// Depth first over groups, heaviest first: the partial cost only grows, so a branch ends where it
// cannot beat the worst partition kept.
class NodeSearch {
 public:
  // @param distinct every node gets experts for all slots of its largest rank, or its room.
  NodeSearch(const ClusterShape& shape, std::span<const std::int64_t> load,
             std::span<const double> rank_speed, const PartitionSearch& search, bool distinct)
      : shape_(shape),
        load_(load),
        search_(search),
        makes_(node_makes(shape, rank_speed)),
        group_size_(shape.num_logical_experts() / shape.num_expert_groups()),
        group_load_(index(shape.num_expert_groups()), 0.0),
        node_of_group_(index(shape.num_expert_groups()), -1),
        node_load_(makes_.size(), 0.0),
        node_groups_(makes_.size(), 0) {
    for (int expert = 0; expert < shape.num_logical_experts(); ++expert) {
      group_load_[index(shape.group_of_expert(expert))] += static_cast<double>(load[index(expert)]);
    }
    const double all = std::accumulate(group_load_.begin(), group_load_.end(), 0.0);
    const double speed =
        std::accumulate(makes_.begin(), makes_.end(), 0.0,
                        [](double sum, const NodeMake& make) { return sum + make.speed; });
    for (const NodeMake& make : makes_)
      level_load_.push_back(search.level * all * make.speed / speed);
    for (std::size_t node = 0; node < makes_.size(); ++node) {
      const int needed = (makes_[node].largest_rank + group_size_ - 1) / group_size_;
      least_groups_.push_back(distinct ? std::min(needed, capacity(node)) : 1);
    }
    order_.resize(group_load_.size());
    std::iota(order_.begin(), order_.end(), 0);
    std::ranges::stable_sort(
        order_, [&](int a, int b) { return group_load_[index(a)] > group_load_[index(b)]; });
  }

  std::vector<NodePartition> run() {
    descend(0);
    if (work_ >= search_.max_work) improve_first();
    std::vector<NodePartition> result;
    for (Found& found : kept_) result.push_back(std::move(found.partition));
    return result;
  }

 private:
  // Less is better; the second part tells apart partitions of one bottleneck.
  using Cost = std::tuple<double, double>;
  struct Found {
    Cost cost;
    NodePartition partition;
  };

  int capacity(std::size_t node) const { return makes_[node].num_slots / group_size_; }

  double excess() const {
    double sum = 0.0;
    for (std::size_t node = 0; node < makes_.size(); ++node)
      sum += std::max(0.0, node_load_[node] - level_load_[node]);
    return sum;
  }
  double highest() const {
    double most = 0.0;
    for (std::size_t node = 0; node < makes_.size(); ++node)
      most = std::max(most, node_load_[node] / makes_[node].speed);
    return most;
  }
  double primary() const {
    return search_.goal == PartitionGoal::kLeastTraffic ? excess() : highest();
  }
  bool full() const { return kept_.size() == index(search_.count); }

  void descend(std::size_t depth) {
    if (full() && primary() >= std::get<0>(kept_.back().cost)) return;
    if (depth == order_.size()) return keep();
    const int group = order_[depth];
    const double added = group_load_[index(group)];
    const auto left = static_cast<int>(order_.size() - depth);
    const int missing = missing_groups();
    if (left < missing) return;
    for (const std::size_t node : lightest_first()) {
      if (work_ >= search_.max_work && !kept_.empty()) return;
      if (node_groups_[node] == capacity(node) || is_twin_of_earlier(node)) continue;
      if (node_groups_[node] >= least_groups_[node] && left == missing) continue;
      ++work_;
      node_of_group_[index(group)] = static_cast<int>(node);
      node_load_[node] += added;
      ++node_groups_[node];
      descend(depth + 1);
      --node_groups_[node];
      node_load_[node] -= added;
    }
  }

  // That nodes still need.
  int missing_groups() const {
    int missing = 0;
    for (std::size_t node = 0; node < makes_.size(); ++node)
      missing += std::max(0, least_groups_[node] - node_groups_[node]);
    return missing;
  }

  std::vector<std::size_t> lightest_first() const {
    std::vector<std::size_t> nodes(makes_.size());
    std::iota(nodes.begin(), nodes.end(), std::size_t{0});
    std::ranges::stable_sort(nodes, [&](std::size_t a, std::size_t b) {
      return node_load_[a] / makes_[a].speed < node_load_[b] / makes_[b].speed;
    });
    return nodes;
  }

  // Of empty nodes of one make only the first is tried.
  bool is_twin_of_earlier(std::size_t node) const {
    if (node_groups_[node] > 0) return false;
    for (std::size_t other = 0; other < node; ++other) {
      if (node_groups_[other] == 0 && makes_[other] == makes_[node]) return true;
    }
    return false;
  }

  // Even split or not, an expert of load w needs w / (T * speed) slots to take no longer than T.
  bool pieces_fit(std::size_t node, double time) const {
    const double piece = time * makes_[node].best_speed;
    std::int64_t slots = 0;
    for (int expert = 0; expert < shape_.num_logical_experts(); ++expert) {
      if (node_of_group_[index(shape_.group_of_expert(expert))] != static_cast<int>(node)) continue;
      const double needed = std::ceil(static_cast<double>(load_[index(expert)]) / piece);
      if (search_.max_replicas > 0 && needed > search_.max_replicas) return false;
      slots += std::max<std::int64_t>(1, static_cast<std::int64_t>(needed));
      if (slots > makes_[node].num_slots) return false;
    }
    return true;
  }

  double bound() const {
    double time = highest();
    if (time <= 0.0) return 0.0;
    for (std::size_t node = 0; node < makes_.size(); ++node) {
      if (pieces_fit(node, time)) continue;
      double low = time;
      double high = time;
      while (!pieces_fit(node, high) && high < 1e300) high *= 2.0;
      for (int i = 0; i < kBisections; ++i) {
        const double middle = 0.5 * (low + high);
        (pieces_fit(node, middle) ? high : low) = middle;
      }
      time = low;  // The lower end: a bound must not exceed what can be reached.
    }
    return time;
  }

  bool slots_can_be_filled() const {
    if (search_.max_replicas == 0) return true;
    for (std::size_t node = 0; node < makes_.size(); ++node) {
      const std::int64_t most =
          std::int64_t{node_groups_[node]} * group_size_ * search_.max_replicas;
      if (most < makes_[node].num_slots) return false;
    }
    return true;
  }

  void keep() {
    if (!slots_can_be_filled()) return;
    NodePartition partition{node_of_group_, bound(), excess()};
    double squares = 0.0;
    for (std::size_t node = 0; node < makes_.size(); ++node)
      squares += node_load_[node] * node_load_[node] / makes_[node].speed;
    const Cost cost = search_.goal == PartitionGoal::kLeastTraffic
                          ? Cost{partition.excess, partition.bound}
                          : Cost{partition.bound, squares};
    const auto place = std::ranges::upper_bound(kept_, cost, {}, &Found::cost);
    kept_.insert(place, {cost, std::move(partition)});
    if (kept_.size() > index(search_.count)) kept_.pop_back();
  }

  // Where the work did not suffice: relieves the node that takes longest by a move or an exchange,
  // as long as that helps.
  void improve_first() {
    if (kept_.empty()) return;
    node_of_group_ = kept_.front().partition.node_of_group;
    std::ranges::fill(node_load_, 0.0);
    std::ranges::fill(node_groups_, 0);
    for (std::size_t group = 0; group < group_load_.size(); ++group) {
      node_load_[index(node_of_group_[group])] += group_load_[group];
      ++node_groups_[index(node_of_group_[group])];
    }
    while (relieve_slowest()) {
    }
    keep();
  }

  double time(std::size_t node, double added) const {
    return (node_load_[node] + added) / makes_[node].speed;
  }

  bool relieve_slowest() {
    std::size_t slowest = 0;
    for (std::size_t node = 1; node < makes_.size(); ++node) {
      if (time(node, 0.0) > time(slowest, 0.0)) slowest = node;
    }
    double best = time(slowest, 0.0) * (1.0 - kLeastPartitionGain);
    std::size_t leaving = 0;
    std::size_t coming = 0;  // == leaving: a move
    std::size_t to = slowest;
    const auto consider = [&](std::size_t group, std::size_t other, std::size_t node) {
      const double shed = group_load_[group] - (other == group ? 0.0 : group_load_[other]);
      const double after = std::max(time(slowest, -shed), time(node, shed));
      if (after >= best) return;
      best = after;
      leaving = group;
      coming = other;
      to = node;
    };
    for (std::size_t group = 0; group < group_load_.size(); ++group) {
      if (index(node_of_group_[group]) != slowest) continue;
      for (std::size_t node = 0; node < makes_.size(); ++node) {
        if (node != slowest && node_groups_[slowest] > least_groups_[slowest] &&
            node_groups_[node] < capacity(node))
          consider(group, group, node);
      }
      for (std::size_t other = 0; other < group_load_.size(); ++other) {
        if (index(node_of_group_[other]) != slowest)
          consider(group, other, index(node_of_group_[other]));
      }
    }
    if (to == slowest) return false;
    transfer(leaving, slowest, to);
    if (coming != leaving) transfer(coming, to, slowest);
    return true;
  }

  void transfer(std::size_t group, std::size_t from, std::size_t to) {
    node_of_group_[group] = static_cast<int>(to);
    node_load_[from] -= group_load_[group];
    node_load_[to] += group_load_[group];
    --node_groups_[from];
    ++node_groups_[to];
  }

  const ClusterShape& shape_;
  std::span<const std::int64_t> load_;
  const PartitionSearch& search_;
  std::vector<NodeMake> makes_;
  int group_size_;
  std::vector<double> group_load_;  // [num_expert_groups]
  std::vector<double> level_load_;  // [num_nodes]
  std::vector<int> least_groups_;   // [num_nodes]
  std::vector<int> order_;          // groups, heaviest first
  std::vector<int> node_of_group_;  // being built
  std::vector<double> node_load_;
  std::vector<int> node_groups_;
  std::vector<Found> kept_;  // best first
  std::int64_t work_ = 0;
};

}  // namespace

std::vector<NodeMake> node_makes(const ClusterShape& shape, std::span<const double> rank_speed) {
  std::vector<NodeMake> makes(index(shape.num_nodes()));
  for (int rank = 0; rank < shape.num_ranks(); ++rank) {
    NodeMake& make = makes[index(shape.node_of_rank(rank))];
    const double speed = rank_speed.empty() ? 1.0 : rank_speed[index(rank)];
    ++make.num_ranks;
    make.num_slots += shape.slots_per_rank(rank);
    make.largest_rank = std::max(make.largest_rank, shape.slots_per_rank(rank));
    make.speed += speed;
    make.best_speed = std::max(make.best_speed, speed);
  }
  return makes;
}

bool groups_fit_nodes(const ClusterShape& shape) {
  if (shape.num_expert_groups() < shape.num_nodes()) return false;
  const int group_size = shape.num_logical_experts() / shape.num_expert_groups();
  int room = 0;
  for (const NodeMake& make : node_makes(shape, {})) {
    if (make.num_slots < group_size) return false;
    room += make.num_slots / group_size;
  }
  return room >= shape.num_expert_groups();
}

std::vector<NodePartition> best_node_partitions(const ClusterShape& shape,
                                                std::span<const std::int64_t> load,
                                                std::span<const double> rank_speed,
                                                const PartitionSearch& search) {
  if (!groups_fit_nodes(shape)) return {};
  auto found = NodeSearch(shape, load, rank_speed, search, true).run();
  if (found.empty()) found = NodeSearch(shape, load, rank_speed, search, false).run();
  return found;
}

}  // namespace swiftbalancer
