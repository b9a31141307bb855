#pragma once
// The engine thread's half of a Balancer: counters, dispatch tables, slot pointers, the agreement,
// and the installs. Everything here belongs to the engine thread; the worker is reached through its
// queues only. The deterministic simulation drives this same object, with a worker that it runs by
// hand.

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <swiftbalancer/balancer.hpp>

#include "protocol/agreement.hpp"
#include "runtime/packet_ring.hpp"
#include "runtime/worker.hpp"

namespace swiftbalancer {

struct BalancerCore {
  using Clock = std::chrono::steady_clock;

  /// @param first_rank this rank's number in cluster_shape.
  BalancerCore(const ClusterShape& cluster_shape, const BalancerConfig& balancer_config,
               int first_rank, std::unique_ptr<Transport> worker_transport);
  ~BalancerCore();
  BalancerCore(const BalancerCore&) = delete;
  BalancerCore& operator=(const BalancerCore&) = delete;

  // Set-up.
  void register_weights(int moe_layer_id, int local_slot, std::span<const WeightPart> parts);
  void serve(const Placement& served);  ///< Takes over what the registered slots hold.
  void serve_nothing();                 ///< In place of serve(): the slots are empty (join).
  void agree_on_configuration();        ///< Collective; before the worker takes the transport.
  void begin_serving();                 ///< Enters the first membership.
  void check_all_registered() const;
  void take_memory();
  LocalSlots local_slots() const;

  // The four calls.
  Status begin_step(const StepInfo& info);
  void record(int moe_layer_id, std::span<const std::uint32_t> counts) noexcept;
  Status end_step();
  void received_tokens(int moe_layer_id, std::span<std::int64_t> out);

  // Inside begin_step.
  /// Waits until ready() or the deadline, and counts the wait under its cause if there was one.
  template <typename Ready>
  Status wait_until(std::uint64_t& waits, const char* what, Ready ready);
  Status use_set(std::uint64_t step);
  Status carry_out(const Decision& decision);
  Status install(const MigrationPlan& plan, std::uint32_t unit);
  void add_event(const Decision& decision);
  void tell_failure(const Decision& decision);
  void count_close(const Decision& decision);
  void note_prediction(const MigrationPlan& plan) noexcept;
  void release_later(const MigrationPlan* plan);
  void send_releases() noexcept;

  // Reports.
  void take_reports();
  void take(const Report& report);
  void tell_agreement();
  void fail(const std::string& reason);
  /// @returns false where a failure before has not been recovered from.
  bool note_failure(const std::string& reason);
  void seen_to_work(const GenerationId& generation) noexcept;
  void note_losses(std::span<const int> live_ranks);
  PreparedPlan* prepared(const MigrationPlan* plan) noexcept;

  // Membership.
  /// Waits for a Reconfiguration to its end, each exchange for `deadline`, and launches the worker.
  Status reconfigure(std::span<const int> live_ranks, std::unique_ptr<Transport> new_transport,
                     bool joins);
  /// Ends the worker's thread and freezes what is known (rule 12). May be called again.
  void freeze() noexcept;
  /// Rule 13, with the worker stopped. @param target_epochs the highest of all ranks.
  Status roll_forward(std::span<const std::uint64_t> target_epochs);
  /// Everything begins anew on `state` and `served`, numbered over the live ranks. The worker is
  /// made, not launched.
  void enter(const ClusterShape& live_shape, std::vector<int> live_ranks, const AgreedState& state,
             const ServedState& served, std::unique_ptr<Transport> new_transport);
  void build_tables(const ServedState& served);
  const std::vector<std::int32_t>& tables_of_phase() const noexcept {
    return phase == Phase::kDecode && !decode_tables.empty() ? decode_tables : dispatch_tables;
  }
  void make_worker(const ServedState& served);
  void make_planning();
  std::int32_t& content(int layer, int local_slot) noexcept {
    return slot_contents[index(layer, local_slot)];
  }

  Status post_packet(std::uint64_t step);
  void close_window() noexcept;  ///< Zeroes the counters; what they held goes to `received`.
  void add_counters(int layer, std::span<std::int64_t> total) const noexcept;
  Status send(const Command& command) noexcept;
  Status hold_progress_at(const WorkerProgress& target);

  std::size_t index(int layer, int local_slot) const noexcept {
    return static_cast<std::size_t>(layer) * static_cast<std::size_t>(num_local_slots) +
           static_cast<std::size_t>(local_slot);
  }

  const ClusterShape first_shape;
  ClusterShape shape;      // of the live ranks
  std::vector<int> ranks;  // [shape.num_ranks()] their numbers in first_shape
  const BalancerConfig config;
  std::function<std::unique_ptr<Planning>()> own_planning;  // tests'; empty: as configured
  std::unique_ptr<Transport> transport;                     // until the worker takes it
  int rank;
  const int num_local_slots;
  PacketLayout layout;
  std::optional<PacketRing> ring;
  std::optional<Agreement> agreement;
  AgreedState begin;                  // of this membership
  std::uint32_t newest_agreed = 0;    // the newest membership agreed on here, entered or not
  std::unique_ptr<StagingPool> pool;  // this and the next two: the worker's while it runs
  LocalSlots slot_memory;
  std::unique_ptr<Planning> planning;
  std::unique_ptr<Worker> worker;
  bool started = false;
  bool frozen = false;  // between freeze() and enter(): no steps

  // Served state, at fixed addresses.
  Placement placement;
  std::vector<std::int32_t> dispatch_tables;  // [layers][experts * kDispatchEntries]
  std::vector<std::int32_t> decode_tables;    // likewise, of decode steps; empty: the same ones
  std::vector<DrawTable> draw_tables;         // [layers], or none
  std::vector<std::vector<std::byte*>> slot_parts;   // [layers * local slots][parts]
  std::vector<std::vector<std::size_t>> part_bytes;  // [layers][parts]
  std::vector<std::size_t> expert_bytes;             // [layers]
  int staging_capacity = 0;
  std::vector<std::int32_t>
      slot_contents;  // [layers * local slots] the expert whose bytes lie there

  // Counters of the window under way, in the layout of a packet's loads.
  std::vector<std::uint32_t> counters;
  bool idle_window = true;
  std::vector<std::int64_t> received;  // [layers * local slots] tokens of the windows closed since
                                       // somebody first asked; empty before

  // Steps.
  std::uint64_t step = 0;
  bool in_step = false;
  Phase phase = Phase::kMixed;         // of the step
  Phase window_phase = Phase::kMixed;  // of all steps since the last packet, as far as not idle
  std::uint64_t ready_step = 0;        // packet sets up to this step are complete
  std::vector<PacketHeader> headers;
  std::vector<Decision> decisions;
  std::vector<BalancerEvent> events;
  BalancerStats stats;

  // Plans: each is owned here from kPlanReady until released to the worker.
  std::vector<PreparedPlan*> plans;
  std::vector<PreparedPlan*> to_release;

  // What the worker has reported, and what of it may be told (hold_progress_at).
  PreparedPlan* ready_plan = nullptr;
  GenerationId failed_generation;
  GenerationId staged_generation;
  std::uint32_t staged_cursor = 0;
  std::uint32_t failed_unit = kNoUnit;
  std::uint64_t observed_step = 0;
  bool wants_rebalance = false;
  bool planner_lost = false;                // told until a reset
  bool planner_off = false;                 // for good
  std::optional<BalancingMode> asked_mode;  // before the first membership, or unheard in the last
  std::optional<WorkerProgress> limit;
  std::chrono::nanoseconds held_time{0};

  bool stopped = false;
  Health health;
  std::uint64_t failed_at = 0;      // step of the last failure
  std::uint64_t dropped_known = 0;  // of the worker's dropped_samples(), in stats already
  int restarts_before = 0;          // of planner processes of earlier memberships
};

}  // namespace swiftbalancer
