#pragma once
// The engine thread's half of a Balancer: the agreement, and what its decisions do here. Counters,
// installed experts, the worker's mirror and health belong to owners of their own; this class calls
// them in the right order. Engine thread only; the worker is reached through its queues. The
// deterministic simulation drives this same object, with a worker that it runs by hand.

#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <swiftbalancer/balancer.hpp>

#include "protocol/agreement.hpp"
#include "runtime/health_keeper.hpp"
#include "runtime/installed_experts.hpp"
#include "runtime/packet_ring.hpp"
#include "runtime/reconfiguration.hpp"
#include "runtime/simulated_progress.hpp"
#include "runtime/window_counters.hpp"
#include "runtime/worker_mirror.hpp"
#include "runtime/worker_side.hpp"

namespace swiftbalancer {

class BalancerCore : private MembershipHost {
 public:
  using Clock = std::chrono::steady_clock;
  /// @param rank this rank's number in `shape`. @throws Error kInvalidArgument.
  BalancerCore(const ClusterShape& shape, const BalancerConfig& config, int rank,
               WorkerSide::MakePlanning make_planning = {});
  ~BalancerCore() override;
  BalancerCore(const BalancerCore&) = delete;
  BalancerCore& operator=(const BalancerCore&) = delete;

  // --- Set-up ---
  void register_weights(int moe_layer_id, int local_slot, std::span<const WeightPart> parts);
  /// Serves what the registered slots hold. Collective; the worker is made, not launched.
  /// @throws Error as Balancer::start().
  void start(const Placement& served, std::unique_ptr<Transport> transport);
  /// The two parts of it. The slots count as empty: a reconfiguration that follows makes this rank
  /// a member, or serve() does with the others of the first membership.
  void start_empty();
  void serve(const Placement& served, std::unique_ptr<Transport> transport,
             const AgreedState& begin = {});

  // --- Steps: see Balancer ---
  Status begin_step(const StepInfo& info) noexcept;
  void record(int moe_layer_id, std::span<const std::uint32_t> counts) noexcept {
    counters_.record(moe_layer_id, counts);
  }
  Status end_step() noexcept;
  DispatchView dispatch_table(int moe_layer_id) const noexcept {
    return experts_.dispatch_table(moe_layer_id, phase_);
  }
  void received_tokens(int moe_layer_id, std::span<std::int64_t> out) {
    counters_.received_tokens(moe_layer_id, out);
  }
  void set_mode(BalancingMode mode) noexcept;

  // --- Memberships ---
  /// Starts the worker's thread. @returns kInternal: it cannot be started; no step can be made.
  Status launch();
  /// Runs a reconfiguration to its end, waiting for each exchange up to the deadline. The worker is
  /// made, not launched.
  Status reconfigure(std::span<const int> live_ranks, std::unique_ptr<Transport> transport);
  /// The same by hand: begins it. What the worker has reported counts (rule 12); no more steps.
  /// @throws Error as check_live_ranks(); nothing has changed then.
  std::unique_ptr<Reconfiguration> begin_reconfiguration(std::span<const int> live_ranks,
                                                         std::unique_ptr<Transport> transport);
  /// Takes over what a reconfiguration that is over and went well has led to. The worker is made,
  /// not launched. If it throws, another reconfiguration may follow.
  void enter(NextMembership next);

  // --- Reading ---
  const ClusterShape& shape() const noexcept { return live_.shape; }
  int rank() const noexcept { return live_.rank; }
  /// This rank's number in the first shape, by which messages name ranks.
  int first_number() const noexcept { return live_.ranks[static_cast<std::size_t>(live_.rank)]; }
  std::span<const int> ranks() const noexcept { return live_.ranks; }
  std::uint64_t step() const noexcept { return step_; }
  const InstalledExperts& experts() const noexcept { return experts_; }
  const Agreement* agreement() const noexcept { return agreement_.get(); }
  /// Of each layer; empty before the first membership.
  std::span<const std::uint64_t> epochs() const noexcept {
    return agreement_ ? agreement_->epochs() : std::span<const std::uint64_t>(begin_.epochs);
  }
  const WorkerMirror& mirror() const noexcept { return mirror_; }
  /// Null before the first membership, and while a reconfiguration is under way.
  Worker* worker() const noexcept { return worker_side_.worker(); }
  std::span<const BalancerEvent> events() const noexcept { return events_; }
  const BalancerStats& stats() const noexcept { return stats_; }
  Health health() const;
  int staging_capacity() const noexcept { return worker_side_.staging_capacity(); }
  std::size_t packet_bytes() const noexcept { return PacketLayout(live_.shape).bytes(); }
  std::uint32_t membership() const noexcept { return begin_.membership; }
  /// The newest packet set that was used in it.
  std::uint64_t used_step() const noexcept {
    return agreement_ ? agreement_->used_step() : begin_.step;
  }
  bool planner_off_here() const noexcept { return health_.planner_off_here(); }
  /// Has been a member, so that it may reconfigure.
  bool has_served() const noexcept { return has_served_; }
  bool in_step() const noexcept { return stage_ == Stage::kInStep; }
  /// Between steps or in one; not before start(), nor while a reconfiguration is under way.
  bool serves() const noexcept {
    return stage_ == Stage::kBetween || stage_ == Stage::kInStep || stage_ == Stage::kBeginning;
  }
  /// Takes in what the worker has reported; begin_step and end_step do so too.
  void take_reports();

  // --- Simulated devices ---
  Status hold_progress_at(const WorkerProgress& target);
  std::chrono::nanoseconds held_time() const noexcept { return held_time_; }

 private:
  enum class Stage : std::uint8_t {
    kNotStarted,
    kBetween,    // steps
    kBeginning,  // a begin_step failed before its set was used: it may be repeated
    kInStep,
    kFrozen,  // a reconfiguration is under way
    kBroken,  // a decision could not be carried out: only a reconfiguration helps
  };

  // Inside begin_step (balancer_core.cpp).
  Status refuse_step(std::uint64_t step) const;
  std::optional<std::uint64_t> due_set() const;
  /// Waits until ready() or the deadline, and counts the wait under its cause if there was one.
  template <typename Ready>
  Status wait_until(std::uint64_t& waits, const char* what, Ready ready);
  std::string names_of(std::span<const int> members) const;
  Status failure_of_worker() const;
  Status use_due_set();
  Status use_set(std::uint64_t step);
  Status carry_out(const BalancerEvent& event);
  Status install(const BalancerEvent& event);
  void count(const BalancerEvent& event);
  Status send(Command command) noexcept;
  Status post_packet();

  // MembershipHost (balancer_membership.cpp).
  void take_number(std::uint32_t membership) noexcept override { newest_agreed_ = membership; }
  Status roll_forward(std::span<const std::uint64_t> target_epochs,
                      std::uint64_t heard_step) override;
  ServedState served() const override;
  std::int32_t content(int moe_layer_id, int local_slot) const override {
    return experts_.content(moe_layer_id, local_slot);
  }
  Status load_expert(int moe_layer_id, int local_slot, std::int32_t logical_id) override;
  void freeze();
  MemberState member_state() const;
  std::string lost_ranks(std::span<const int> live_ranks) const;
  std::unique_ptr<Agreement> make_agreement(const LiveRanks& live, const AgreedState& begin) const;
  /// Whether this rank has a planner in the membership of `live` (leader mode: the first has).
  bool plans(const LiveRanks& live) const noexcept;
  std::uint32_t max_installs_per_set() const noexcept;
  void agree_on_configuration(const Placement& served, Transport& transport) const;

  // Constant after construction.
  const ClusterShape first_shape_;
  const BalancerConfig config_;

  // Of this membership.
  LiveRanks live_;
  AgreedState begin_;
  std::unique_ptr<PacketRing> ring_;
  std::unique_ptr<Agreement> agreement_;

  // Owners of their own state. The worker's side ends first.
  WindowCounters counters_;
  InstalledExperts experts_;
  WorkerMirror mirror_;
  HealthKeeper health_;
  WorkerSide worker_side_;

  // Steps.
  Stage stage_ = Stage::kNotStarted;
  std::uint64_t step_ = 0;
  Phase phase_ = Phase::kMixed;
  std::vector<PacketHeader> headers_;
  std::vector<BalancerEvent> events_;
  BalancerStats stats_;

  // Between memberships.
  std::uint32_t newest_agreed_ = 0;  // the newest membership agreed on here, entered or not
  bool has_served_ = false;          // else it joins
  std::optional<BalancingMode> asked_mode_;
  std::chrono::nanoseconds held_time_{0};
};

}  // namespace swiftbalancer
