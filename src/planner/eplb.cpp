#include "planner/eplb.hpp"

#include <algorithm>
#include <numeric>

#include "core/index.hpp"

namespace swiftbalancer {
namespace {

struct Node {
  std::vector<int> ranks;
  int num_slots = 0;
};

std::vector<Node> nodes_of(const ClusterShape& shape, bool hierarchical) {
  std::vector<Node> nodes(hierarchical ? index(shape.num_nodes()) : 1);
  for (int rank = 0; rank < shape.num_ranks(); ++rank) {
    Node& node = nodes[hierarchical ? index(shape.node_of_rank(rank)) : 0];
    node.ranks.push_back(rank);
    node.num_slots += shape.slots_per_rank(rank);
  }
  return nodes;
}

// Heaviest first, each to the lightest pack with room. @returns the items of each pack, in the
// order they came.
std::vector<std::vector<int>> balanced_packing(std::span<const double> weight,
                                               std::span<const int> capacity) {
  std::vector<std::vector<int>> packs(capacity.size());
  std::vector<int> order(weight.size());
  std::iota(order.begin(), order.end(), 0);
  // As in the source, packs of one item take the items as they come.
  const bool singles =
      std::all_of(capacity.begin(), capacity.end(), [](int items) { return items == 1; });
  if (!singles) {
    std::stable_sort(order.begin(), order.end(),
                     [&](int a, int b) { return weight[index(a)] > weight[index(b)]; });
  }
  std::vector<double> pack_weight(capacity.size(), 0.0);
  for (std::size_t i = 0; i < order.size(); ++i) {
    std::size_t best = singles ? i : capacity.size();
    for (std::size_t pack = 0; !singles && pack < capacity.size(); ++pack) {
      if (packs[pack].size() == index(capacity[pack])) continue;
      if (best == capacity.size() || pack_weight[pack] < pack_weight[best]) best = pack;
    }
    packs[best].push_back(order[i]);
    pack_weight[best] += weight[index(order[i])];
  }
  return packs;
}

// Each further replica goes to the expert with most load per replica. @returns the expert of each
// replica.
std::vector<int> replicate(std::span<const double> weight, int num_replicas,
                           std::vector<int>& count) {
  std::vector<int> expert_of(weight.size());
  std::iota(expert_of.begin(), expert_of.end(), 0);
  count.assign(weight.size(), 1);
  std::vector<double> piece(weight.begin(), weight.end());
  while (expert_of.size() < index(num_replicas)) {
    const auto heaviest =
        static_cast<std::size_t>(std::max_element(piece.begin(), piece.end()) - piece.begin());
    expert_of.push_back(static_cast<int>(heaviest));
    piece[heaviest] = weight[heaviest] / ++count[heaviest];
  }
  return expert_of;
}

// Experts of each node, in the order in which its groups were packed.
std::vector<std::vector<int>> experts_of_nodes(const ClusterShape& shape,
                                               std::span<const std::int64_t> load,
                                               std::size_t num_nodes) {
  const int groups = num_nodes > 1 ? shape.num_expert_groups() : 1;
  const int group_size = shape.num_logical_experts() / groups;
  std::vector<double> group_load(index(groups), 0.0);
  for (int expert = 0; expert < shape.num_logical_experts(); ++expert) {
    group_load[index(expert / group_size)] += static_cast<double>(load[index(expert)]);
  }
  const std::vector<int> capacity(num_nodes, groups / static_cast<int>(num_nodes));
  std::vector<std::vector<int>> experts(num_nodes);
  const auto packs = balanced_packing(group_load, capacity);
  for (std::size_t node = 0; node < num_nodes; ++node) {
    for (int group : packs[node]) {
      for (int i = 0; i < group_size; ++i) experts[node].push_back(group * group_size + i);
    }
  }
  return experts;
}

void place_node(const ClusterShape& shape, const Node& node, std::span<const int> experts,
                std::span<const std::int64_t> load, std::span<std::int32_t> slots) {
  std::vector<double> weight;
  for (int expert : experts) weight.push_back(static_cast<double>(load[index(expert)]));
  std::vector<int> count;
  const std::vector<int> replica = replicate(weight, node.num_slots, count);
  std::vector<double> piece;
  for (int local : replica) piece.push_back(weight[index(local)] / count[index(local)]);
  std::vector<int> capacity;
  for (int rank : node.ranks) capacity.push_back(shape.slots_per_rank(rank));
  const auto packs = balanced_packing(piece, capacity);
  for (std::size_t pack = 0; pack < packs.size(); ++pack) {
    int slot = shape.first_slot(node.ranks[pack]);
    for (int item : packs[pack]) slots[index(slot++)] = experts[index(replica[index(item)])];
  }
}

}  // namespace

bool eplb_is_hierarchical(const ClusterShape& shape) {
  if (shape.num_expert_groups() == 1 || shape.num_nodes() == 1) return false;
  if (shape.num_expert_groups() % shape.num_nodes() != 0) return false;
  const std::vector<Node> nodes = nodes_of(shape, true);
  return std::all_of(nodes.begin(), nodes.end(), [&](const Node& node) {
    return node.num_slots >= shape.num_logical_experts() / shape.num_nodes();
  });
}

std::vector<std::int32_t> eplb_rebalance(const ClusterShape& shape,
                                         std::span<const std::int64_t> load) {
  const std::vector<Node> nodes = nodes_of(shape, eplb_is_hierarchical(shape));
  const auto experts = experts_of_nodes(shape, load, nodes.size());
  std::vector<std::int32_t> slots(index(shape.num_slots()));
  for (std::size_t node = 0; node < nodes.size(); ++node)
    place_node(shape, nodes[node], experts[node], load, slots);
  return slots;
}

}  // namespace swiftbalancer
