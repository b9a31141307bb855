// The worker's thread: how it is started, kept alive and ended, and how it talks to the engine
// thread.

#include "runtime/worker.hpp"

#include <pthread.h>

#include <new>
#include <utility>

#include "protocol/packet.hpp"
#include "runtime/runtime_rules.hpp"

namespace swiftbalancer {
namespace {

// The worker sleeps at most this long at a time, so that it notices a stop request even if a
// wake-up were lost.
constexpr std::chrono::milliseconds kLongestSleep{200};
// A round of the worker is short; one that takes longer is stuck.
constexpr std::chrono::seconds kLongestAnswer{1};
// While a planner process owes an answer, which rings no doorbell.
constexpr std::chrono::milliseconds kPollingSleep{1};

}  // namespace

// What a set usually decides on, twice; WorkerSide keeps what is more.
std::size_t Worker::queue_capacity(const ClusterShape& shape) {
  return static_cast<std::size_t>(shape.num_moe_layers() * (shape.max_slots_per_rank() + 1)) + 1024;
}

Worker::Worker(const ClusterShape& shape, const WorkerOptions& options,
               std::unique_ptr<Transport> transport, const Belongings& belongings,
               const AgreedState& begin, const ServedState& served)
    : shape_(shape),
      options_(options),
      membership_(begin.membership),
      ring_(belongings.ring),
      transport_(std::move(transport)),
      pool_(belongings.pool),
      slots_(belongings.slots),
      executor_(shape_, *transport_, pool_, slots_),
      planning_(belongings.planning),
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
  if (rules::planner_begins_anew() || membership_ == 0) restart_planner();
}

Worker::~Worker() { stop(); }

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

// Each piece of a round can be done again: one that ran out of memory has changed nothing.
void Worker::run(const std::stop_token& stop) {
  pthread_setname_np(pthread_self(), "swiftbalancer");
  run_thread_init();
  while (!stop.stop_requested()) {
    try {
      const bool busy = run_once();
      answer_if_asked();
      if (!busy) sleep().throw_if_failed();
      short_of_memory_ = false;
    } catch (const std::bad_alloc&) {
      if (!std::exchange(short_of_memory_, true))
        say("the balancer worker is out of memory; it tries again");
      std::this_thread::sleep_for(kPollingSleep);
    } catch (const Error& error) {
      return end(error.code(), error.what());
    } catch (const std::exception& error) {
      return end(ErrorCode::kInternal, error.what());
    } catch (...) {
      return end(ErrorCode::kInternal, "an exception of another kind");
    }
  }
}

void Worker::run_thread_init() noexcept {
  if (!options_.thread_init) return;
  try {
    options_.thread_init();
  } catch (const std::exception& error) {
    say("thread_init failed: ", error.what());
  } catch (...) {
    say("thread_init failed: an exception of another kind");
  }
}

void Worker::say(const char* what, const char* why) noexcept {
  if (!options_.log) return;
  try {
    options_.log(std::string(what) + why);
  } catch (const std::bad_alloc&) {
    // The line is lost; what it tells of goes on without it.
  }
}

Status Worker::sleep() {
  const bool poll = !can_report() || (planning_ != nullptr && planning_->must_be_polled());
  Status status =
      transport_->wait(std::chrono::steady_clock::now() + (poll ? kPollingSleep : kLongestSleep));
  return status.code() == ErrorCode::kTimeout ? Status() : status;
}

std::vector<int> Worker::look_for_missing() const {
  std::vector<int> missing;
  if (gathers_.empty()) return missing;
  const Gather& oldest = gathers_.front();
  PacketHeader header;
  for (int rank = 0; rank < shape_.num_ranks(); ++rank) {
    const auto packet = ring_.packet(oldest.slot, rank);
    if (!open_packet(packet, membership_, rank, oldest.step, header).ok()) missing.push_back(rank);
  }
  return missing;
}

void Worker::answer_if_asked() {
  if (!asked_.load(std::memory_order_acquire)) return;
  std::vector<int> missing = look_for_missing();
  const MutexLock lock(mutex_);
  missing_ = std::move(missing);
  asked_.store(false, std::memory_order_release);
  reported_.notify_one();
}

std::vector<int> Worker::missing_ranks() {
  if (!thread_.joinable()) return look_for_missing();  // It is run by hand.
  const auto deadline = std::chrono::steady_clock::now() + kLongestAnswer;
  asked_.store(true, std::memory_order_release);
  transport_->wake();
  const MutexLock lock(mutex_);
  while (asked_.load(std::memory_order_acquire) && !has_ended()) {
    if (!reported_.wait_until(mutex_, deadline)) break;
  }
  return std::exchange(missing_, {});
}

void Worker::end(ErrorCode code, const char* why) noexcept {
  try {
    failure_ = {code, why};
    if (code == ErrorCode::kPeerLost) lost_ = transport_->lost_peers();
  } catch (const std::bad_alloc&) {
    failure_ = {code, "out of memory"};  // short enough to need none
  }
  ended_.store(true, std::memory_order_release);
  const MutexLock lock(mutex_);
  reported_.notify_one();
}

// ---- Between the threads ----

bool Worker::send(Command& command) noexcept {
  sent_ = true;
  return commands_.try_enqueue(command);
}

void Worker::wait_for_report(std::chrono::steady_clock::time_point deadline) {
  const MutexLock lock(mutex_);
  engine_waits_.exchange(1);
  while (reports_.empty() && !has_ended() && reported_.wait_until(mutex_, deadline)) {
  }
  engine_waits_.store(0);
}

void Worker::report(Report report) {
  // Asked for before (can_report), so this is a piece that reports more than it may.
  if (!reports_.try_enqueue(report))
    throw Error(ErrorCode::kInternal, "the queue of reports is full");
  // Two read-modify-writes of one atomic are ordered: either the waiter's check sees this report,
  // or we see that it waits.
  if (engine_waits_.fetch_add(0) != 0) {
    const MutexLock lock(mutex_);
    reported_.notify_one();
  }
}

}  // namespace swiftbalancer
