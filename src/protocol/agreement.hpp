#pragma once
// The sans-IO state machine by which all ranks decide alike. It takes events (a packet set is due,
// a plan is ready, units are staged) and emits decisions; it owns no thread, clock, socket or
// weight. Rules are numbered as in docs/protocol.md. Live runtime, simulator and tests drive the
// same code. Thread-compatible: the engine thread in the live runtime.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include <swiftbalancer/balancer_events.hpp>
#include <swiftbalancer/migration_plan.hpp>

#include "protocol/agreement_rules.hpp"
#include "protocol/packet.hpp"

namespace swiftbalancer {

/// Equal on all ranks but for `rank`.
struct AgreementConfig {
  int rank = 0;
  int num_ranks = 1;
  int num_moe_layers = 1;
  std::uint64_t packet_interval = 1;  ///< Steps; at least 1.
  std::uint64_t packet_lag = 2;       ///< Steps; at least 1.
  std::uint64_t rebalance_interval = 64;
  /// Packet sets after which a generation that has no agreed plan is closed (rule 4).
  std::uint64_t max_open_sets = 1000;
  /// Packet sets in a row without a commit after which the active plan is given up (rule 18).
  std::uint64_t max_active_sets = 10'000;
  /// Most experts that a rank installs at the commits of one set; 0: no limit. The first pending
  /// unit is committed however large it is, so that every set gets on.
  std::uint32_t max_installs_per_set = 0;
  /// Units of the largest plan that is expected: memory for them is taken at construction. A larger
  /// plan is adopted too, but allocates.
  std::size_t max_units = 0;
  bool leader_plans = false;  ///< Leader mode: only the first rank's planner counts.
};

/// Where a membership begins: what a reconfiguration has made equal on all ranks (rule 14).
struct AgreedState {
  std::uint32_t membership = 0;
  std::uint64_t step = 0;            ///< Highest step begun before.
  std::uint64_t last_open_step = 0;  ///< The interval between rebalances counts from here.
  /// Of the rank that used the newest set before: the others may not have heard a request yet.
  BalancingMode mode = BalancingMode::kOn;
  std::vector<std::uint64_t> epochs{};  ///< [num_moe_layers]; empty: all 0.
};

class Agreement {
 public:
  explicit Agreement(const AgreementConfig& config, AgreedState begin = {});

  /// The most decisions of one set, for callers that must not allocate.
  static constexpr std::size_t max_decisions(std::size_t max_units) noexcept {
    // Every unit of the plan before and of a new one, two kRetire, kAdopt or kClose, kResetPlanner,
    // and kBalancingOff or kOpen.
    return 2 * max_units + 5;
  }

  // --- Steps ---
  bool packet_due(std::uint64_t step) const noexcept { return step % config_.packet_interval == 0; }
  /// The step whose packet set must be used at begin_step(step), if any (rule 1).
  std::optional<std::uint64_t> set_due(std::uint64_t step) const noexcept;
  /// Cheaper than set_due(): false only where that gives none.
  bool may_be_due(std::uint64_t step) const noexcept {
    const bool is_old_due = rules_.is_of_membership(begin_.step, begin_.step);  // No: rule 14.
    return step >= next_set_ + config_.packet_lag || is_old_due;
  }
  /// The only set that use_set() takes next (rule 16).
  std::uint64_t next_set() const noexcept { return next_set_; }
  /// Uses the packet set of `step`, [num_ranks] headers in rank order: aborts, commits, the age
  /// limit, adopt or close, planners, open. `decisions` is cleared and filled in the order in which
  /// they are to be carried out.
  /// @returns kInternal for any other set than the next one, which changes nothing, and when the
  /// set shows that ranks disagree: then nothing is decided, now or later.
  Status use_set(std::uint64_t step, std::span<const PacketHeader> packets,
                 std::vector<BalancerEvent>& decisions);
  /// Writes this rank's part of the packet of `step`, once per packet. What it reports staged is
  /// promised from here on (rule 7).
  void fill_packet(std::uint64_t step, PacketHeader& header);

  // --- Reports of the worker ---
  /// The plan of a generation is held here. Ignored unless that generation is open. Lives until a
  /// decision ends it.
  /// @returns whether it was taken.
  bool plan_ready(const MigrationPlan& plan) noexcept;
  void plan_failed(const GenerationId& generation) noexcept;
  /// Units of the active plan staged here; absolute cursor. Ignored for another generation.
  void staged(const GenerationId& generation, std::uint32_t cursor) noexcept;
  /// A unit cannot be staged here; reported until it is dropped.
  void unit_failed(const GenerationId& generation, std::uint32_t unit) noexcept;
  void set_wants_rebalance(bool wants) noexcept { wants_rebalance_ = wants; }
  /// This rank's load history is lost. Told in every packet until a used set resets all planners.
  void planner_lost() noexcept { planner_lost_ = true; }
  /// This rank's planner will not return. Told in every packet of this membership.
  void planner_off() noexcept { planner_off_ = true; }

  // --- Modes ---
  /// Asks for a mode, on any rank. The next packet carries the request, once; its set changes the
  /// agreed mode. Of the requests in one set the most restrictive counts: paused, plan-only, on.
  void ask_mode(BalancingMode mode) noexcept { asked_mode_ = mode; }
  /// The newest request of this rank if no set that was used here has carried it: to be asked again
  /// in the next membership.
  /// @param heard_step the newest set that any live rank has used: its requests are answered.
  std::optional<BalancingMode> unheard_mode(std::uint64_t heard_step = 0) const noexcept;

  // --- Membership ---
  /// Rules 12 and 13: commits what some rank has committed already, drops the rest, closes the open
  /// generation. This object decides nothing more; the next membership begins with a new one.
  /// @param target_epochs [num_moe_layers] the highest of all ranks.
  /// @returns kInternal when a layer cannot be brought there: its bytes were promised and are gone.
  Status roll_forward(std::span<const std::uint64_t> target_epochs,
                      std::vector<BalancerEvent>& decisions);

  // --- Agreed state: equal on all ranks after the same sets ---
  /// The newest set that was used.
  std::uint64_t used_step() const noexcept { return used_step_; }
  std::span<const std::uint64_t> epochs() const noexcept { return epochs_; }
  std::uint64_t digest() const noexcept { return digest_; }
  std::uint32_t membership() const noexcept { return begin_.membership; }
  std::uint64_t last_open_step() const noexcept { return last_open_step_; }
  BalancingMode mode() const noexcept { return mode_; }
  bool balancing_off() const noexcept { return planners_off_; }
  const GenerationId& open_generation() const noexcept { return open_; }
  GenerationId active_generation() const noexcept {
    return active_ != nullptr ? active_->generation : GenerationId{};
  }
  const MigrationPlan* active_plan() const noexcept { return active_; }
  bool unit_pending(std::uint32_t unit) const noexcept {
    return unit_states_[unit] == UnitState::kPending;
  }

 private:
  enum class UnitState : std::uint8_t { kPending, kCommitted, kDropped };
  using Packets = std::span<const PacketHeader>;

  Status check_set(std::uint64_t step, Packets packets);
  void advance_active(Packets packets);
  void apply_aborts(Packets packets);
  void apply_commits(Packets packets);
  std::uint32_t agreed_cursor(Packets packets) const;
  std::uint32_t cursor_of(const PacketHeader& packet) const;
  void commit_unit(std::uint32_t unit);
  void end_if_too_old(Packets packets);
  void change_mode(Packets packets);
  /// Of the open generation's plan, 0: not ready.
  std::uint64_t hash_in(const PacketHeader& packet) const noexcept {
    return rules_.names_open(packet.open_step, open_.step) ? packet.plan_hash : 0;
  }
  void adopt_or_close(Packets packets);
  void close_disagreed(Packets packets);
  void adopt();
  void heed_planners(Packets planners, std::uint32_t flags);
  void maybe_open(std::uint32_t flags);
  void close_open(Reason reason, int rank);
  void drop(std::uint32_t unit, Reason reason, int rank);
  void drop_from(std::uint32_t unit, Reason reason, int rank);
  void drop_pending(Reason reason, int rank);
  void retire_if_finished();
  void decide(const BalancerEvent& decision);

  [[no_unique_address]] const AgreementRules rules_{};
  const AgreementConfig config_;
  const AgreedState begin_;
  std::vector<BalancerEvent>* decisions_ = nullptr;  // during use_set, roll_forward

  // Agreed state.
  std::vector<std::uint64_t> epochs_;
  std::uint64_t digest_ = 0;
  std::uint64_t used_step_ = 0;
  std::uint64_t next_set_ = 0;  // 0: none, the steps have come to their end
  GenerationId open_;
  std::uint64_t open_sets_ = 0;  // since it was opened
  std::vector<std::uint64_t> open_base_epochs_;
  std::uint64_t last_open_step_ = 0;
  std::uint64_t last_change_step_ = 0;
  std::uint64_t last_reset_step_ = 0;
  BalancingMode mode_ = BalancingMode::kOn;
  bool planners_off_ = false;
  const MigrationPlan* active_ = nullptr;
  std::uint64_t idle_sets_ = 0;  // since the active plan was adopted or a unit of it committed
  std::vector<UnitState> unit_states_;
  std::uint32_t first_pending_ = 0;  // no unit before it is pending
  bool diverged_ = false;

  // This rank's own knowledge, told to the others in packets.
  const MigrationPlan* held_ = nullptr;  // of the open generation
  bool plan_failed_ = false;
  std::uint32_t staged_ = 0;
  std::uint32_t promised_ = 0;
  std::uint32_t failed_unit_ = kNoUnit;
  bool wants_rebalance_ = false;
  bool planner_lost_ = false;
  bool planner_off_ = false;
  std::optional<BalancingMode> asked_mode_;  // for the next packet
  BalancingMode told_mode_ = BalancingMode::kOn;
  std::uint64_t told_step_ = 0;  // of the packet that told it; 0: none has
};

}  // namespace swiftbalancer
