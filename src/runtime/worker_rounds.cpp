// What the worker does in a round: commands, packets, copies, a piece of planning. Every piece
// changes nothing when it throws, and is done again in the next round.

#include <algorithm>
#include <cstring>
#include <exception>
#include <utility>

#include "runtime/runtime_rules.hpp"
#include "runtime/worker.hpp"

namespace swiftbalancer {
namespace {

// Tags of packets; copies have their own space (rendezvous).
constexpr std::uint64_t kPacketTag = std::uint64_t{1} << 62;

}  // namespace

// Packets first: the other ranks' steps wait for them. So commands are looked at again after each
// piece that takes long.
bool Worker::run_once() {
  bool busy = carry_out_commands();
  busy |= poll_gathers();
  busy |= executor_.progress();
  busy |= report_staging();
  busy |= carry_out_commands();
  if (planning_ != nullptr) {
    busy |= planning_->advance();
    busy |= take_planning_events();
    dropped_samples_.store(planning_->ignored() - ignored_before_, std::memory_order_relaxed);
    busy |= carry_out_commands();
  }
  if (plan_exchange_) busy |= take_plan_messages();
  busy |= prepare();
  return busy;
}

// ---- Commands ----

bool Worker::carry_out_commands() {
  bool any = false;
  while (Command* command = can_report() ? commands_.front() : nullptr) {
    if (!stopped_ || !needs_peers(*command)) carry_out(*command);
    commands_.pop();
    any = true;
  }
  return any;
}

void Worker::carry_out_remaining() { carry_out_commands(); }

bool Worker::needs_peers(const Command& command) const noexcept {
  return command.kind == Command::Kind::kPostPacket || command.kind == Command::Kind::kObserve ||
         (command.kind == Command::Kind::kDecision &&
          (command.decision.kind == BalancerEventKind::kOpened ||
           command.decision.kind == BalancerEventKind::kPlannersReset));
}

void Worker::carry_out(Command& command) {
  switch (command.kind) {
    case Command::Kind::kPostPacket:
      return post_packet(command);
    case Command::Kind::kDecision:
      return carry_out_decision(command);
    case Command::Kind::kObserve:
      return observe(command);
    case Command::Kind::kRelease:
      command.released.reset();
      return;
  }
}

void Worker::carry_out_decision(const Command& command) {
  const BalancerEvent& decision = command.decision;
  switch (decision.kind) {
    case BalancerEventKind::kOpened:
      return open(decision.generation);
    case BalancerEventKind::kClosed:
      return close();
    case BalancerEventKind::kAdopted:
      executor_.adopt(command.plan->migration);
      active_ = command.plan;
      open_ = {};
      reported_cursor_ = 0;
      reported_failed_unit_ = kNoUnit;
      return tell_planner();
    case BalancerEventKind::kDropped:
      return executor_.drop(decision.unit, decision.reason == Reason::kTooOld);
    case BalancerEventKind::kCommitted:
      return commit(decision.unit);
    case BalancerEventKind::kRetired:
      executor_.retire();
      active_ = nullptr;
      return tell_planner();
    case BalancerEventKind::kPlannersReset:
      return restart_planner();
    case BalancerEventKind::kBalancingOff:
      return;
  }
}

void Worker::post_packet(const Command& command) {
  seal_packet(ring_.mine(command.slot));
  const TransportHandle handle = transport_->post_all_gather(
      kPacketTag | command.step, ring_.mine(command.slot), ring_.set(command.slot));
  gathers_.push_back({handle, command.step, command.slot});
  loads_.window_ended(command.slot);
}

void Worker::observe(const Command& command) {
  loads_.map(ring_, command.slot, last_observed_);
  last_observed_phase_ = phase_of_set(command.slot);
  last_observed_step_ = command.step;
  if (planning_ != nullptr)
    return planning_->observe(command.step, last_observed_, last_observed_phase_);
  report({.kind = Report::Kind::kObserved, .step = command.step});
}

// The phase that all ranks with tokens were in, else mixed.
Phase Worker::phase_of_set(std::uint32_t ring_slot) const {
  std::optional<Phase> phase;
  for (int rank = 0; rank < shape_.num_ranks(); ++rank) {
    PacketHeader header;
    std::memcpy(&header, ring_.packet(ring_slot, rank).data(), sizeof header);
    if ((header.flags & kIdle) != 0) continue;
    const auto own = static_cast<Phase>(header.phase);
    if (phase.value_or(own) != own && rules::phase_of_all_ranks()) return Phase::kMixed;
    phase = phase.value_or(own);
  }
  return phase.value_or(Phase::kMixed);
}

void Worker::open(const GenerationId& generation) {
  open_base_ = served_;
  open_epochs_ = epochs_;
  if (plan_exchange_) plan_exchange_->open(generation);
  open_ = generation;
  preparation_.reset();
  tell_planner();
  if (planning_ != nullptr) planning_->open(open_);
}

void Worker::close() {
  if (plan_exchange_ && !stopped_) plan_exchange_->close();
  if (planning_ != nullptr) planning_->close();
  open_ = {};
  preparation_.reset();
  tell_planner();
}

void Worker::commit(std::uint32_t unit) {
  const CommitUnit& committed = active_->migration.units[unit];
  const auto layer = static_cast<std::size_t>(committed.moe_layer_id);
  executor_.committed(unit, options_.swap);
  std::ranges::copy(committed.placement, served_.placement.layer(committed.moe_layer_id).begin());
  std::ranges::copy(committed.shares, served_.shares[layer].begin());
  ++epochs_[layer];
  loads_.committed(committed.moe_layer_id, committed.placement);
  if (planning_ == nullptr || stopped_) return;
  planning_->on_committed(committed.moe_layer_id, committed.placement, committed.shares);
}

void Worker::tell_planner() {
  if (planning_ == nullptr || stopped_) return;
  planning_->on_rebalancing(active_ != nullptr || static_cast<bool>(open_));
}

void Worker::restart_planner() {
  if (planning_ == nullptr) return;
  planning_->restart(shape_, served_);
  if (active_ != nullptr || open_) tell_planner();
}

// ---- Packets ----

// Sets are reported in order (rule 1), whatever order they complete in.
bool Worker::poll_gathers() {
  bool any = false;
  while (!gathers_.empty() && can_report()) {
    Gather& oldest = gathers_.front();
    if (!oldest.complete) {
      const TransferStatus status = transport_->poll(oldest.handle);
      if (status.state == TransferState::kPending) break;
      if (status.state == TransferState::kFailed && rules::failed_gather_ends()) {
        throw Error(ErrorCode::kTransport,
                    "gathering the packets of step " + std::to_string(oldest.step) + " failed");
      }
      oldest.complete = true;
      oldest.arrived = status.state == TransferState::kDone;
    }
    if (oldest.arrived) check_packets(oldest);
    oldest.arrived = false;
    report({.kind = Report::Kind::kSetReady, .step = oldest.step});
    gathers_.erase(gathers_.begin());
    any = true;
  }
  return any;
}

// Checked here, once, so that the engine thread need not.
void Worker::check_packets(const Gather& gather) {
  PacketHeader header;
  for (int rank = 0; rank < shape_.num_ranks(); ++rank) {
    open_packet(ring_.packet(gather.slot, rank), membership_, rank, gather.step, header)
        .throw_if_failed();
  }
}

// ---- Plans ----

bool Worker::take_planning_events() {
  bool any = false;
  while (can_report()) {
    auto event = planning_->next_event();
    if (!event) break;
    any = true;
    if (!event->why.empty() && options_.log) options_.log(event->why);
    take(*event);
  }
  return any;
}

void Worker::take(PlanningEvent& event) {
  switch (event.kind) {
    case PlanningEvent::Kind::kObserved:
      return report({.kind = Report::Kind::kObserved,
                     .wants_rebalance = event.wants_rebalance,
                     .step = event.step});
    case PlanningEvent::Kind::kPlan:
      if (event.generation == open_) planned(std::move(event.plan));
      return;
    case PlanningEvent::Kind::kFailed:
      return planning_failed(event.generation);
    case PlanningEvent::Kind::kLost:
      return report({.kind = Report::Kind::kPlannerLost,
                     .mended = event.mended,
                     .cursor = static_cast<std::uint32_t>(planning_->restarts() + 1)});
    case PlanningEvent::Kind::kOff:
      return report({.kind = Report::Kind::kPlannerOff});
  }
}

// Leader mode: the plan came from the first rank, and everything that follows from it is worked out
// here, so that the hash vouches for bytes that this rank holds (rule 5).
bool Worker::take_plan_messages() {
  bool any = false;
  while (can_report()) {
    auto message = plan_exchange_->poll();
    if (!message) break;
    any = true;
    if (message->generation != open_) continue;
    if (!message->status.ok() && options_.log) options_.log(message->status.message());
    if (message->plan) {
      planned(std::move(*message->plan));
    } else {
      planning_failed(message->generation);
    }
  }
  return any;
}

void Worker::planning_failed(const GenerationId& generation) {
  report({.kind = Report::Kind::kPlanFailed, .generation = generation});
}

// As a planner that fails: it ends its generation on all ranks; serving goes on.
void Worker::preparing_failed(const char* why) {
  preparation_.reset();
  say("planning failed: ", why);
  planning_failed(open_);
}

void Worker::planned(Plan plan) {
  if (!rules::base_at_opening()) {
    open_base_ = served_;
    open_epochs_ = epochs_;
  }
  PreparationOptions options;
  options.rank = transport_->rank();
  options.staging_capacity = rules::units_fit_pool() ? pool_.capacity() : 1 << 20;
  options.decode_tables = options_.decode_dispatch == DispatchObjective::kActivatedExperts;
  options.locality_first = options_.locality_first;
  try {
    if (plan_exchange_ && planning_ != nullptr) plan_exchange_->send(plan);
    preparation_ = std::make_unique<PlanPreparation>(open_, std::move(plan), open_base_,
                                                     open_epochs_, shape_, options);
  } catch (const std::exception& error) {
    preparing_failed(error.what());
  }
}

// One piece a round.
bool Worker::prepare() {
  if (preparation_ == nullptr || !can_report()) return false;
  try {
    if (!preparation_->advance()) return true;
    auto prepared = std::make_unique<PreparedPlan>(preparation_->take());
    preparation_.reset();
    if (prepared->layers_given_up > 0 && options_.log) {
      options_.log(std::to_string(prepared->layers_given_up) +
                   " layers stay as they are: their moves do not fit into staging_bytes");
    }
    report({.kind = Report::Kind::kPlanReady, .generation = open_, .plan = std::move(prepared)});
  } catch (const std::exception& error) {
    preparing_failed(error.what());
  }
  return true;
}

// ---- Copies ----

bool Worker::report_staging() {
  if (active_ == nullptr || !can_report()) return false;
  bool any = false;
  const std::uint32_t cursor = executor_.staged_cursor();
  if (cursor > reported_cursor_) {
    for (std::uint32_t unit = reported_cursor_; unit < cursor; ++unit) {
      const auto staged = executor_.staged(unit);
      auto& installs = active_->units[unit].installs;
      for (std::size_t i = 0; i < staged.size(); ++i) {
        installs[i].local_slot = staged[i].local_slot;
        installs[i].parts = pool_.parts(staged[i].buffer);
      }
    }
    reported_cursor_ = cursor;
    report({.kind = Report::Kind::kStaged,
            .cursor = cursor,
            .generation = active_->migration.generation});
    any = true;
  }
  const std::uint32_t failed = executor_.failed_unit().value_or(kNoUnit);
  if (failed != reported_failed_unit_) {
    reported_failed_unit_ = failed;
    if (failed != kNoUnit) {
      report({.kind = Report::Kind::kUnitFailed,
              .cursor = failed,
              .generation = active_->migration.generation});
      any = true;
    }
  }
  return any;
}

}  // namespace swiftbalancer
