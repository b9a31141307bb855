#include "runtime/installed_experts.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>

#include <swiftbalancer/balancer.hpp>

#include "planner/metro.hpp"
#include "runtime/runtime_rules.hpp"

namespace swiftbalancer {
namespace {

std::string slot_name(int layer, int local_slot) {
  return "layer " + std::to_string(layer) + " slot " + std::to_string(local_slot);
}

}  // namespace

InstalledExperts::InstalledExperts(const ClusterShape& first_shape, const BalancerConfig& config,
                                   int rank)
    : swap_(config.install_mode == InstallMode::kSwap),
      locality_first_(config.locality_first),
      draws_(config.table_kind == TableKind::kDraw),
      first_rank_(rank),
      num_moe_layers_(first_shape.num_moe_layers()),
      num_local_slots_(first_shape.slots_per_rank(rank)),
      table_row_(static_cast<std::size_t>(first_shape.num_logical_experts()) * kDispatchEntries),
      first_slot_(first_shape.first_slot(rank)),
      dispatch_tables_(static_cast<std::size_t>(num_moe_layers_) * table_row_),
      slot_parts_(static_cast<std::size_t>(num_moe_layers_ * num_local_slots_)),
      contents_(slot_parts_.size(), kEmptySlot),
      part_bytes_(static_cast<std::size_t>(num_moe_layers_)),
      expert_bytes_(static_cast<std::size_t>(num_moe_layers_), 0) {
  if (config.decode_dispatch == DispatchObjective::kActivatedExperts)
    decode_tables_.resize(dispatch_tables_.size());
}

// ---- Before the first step ----

void InstalledExperts::register_weights(int layer, int local_slot,
                                        std::span<const WeightPart> parts) {
  if (layer < 0 || layer >= num_moe_layers_ || local_slot < 0 || local_slot >= num_local_slots_) {
    throw Error(ErrorCode::kInvalidArgument,
                slot_name(layer, local_slot) + " does not exist on rank " +
                    std::to_string(first_rank_) + ": it has " + std::to_string(num_moe_layers_) +
                    " layers of " + std::to_string(num_local_slots_) + " slots");
  }
  std::vector<std::size_t> sizes;
  auto& pointers = slot_parts_[index(layer, local_slot)];
  pointers.clear();
  for (const WeightPart& part : parts) {
    sizes.push_back(part.bytes);
    pointers.push_back(part.data);
  }
  auto& expected = part_bytes_[static_cast<std::size_t>(layer)];
  if (expected.empty()) expected = sizes;
  if (sizes.empty() || sizes != expected) {
    throw Error(ErrorCode::kInvalidArgument, slot_name(layer, local_slot) +
                                                 " has parts of other sizes than the slots of its "
                                                 "layer before; within a layer all are equal");
  }
  expert_bytes_[static_cast<std::size_t>(layer)] =
      std::accumulate(sizes.begin(), sizes.end(), std::size_t{0});
}

void InstalledExperts::check_all_registered() const {
  for (int layer = 0; layer < num_moe_layers_; ++layer) {
    for (int slot = 0; slot < num_local_slots_; ++slot) {
      if (slot_parts_[index(layer, slot)].empty()) {
        throw Error(ErrorCode::kInvalidState,
                    slot_name(layer, slot) + " of rank " + std::to_string(first_rank_) +
                        " has no weights; call register_weights for every layer and slot first");
      }
    }
    if (swap_ && part_bytes_[static_cast<std::size_t>(layer)] != part_bytes_[0]) {
      throw Error(ErrorCode::kInvalidArgument,
                  "experts of layer " + std::to_string(layer) +
                      " have parts of other sizes than those of layer 0; install mode swap needs "
                      "them equal: use install mode copy");
    }
  }
}

void InstalledExperts::hold(const Placement& served) {
  for (int layer = 0; layer < num_moe_layers_; ++layer) {
    std::ranges::copy_n(served.layer(layer).begin() + first_slot_, num_local_slots_,
                        contents_.begin() + static_cast<std::ptrdiff_t>(index(layer, 0)));
  }
}

std::span<const std::size_t> InstalledExperts::largest_parts() const noexcept {
  const auto largest = std::ranges::max_element(expert_bytes_) - expert_bytes_.begin();
  return part_bytes_[static_cast<std::size_t>(largest)];
}

LocalSlots InstalledExperts::local_slots() const {
  LocalSlots slots;
  slots.part_bytes = part_bytes_;
  slots.parts.resize(static_cast<std::size_t>(num_moe_layers_));
  for (int layer = 0; layer < num_moe_layers_; ++layer) {
    for (int slot = 0; slot < num_local_slots_; ++slot)
      slots.parts[static_cast<std::size_t>(layer)].push_back(slot_parts_[index(layer, slot)]);
  }
  return slots;
}

// ---- Memberships ----

void InstalledExperts::enter(const ClusterShape& shape, int rank, const ServedState& served) {
  first_slot_ = shape.first_slot(rank);
  placement_ = served.placement;
  DispatchTableBuilder tables(shape, locality_first_);
  draw_tables_.clear();
  for (int layer = 0; layer < num_moe_layers_; ++layer) {
    const auto at = static_cast<std::size_t>(layer);
    const auto row = placement_.layer(layer);
    tables.build(row, served.shares[at], rank,
                 std::span(dispatch_tables_).subspan(at * table_row_, table_row_));
    if (draws_) draw_tables_.emplace_back(shape).build(row, served.shares[at]);
    if (decode_tables_.empty()) continue;
    tables.build(row, one_slot_shares(shape, row), rank,
                 std::span(decode_tables_).subspan(at * table_row_, table_row_));
  }
}

// ---- Steps ----

Status InstalledExperts::install(const CommitUnit& unit, const PreparedUnit& ready) noexcept {
  const int layer = unit.moe_layer_id;
  for (const Install& expert : ready.installs) {
    if (expert.parts.size() != slot_parts_[index(layer, expert.local_slot)].size())
      return {ErrorCode::kInternal, "not staged here"};
  }
  for (const Install& expert : ready.installs) install_weights(layer, expert);
  std::ranges::copy(unit.placement, placement_.layer(layer).begin());
  std::ranges::copy_n(unit.placement.begin() + first_slot_, num_local_slots_,
                      contents_.begin() + static_cast<std::ptrdiff_t>(index(layer, 0)));
  if (!rules::refresh_tables()) return {};
  const std::size_t at = static_cast<std::size_t>(layer) * table_row_;
  ready.dispatch_rows.copy_to(std::span(dispatch_tables_).subspan(at, table_row_));
  if (!decode_tables_.empty())
    ready.decode_rows.copy_to(std::span(decode_tables_).subspan(at, table_row_));
  if (!draw_tables_.empty())
    draw_tables_[static_cast<std::size_t>(layer)].build(unit.placement, unit.shares);
  return {};
}

void InstalledExperts::install_weights(int layer, const Install& expert) noexcept {
  auto& parts = slot_parts_[index(layer, expert.local_slot)];
  const auto& sizes = part_bytes_[static_cast<std::size_t>(layer)];
  for (std::size_t part = 0; part < parts.size(); ++part) {
    if (swap_) {
      parts[part] = expert.parts[part];
    } else {
      std::memcpy(parts[part], expert.parts[part], sizes[part]);
    }
  }
}

DispatchView InstalledExperts::dispatch_table(int layer, Phase phase) const noexcept {
  const auto& tables =
      phase == Phase::kDecode && !decode_tables_.empty() ? decode_tables_ : dispatch_tables_;
  return DispatchView(tables.data() + static_cast<std::size_t>(layer) * table_row_);
}

const DrawTable* InstalledExperts::draw_table(int layer) const noexcept {
  return draw_tables_.empty() ? nullptr : &draw_tables_[static_cast<std::size_t>(layer)];
}

}  // namespace swiftbalancer
