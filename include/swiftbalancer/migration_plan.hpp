#pragma once
// What one rebalance does, as data: commit units in order, each with the copies that must have
// arrived before it is committed. Built by the balancer worker, the same bytes on every rank;
// immutable afterwards.

#include <cstdint>
#include <vector>

namespace swiftbalancer {

/// A generation: one attempt to rebalance, named by the packet set that opened it. step 0 names
/// none.
struct GenerationId {
  std::uint32_t membership = 0;
  std::uint64_t step = 0;
  explicit operator bool() const noexcept { return step != 0; }
  friend bool operator==(const GenerationId&, const GenerationId&) = default;
};

/// What balancing does at present. Agreed by all ranks: any of them may ask for another.
enum class BalancingMode : std::uint8_t {
  kOn,
  kPaused,    ///< No new rebalance; what is migrating is finished.
  kPlanOnly,  ///< Plans, and says what a plan would win and cost, but moves nothing.
};

/// Why a generation ended without a plan, or a unit will not be installed.
enum class Reason : std::uint8_t {
  kNone,
  kNothingToGain,
  kPlannerFailed,
  kDifferentPlans,
  kTooLate,
  kCopyFailed,
  kSuperseded,
  kBaseChanged,
  kPaused,
  kPlanOnly,
  kReconfigured,
  kPlannersReset,  ///< The planners began anew while the generation was open.
  kTooOld,         ///< No unit of the plan was committed for max_active_sets packet sets.
};

/// One expert's weights from a slot to a slot. Source and destination may be on the same rank.
struct ExpertCopy {
  std::int32_t logical_id = 0;
  std::int32_t source_slot = 0;
  std::int32_t destination_slot = 0;
  friend bool operator==(const ExpertCopy&, const ExpertCopy&) = default;
};

/// The smallest thing that is committed: a layer, or a part of a layer larger than the staging
/// pool. Leaves every expert live and reads no slot that an earlier unit of its layer overwrites.
struct CommitUnit {
  int moe_layer_id = 0;
  std::vector<ExpertCopy> copies;
  std::vector<std::int32_t> placement;  ///< [num_slots] of the layer once this unit is committed.
  std::vector<std::uint32_t> shares;    ///< [num_slots] in kShareUnit, likewise.
  /// Largest number of these copies that one rank receives and so has to install at the commit.
  /// Follows from copies.
  std::uint32_t most_installs = 0;
};

struct MigrationPlan {
  GenerationId generation;
  std::vector<CommitUnit> units;           ///< In commit order.
  std::vector<std::uint64_t> base_epochs;  ///< [num_moe_layers] epochs the plan was made on.
  std::uint64_t hash = 0;                  ///< Over everything above; never 0.
  int moves = 0;
  double imbalance_before = 1.0;  ///< Predicted, mean over layers.
  double imbalance_after = 1.0;
};

}  // namespace swiftbalancer
