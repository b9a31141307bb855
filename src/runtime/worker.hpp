#pragma once
// The balancer worker of one rank: a thread that owns the transport, gathers packets, maps loads,
// plans in small pieces and drives copies. The engine thread talks to it through two lock-free
// queues and never waits for planning or copies.

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <swiftbalancer/balancer.hpp>
#include <swiftbalancer/transport.hpp>

#include "migration/copy_executor.hpp"
#include "protocol/agreement.hpp"
#include "runtime/messages.hpp"
#include "runtime/packet_ring.hpp"
#include "runtime/plan_exchange.hpp"
#include "runtime/planning.hpp"
#include "runtime/spsc_queue.hpp"
#include "runtime/window_loads.hpp"

namespace swiftbalancer {

struct WorkerOptions {
  bool swap = true;  ///< Install mode.
  ControlMode control_mode = ControlMode::kReplicated;
  bool locality_first = false;
  DispatchObjective decode_dispatch = DispatchObjective::kTokens;
  std::function<void()> thread_init;
  std::function<void(const std::string&)> log;
};

class Worker {
 public:
  /// What a membership begins with; all of it is the owner's, and the worker's alone while it runs.
  struct Belongings {
    PacketRing& ring;
    StagingPool& pool;
    LocalSlots& slots;
    Planning* planning;  ///< Null: this rank does not plan (leader mode).
  };
  /// @param begin epochs and membership. @param served as of now.
  Worker(const ClusterShape& shape, const WorkerOptions& options,
         std::unique_ptr<Transport> transport, const Belongings& belongings,
         const AgreedState& begin, const ServedState& served);
  ~Worker();

  /// Ends the thread. What the engine thread sends from then on is carried out by
  /// carry_out_remaining(), on the engine thread.
  void stop() noexcept;
  /// After stop(): drops, commits, retires and releases; whatever needs peers is left out.
  /// @throws Error kInternal: out of order.
  void carry_out_remaining();

  /// Starts the thread. Without it, run_once() is called by hand (deterministic simulation).
  void launch();
  /// One round: commands, packets, copies, a piece of planning. @returns whether anything was done.
  bool run_once();
  /// For the simulation, between rounds: buffers not in use, and the loads of the last set that was
  /// observed.
  int num_free_buffers() const noexcept { return pool_.num_free(); }
  const ExpertLoad& last_observed() const noexcept { return last_observed_; }
  std::uint64_t last_observed_step() const noexcept { return last_observed_step_; }

  /// Observations that no planner has taken in, in this membership. Any thread.
  std::uint64_t dropped_samples() const noexcept {
    return dropped_samples_.load(std::memory_order_relaxed);
  }

  // --- Engine thread ---
  /// Enqueues; takes effect at the next flush(). @returns false when the queue is full (the worker
  /// is stuck).
  bool send(const Command& command) noexcept;
  /// Wakes the worker if anything was sent since the last flush. The only system call.
  void flush() noexcept;
  bool receive(Report& report) noexcept { return reports_.try_dequeue(report); }
  /// Sleeps until the worker has reported something, or the deadline.
  void wait_for_report(std::chrono::steady_clock::time_point deadline);
  /// Why the worker stopped; call after kStopped was received.
  const Status& failure() const noexcept { return failure_; }
  /// Which ranks the transport is waiting for, as of its last long wait; "" if it had none.
  std::string waiting_for();

 private:
  struct Gather {
    TransportHandle handle;
    std::uint64_t step = 0;
    std::uint32_t slot = 0;
  };

  void run(const std::stop_token& stop);
  bool carry_out_commands();
  bool needs_peers(const Command& command) const noexcept;
  void carry_out(const Command& command);
  bool poll_gathers();
  void check_packets(const Gather& gather);
  bool take_planning_events();
  bool take_plan_messages();
  void planned(const Plan& plan);
  void planning_failed(const GenerationId& generation);
  void restart_planner();
  bool report_staging();
  void observe(const Command& command);
  Phase phase_of_set(std::uint32_t ring_slot) const;
  void open(const Command& command);
  void commit(std::uint32_t unit);
  void tell_planner();
  void report(const Report& report);

  const ClusterShape shape_;
  const WorkerOptions options_;
  PacketRing& ring_;

  // Worker thread only.
  std::unique_ptr<Transport> transport_;
  StagingPool& pool_;
  LocalSlots& slots_;
  CopyExecutor executor_;
  Planning* planning_;
  std::optional<PlanExchange> plan_exchange_;  ///< In leader mode.
  std::uint64_t ignored_before_ = 0;           ///< By planning_, in earlier memberships.
  const std::uint32_t membership_;
  WindowLoads loads_;
  ExpertLoad last_observed_;
  std::uint64_t last_observed_step_ = 0;
  ServedState served_;
  std::vector<std::uint64_t> epochs_;
  std::vector<Gather> gathers_;
  GenerationId open_;  ///< Planning, or planned and not yet agreed.
  ServedState open_base_;
  std::vector<std::uint64_t> open_epochs_;
  PreparedPlan* active_ = nullptr;
  std::uint32_t reported_cursor_ = 0;
  std::uint32_t reported_failed_unit_ = kNoUnit;

  // Both threads.
  SpscQueue<Command> commands_;
  SpscQueue<Report> reports_;
  std::atomic<int> engine_waits_{0};
  std::atomic<std::uint64_t> dropped_samples_{0};
  std::mutex mutex_;
  std::condition_variable reported_;
  std::string waiting_for_;  // under mutex_
  Status failure_;           // written before kStopped is reported

  bool sent_ = false;     // engine thread
  bool stopped_ = false;  // written with no thread running
  std::jthread thread_;
};

}  // namespace swiftbalancer
