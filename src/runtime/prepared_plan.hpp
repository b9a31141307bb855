#pragma once
// A plan with everything the engine thread will need to install it, computed on the worker: commit
// units with their copies, this rank's dispatch tables, and, once staged, the memory that each unit
// brought. Made by the worker, read by the engine thread, deleted by the worker when the engine has
// released it.

#include <cstddef>
#include <cstdint>
#include <vector>

#include <swiftbalancer/dispatch_table.hpp>
#include <swiftbalancer/migration_plan.hpp>
#include <swiftbalancer/shape.hpp>

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

/// Turns the planner's plan into commit units, tables and hash. Deterministic but for the tables,
/// which are this rank's own.
/// @param served what was served when the generation was opened. @param epochs [num_moe_layers]
/// likewise. @param decode_tables whether decode steps have tables that put each expert on one
/// slot. @param locality_first as in BalancerConfig.
PreparedPlan prepare_plan(const GenerationId& generation, const Plan& plan,
                          const ServedState& served, const std::vector<std::uint64_t>& epochs,
                          const ClusterShape& shape, int rank, int staging_capacity,
                          bool decode_tables = false, bool locality_first = false);

}  // namespace swiftbalancer
