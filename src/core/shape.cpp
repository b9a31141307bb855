#include <swiftbalancer/shape.hpp>

#include <algorithm>
#include <numeric>
#include <string>

#include <swiftbalancer/error.hpp>

namespace swiftbalancer {
namespace {

void require(bool condition, const std::string& message) {
  if (!condition) throw Error(ErrorCode::kInvalidArgument, message);
}

void require_positive(int value, const char* name) {
  require(value > 0,
          std::string(name) + " is " + std::to_string(value) + "; it must be at least 1");
}

std::vector<int> spread_evenly(int total, int parts) {
  std::vector<int> result(static_cast<std::size_t>(parts), total / parts);
  for (int i = 0; i < total % parts; ++i) ++result[static_cast<std::size_t>(i)];
  return result;
}

// @returns how many there are.
int dense_nodes(const std::vector<int>& node_of_rank) {
  std::vector<int> nodes = node_of_rank;
  std::ranges::sort(nodes);
  int next = 0;
  for (int node : nodes) {
    require(node >= 0, "node_of_rank holds " + std::to_string(node) + "; nodes count from 0");
    require(node <= next, "node_of_rank names node " + std::to_string(node) +
                              ", but no rank is on node " + std::to_string(next) +
                              "; nodes count from 0 without gaps");
    next = node + 1;
  }
  return next;
}

}  // namespace

ClusterShape::ClusterShape(const ShapeOptions& options)
    : num_moe_layers_(options.num_moe_layers),
      num_logical_experts_(options.num_logical_experts),
      num_expert_groups_(options.num_expert_groups) {
  require_positive(options.num_moe_layers, "num_moe_layers");
  require_positive(options.num_logical_experts, "num_logical_experts");
  require_positive(options.num_ranks, "num_ranks");
  require_positive(options.num_expert_groups, "num_expert_groups");
  const auto ranks = static_cast<std::size_t>(options.num_ranks);

  std::vector<int> per_rank = options.slots_per_rank;
  if (per_rank.empty()) {
    require_positive(options.num_slots, "num_slots");
    require(options.num_slots >= options.num_ranks,
            "num_ranks is " + std::to_string(options.num_ranks) + ", more than the " +
                std::to_string(options.num_slots) +
                " slots; every rank needs at least one slot: use fewer ranks or more redundant "
                "experts");
    per_rank = spread_evenly(options.num_slots, options.num_ranks);
  }
  require(per_rank.size() == ranks, "slots_per_rank has " + std::to_string(per_rank.size()) +
                                        " entries for " + std::to_string(ranks) +
                                        " ranks; give one per rank");
  for (int slots : per_rank) require_positive(slots, "slots_per_rank entry");

  first_slot_.resize(ranks + 1, 0);
  std::partial_sum(per_rank.begin(), per_rank.end(), first_slot_.begin() + 1);
  max_slots_per_rank_ = *std::max_element(per_rank.begin(), per_rank.end());
  require(num_slots() >= num_logical_experts_,
          "num_slots is " + std::to_string(num_slots()) + ", fewer than the " +
              std::to_string(num_logical_experts_) + " logical experts; every expert needs a slot");
  require(num_logical_experts_ % num_expert_groups_ == 0,
          "num_expert_groups is " + std::to_string(num_expert_groups_) +
              "; it must divide num_logical_experts = " + std::to_string(num_logical_experts_));
  for (int rank = 0; rank < options.num_ranks; ++rank) {
    rank_of_slot_.insert(rank_of_slot_.end(), static_cast<std::size_t>(slots_per_rank(rank)), rank);
  }

  node_of_rank_ = options.node_of_rank;
  if (node_of_rank_.empty()) {
    require_positive(options.num_nodes, "num_nodes");
    require(options.num_nodes <= options.num_ranks,
            "num_nodes is " + std::to_string(options.num_nodes) + ", more than the " +
                std::to_string(options.num_ranks) + " ranks");
    const std::vector<int> per_node = spread_evenly(options.num_ranks, options.num_nodes);
    for (int node = 0; node < options.num_nodes; ++node) {
      node_of_rank_.insert(node_of_rank_.end(),
                           static_cast<std::size_t>(per_node[static_cast<std::size_t>(node)]),
                           node);
    }
  }
  require(node_of_rank_.size() == ranks,
          "node_of_rank has " + std::to_string(node_of_rank_.size()) + " entries for " +
              std::to_string(ranks) + " ranks; give one per rank");
  num_nodes_ = dense_nodes(node_of_rank_);
}

}  // namespace swiftbalancer
