#pragma once
// From placement difference to copies and commit units. Pure; called by the balancer worker when a
// plan is ready.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include <swiftbalancer/migration_plan.hpp>
#include <swiftbalancer/shape.hpp>

namespace swiftbalancer {

/// Chooses copy sources over a whole plan so that no rank sends much more than its share: a holder
/// on the destination's own rank, else on its node, else anywhere; among those the rank that sends
/// least so far; ties: slots that the layer does not overwrite first, then the lowest slot.
class CommitUnitBuilder {
 public:
  /// @param staging_capacity buffers of the smallest pool among the ranks, >= 1.
  CommitUnitBuilder(const ClusterShape& shape, int staging_capacity);
  ~CommitUnitBuilder();
  CommitUnitBuilder(const CommitUnitBuilder&) = delete;
  CommitUnitBuilder& operator=(const CommitUnitBuilder&) = delete;

  /// Splits one layer's change into commit units. Each rank receives at most staging_capacity
  /// experts per unit; each unit leaves every expert live and reads no slot that an earlier unit of
  /// this layer overwrites. A change of shares alone gives one unit without copies; no change gives
  /// none. When moves that must be committed together do not fit into the pool, the layer stays as
  /// it is: no units, and num_layers_given_up() counts it. Deterministic. Cost: O(slots *
  /// replicas).
  std::vector<CommitUnit> add_layer(int moe_layer_id, std::span<const std::int32_t> before,
                                    std::span<const std::uint32_t> shares_before,
                                    std::span<const std::int32_t> after,
                                    std::span<const std::uint32_t> shares_after);

  /// Units of the largest plan: each layer once, every slot of it changed.
  static std::size_t max_units(const ClusterShape& shape, int staging_capacity) noexcept;

  int num_layers_given_up() const noexcept { return num_layers_given_up_; }
  /// Experts sent per rank so far, copies within a rank not counted.
  std::span<const int> sends_per_rank() const noexcept { return sends_per_rank_; }

 private:
  class SourceChoice;

  const ClusterShape& shape_;
  int staging_capacity_;
  int num_layers_given_up_ = 0;
  std::vector<int> sends_per_rank_;
  std::vector<int> changed_;  // scratch of add_layer(): the layer's slots that change
  std::unique_ptr<SourceChoice> sources_;
};

}  // namespace swiftbalancer
