#pragma once
// From placement difference to copies and commit units. Pure; called by the balancer worker when a
// plan is ready.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include <swiftbalancer/migration_plan.hpp>
#include <swiftbalancer/shape.hpp>

#include "migration/unit_split.hpp"

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

  /// Begins to split one layer's change into commit units, in pieces: all those of advance(), then
  /// all those of next_unit(). Each rank receives at most staging_capacity experts per unit; each
  /// unit leaves every expert live and reads no slot that an earlier unit of this layer overwrites.
  /// A change of shares alone gives one unit without copies; no change gives none. When moves that
  /// must be committed together do not fit into the pool, the layer stays as it is: no units, and
  /// num_layers_given_up() counts it. Deterministic. Cost: O(slots * replicas).
  /// @param before and the other rows outlive the layer's last unit.
  void begin_layer(int moe_layer_id, std::span<const std::int32_t> before,
                   std::span<const std::uint32_t> shares_before,
                   std::span<const std::int32_t> after,
                   std::span<const std::uint32_t> shares_after);
  /// Chooses the copies of one unit. Cost: O(slots). @returns true when nothing is left to choose.
  bool advance();
  /// Cost: O(slots). @returns nothing after the last one.
  std::optional<CommitUnit> next_unit();
  /// Whether that was the last one.
  bool layer_is_done() const noexcept { return split_ == nullptr && num_given_ == parts_.size(); }

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
  std::unique_ptr<SourceChoice> sources_;

  // The layer under way.
  int moe_layer_id_ = 0;
  std::vector<int> changed_;               // its slots that change
  std::vector<std::int32_t> row_;          // as of the last unit
  std::span<const std::uint32_t> shares_;  // as of the last unit of all
  std::unique_ptr<UnitSplit> split_;       // while advance() has something to choose
  std::vector<std::vector<ExpertCopy>> parts_;
  std::vector<std::uint32_t> installs_;  // [num_ranks] of the unit under way
  std::size_t num_given_ = 0;            // parts that have become units
};

}  // namespace swiftbalancer
