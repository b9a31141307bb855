#pragma once
// The balancer worker of one rank: a thread that owns the transport, gathers packets, maps loads,
// plans in small pieces and drives copies. The engine thread talks to it through two lock-free
// queues and never waits for planning or copies. What is thrown on this thread is contained: a
// piece of work that lacks memory is tried again, planning that fails is told as a failed plan or a
// lost planner. Only a lost transport ends the thread.

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <swiftbalancer/balancer_config.hpp>
#include <swiftbalancer/transport.hpp>

#include "migration/copy_executor.hpp"
#include "protocol/agreement.hpp"
#include "runtime/mutex.hpp"
#include "runtime/packet_ring.hpp"
#include "runtime/plan_exchange.hpp"
#include "runtime/planning.hpp"
#include "runtime/spsc_queue.hpp"
#include "runtime/window_loads.hpp"
#include "runtime/worker_messages.hpp"

namespace swiftbalancer {

struct WorkerOptions {
  bool swap = true;  ///< Install mode.
  ControlMode control_mode = ControlMode::kReplicated;
  bool locality_first = false;
  DispatchObjective decode_dispatch = DispatchObjective::kTokens;
  std::function<void()> thread_init;
  std::function<void(const std::string&)> log;  ///< Throws nothing.
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

  /// Commands or reports that a queue of this shape holds.
  static std::size_t queue_capacity(const ClusterShape& shape);

  /// Ends the thread. What the engine thread sends from then on is carried out by
  /// carry_out_remaining(), on the engine thread.
  void stop() noexcept;
  /// After stop(): drops, commits, retires and releases; whatever needs peers is left out.
  /// @throws Error kInternal: out of order.
  void carry_out_remaining();

  /// Starts the thread. Without it, run_once() is called by hand (deterministic simulation).
  void launch();
  /// One round: commands, packets, copies, a piece of planning. @returns whether anything was done.
  /// @throws Error kTransport, kPeerLost: the transport is lost; std::bad_alloc: try again.
  bool run_once();
  /// For the simulation, between rounds: buffers not in use, whether a plan is being prepared, and
  /// the loads of the last set that was observed.
  int num_free_buffers() const noexcept { return pool_.num_free(); }
  bool is_preparing() const noexcept { return preparation_ != nullptr; }
  const ExpertLoad& last_observed() const noexcept { return last_observed_; }
  Phase last_observed_phase() const noexcept { return last_observed_phase_; }
  std::uint64_t last_observed_step() const noexcept { return last_observed_step_; }

  // --- Any thread ---
  /// Observations that no planner has taken in, in this membership.
  std::uint64_t dropped_samples() const noexcept {
    return dropped_samples_.load(std::memory_order_relaxed);
  }
  /// The thread has ended by itself; failure() says why.
  bool has_ended() const noexcept { return ended_.load(std::memory_order_acquire); }

  // --- Engine thread ---
  /// Enqueues; takes effect at the next flush(). Moves from `command` unless the queue is full.
  /// @returns false when it is (the worker is stuck).
  bool send(Command& command) noexcept;
  /// Wakes the worker if anything was sent since the last flush. The only system call.
  void flush() noexcept {
    if (std::exchange(sent_, false)) transport_->wake();
  }
  bool receive(Report& report) noexcept { return reports_.try_dequeue(report); }
  /// Sleeps until the worker has reported something or ended, or the deadline.
  void wait_for_report(std::chrono::steady_clock::time_point deadline);
  /// Why the worker ended; after has_ended().
  const Status& failure() const noexcept { return failure_; }
  /// Ranks of which the packet in the oldest set that is under way is not here. Asks the worker and
  /// waits for its answer, at most a second; then the answer is "none".
  std::vector<int> missing_ranks();
  /// Ranks that were lost when the worker ended; after has_ended().
  std::span<const int> lost_ranks() const noexcept { return lost_; }

 private:
  struct Gather {
    TransportHandle handle;
    std::uint64_t step = 0;
    std::uint32_t slot = 0;
    bool arrived = false;  ///< And not checked yet.
    bool complete = false;
  };

  // The thread (worker.cpp).
  void run(const std::stop_token& stop);
  void run_thread_init() noexcept;
  void say(const char* what, const char* why = "") noexcept;
  Status sleep();
  std::vector<int> look_for_missing() const;
  void answer_if_asked();
  void end(ErrorCode code, const char* why) noexcept;
  void report(Report report);
  /// Whether what is done next can be reported; else it waits for the engine thread.
  bool can_report() const noexcept { return reports_.has_room_for(kReportsPerPiece); }
  static constexpr std::size_t kReportsPerPiece = 2;

  // What a round does (worker_rounds.cpp).
  bool carry_out_commands();
  bool needs_peers(const Command& command) const noexcept;
  void carry_out(Command& command);
  void carry_out_decision(const Command& command);
  void post_packet(const Command& command);
  void observe(const Command& command);
  Phase phase_of_set(std::uint32_t ring_slot) const;
  void open(const GenerationId& generation);
  void close();
  void commit(std::uint32_t unit);
  void tell_planner();
  void restart_planner();
  bool poll_gathers();
  void check_packets(const Gather& gather);
  bool take_planning_events();
  void take(PlanningEvent& event);
  bool take_plan_messages();
  void planned(Plan plan);
  bool prepare();
  void planning_failed(const GenerationId& generation);
  void preparing_failed(const char* why);
  bool report_staging();

  // Constant after construction.
  const ClusterShape shape_;
  const WorkerOptions options_;
  const std::uint32_t membership_;
  PacketRing& ring_;

  // Worker thread only.
  std::unique_ptr<Transport> transport_;
  StagingPool& pool_;
  LocalSlots& slots_;
  CopyExecutor executor_;
  Planning* planning_;
  std::optional<PlanExchange> plan_exchange_;  ///< In leader mode.
  std::uint64_t ignored_before_ = 0;           ///< By planning_, in earlier memberships.
  WindowLoads loads_;
  ExpertLoad last_observed_;
  Phase last_observed_phase_ = Phase::kMixed;
  std::uint64_t last_observed_step_ = 0;
  ServedState served_;
  std::vector<std::uint64_t> epochs_;
  std::vector<Gather> gathers_;
  GenerationId open_;  ///< Planning, or planned and not yet agreed.
  ServedState open_base_;
  std::vector<std::uint64_t> open_epochs_;
  std::unique_ptr<PlanPreparation> preparation_;  ///< Of the open generation.
  PreparedPlan* active_ = nullptr;
  std::uint32_t reported_cursor_ = 0;
  std::uint32_t reported_failed_unit_ = kNoUnit;
  bool short_of_memory_ = false;  ///< Said in the log, until a round has gone well.

  // Both threads: queues and atomics synchronise by themselves.
  SpscQueue<Command> commands_;
  SpscQueue<Report> reports_;
  std::atomic<int> engine_waits_{0};
  std::atomic<std::uint64_t> dropped_samples_{0};
  std::atomic<bool> ended_{false};
  Status failure_;  ///< Written before ended_, read after it; so is lost_.
  std::vector<int> lost_;
  std::atomic<bool> asked_{false};  ///< For missing_.
  Mutex mutex_;
  ConditionVariable reported_;
  std::vector<int> missing_ SWIFTBALANCER_GUARDED_BY(mutex_);

  // Engine thread only.
  bool sent_ = false;

  bool stopped_ = false;  ///< Written with no thread running.
  std::jthread thread_;
};

}  // namespace swiftbalancer
