#pragma once
// The shape of a balanced model on its ranks: how many MoE layers, experts, ranks and slots, and
// which rank owns which slot. Built once at start and shared by everything; immutable, thread-safe.

#include <cstdint>
#include <vector>

namespace swiftbalancer {

struct ShapeOptions {
  int num_moe_layers = 0;
  int num_logical_experts = 0;
  int num_ranks = 0;
  int num_slots =
      0;  ///< Per layer, over all ranks; spread evenly, the first ranks take the remainder.
  int num_nodes = 1;                  ///< Ranks are spread over nodes in contiguous blocks.
  int num_expert_groups = 1;          ///< Group-limited routing (DeepSeek); 1 = none.
  std::vector<int> slots_per_rank{};  ///< [num_ranks]; overrides num_slots when not empty.
  std::vector<int> node_of_rank{};    ///< [num_ranks], every node from 0 on has a rank;
                                      ///< overrides num_nodes when not empty.
};

class ClusterShape {
 public:
  /// @throws Error kInvalidArgument: a count that is not positive, fewer slots than experts, more
  /// ranks than slots,
  ///         lists of the wrong length, a node without ranks, experts not divisible by groups.
  explicit ClusterShape(const ShapeOptions& options);

  int num_moe_layers() const noexcept { return num_moe_layers_; }
  int num_logical_experts() const noexcept { return num_logical_experts_; }
  int num_ranks() const noexcept { return static_cast<int>(first_slot_.size()) - 1; }
  int num_slots() const noexcept { return first_slot_.back(); }
  int num_redundant_experts() const noexcept { return num_slots() - num_logical_experts_; }
  int num_nodes() const noexcept { return num_nodes_; }
  int num_expert_groups() const noexcept { return num_expert_groups_; }
  int slots_per_rank(int rank) const noexcept { return first_slot(rank + 1) - first_slot(rank); }
  int max_slots_per_rank() const noexcept { return max_slots_per_rank_; }
  /// Slots of a rank are [first_slot(rank), first_slot(rank + 1)).
  int first_slot(int rank) const noexcept { return first_slot_[static_cast<std::size_t>(rank)]; }
  int rank_of_slot(int slot) const noexcept {
    return rank_of_slot_[static_cast<std::size_t>(slot)];
  }
  int node_of_rank(int rank) const noexcept {
    return node_of_rank_[static_cast<std::size_t>(rank)];
  }
  int group_of_expert(int logical_id) const noexcept {
    return logical_id / (num_logical_experts_ / num_expert_groups_);
  }

 private:
  int num_moe_layers_;
  int num_logical_experts_;
  int num_expert_groups_;
  int num_nodes_ = 0;
  int max_slots_per_rank_ = 0;
  std::vector<int> first_slot_;    // [num_ranks + 1]
  std::vector<int> rank_of_slot_;  // [num_slots]
  std::vector<int> node_of_rank_;  // [num_ranks]
};

}  // namespace swiftbalancer
