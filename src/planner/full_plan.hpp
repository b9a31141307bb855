#pragma once
// The full plan of a layer: replica counts, placement and refinement from nothing, for start-up,
// lost ranks and structural change; even shares. Used by the swift policy and the tool. Pure: the
// same load gives the same bytes on every platform; budgets count packings.

#include <cstdint>
#include <span>
#include <vector>

#include <swiftbalancer/shape.hpp>

#include "planner/packing.hpp"

namespace swiftbalancer {

struct FullPlanOptions {
  double tolerance =
      0.002;  ///< Distance from the lower bound, as a part of it, that is good enough.
  /// Packings of other replica counts that are tried where it is not reached; 320 times as many
  /// where a layer has 32 slots or fewer.
  int max_packings = 5;
  /// Plans by eplb too where the tolerance is reached, and takes the better: some 35 us a layer.
  bool never_worse_than_eplb = false;
};

class FullPlanner {
 public:
  /// Takes all memory that layers of this shape need. @param shape outlives this.
  explicit FullPlanner(const ClusterShape& shape, const FullPlanOptions& options = {});

  /// Places one layer. No rank holds an expert twice while avoidable. Where the result is not
  /// within the tolerance of the bound, it is no worse than eplb's with same-rank duplicates
  /// repaired.
  /// @param load [num_logical_experts] tokens, >= 0. @param slots [num_slots] is written.
  /// Cost: some 7 us for 256 experts, 288 slots and 32 ranks.
  void plan_layer(std::span<const std::int64_t> load, std::span<std::int32_t> slots);

  /// Packings of the last layer.
  int packings() const noexcept { return packings_; }

 private:
  float pack_and_refine(float tolerance, int max_steps, bool change_replicas);
  void search_replicas(std::span<std::int32_t> slots);
  void try_replicas(std::span<std::int32_t> slots);
  float objective() const noexcept;
  void compare_with_eplb(std::span<const std::int64_t> load, std::span<std::int32_t> slots) const;

  const ClusterShape& shape_;
  FullPlanOptions options_;
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

/// One layer, with a planner of its own; never worse than repaired eplb. @returns [num_slots]
/// logical experts.
std::vector<std::int32_t> plan_full(const ClusterShape& shape, std::span<const std::int64_t> load,
                                    const FullPlanOptions& options = {});

}  // namespace swiftbalancer
