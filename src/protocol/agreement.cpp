#include "protocol/agreement.hpp"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

namespace swiftbalancer {
namespace {

// 0, which is no step, where the steps have come to their end.
std::uint64_t step_after(std::uint64_t step, std::uint64_t gap) noexcept {
  return gap <= std::numeric_limits<std::uint64_t>::max() - step ? step + gap : 0;
}

int restrictiveness(BalancingMode mode) noexcept {
  switch (mode) {
    case BalancingMode::kOn:
      return 0;
    case BalancingMode::kPlanOnly:
      return 1;
    case BalancingMode::kPaused:
      break;
  }
  return 2;
}

template <typename Says>
int first_rank(std::span<const PacketHeader> packets, const Says& says) {
  return static_cast<int>(std::ranges::find_if(packets, says) - packets.begin());
}

int first_with(std::span<const PacketHeader> packets, std::uint32_t flag) {
  return first_rank(packets, [flag](const auto& packet) { return (packet.flags & flag) != 0; });
}

}  // namespace

// Rule 14: what came before the membership is void; steps and private counters go on from where all
// ranks agreed that they are.
Agreement::Agreement(const AgreementConfig& config, AgreedState begin)
    : config_(config),
      begin_(std::move(begin)),
      epochs_(begin_.epochs),
      used_step_(begin_.step),
      next_set_(
          step_after(begin_.step, config.packet_interval - begin_.step % config.packet_interval)),
      last_open_step_(std::min(begin_.last_open_step, begin_.step)),
      last_change_step_(begin_.step),
      mode_(begin_.mode) {
  epochs_.resize(static_cast<std::size_t>(config.num_moe_layers), 0);
  open_base_epochs_ = epochs_;
  digest_ = mix(mix(begin_.membership, begin_.step), last_open_step_);
  digest_ = mix(digest_, static_cast<std::uint64_t>(mode_));
  for (std::uint64_t epoch : epochs_) digest_ = mix(digest_, epoch);
  unit_states_.reserve(config.max_units);
}

std::optional<std::uint64_t> Agreement::set_due(std::uint64_t step) const noexcept {
  if (step <= config_.packet_lag) return std::nullopt;
  const std::uint64_t posted = step - config_.packet_lag;
  if (!rules_.is_of_membership(posted, begin_.step)) return std::nullopt;
  return packet_due(posted) ? std::optional(posted) : std::nullopt;
}

Status Agreement::check_set(std::uint64_t step, Packets packets) {
  if (diverged_) return {ErrorCode::kInternal, "the ranks have disagreed before; balancing is off"};
  if (!rules_.is_next(step, next_set_)) {
    return {ErrorCode::kInternal, "rank " + std::to_string(config_.rank) +
                                      " is to use the packet set of step " + std::to_string(step) +
                                      ", but the next one is that of step " +
                                      std::to_string(next_set_)};
  }
  if (packets.size() != static_cast<std::size_t>(config_.num_ranks)) {
    return {ErrorCode::kInternal, "packet set of step " + std::to_string(step) + " has " +
                                      std::to_string(packets.size()) + " packets of " +
                                      std::to_string(config_.num_ranks)};
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

Status Agreement::use_set(std::uint64_t step, Packets packets,
                          std::vector<BalancerEvent>& decisions) {
  decisions.clear();
  if (Status status = check_set(step, packets); !status.ok()) return status;
  decisions_ = &decisions;
  used_step_ = step;
  next_set_ = step_after(step, config_.packet_interval);
  std::uint32_t flags = 0;
  for (const PacketHeader& packet : packets) flags |= packet.flags;
  // The order is rule 1's.
  if (active_ != nullptr) advance_active(packets);
  if ((flags & kAsksMode) != 0) change_mode(packets);
  if (open_) adopt_or_close(packets);
  if (config_.leader_plans) {  // Only the first rank has a planner.
    packets = packets.first(1);
    flags = packets[0].flags;
  }
  if ((flags & (kPlannerLost | kPlannerOff)) != 0) heed_planners(packets, flags);
  maybe_open(flags);
  decisions_ = nullptr;
  return {};
}

void Agreement::decide(const BalancerEvent& decision) {
  decisions_->push_back(decision);
  // The digest is the history of decisions; equal histories give equal states.
  digest_ = mix(digest_, static_cast<std::uint64_t>(decision.rank + 1) << 16 |
                             static_cast<std::uint64_t>(decision.kind) << 8 |
                             static_cast<std::uint64_t>(decision.reason));
  digest_ = mix(digest_, decision.generation.step ^
                             static_cast<std::uint64_t>(decision.generation.membership) << 48);
  digest_ = mix(digest_, decision.unit);
  if (decision.kind == BalancerEventKind::kAdopted) digest_ = mix(digest_, decision.plan->hash);
}

// ---- The open generation ----

// Among requests of one set the most restrictive counts, so that none of them is sorry.
void Agreement::change_mode(Packets packets) {
  BalancingMode mode = BalancingMode::kOn;
  for (const PacketHeader& packet : packets) {
    if ((packet.flags & kAsksMode) == 0) continue;
    const auto asked = static_cast<BalancingMode>(packet.mode);
    if (restrictiveness(asked) > restrictiveness(mode)) mode = asked;
  }
  if (mode == mode_) return;
  mode_ = mode;
  digest_ = mix(digest_, static_cast<std::uint64_t>(mode));
}

// Rule 4: equal hashes from all adopt; different hashes, a failure, or too many sets close; not
// ready is no mismatch.
void Agreement::adopt_or_close(Packets packets) {
  ++open_sets_;
  std::uint64_t hash = 0;
  std::size_t num_not_ready = 0;
  bool failed = false, different = false;
  for (const PacketHeader& packet : packets) {
    const bool of_this_generation = rules_.names_open(packet.open_step, open_.step);
    failed |= of_this_generation && (packet.flags & kPlanFailed) != 0;
    const std::uint64_t reported = of_this_generation ? packet.plan_hash : 0;
    if (reported == 0) {
      ++num_not_ready;
    } else {
      different |= rules_.differ(hash, reported);
      hash = reported;
    }
  }
  if (failed || different) return close_disagreed(packets);
  if (rules_.all_ready(num_not_ready, packets.size())) return adopt();
  if (rules_.waited_too_long(open_sets_, config_.max_open_sets, held_ != nullptr)) {
    close_open(Reason::kTooLate,
               first_rank(packets, [this](const auto& packet) { return hash_in(packet) == 0; }));
  }
}

void Agreement::close_disagreed(Packets packets) {
  const int failed = first_rank(packets, [this](const auto& packet) {
    return rules_.names_open(packet.open_step, open_.step) && (packet.flags & kPlanFailed) != 0;
  });
  if (failed < config_.num_ranks) return close_open(Reason::kPlannerFailed, failed);
  std::uint64_t hash = 0;  // of the ranks before
  close_open(Reason::kDifferentPlans, first_rank(packets, [&](const auto& packet) {
               const std::uint64_t reported = hash_in(packet);
               return reported != 0 && rules_.differ(std::exchange(hash, reported), reported);
             }));
}

void Agreement::adopt() {
  const MigrationPlan* plan =
      held_;  // Held: this rank has reported its hash, and reports only what it holds (rule 5).
  if (plan == nullptr) return close_open(Reason::kTooLate, -1);
  if (plan->units.empty()) return close_open(Reason::kNothingToGain, -1);
  if (rules_.only_plans(mode_)) return close_open(Reason::kPlanOnly, -1);
  if (mode_ == BalancingMode::kPaused) return close_open(Reason::kPaused, -1);
  if (active_ != nullptr && rules_.supersedes()) {
    drop_pending(Reason::kSuperseded, -1);
    retire_if_finished();
  }
  decide({BalancerEventKind::kAdopted, Reason::kNone, open_, 0, plan});
  active_ = plan;
  unit_states_.assign(plan->units.size(), UnitState::kPending);
  first_pending_ = 0;
  idle_sets_ = 0;
  staged_ = promised_ = 0;
  failed_unit_ = kNoUnit;
  open_ = {};
  held_ = nullptr;
  plan_failed_ = false;
  last_change_step_ = used_step_;
  for (std::uint32_t unit = 0; unit < unit_states_.size(); ++unit) {
    const auto layer = static_cast<std::size_t>(plan->units[unit].moe_layer_id);
    if (!rules_.base_holds(epochs_[layer], open_base_epochs_[layer]))
      drop(unit, Reason::kBaseChanged, -1);
  }
  retire_if_finished();
}

void Agreement::close_open(Reason reason, int rank) {
  decide({BalancerEventKind::kClosed, reason, open_, 0, held_, rank});
  open_ = {};
  held_ = nullptr;
  plan_failed_ = false;
  last_change_step_ = used_step_;
}

// A planner that is off answers no generation any more, and one whose history is lost plans
// otherwise than the rest: all begin theirs anew at this set, and what is open is closed (rule 17).
void Agreement::heed_planners(Packets planners, std::uint32_t flags) {
  if ((flags & kPlannerOff) != 0 && !planners_off_) {
    planners_off_ = true;
    const int rank = first_with(planners, kPlannerOff);
    if (open_) close_open(Reason::kPlannerFailed, rank);
    decide({BalancerEventKind::kBalancingOff, Reason::kNone, {}, 0, nullptr, rank});
  }
  if ((flags & kPlannerLost) == 0) return;
  if (last_reset_step_ != 0 && rules_.is_mended(used_step_ - last_reset_step_, config_.packet_lag))
    return;
  const int rank = first_with(planners, kPlannerLost);
  if (open_ && rules_.reset_closes_open()) close_open(Reason::kPlannersReset, rank);
  last_reset_step_ = last_change_step_ = used_step_;
  planner_lost_ = false;
  decide({BalancerEventKind::kPlannersReset, Reason::kNone, {}, 0, nullptr, rank});
}

// Rule 3: the set that opens a generation fixes its base; at most one is open.
void Agreement::maybe_open(std::uint32_t flags) {
  if (open_ || planners_off_ || mode_ == BalancingMode::kPaused) return;
  const bool interval_over =
      active_ == nullptr && used_step_ - last_open_step_ >= config_.rebalance_interval;
  // Packets posted before the last change was known may still ask for what has just been answered.
  const std::uint64_t steps_since = used_step_ - last_change_step_;
  const bool heard =
      last_change_step_ == begin_.step ||
      (steps_since > config_.packet_lag && steps_since - config_.packet_lag > config_.packet_lag);
  if (!interval_over && !(heard && (flags & kWantsRebalance) != 0)) return;
  open_ = {begin_.membership, used_step_};
  open_sets_ = 0;
  open_base_epochs_ = epochs_;
  last_open_step_ = last_change_step_ = used_step_;
  decide({BalancerEventKind::kOpened, Reason::kNone, open_, 0, nullptr});
}

// ---- This rank's part ----

void Agreement::fill_packet(std::uint64_t step, PacketHeader& header) {
  header.membership = begin_.membership;
  header.rank = static_cast<std::uint32_t>(config_.rank);
  header.step = step;
  header.digest = digest_;
  header.active_step = active_ != nullptr ? active_->generation.step : 0;
  promised_ = std::max(promised_, staged_);
  header.staged_cursor = active_ != nullptr ? rules_.told_cursor(promised_, first_pending_) : 0;
  header.abort_unit = active_ != nullptr ? failed_unit_ : kNoUnit;
  header.open_step = open_.step;
  header.plan_hash = held_ != nullptr ? held_->hash : 0;
  header.flags |= (wants_rebalance_ ? kWantsRebalance : 0U) |
                  (open_ && plan_failed_ ? kPlanFailed : 0U) |
                  (rules_.tells_planner_loss(planner_lost_) ? kPlannerLost : 0U) |
                  (planner_off_ ? kPlannerOff : 0U);
  if (asked_mode_) {
    header.flags |= kAsksMode;
    told_mode_ = *std::exchange(asked_mode_, std::nullopt);
    told_step_ = step;
    header.mode = static_cast<std::uint32_t>(told_mode_);
  }
}

std::optional<BalancingMode> Agreement::unheard_mode(std::uint64_t heard_step) const noexcept {
  if (asked_mode_) return asked_mode_;
  const bool heard = told_step_ <= std::max(used_step_, heard_step);
  return heard ? std::nullopt : std::optional(told_mode_);
}

bool Agreement::plan_ready(const MigrationPlan& plan) noexcept {
  if (!open_ || held_ != nullptr || !rules_.is_of(plan.generation, open_)) return false;
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

}  // namespace swiftbalancer
