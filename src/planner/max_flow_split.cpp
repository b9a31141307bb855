#include "planner/max_flow_split.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include <swiftbalancer/error.hpp>
#include <swiftbalancer/placement.hpp>

#include "core/index.hpp"

namespace swiftbalancer {
namespace {

constexpr int kUnreached = -1;

// Maximum flow by blocking flows on shortest paths. Arc 2k + 1 is the way back of arc 2k.
class Dinic {
 public:
  explicit Dinic(int num_nodes) : arcs_of_(index(num_nodes)) {}

  int add_arc(int from, int to) {
    const int arc = static_cast<int>(to_.size());
    to_.push_back(to);
    to_.push_back(from);
    room_.insert(room_.end(), 2, 0);
    arcs_of_[index(from)].push_back(arc);
    arcs_of_[index(to)].push_back(arc + 1);
    return arc;
  }
  void set_capacity(int arc, std::int64_t capacity) {
    room_[index(arc)] = capacity;
    room_[index(arc + 1)] = 0;
  }
  std::int64_t flow(int arc) const { return room_[index(arc + 1)]; }

  std::int64_t maximise(int source, int sink) {
    std::int64_t total = 0;
    while (find_distances(source, sink)) {
      next_.assign(arcs_of_.size(), 0);
      while (const std::int64_t pushed =
                 push(source, sink, std::numeric_limits<std::int64_t>::max()))
        total += pushed;
    }
    return total;
  }
  /// After maximise(): whether the node is on the source's side of the cut.
  bool is_reachable(int node) const { return distance_[index(node)] != kUnreached; }

 private:
  bool find_distances(int source, int sink) {
    distance_.assign(arcs_of_.size(), kUnreached);
    distance_[index(source)] = 0;
    std::vector<int> queue{source};
    for (std::size_t i = 0; i < queue.size(); ++i) {
      for (const int arc : arcs_of_[index(queue[i])]) {
        const int to = to_[index(arc)];
        if (room_[index(arc)] == 0 || distance_[index(to)] != kUnreached) continue;
        distance_[index(to)] = distance_[index(queue[i])] + 1;
        queue.push_back(to);
      }
    }
    return distance_[index(sink)] != kUnreached;
  }

  // Depth: at most the number of nodes, twice the ranks in practice.
  std::int64_t push(int node, int sink, std::int64_t most) {  // NOLINT(misc-no-recursion)
    if (node == sink) return most;
    for (std::size_t& i = next_[index(node)]; i < arcs_of_[index(node)].size(); ++i) {
      const int arc = arcs_of_[index(node)][i], to = to_[index(arc)];
      if (room_[index(arc)] == 0 || distance_[index(to)] != distance_[index(node)] + 1) continue;
      const std::int64_t pushed = push(to, sink, std::min(most, room_[index(arc)]));
      if (pushed == 0) continue;
      room_[index(arc)] -= pushed;
      room_[index(arc ^ 1)] += pushed;
      return pushed;
    }
    return 0;
  }

  std::vector<std::vector<int>> arcs_of_;
  std::vector<int> to_;
  std::vector<std::int64_t> room_;
  std::vector<int> distance_;
  std::vector<std::size_t> next_;
};

std::vector<std::int64_t> whole_speeds(int num_ranks, std::span<const double> rank_speed) {
  std::vector<std::int64_t> speeds(index(num_ranks), 1);
  if (rank_speed.empty()) return speeds;
  const double fastest = *std::ranges::max_element(rank_speed);
  for (std::size_t rank = 0; rank < speeds.size(); ++rank) {
    const double steps = rank_speed[rank] / fastest * static_cast<double>(kSpeedSteps);
    speeds[rank] = std::max<std::int64_t>(1, std::llround(steps));
  }
  return speeds;
}

// A bound as a fraction: tokens of some experts / speed of the ranks that hold them.
struct Bound {
  std::int64_t tokens = 0;
  std::int64_t speed = 1;
  bool operator<(const Bound& other) const { return tokens * other.speed < other.tokens * speed; }
};

class Splitter {
 public:
  Splitter(const ClusterShape& shape, std::span<const std::int32_t> slots,
           std::span<const std::int64_t> load, std::vector<std::int64_t> speeds)
      : shape_(shape),
        speeds_(std::move(speeds)),
        fixed_(speeds_.size(), 0),
        quotas_(slots.size(), 0) {
    find_holders(slots);
    check(load);
    for (std::size_t expert = 0; expert < load.size(); ++expert) {
      const std::vector<int>& holders = holders_[expert];
      if (load[expert] == 0) continue;
      if (holders.size() > 1) {
        shared_.push_back({static_cast<int>(expert), load[expert], kUnreached, {}});
        continue;
      }
      quotas_[index(holders[0])] = load[expert];
      fixed_[index(shape_.rank_of_slot(holders[0]))] += load[expert];
    }
    build_graph();
  }

  MaxFlowSplit solve() {
    Bound bound = first_bound();
    // Every cut that does not let all tokens through is a larger bound; the last one does.
    while (!fits(bound.speed, [&](int rank) { return bound.tokens * speeds_[index(rank)]; })) {
      bound = cut();
    }
    // Whole capacities admit a whole flow wherever they admit any.
    fits(1, [&](int rank) {
      return (bound.tokens * speeds_[index(rank)] + bound.speed - 1) / bound.speed;
    });
    for (const Shared& expert : shared_) {
      for (std::size_t i = 0; i < expert.to_ranks.size(); ++i)
        quotas_[index(holders_[index(expert.logical_id)][i])] = flow_.flow(expert.to_ranks[i]);
    }
    return {std::move(quotas_),
            static_cast<double>(bound.tokens) / static_cast<double>(bound.speed)};
  }

 private:
  struct Shared {  // an expert on several ranks
    int logical_id;
    std::int64_t tokens;
    int from_source;
    std::vector<int> to_ranks;  // arcs, in the order of its holders
  };

  void find_holders(std::span<const std::int32_t> slots) {
    holders_.resize(index(shape_.num_logical_experts()));
    for (int slot = 0; slot < shape_.num_slots(); ++slot) {
      if (slots[index(slot)] == kEmptySlot) continue;
      std::vector<int>& holders = holders_[index(slots[index(slot)])];
      const int rank = shape_.rank_of_slot(slot);
      if (holders.empty() || shape_.rank_of_slot(holders.back()) != rank) holders.push_back(slot);
    }
  }

  void check(std::span<const std::int64_t> load) const {
    std::int64_t total = 0, speed = 0;
    for (const std::int64_t each : speeds_) speed += each;
    for (std::size_t expert = 0; expert < load.size(); ++expert) {
      if (load[expert] > 0 && holders_[expert].empty()) {
        throw Error(ErrorCode::kInvalidArgument, "expert " + std::to_string(expert) +
                                                     " has tokens and no slot; every expert "
                                                     "needs one");
      }
      const std::int64_t most = (std::int64_t{1} << 62) / speed;
      if (load[expert] < 0 || load[expert] > most - total) {
        throw Error(ErrorCode::kInvalidArgument,
                    "load of expert " + std::to_string(expert) + " is " +
                        std::to_string(load[expert]) +
                        "; allowed are 0 and more, and in total at most " + std::to_string(most));
      }
      total += load[expert];
    }
  }

  // Nodes: shared experts, ranks, source, sink.
  int rank_node(int rank) const { return static_cast<int>(shared_.size()) + rank; }
  int source() const { return rank_node(shape_.num_ranks()); }
  int sink() const { return source() + 1; }

  void build_graph() {
    flow_ = Dinic(sink() + 1);
    for (std::size_t i = 0; i < shared_.size(); ++i) {
      const int node = static_cast<int>(i);
      shared_[i].from_source = flow_.add_arc(source(), node);
      for (const int slot : holders_[index(shared_[i].logical_id)])
        shared_[i].to_ranks.push_back(flow_.add_arc(node, rank_node(shape_.rank_of_slot(slot))));
    }
    for (int rank = 0; rank < shape_.num_ranks(); ++rank)
      to_sink_.push_back(flow_.add_arc(rank_node(rank), sink()));
  }

  Bound first_bound() const {
    Bound all{0, 0}, best{0, 1};
    for (std::size_t rank = 0; rank < fixed_.size(); ++rank) {
      all.tokens += fixed_[rank];
      all.speed += speeds_[rank];
      best = std::max(best, {fixed_[rank], speeds_[rank]});
    }
    for (const Shared& expert : shared_) all.tokens += expert.tokens;
    return std::max(best, all);
  }

  // Whether every rank can take its tokens, all counted in units of 1 / parts.
  template <typename Capacity>
  bool fits(std::int64_t parts, Capacity capacity) {
    std::int64_t tokens = 0;
    for (const Shared& expert : shared_) {
      tokens += expert.tokens * parts;
      flow_.set_capacity(expert.from_source, expert.tokens * parts);
      for (const int arc : expert.to_ranks) flow_.set_capacity(arc, expert.tokens * parts);
    }
    for (int rank = 0; rank < shape_.num_ranks(); ++rank)
      flow_.set_capacity(to_sink_[index(rank)], capacity(rank) - fixed_[index(rank)] * parts);
    return flow_.maximise(source(), sink()) == tokens;
  }

  // The experts that the cut keeps back, with all that the ranks hold which they fill.
  Bound cut() const {
    Bound bound{0, 0};
    for (std::size_t i = 0; i < shared_.size(); ++i) {
      if (flow_.is_reachable(static_cast<int>(i))) bound.tokens += shared_[i].tokens;
    }
    for (int rank = 0; rank < shape_.num_ranks(); ++rank) {
      if (!flow_.is_reachable(rank_node(rank))) continue;
      bound.tokens += fixed_[index(rank)];
      bound.speed += speeds_[index(rank)];
    }
    return bound;
  }

  const ClusterShape& shape_;
  std::vector<std::int64_t> speeds_;       // [num_ranks]
  std::vector<std::int64_t> fixed_;        // [num_ranks] tokens of experts that only it holds
  std::vector<std::int64_t> quotas_;       // [num_slots]
  std::vector<std::vector<int>> holders_;  // [num_logical_experts] one slot per rank
  std::vector<Shared> shared_;
  Dinic flow_{0};
  std::vector<int> to_sink_;  // [num_ranks] arcs
};

}  // namespace

MaxFlowSplit max_flow_split(const ClusterShape& shape, std::span<const std::int32_t> slots,
                            std::span<const std::int64_t> load,
                            std::span<const double> rank_speed) {
  MaxFlowSplit split =
      Splitter(shape, slots, load, whole_speeds(shape.num_ranks(), rank_speed)).solve();
  if (!rank_speed.empty()) {
    // In the unit of the speeds given.
    split.bound *= static_cast<double>(kSpeedSteps) / *std::ranges::max_element(rank_speed);
  }
  return split;
}

}  // namespace swiftbalancer
