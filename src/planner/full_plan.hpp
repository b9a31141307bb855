#pragma once
// The full plan of a layer: replica counts, placement and refinement from nothing, for start-up,
// lost ranks and structural change; even shares. Used by the swift policy and the tool. Pure: the
// same load gives the same bytes on every platform; budgets count packings.

#include <cstdint>
#include <span>
#include <vector>

#include <swiftbalancer/shape.hpp>

#include "planner/layer_problem.hpp"
#include "planner/packing.hpp"

namespace swiftbalancer {

struct FullPlanOptions {
  double tolerance =
      0.002;  ///< Distance from the lower bound, as a part of it, that is good enough.
  /// Packings at most, most of them of other replica counts, where it is not reached. 0: 5, or
  /// 1,600 where a layer has 32 slots or fewer, which takes 2 ms.
  int max_packings = 0;
};

class FullPlanner {
 public:
  /// Takes all memory that layers of this shape need. @param shape outlives this.
  explicit FullPlanner(const ClusterShape& shape, const FullPlanOptions& options = {});

  /// Places one layer. No rank holds an expert twice while avoidable. Never worse than eplb with
  /// same-rank duplicates repaired: that is where it starts from.
  /// @param load [num_logical_experts] tokens, >= 0. @param slots [num_slots] is written.
  /// Cost: some 5 us for 256 experts, 288 slots and 32 ranks, 16 us for 320 slots and 64 ranks.
  /// Where ties decide eplb's replica counts, or it keeps groups on nodes, the plain eplb runs too.
  void plan_layer(std::span<const std::int64_t> load, std::span<std::int32_t> slots);

  /// Packings of the last layer.
  int packings() const noexcept { return packings_; }

 private:
  void start_from_eplb();
  bool improve_start();
  void search_replicas(std::span<std::int32_t> slots);
  void transfer_replicas(float value, std::span<std::int32_t> slots);
  void try_replicas(std::span<std::int32_t> slots, Mixer* random);
  float pack_and_refine(Mixer* random);
  void swap_at_random(Mixer& random);
  float objective() const noexcept;
  void compare_with_groups_on_nodes(std::span<std::int32_t> slots);
  std::vector<std::int32_t> repaired_eplb() const;

  const ClusterShape& shape_;
  bool groups_on_nodes_;  // as eplb would keep them
  float tolerated_;       // times the bound
  bool is_small_;
  int max_packings_;
  Packing packing_;
  std::span<const std::int64_t> given_;  // loads of the layer in work
  int packings_ = 0;
  float best_ = 0.0F;                  // largest rank load found
  float target_ = 0.0F;                // that ends the search
  std::vector<std::int32_t> scratch_;  // [P] of refine()
  std::vector<std::int32_t> first_;    // [E] replica counts of the first packing
  std::vector<std::int32_t> now_;      // [E] where the search stands
  std::vector<std::int32_t> by_load_;  // [E] heaviest first
};

/// One layer, with a planner of its own. @returns [num_slots] logical experts.
std::vector<std::int32_t> plan_full(const ClusterShape& shape, std::span<const std::int64_t> load,
                                    const FullPlanOptions& options = {});

}  // namespace swiftbalancer
