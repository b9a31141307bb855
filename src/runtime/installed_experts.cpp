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
  auto& registered = slot_parts_[index(layer, local_slot)];
  if (!registered.empty()) {
    throw Error(ErrorCode::kInvalidArgument,
                slot_name(layer, local_slot) + " is registered twice; once is enough");
  }
  std::vector<std::size_t> sizes;
  std::vector<std::byte*> pointers;
  for (const WeightPart& part : parts) {
    if (part.data == nullptr && part.bytes > 0) {
      throw Error(ErrorCode::kInvalidArgument,
                  slot_name(layer, local_slot) + ": part " + std::to_string(pointers.size()) +
                      " of " + std::to_string(part.bytes) + " bytes is at no address");
    }
    sizes.push_back(part.bytes);
    pointers.push_back(part.data);
  }
  auto& expected = part_bytes_[static_cast<std::size_t>(layer)];
  if (sizes.empty() || (!expected.empty() && sizes != expected)) {
    throw Error(ErrorCode::kInvalidArgument, slot_name(layer, local_slot) +
                                                 " has parts of other sizes than the slots of its "
                                                 "layer before; within a layer all are equal");
  }
  expected = sizes;
  registered = std::move(pointers);
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

std::vector<std::size_t> InstalledExperts::largest_parts() const {
  std::vector<std::size_t> largest;
  for (const std::vector<std::size_t>& layer : part_bytes_) {
    largest.resize(std::max(largest.size(), layer.size()), 0);
    for (std::size_t part = 0; part < layer.size(); ++part)
      largest[part] = std::max(largest[part], layer[part]);
  }
  return largest;
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

InstalledExperts::Served InstalledExperts::prepare(const ClusterShape& shape, int rank,
                                                   const ServedState& served) const {
  Served next{shape.first_slot(rank),
              served.placement,
              std::vector<std::int32_t>(dispatch_tables_.size()),
              std::vector<std::int32_t>(decode_tables_.size()),
              {}};
  DispatchTableBuilder tables(shape, locality_first_);
  for (int layer = 0; layer < num_moe_layers_; ++layer) {
    const auto at = static_cast<std::size_t>(layer);
    const auto row = next.placement.layer(layer);
    tables.build(row, served.shares[at], rank,
                 std::span(next.dispatch_tables).subspan(at * table_row_, table_row_));
    if (draws_) next.draw_tables.emplace_back(shape).build(row, served.shares[at]);
    if (decode_tables_.empty()) continue;
    tables.build(row, one_slot_shares(shape, row), rank,
                 std::span(next.decode_tables).subspan(at * table_row_, table_row_));
  }
  return next;
}

void InstalledExperts::enter(Served&& next) noexcept {
  first_slot_ = next.first_slot;
  placement_ = std::move(next.placement);
  std::ranges::copy(next.dispatch_tables, dispatch_tables_.begin());
  std::ranges::copy(next.decode_tables, decode_tables_.begin());
  draw_tables_ = std::move(next.draw_tables);
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
