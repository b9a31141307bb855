#include "protocol/agreement.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "core/test_fault.hpp"

namespace swiftbalancer {

// Rule 14: what came before the membership is void; steps and private counters go on from where all
// ranks agreed that they are.
Agreement::Agreement(const AgreementConfig& config, AgreedState begin)
    : config_(config),
      begin_(std::move(begin)),
      epochs_(begin_.epochs),
      used_step_(begin_.step),
      last_open_step_(begin_.last_open_step),
      last_change_step_(begin_.step),
      mode_(begin_.mode),
      asked_mode_(begin_.mode) {
  epochs_.resize(static_cast<std::size_t>(config.num_moe_layers), 0);
  open_base_epochs_ = epochs_;
  digest_ = mix(mix(begin_.membership, begin_.step), begin_.last_open_step);
  for (std::uint64_t epoch : epochs_) digest_ = mix(digest_, epoch);
  // Room for the plans of every shape in use, so that adopting one does not allocate on the engine
  // thread.
  unit_states_.reserve(epochs_.size() * 4);
}

std::optional<std::uint64_t> Agreement::set_due(std::uint64_t step) const noexcept {
  if (step <= config_.packet_lag) return std::nullopt;
  const std::uint64_t posted = step - config_.packet_lag;
  if (posted <= begin_.step && !faulty(Fault::kOldPackets)) return std::nullopt;  // rule 14
  return packet_due(posted) ? std::optional(posted) : std::nullopt;
}

Status Agreement::check_set(std::uint64_t step, std::span<const PacketHeader> packets) {
  if (diverged_) return {ErrorCode::kInternal, "the ranks have disagreed before; balancing is off"};
  if (step <= used_step_ || packets.size() != static_cast<std::size_t>(config_.num_ranks)) {
    return {ErrorCode::kInternal,
            "packet set of step " + std::to_string(step) + " used out of order or incomplete"};
  }
  for (const PacketHeader& packet : packets) {
    if (packet.digest != packets[0].digest) {
      diverged_ = true;
      return {ErrorCode::kInternal, "ranks 0 and " + std::to_string(packet.rank) +
                                        " disagree at step " + std::to_string(step) + ": digests " +
                                        std::to_string(packets[0].digest) + " and " +
                                        std::to_string(packet.digest)};
    }
  }
  return {};
}

Status Agreement::use_set(std::uint64_t step, std::span<const PacketHeader> packets,
                          std::vector<Decision>& decisions) {
  decisions.clear();
  if (Status status = check_set(step, packets); !status.ok()) return status;
  decisions_ = &decisions;
  used_step_ = step;
  // The order is rule 1's.
  apply_aborts(packets);
  apply_commits(packets);
  adopt_or_close(step, packets);
  mode_ = static_cast<BalancingMode>(packets[0].mode);
  std::uint32_t planner_flags = 0;
  for (const PacketHeader& packet : planners(packets)) planner_flags |= packet.flags;
  heed_planners(step, planner_flags);
  maybe_open(step, planner_flags);
  decisions_ = nullptr;
  return {};
}

void Agreement::decide(const Decision& decision) {
  decisions_->push_back(decision);
  // The digest is the history of decisions; equal histories give equal states.
  digest_ = mix(digest_, static_cast<std::uint64_t>(decision.kind) << 8 |
                             static_cast<std::uint64_t>(decision.reason));
  digest_ = mix(digest_, decision.generation.step ^
                             static_cast<std::uint64_t>(decision.generation.membership) << 48);
  digest_ = mix(digest_, decision.unit);
  if (decision.kind == DecisionKind::kAdopt) digest_ = mix(digest_, decision.plan->hash);
}

// Rule 7: an abort names generation and unit, and is repeated until a set has dropped it
// everywhere.
void Agreement::apply_aborts(std::span<const PacketHeader> packets) {
  if (active_ == nullptr) return;
  for (const PacketHeader& packet : packets) {
    if (faulty(Fault::kAbortOwnOnly) && static_cast<int>(packet.rank) != config_.rank) continue;
    if (packet.active_step != active_->generation.step || packet.abort_unit == kNoUnit) continue;
    if (packet.abort_unit < unit_states_.size()) drop_unit(packet.abort_unit, Reason::kCopyFailed);
  }
}

// Rule 6: units are committed up to the smallest cursor of the set; a cursor of another generation
// counts as 0.
std::uint32_t Agreement::agreed_cursor(std::span<const PacketHeader> packets) const {
  if (faulty(Fault::kOwnStaged)) return staged_;
  const auto units = static_cast<std::uint32_t>(unit_states_.size());
  std::uint32_t smallest = units, largest = 0;
  for (const PacketHeader& packet : packets) {
    const bool tagged =
        packet.active_step == active_->generation.step || faulty(Fault::kStagedUntagged);
    const std::uint32_t cursor = tagged ? packet.staged_cursor : 0;
    smallest = std::min(smallest, cursor);
    largest = std::max(largest, cursor);
  }
  return faulty(Fault::kMaxStaged) ? std::min(largest, units) : smallest;
}

void Agreement::apply_commits(std::span<const PacketHeader> packets) {
  if (active_ == nullptr) return;
  const std::uint32_t cursor = agreed_cursor(packets);
  for (std::uint32_t unit = 0; unit < cursor; ++unit) {
    if (unit_states_[unit] == UnitState::kPending) commit_unit(unit);
  }
  retire_if_finished();
}

void Agreement::commit_unit(std::uint32_t unit) {
  unit_states_[unit] = UnitState::kCommitted;
  ++epochs_[static_cast<std::size_t>(active_->units[unit].moe_layer_id)];
  decide({DecisionKind::kCommit, Reason::kNone, active_->generation, unit, active_});
}

// A unit's rows build on the earlier units of its layer: when one falls, the later ones fall too.
void Agreement::drop_unit(std::uint32_t unit, Reason reason) {
  if (unit_states_[unit] != UnitState::kPending) return;
  const int layer = active_->units[unit].moe_layer_id;
  for (std::uint32_t later = unit; later < unit_states_.size(); ++later) {
    if (active_->units[later].moe_layer_id != layer || unit_states_[later] != UnitState::kPending)
      continue;
    unit_states_[later] = UnitState::kDropped;
    if (failed_unit_ == later) failed_unit_ = kNoUnit;
    decide({DecisionKind::kDrop, reason, active_->generation, later, active_});
    if (faulty(Fault::kDropOneUnit)) return;
  }
}

void Agreement::retire_if_finished() {
  if (active_ == nullptr ||
      std::ranges::find(unit_states_, UnitState::kPending) != unit_states_.end())
    return;
  decide({DecisionKind::kRetire, Reason::kNone, active_->generation, 0, active_});
  active_ = nullptr;
  unit_states_.clear();
  staged_ = promised_ = 0;
  failed_unit_ = kNoUnit;
  last_change_step_ = used_step_;
}

// Rule 4: equal hashes from all adopt; different hashes, a failure, or too many sets close; not
// ready is no mismatch.
void Agreement::adopt_or_close(std::uint64_t step, std::span<const PacketHeader> packets) {
  if (!open_) return;
  std::uint64_t hash = 0;
  std::size_t not_ready = 0;
  bool failed = false, different = false;
  for (const PacketHeader& packet : packets) {
    const bool of_this_generation = packet.open_step == open_.step || faulty(Fault::kReadopt);
    failed |= of_this_generation && (packet.flags & kPlanFailed) != 0;
    const std::uint64_t reported = of_this_generation ? packet.plan_hash : 0;
    if (reported == 0) {
      ++not_ready;
    } else {
      different |= hash != 0 && reported != hash;
      hash = reported;
    }
  }
  if (faulty(Fault::kFirstHashWins)) different = false;
  if (faulty(Fault::kAdoptMajority) && not_ready == 1 && packets.size() > 2) not_ready = 0;
  if (failed) return close_open(Reason::kPlannerFailed);
  if (different) return close_open(Reason::kDifferentPlans);
  if (not_ready == 0) return adopt();
  if (faulty(Fault::kCloseOnNotReady) && held_ == nullptr) return close_open(Reason::kTooLate);
  if (step - open_.step >= config_.max_open_sets * config_.packet_interval)
    close_open(Reason::kTooLate);
}

void Agreement::adopt() {
  const MigrationPlan* plan =
      held_;  // Held: this rank has reported its hash, and reports only what it holds (rule 5).
  if (plan == nullptr) return close_open(Reason::kTooLate);
  if (plan->units.empty()) return close_open(Reason::kNothingToGain);
  if (mode_ == BalancingMode::kPlanOnly) return close_open(Reason::kPlanOnly);
  if (mode_ == BalancingMode::kPaused) return close_open(Reason::kPaused);
  if (active_ != nullptr && !faulty(Fault::kKeepOldPlan)) {
    for (std::uint32_t unit = 0; unit < unit_states_.size(); ++unit)
      drop_unit(unit, Reason::kSuperseded);
    retire_if_finished();
  }
  decide({DecisionKind::kAdopt, Reason::kNone, open_, 0, plan});
  active_ = plan;
  unit_states_.assign(plan->units.size(), UnitState::kPending);
  staged_ = promised_ = 0;
  failed_unit_ = kNoUnit;
  open_ = {};
  held_ = nullptr;
  plan_failed_ = false;
  last_change_step_ = used_step_;
  for (std::uint32_t unit = 0; unit < unit_states_.size(); ++unit) {
    const auto layer = static_cast<std::size_t>(plan->units[unit].moe_layer_id);
    if (epochs_[layer] != open_base_epochs_[layer] && !faulty(Fault::kNoBaseCheck))
      drop_unit(unit, Reason::kBaseChanged);
  }
  retire_if_finished();
}

void Agreement::close_open(Reason reason) {
  decide({DecisionKind::kClose, reason, open_, 0, held_});
  open_ = {};
  held_ = nullptr;
  plan_failed_ = false;
  last_change_step_ = used_step_;
}

// What the planners say beside their plans: a history that is gone on one rank is begun anew on
// all, so that all plan on the same again. Flags posted before the reset was known still tell of
// the same loss.
void Agreement::heed_planners(std::uint64_t step, std::uint32_t flags) {
  planners_off_ |= (flags & kPlannerOff) != 0;
  if ((flags & kPlannerLost) == 0 ||
      (last_reset_step_ != 0 && step < last_reset_step_ + config_.packet_lag))
    return;
  last_reset_step_ = step;
  planner_lost_ = false;
  decide({DecisionKind::kResetPlanner, Reason::kNone, {}, 0, nullptr});
}

// Rule 3: the set that opens a generation fixes its base; at most one is open.
void Agreement::maybe_open(std::uint64_t step, std::uint32_t flags) {
  if (open_ || planners_off_ || mode_ == BalancingMode::kPaused) return;
  const bool interval_over =
      active_ == nullptr && step >= last_open_step_ + config_.rebalance_interval;
  // Packets posted before the last change was known may still ask for what has just been answered.
  const bool heard =
      step > last_change_step_ + 2 * config_.packet_lag || last_change_step_ == begin_.step;
  if (!interval_over && !(heard && (flags & kWantsRebalance) != 0)) return;
  open_ = {begin_.membership, step};
  open_base_epochs_ = epochs_;
  last_open_step_ = step;
  last_change_step_ = step;
  decide({DecisionKind::kOpen, Reason::kNone, open_, 0, nullptr});
}

void Agreement::fill_packet(std::uint64_t step, PacketHeader& header) {
  header.membership = begin_.membership;
  header.rank = static_cast<std::uint32_t>(config_.rank);
  header.step = step;
  header.digest = digest_;
  header.active_step = active_ != nullptr ? active_->generation.step : 0;
  promised_ = std::max(promised_, staged_);
  header.staged_cursor = active_ != nullptr ? promised_ : 0;
  if (faulty(Fault::kStagedRelative) && active_ != nullptr) {
    const auto gone = std::ranges::find(unit_states_, UnitState::kPending) - unit_states_.begin();
    header.staged_cursor = promised_ - std::min(promised_, static_cast<std::uint32_t>(gone));
  }
  header.abort_unit = active_ != nullptr ? failed_unit_ : kNoUnit;
  header.open_step = open_.step;
  header.plan_hash = held_ != nullptr ? held_->hash : 0;
  header.mode = static_cast<std::uint32_t>(asked_mode_);
  header.flags |= (wants_rebalance_ ? kWantsRebalance : 0U) |
                  (open_ && plan_failed_ ? kPlanFailed : 0U) |
                  (planner_lost_ && !faulty(Fault::kPlannerLossHidden) ? kPlannerLost : 0U) |
                  (planner_off_ ? kPlannerOff : 0U);
}

bool Agreement::plan_ready(const MigrationPlan& plan) noexcept {
  if (!open_ || held_ != nullptr || (plan.generation != open_ && !faulty(Fault::kReadopt)))
    return false;
  held_ = &plan;
  return true;
}

void Agreement::plan_failed(const GenerationId& generation) noexcept {
  if (open_ && generation == open_ && held_ == nullptr) plan_failed_ = true;
}

void Agreement::staged(const GenerationId& generation, std::uint32_t cursor) noexcept {
  if (active_ != nullptr && generation == active_->generation) staged_ = std::max(staged_, cursor);
}

void Agreement::unit_failed(const GenerationId& generation, std::uint32_t unit) noexcept {
  if (active_ == nullptr || generation != active_->generation || unit >= unit_states_.size())
    return;
  // A promised unit is staged; it cannot fail any more (rule 7).
  if (unit_states_[unit] == UnitState::kPending && unit >= promised_) failed_unit_ = unit;
}

Status Agreement::roll_forward(std::span<const std::uint64_t> target_epochs,
                               std::vector<Decision>& decisions) {
  decisions.clear();
  decisions_ = &decisions;
  if (active_ != nullptr) {
    for (std::uint32_t unit = 0; unit < unit_states_.size(); ++unit) {
      const auto layer = static_cast<std::size_t>(active_->units[unit].moe_layer_id);
      const bool promised = unit < promised_ && !faulty(Fault::kNoRollForward);
      const bool behind = epochs_[layer] < target_epochs[layer];
      if (unit_states_[unit] == UnitState::kPending && promised && behind) commit_unit(unit);
    }
    for (std::uint32_t unit = 0; unit < unit_states_.size(); ++unit)
      drop_unit(unit, Reason::kReconfigured);
    retire_if_finished();
  }
  if (open_) close_open(Reason::kReconfigured);
  decisions_ = nullptr;
  if (std::ranges::equal(epochs_, target_epochs) || faulty(Fault::kNoRollForward)) return {};
  diverged_ = true;
  return {ErrorCode::kInternal,
          "rank " + std::to_string(config_.rank) +
              " lacks a layer that other ranks have committed; it must be started anew"};
}

}  // namespace swiftbalancer
