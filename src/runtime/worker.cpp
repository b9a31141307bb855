#include "runtime/worker.hpp"

#include <pthread.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <optional>

#include "core/test_fault.hpp"

namespace swiftbalancer {
namespace {

// Every unit of a plan may be decided on in one set: more units than slots per layer do not happen.
std::size_t queue_capacity(const ClusterShape& shape) {
  return static_cast<std::size_t>(shape.num_moe_layers() * (shape.max_slots_per_rank() + 1)) + 1024;
}

// The worker sleeps at most this long at a time, so that it notices a stop request even if a
// wake-up were lost.
constexpr std::chrono::milliseconds kLongestSleep{200};
// While a planner process owes an answer, which rings no doorbell.
constexpr std::chrono::milliseconds kPollingSleep{1};
// Tags of packets; copies have their own space (rendezvous).
constexpr std::uint64_t kPacketTag = std::uint64_t{1} << 62;

}  // namespace

Worker::Worker(const ClusterShape& shape, const WorkerOptions& options,
               std::unique_ptr<Transport> transport, const Belongings& belongings,
               const AgreedState& begin, const ServedState& served)
    : shape_(shape),
      options_(options),
      ring_(belongings.ring),
      transport_(std::move(transport)),
      pool_(belongings.pool),
      slots_(belongings.slots),
      executor_(shape_, *transport_, pool_, slots_),
      planning_(belongings.planning),
      membership_(begin.membership),
      loads_(shape_, served.placement, ring_.num_slots()),
      last_observed_(shape.num_moe_layers(), shape.num_logical_experts()),
      served_(served),
      epochs_(begin.epochs),
      commands_(queue_capacity(shape)),
      reports_(queue_capacity(shape)) {
  gathers_.reserve(ring_.num_slots());
  epochs_.resize(static_cast<std::size_t>(shape.num_moe_layers()), 0);
  if (options_.control_mode == ControlMode::kLeader) plan_exchange_.emplace(shape_, *transport_);
  if (planning_ != nullptr) ignored_before_ = planning_->ignored();
  if (!faulty(Fault::kPlannerKept) || membership_ == 0) restart_planner();
}

void Worker::launch() {
  thread_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
}

void Worker::stop() noexcept {
  if (thread_.joinable()) {
    thread_.request_stop();
    transport_->wake();
    thread_.join();
  }
  stopped_ = true;  // the thread has read it until here
}

Worker::~Worker() {
  stop();
  Report report;
  while (reports_.try_dequeue(report)) delete report.plan;
  Command command;
  while (commands_.try_dequeue(command)) {
    if (command.kind == Command::Kind::kRelease) delete command.plan;
  }
}

bool Worker::send(const Command& command) noexcept {
  sent_ = true;
  return commands_.try_enqueue(command);
}

void Worker::flush() noexcept {
  if (!sent_) return;
  sent_ = false;
  transport_->wake();
}

void Worker::wait_for_report(std::chrono::steady_clock::time_point deadline) {
  std::unique_lock lock(mutex_);
  engine_waits_.exchange(1);
  reported_.wait_until(lock, deadline, [this] { return !reports_.empty(); });
  engine_waits_.store(0);
}

void Worker::report(const Report& report) {
  // Full only if the engine thread has long stopped calling: it loses nothing it still waits for.
  if (!reports_.try_enqueue(report)) {
    throw Error(ErrorCode::kInternal, "the engine thread takes no reports any more");
  }
  // Two read-modify-writes of one atomic are ordered: either the waiter's check sees this report,
  // or we see that it waits.
  if (engine_waits_.fetch_add(0) != 0) {
    const std::scoped_lock lock(mutex_);
    reported_.notify_one();
  }
}

void Worker::run(const std::stop_token& stop) {
  pthread_setname_np(pthread_self(), "swiftbalancer");
  try {
    if (options_.thread_init) options_.thread_init();
    while (!stop.stop_requested()) {
      if (run_once()) continue;
      const bool poll = planning_ != nullptr && planning_->must_be_polled();
      const Status status = transport_->wait(std::chrono::steady_clock::now() +
                                             (poll ? kPollingSleep : kLongestSleep));
      if (status.code() == ErrorCode::kTimeout) {
        if (poll) continue;
        const std::scoped_lock lock(mutex_);
        waiting_for_ = status.message();
      } else if (!status.ok()) {
        failure_ = status;
        break;
      }
    }
  } catch (const Error& error) {
    failure_ = {error.code(), error.what()};
  } catch (const std::exception& error) {
    failure_ = {ErrorCode::kInternal, std::string("balancer worker: ") + error.what()};
  }
  if (!failure_.ok()) report({.kind = Report::Kind::kStopped});
}

std::string Worker::waiting_for() {
  const std::scoped_lock lock(mutex_);
  return waiting_for_;
}

bool Worker::run_once() {
  bool busy = carry_out_commands();
  busy |= poll_gathers();
  busy |= executor_.progress();
  busy |= report_staging();
  if (planning_ != nullptr) {
    busy |= planning_->advance();
    busy |= take_planning_events();
    dropped_samples_.store(planning_->ignored() - ignored_before_, std::memory_order_relaxed);
  }
  if (plan_exchange_) busy |= take_plan_messages();
  return busy;
}

bool Worker::carry_out_commands() {
  Command command;
  bool any = false;
  while (commands_.try_dequeue(command)) {
    if (stopped_ && needs_peers(command)) continue;
    carry_out(command);
    any = true;
  }
  return any;
}

void Worker::carry_out_remaining() { carry_out_commands(); }

bool Worker::needs_peers(const Command& command) const noexcept {
  return command.kind == Command::Kind::kPostPacket || command.kind == Command::Kind::kObserve ||
         command.kind == Command::Kind::kOpen || command.kind == Command::Kind::kResetPlanner;
}

void Worker::carry_out(const Command& command) {
  switch (command.kind) {
    case Command::Kind::kPostPacket:
      loads_.window_ended(command.slot);
      seal_packet(ring_.mine(command.slot));
      gathers_.push_back(
          {transport_->post_all_gather(kPacketTag | command.step, ring_.mine(command.slot),
                                       ring_.set(command.slot)),
           command.step, command.slot});
      return;
    case Command::Kind::kObserve:
      return observe(command);
    case Command::Kind::kOpen:
      return open(command);
    case Command::Kind::kClose:
      if (planning_ != nullptr) planning_->close();
      if (plan_exchange_ && !stopped_) plan_exchange_->close();
      open_ = {};
      return tell_planner();
    case Command::Kind::kAdopt:
      active_ = command.plan;
      open_ = {};
      reported_cursor_ = 0;
      reported_failed_unit_ = kNoUnit;
      executor_.adopt(active_->migration);
      return tell_planner();
    case Command::Kind::kDrop:
      return executor_.drop(command.unit);
    case Command::Kind::kCommitted:
      return commit(command.unit);
    case Command::Kind::kRetire:
      executor_.retire();
      active_ = nullptr;
      return tell_planner();
    case Command::Kind::kResetPlanner:
      return restart_planner();
    case Command::Kind::kRelease:
      delete command.plan;
      return;
  }
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

void Worker::observe(const Command& command) {
  loads_.map(ring_, command.slot, last_observed_);
  last_observed_step_ = command.step;
  if (planning_ != nullptr)
    return planning_->observe(command.step, last_observed_, phase_of_set(command.slot));
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
    if (phase.value_or(own) != own) return Phase::kMixed;
    phase = own;
  }
  return phase.value_or(Phase::kMixed);
}

void Worker::open(const Command& command) {
  open_ = command.generation;
  open_base_ = served_;
  open_epochs_ = epochs_;
  if (plan_exchange_) plan_exchange_->open(open_);
  if (planning_ != nullptr) planning_->open(open_);
  tell_planner();
}

void Worker::commit(std::uint32_t unit) {
  const CommitUnit& committed = active_->migration.units[unit];
  executor_.committed(unit, options_.swap);
  std::ranges::copy(committed.placement, served_.placement.layer(committed.moe_layer_id).begin());
  served_.shares[static_cast<std::size_t>(committed.moe_layer_id)] = committed.shares;
  ++epochs_[static_cast<std::size_t>(committed.moe_layer_id)];
  loads_.committed(committed.moe_layer_id, committed.placement);
  if (planning_ == nullptr || stopped_) return;
  planning_->on_committed(committed.moe_layer_id, committed.placement, committed.shares);
}

// Sets are reported in order (rule 1), whatever order they complete in.
bool Worker::poll_gathers() {
  bool any = false;
  while (!gathers_.empty()) {
    const Gather& oldest = gathers_.front();
    const TransferStatus status = transport_->poll(oldest.handle);
    if (status.state == TransferState::kPending) break;
    if (status.state == TransferState::kFailed && !faulty(Fault::kGatherSkipped)) {
      throw Error(ErrorCode::kTransport,
                  "gathering the packets of step " + std::to_string(oldest.step) + " failed");
    }
    if (status.state == TransferState::kDone) check_packets(oldest);
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

bool Worker::take_planning_events() {
  bool any = false;
  while (const auto event = planning_->next_event()) {
    any = true;
    if (!event->why.empty() && options_.log) options_.log(event->why);
    switch (event->kind) {
      case PlanningEvent::Kind::kObserved:
        report({.kind = Report::Kind::kObserved,
                .wants_rebalance = event->wants_rebalance,
                .step = event->step});
        break;
      case PlanningEvent::Kind::kPlan:
        if (event->generation != open_) break;
        if (plan_exchange_) plan_exchange_->send(event->plan);
        planned(event->plan);
        break;
      case PlanningEvent::Kind::kFailed:
        planning_failed(event->generation);
        break;
      case PlanningEvent::Kind::kLost:
        if (open_) planning_failed(open_);
        report({.kind = Report::Kind::kPlannerLost,
                .cursor = static_cast<std::uint32_t>(planning_->restarts() + 1)});
        break;
      case PlanningEvent::Kind::kOff:
        report({.kind = Report::Kind::kPlannerOff});
        break;
    }
  }
  return any;
}

// Leader mode: the plan came from the first rank, and everything that follows from it is worked out
// here, so that the hash vouches for bytes that this rank holds (rule 5).
bool Worker::take_plan_messages() {
  bool any = false;
  while (auto message = plan_exchange_->poll()) {
    any = true;
    if (message->generation != open_) continue;
    if (!message->status.ok() && options_.log) options_.log(message->status.message());
    if (message->plan) {
      planned(*message->plan);
    } else {
      planning_failed(message->generation);
    }
  }
  return any;
}

void Worker::planning_failed(const GenerationId& generation) {
  report({.kind = Report::Kind::kPlanFailed, .generation = generation});
}

void Worker::planned(const Plan& plan) {
  if (faulty(Fault::kLateBase)) {
    open_base_ = served_;
    open_epochs_ = epochs_;
  }
  const int capacity = faulty(Fault::kPoolIgnored) ? 1 << 20 : pool_.capacity();
  std::unique_ptr<PreparedPlan> prepared;
  try {
    prepared = std::make_unique<PreparedPlan>(prepare_plan(
        open_, plan, open_base_, open_epochs_, shape_,
        {.rank = transport_->rank(),
         .staging_capacity = capacity,
         .decode_tables = options_.decode_dispatch == DispatchObjective::kActivatedExperts,
         .locality_first = options_.locality_first}));
  } catch (const std::exception& error) {
    // As a planner that fails: it ends its generation on all ranks; serving goes on.
    if (options_.log) options_.log(std::string("planning failed: ") + error.what());
    return planning_failed(open_);
  }
  if (prepared->layers_given_up > 0 && options_.log) {
    options_.log(std::to_string(prepared->layers_given_up) +
                 " layers stay as they are: their moves do not fit into staging_bytes");
  }
  report({.kind = Report::Kind::kPlanReady, .generation = open_, .plan = prepared.release()});
}

bool Worker::report_staging() {
  if (active_ == nullptr) return false;
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
