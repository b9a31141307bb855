// Agreement: the active plan, from the set after its adoption to its end.

#include <algorithm>
#include <string>

#include "protocol/agreement.hpp"

namespace swiftbalancer {

// ---- What a set does with it ----

void Agreement::advance_active(Packets packets) {
  apply_aborts(packets);
  apply_commits(packets);
  end_if_too_old(packets);
}

// Rule 7: an abort names generation and unit, and is repeated until a set has dropped it
// everywhere.
void Agreement::apply_aborts(Packets packets) {
  for (const PacketHeader& packet : packets) {
    if (!rules_.heeds_abort(packet.rank, config_.rank)) continue;
    if (packet.active_step != active_->generation.step || packet.abort_unit == kNoUnit) continue;
    if (packet.abort_unit < unit_states_.size())
      drop_from(packet.abort_unit, Reason::kCopyFailed, static_cast<int>(packet.rank));
  }
}

// Rule 6: a cursor of another generation counts as 0.
std::uint32_t Agreement::cursor_of(const PacketHeader& packet) const {
  return rules_.names_active(packet.active_step, active_->generation.step) ? packet.staged_cursor
                                                                           : 0;
}

std::uint32_t Agreement::agreed_cursor(Packets packets) const {
  const auto units = static_cast<std::uint32_t>(unit_states_.size());
  std::uint32_t smallest = units, largest = 0;
  for (const PacketHeader& packet : packets) {
    const std::uint32_t cursor = cursor_of(packet);
    smallest = std::min(smallest, cursor);
    largest = std::max(largest, cursor);
  }
  return rules_.commit_up_to(smallest, std::min(largest, units), staged_);
}

void Agreement::apply_commits(Packets packets) {
  const std::uint32_t cursor = agreed_cursor(packets);
  const std::uint64_t limit = config_.max_installs_per_set;
  std::uint64_t installs = 0;
  bool any = false;
  for (std::uint32_t unit = first_pending_; unit < cursor; ++unit) {
    if (unit_states_[unit] != UnitState::kPending) continue;
    installs += active_->units[unit].most_installs;
    if (any && rules_.is_enough(installs, limit)) break;
    commit_unit(unit);
    any = true;
  }
  idle_sets_ = any ? 0 : idle_sets_ + 1;
  retire_if_finished();
}

void Agreement::commit_unit(std::uint32_t unit) {
  unit_states_[unit] = UnitState::kCommitted;
  ++epochs_[static_cast<std::size_t>(active_->units[unit].moe_layer_id)];
  decide({BalancerEventKind::kCommitted, Reason::kNone, active_->generation, unit, active_});
}

// Rule 18.
void Agreement::end_if_too_old(Packets packets) {
  if (active_ == nullptr || !rules_.too_old(idle_sets_, config_.max_active_sets)) return;
  const auto furthest_behind = std::ranges::min_element(
      packets, {}, [this](const PacketHeader& packet) { return cursor_of(packet); });
  drop_pending(Reason::kTooOld, static_cast<int>(furthest_behind - packets.begin()));
  retire_if_finished();
}

void Agreement::drop(std::uint32_t unit, Reason reason, int rank) {
  unit_states_[unit] = UnitState::kDropped;
  if (failed_unit_ == unit) failed_unit_ = kNoUnit;
  decide({BalancerEventKind::kDropped, reason, active_->generation, unit, active_, rank});
}

// A unit's rows build on the earlier units of its layer: when one falls, the later ones fall too.
void Agreement::drop_from(std::uint32_t unit, Reason reason, int rank) {
  if (unit_states_[unit] != UnitState::kPending) return;
  const int layer = active_->units[unit].moe_layer_id;
  for (std::uint32_t later = unit; later < unit_states_.size(); ++later) {
    if (active_->units[later].moe_layer_id != layer || unit_states_[later] != UnitState::kPending)
      continue;
    drop(later, reason, rank);
    if (!rules_.later_units_fall()) return;
  }
}

void Agreement::drop_pending(Reason reason, int rank) {
  for (std::uint32_t unit = first_pending_; unit < unit_states_.size(); ++unit) {
    if (unit_states_[unit] == UnitState::kPending) drop(unit, reason, rank);
  }
}

void Agreement::retire_if_finished() {
  if (active_ == nullptr) return;
  while (first_pending_ < unit_states_.size() && !unit_pending(first_pending_)) ++first_pending_;
  if (first_pending_ < unit_states_.size()) return;
  decide({BalancerEventKind::kRetired, Reason::kNone, active_->generation, 0, active_});
  active_ = nullptr;
  unit_states_.clear();
  staged_ = promised_ = 0;
  failed_unit_ = kNoUnit;
  last_change_step_ = used_step_;
}

// ---- Membership ----

Status Agreement::roll_forward(std::span<const std::uint64_t> target_epochs,
                               std::vector<BalancerEvent>& decisions) {
  decisions.clear();
  decisions_ = &decisions;
  if (active_ != nullptr) {
    for (std::uint32_t unit = first_pending_; unit < unit_states_.size(); ++unit) {
      const auto layer = static_cast<std::size_t>(active_->units[unit].moe_layer_id);
      const bool promised = unit < promised_ && rules_.rolls_forward();
      const bool behind = epochs_[layer] < target_epochs[layer];
      if (unit_states_[unit] == UnitState::kPending && promised && behind) commit_unit(unit);
    }
    drop_pending(Reason::kReconfigured, -1);
    retire_if_finished();
  }
  if (open_) close_open(Reason::kReconfigured, -1);
  decisions_ = nullptr;
  if (std::ranges::equal(epochs_, target_epochs) || !rules_.rolls_forward()) return {};
  diverged_ = true;
  return {ErrorCode::kInternal,
          "rank " + std::to_string(config_.rank) +
              " lacks a layer that other ranks have committed; it must be started anew"};
}

}  // namespace swiftbalancer
