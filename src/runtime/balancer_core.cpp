#include "runtime/balancer_core.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "runtime/runtime_rules.hpp"

namespace swiftbalancer {
namespace {

// For what is thrown where nothing should be: the calls of a step must not end the process. Short
// enough to need no memory, should that be what is missing.
Status unexpected() noexcept { return {ErrorCode::kInternal, "out of memory"}; }

std::string named(int first_rank) { return "rank " + std::to_string(first_rank); }

}  // namespace

// ---- The four calls ----

// A begin_step that failed while it waited may be repeated for its step: nothing of the set was
// used.
Status BalancerCore::begin_step(const StepInfo& info) noexcept {
  try {
    if (stage_ == Stage::kBetween && info.step == step_ + 1) {
      step_ = info.step;
      stage_ = Stage::kBeginning;
      phase_ = info.phase;
      counters_.begin_step(info.phase, info.idle);
      ++stats_.steps;
      events_.clear();
      while (auto plan = mirror_.next_release())
        static_cast<void>(
            worker_side_.send({.kind = Command::Kind::kRelease, .released = std::move(plan)}));
    } else if (stage_ != Stage::kBeginning || info.step != step_) {
      return refuse_step(info.step);
    }
    if (agreement_->may_be_due(step_) || !rules::use_when_due()) {
      if (Status status = use_due_set(); !status.ok()) {
        health_.step_failed(step_, status.message());
        return status;
      }
    }
    stage_ = Stage::kInStep;
    health_.step_begun();
    worker_side_.flush();
    return {};
  } catch (...) {
    return unexpected();
  }
}

Status BalancerCore::refuse_step(std::uint64_t step) const {
  const std::string call = "begin_step(" + std::to_string(step) + ")";
  switch (stage_) {
    case Stage::kBeginning:
      return {ErrorCode::kInvalidState, call + ": begin_step(" + std::to_string(step_) +
                                            ") failed; repeat it, or reconfigure"};
    case Stage::kFrozen:
      return {ErrorCode::kInvalidState, call + ": a reconfiguration is under way; end it first"};
    case Stage::kBroken:
      return {ErrorCode::kInvalidState,
              call + ": step " + std::to_string(step_) + " failed for good; reconfigure"};
    case Stage::kNotStarted:
    case Stage::kBetween:
    case Stage::kInStep:
      break;
  }
  return {ErrorCode::kInvalidArgument, call + " out of order; next is step " +
                                           std::to_string(step_ + 1) +
                                           ", after start(), end_step() and reconfigure()"};
}

Status BalancerCore::end_step() noexcept {
  if (stage_ != Stage::kInStep) {
    if (stage_ == Stage::kBetween || stage_ == Stage::kNotStarted)
      return {ErrorCode::kInvalidArgument, "end_step() without begin_step()"};
    return {ErrorCode::kInvalidState, "end_step() of a step that has not begun"};
  }
  stage_ = Stage::kBetween;
  if (!agreement_->packet_due(step_)) {
    worker_side_.flush();
    return {};
  }
  try {
    const Status posted = post_packet();
    if (!posted.ok()) stage_ = Stage::kBroken;
    worker_side_.flush();
    return posted;
  } catch (...) {
    stage_ = Stage::kBroken;
    return unexpected();
  }
}

Status BalancerCore::post_packet() {
  take_reports();
  mirror_.tell(*agreement_);
  const std::uint32_t slot = ring_->slot_of(step_);
  const auto packet = ring_->mine(slot);
  PacketHeader header;
  counters_.end_window(header, packet.subspan(sizeof header));
  agreement_->fill_packet(step_, header);
  std::memcpy(packet.data(), &header, sizeof header);
  return worker_side_.send({.kind = Command::Kind::kPostPacket, .slot = slot, .step = step_});
}

void BalancerCore::set_mode(BalancingMode mode) noexcept {
  if (agreement_ && serves()) {
    agreement_->ask_mode(mode);
  } else {
    asked_mode_ = mode;
  }
}

Health BalancerCore::health() const {
  Health health = health_.health();
  health.mode = agreement_ ? agreement_->mode() : begin_.mode;
  return health;
}

void BalancerCore::take_reports() {
  Report report;
  while (worker()->receive(report)) {
    health_.take(report, step_);
    if (report.kind == Report::Kind::kPlannerOff) agreement_->planner_off();
    mirror_.take(std::move(report), *agreement_);
  }
  stats_.dropped_samples += worker_side_.take_dropped_samples();
}

// ---- Packet sets ----

std::optional<std::uint64_t> BalancerCore::due_set() const {
  std::optional<std::uint64_t> due = agreement_->set_due(step_);
  if (rules::use_when_due()) return due;
  const std::uint64_t next =
      (agreement_->used_step() / config_.packet_interval + 1) * config_.packet_interval;
  return mirror_.ready_step() >= next || due == next ? std::optional(next) : std::nullopt;
}

Status BalancerCore::use_due_set() {
  const std::optional<std::uint64_t> due = due_set();
  if (!due) return {};
  Status arrived = wait_until(stats_.waits_for_packets, "the packets of the other ranks",
                              [&] { return mirror_.ready_step() >= *due; });
  if (!arrived.ok()) return arrived;
  // From here on the step cannot be begun again: what the set decides is carried out at most once.
  stage_ = Stage::kBroken;
  return use_set(*due);
}

// By the rules only packets can be waited for; plans and copies go through here too, so that a wait
// would be seen.
template <typename Ready>
Status BalancerCore::wait_until(std::uint64_t& waits, const char* what, Ready ready) {
  if (ready()) return {};
  take_reports();
  if (ready() || !rules::wait_for_set()) return {};
  ++waits;
  const auto start = Clock::now();
  const auto deadline = start + config_.deadline;
  while (!ready() && !worker()->has_ended() && Clock::now() < deadline) {
    worker()->wait_for_report(deadline);
    take_reports();
  }
  stats_.wait_time += Clock::now() - start;
  if (ready()) return {};
  if (worker()->has_ended()) return failure_of_worker();
  const std::string missing = names_of(worker()->missing_ranks());
  return {ErrorCode::kTimeout,
          named(first_number()) + " waited " + std::to_string(config_.deadline.count()) +
              " ms at step " + std::to_string(step_) + " for " + what +
              (missing.empty() ? ", and its worker does not say of whom" : ": of " + missing)};
}

// "rank 1, rank 3", as the first shape numbers them.
std::string BalancerCore::names_of(std::span<const int> members) const {
  std::string names;
  for (const int member : members) {
    names += (names.empty() ? "" : ", ") + named(live_.ranks[static_cast<std::size_t>(member)]);
  }
  return names;
}

Status BalancerCore::failure_of_worker() const {
  const Status& failure = worker()->failure();
  if (failure.code() != ErrorCode::kPeerLost) return failure;
  return {failure.code(), named(first_number()) + " at step " + std::to_string(step_) + ": lost " +
                              names_of(worker()->lost_ranks())};
}

Status BalancerCore::use_set(std::uint64_t set_step) {
  const std::uint32_t slot = ring_->slot_of(set_step);
  for (int peer = 0; peer < live_.shape.num_ranks(); ++peer) {  // The worker has checked them.
    std::memcpy(&headers_[static_cast<std::size_t>(peer)], ring_->packet(slot, peer).data(),
                sizeof(PacketHeader));
  }
  if (!rules::packets_are_frozen())
    agreement_->fill_packet(set_step, headers_[static_cast<std::size_t>(live_.rank)]);
  ++stats_.packet_sets;
  if (Status status = agreement_->use_set(set_step, headers_, events_); !status.ok()) return status;
  for (const BalancerEvent& event : events_) {
    if (Status status = carry_out(event); !status.ok()) return status;
  }
  return worker_side_.send({.kind = Command::Kind::kObserve, .slot = slot, .step = set_step});
}

Status BalancerCore::carry_out(const BalancerEvent& event) {
  health_.hear(event, headers_, live_.ranks, step_);
  count(event);
  Command command{.kind = Command::Kind::kDecision, .decision = event};
  switch (event.kind) {
    case BalancerEventKind::kCommitted:
      if (Status status = install(event); !status.ok()) return status;
      break;
    case BalancerEventKind::kAdopted:
      if (Status status = wait_until(stats_.waits_for_plans, "a plan",
                                     [&] { return mirror_.prepared(event.plan) != nullptr; });
          !status.ok()) {
        return status;
      }
      command.plan = mirror_.prepared(event.plan);
      mirror_.adopted(event.generation);
      break;
    case BalancerEventKind::kRetired:
      mirror_.retired(event.plan);
      break;
    case BalancerEventKind::kClosed:
      mirror_.closed();
      break;
    case BalancerEventKind::kPlannersReset:
      mirror_.planners_reset();
      break;
    case BalancerEventKind::kDropped:
    case BalancerEventKind::kOpened:
    case BalancerEventKind::kBalancingOff:
      break;
  }
  return worker_side_.send(std::move(command));
}

// Weights and maps together, in place. Rule 15: what was counted so far was counted under the
// placement before.
Status BalancerCore::install(const BalancerEvent& event) {
  const PreparedPlan* plan = mirror_.prepared(event.plan);
  const CommitUnit& unit = event.plan->units[event.unit];
  Status staged = wait_until(stats_.waits_for_copies, "a copy",
                             [&] { return mirror_.staged_cursor() > event.unit; });
  if (!staged.ok()) return staged;
  if (plan == nullptr) return {ErrorCode::kInternal, "plan not held"};
  const PreparedUnit& ready = plan->units[event.unit];
  if (Status status = experts_.install(unit, ready); !status.ok()) return status;
  counters_.split(unit.moe_layer_id);
  const auto moves = static_cast<std::uint64_t>(ready.moves);
  stats_.moves += moves;
  stats_.migrated_bytes +=
      moves * experts_.expert_bytes()[static_cast<std::size_t>(unit.moe_layer_id)];
  return {};
}

void BalancerCore::count(const BalancerEvent& event) {
  bool works = false;  // a plan has come to an end that is none of failure
  switch (event.kind) {
    case BalancerEventKind::kOpened:
      ++stats_.generations_opened;
      break;
    case BalancerEventKind::kAdopted:
      ++stats_.plans_adopted;
      stats_.plan_step = step_;
      break;
    case BalancerEventKind::kClosed:
      works = event.reason == Reason::kNothingToGain || event.reason == Reason::kPlanOnly;
      ++(event.reason == Reason::kNothingToGain ? stats_.plans_empty
         : event.reason == Reason::kPlanOnly    ? stats_.plans_shadowed
                                                : stats_.plans_dropped);
      break;
    case BalancerEventKind::kCommitted:
      works = true;
      ++stats_.units_committed;
      break;
    case BalancerEventKind::kDropped:
      ++stats_.units_dropped;
      break;
    case BalancerEventKind::kPlannersReset:
      ++stats_.planner_resets;
      break;
    case BalancerEventKind::kRetired:
    case BalancerEventKind::kBalancingOff:
      break;
  }
  if (works) health_.seen_to_work(event.generation, config_.packet_lag);
  const bool predicts =
      event.kind == BalancerEventKind::kAdopted || event.kind == BalancerEventKind::kClosed;
  if (!predicts || event.plan == nullptr) return;
  stats_.plan_imbalance_before = event.plan->imbalance_before;
  stats_.plan_imbalance_after = event.plan->imbalance_after;
}

// ---- Simulated devices ----

Status BalancerCore::hold_progress_at(const WorkerProgress& target) {
  mirror_.hold_at(target);
  const auto start = Clock::now();
  const auto deadline = start + config_.deadline;
  const auto reached = [&] { return mirror_.has_reached(target, *agreement_); };
  take_reports();
  while (!reached() && !worker()->has_ended() && Clock::now() < deadline) {
    worker()->wait_for_report(deadline);
    take_reports();
  }
  held_time_ += Clock::now() - start;
  if (reached()) return {};
  if (worker()->has_ended()) return failure_of_worker();
  return {ErrorCode::kTimeout,
          named(first_number()) +
              ": the balancer worker did not get as far as the timed device asks within " +
              std::to_string(config_.deadline.count()) + " ms"};
}

}  // namespace swiftbalancer
