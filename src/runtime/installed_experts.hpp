#pragma once
// What this rank's slots hold and how tokens are sent to all slots: placement, dispatch tables and
// the slots' memory, each at a fixed address and changed together when a unit is installed. Engine
// thread only. The one place that installs: weights and tables on a device come in here.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <swiftbalancer/balancer_config.hpp>
#include <swiftbalancer/dispatch_table.hpp>
#include <swiftbalancer/migration_plan.hpp>
#include <swiftbalancer/placement.hpp>
#include <swiftbalancer/shape.hpp>

#include "migration/copy_executor.hpp"
#include "planner/served_state.hpp"
#include "runtime/prepared_plan.hpp"

namespace swiftbalancer {

struct WeightPart;

class InstalledExperts {
 public:
  /// @param rank this rank's number in first_shape.
  InstalledExperts(const ClusterShape& first_shape, const BalancerConfig& config, int rank);

  // --- Before the first step ---
  /// @throws Error kInvalidArgument, and changes nothing: no such slot, registered before, parts of
  /// other sizes than the layer's before or without an address.
  void register_weights(int moe_layer_id, int local_slot, std::span<const WeightPart> parts);
  /// @throws Error kInvalidState: slots missing; kInvalidArgument: sizes that cannot be swapped.
  void check_all_registered() const;
  /// The slots hold what `served`, of the first shape, says.
  void hold(const Placement& served);
  /// Of each part the largest size in any layer: what a staging buffer must hold.
  std::vector<std::size_t> largest_parts() const;
  /// The slots' memory, for the worker to know.
  LocalSlots local_slots() const;

  // --- Memberships ---
  /// What is served in a membership, made beside what is served now.
  struct Served {
    int first_slot = 0;
    Placement placement;
    std::vector<std::int32_t> dispatch_tables;
    std::vector<std::int32_t> decode_tables;
    std::vector<DrawTable> draw_tables;
  };
  /// `served` is numbered over the ranks of `shape`; this one is `rank` of them.
  Served prepare(const ClusterShape& shape, int rank, const ServedState& served) const;
  /// Serves it from here on. Tables keep their addresses.
  void enter(Served&& next) noexcept;
  /// The expert whose bytes lie in a slot, or kEmptySlot. Known beside the placement, because an
  /// attempt at a membership may have loaded experts and come to nothing.
  std::int32_t content(int moe_layer_id, int local_slot) const noexcept {
    return contents_[index(moe_layer_id, local_slot)];
  }
  void set_content(int moe_layer_id, int local_slot, std::int32_t logical_id) noexcept {
    contents_[index(moe_layer_id, local_slot)] = logical_id;
  }
  /// The memory of a slot's parts, to be loaded.
  std::span<std::byte* const> parts(int moe_layer_id, int local_slot) const noexcept {
    return slot_parts_[index(moe_layer_id, local_slot)];
  }

  // --- Steps ---
  /// Weights and tables of a unit, together, in place. Allocates nothing.
  /// @returns kInternal: the unit's bytes are not staged here.
  Status install(const CommitUnit& unit, const PreparedUnit& ready) noexcept;
  DispatchView dispatch_table(int moe_layer_id, Phase phase) const noexcept;
  const DrawTable* draw_table(int moe_layer_id) const noexcept;

  const Placement& placement() const noexcept { return placement_; }
  int num_local_slots() const noexcept { return num_local_slots_; }
  std::span<const std::vector<std::size_t>> part_bytes() const noexcept { return part_bytes_; }
  /// [num_moe_layers]
  std::span<const std::size_t> expert_bytes() const noexcept { return expert_bytes_; }

 private:
  std::size_t index(int moe_layer_id, int local_slot) const noexcept {
    return static_cast<std::size_t>(moe_layer_id) * static_cast<std::size_t>(num_local_slots_) +
           static_cast<std::size_t>(local_slot);
  }
  void install_weights(int moe_layer_id, const Install& expert) noexcept;

  // Constant after construction.
  const bool swap_;
  const bool locality_first_;
  const bool draws_;
  const int first_rank_;  // of the first shape
  const int num_moe_layers_;
  const int num_local_slots_;
  const std::size_t table_row_;  // entries of a layer's table

  // Of this membership.
  int first_slot_ = 0;
  Placement placement_;
  std::vector<std::int32_t> dispatch_tables_;  // [layers][experts * kDispatchEntries]
  std::vector<std::int32_t> decode_tables_;    // likewise, of decode steps; empty: the same ones
  std::vector<DrawTable> draw_tables_;         // [layers], or none

  // The slots, through all memberships.
  std::vector<std::vector<std::byte*>> slot_parts_;   // [layers * local slots][parts]
  std::vector<std::int32_t> contents_;                // [layers * local slots]
  std::vector<std::vector<std::size_t>> part_bytes_;  // [layers][parts]
  std::vector<std::size_t> expert_bytes_;             // [layers]
};

}  // namespace swiftbalancer
