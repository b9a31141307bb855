#pragma once
// A plan with everything the engine thread will need to install it, computed on the worker piece by
// piece, so that packets wait for one piece at most: commit units with their copies, this rank's
// dispatch tables, and, once staged, the memory that each unit brought. Made by the worker, read by
// the engine thread, deleted by the worker when the engine has released it.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <swiftbalancer/dispatch_table.hpp>
#include <swiftbalancer/migration_plan.hpp>
#include <swiftbalancer/shape.hpp>

#include "migration/commit_units.hpp"
#include "planner/planner.hpp"

namespace swiftbalancer {

/// One received expert to put into a local slot. Written by the worker before it reports the unit
/// staged.
struct Install {
  int local_slot = 0;
  std::vector<std::byte*> parts;
};

struct PreparedUnit {
  /// For this source rank, against what its layer serves once all earlier units are committed. (If
  /// one of them is dropped, so is this.)
  DispatchRows dispatch_rows;
  DispatchRows decode_rows;  ///< Likewise, of decode steps' own tables; empty where there are none.
  std::vector<Install> installs;  ///< Sized when the plan is made, filled when staged.
  int moves = 0;                  ///< Experts that some rank gains, over all ranks.
};

struct PreparedPlan {
  MigrationPlan migration;
  std::vector<PreparedUnit> units;
  int layers_given_up =
      0;  ///< Whose moves do not fit into the staging pool: they stay as they are.
};

struct PreparationOptions {
  int rank = 0;
  int staging_capacity = 1;     ///< As of CommitUnitBuilder.
  bool decode_tables = false;   ///< Decode steps have tables that put each expert on one slot.
  bool locality_first = false;  ///< As in BalancerConfig.
};

/// Turns the planner's plan into commit units, tables and hash, at most one unit a piece.
/// Deterministic but for the tables, which are this rank's own. Owns copies of all it reads but the
/// shape.
class PlanPreparation {
 public:
  /// @param served what was served when the generation was opened. @param epochs [num_moe_layers]
  /// likewise.
  PlanPreparation(const GenerationId& generation, Plan plan, ServedState served,
                  std::vector<std::uint64_t> epochs, const ClusterShape& shape,
                  const PreparationOptions& options);

  /// A bounded piece: a layer's sources, the copies of one unit, or its tables. Cost: O(slots *
  /// replicas). @returns true when there is nothing left to do.
  bool advance();
  /// After advance() returned true.
  PreparedPlan take();

 private:
  // What the layer under way serves when its next unit is committed.
  struct Served {
    std::span<const std::int32_t> placement;
    std::span<const std::uint32_t> shares;
    std::vector<std::uint32_t> decode_shares{};  // empty without tables of their own
  };

  void begin_layer(const LayerChange& change);
  void add_unit(CommitUnit unit);
  void hash(const CommitUnit& unit);

  // Constant after construction.
  const Plan plan_;
  const ServedState served_;
  const ClusterShape& shape_;
  const PreparationOptions options_;

  CommitUnitBuilder builder_;
  DispatchTableBuilder tables_;
  std::size_t num_changes_done_ = 0;  // layers of the plan
  bool is_splitting_ = false;         // the copies of the layer under way are not yet all chosen
  bool is_in_layer_ = false;
  Served now_;
  std::uint64_t digest_;
  PreparedPlan prepared_;
};

/// All of it at once.
PreparedPlan prepare_plan(const GenerationId& generation, const Plan& plan,
                          const ServedState& served, const std::vector<std::uint64_t>& epochs,
                          const ClusterShape& shape, const PreparationOptions& options);

}  // namespace swiftbalancer
