#pragma once
// The sans-IO state machine by which all ranks decide alike. It takes events (a packet set is due,
// a plan is ready, units are staged) and emits decisions; it owns no thread, clock, socket or
// weight. Rules are numbered as in docs/protocol.md. Live runtime, simulator and tests drive the
// same code. Thread-compatible: the engine thread in the live runtime.

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include <swiftbalancer/migration_plan.hpp>

#include "protocol/packet.hpp"

namespace swiftbalancer {

struct AgreementConfig {
  int rank = 0;
  int num_ranks = 1;
  int num_moe_layers = 1;
  std::uint64_t packet_interval = 1;
  std::uint64_t packet_lag = 2;
  std::uint64_t rebalance_interval = 64;
  std::uint64_t max_open_sets = 1000;
  bool leader_plans = false;  ///< Leader mode: only the first rank's planner counts.
};

/// Where a membership begins: what a reconfiguration has made equal on all ranks (rule 14).
struct AgreedState {
  std::uint32_t membership = 0;
  std::uint64_t step = 0;            ///< Highest step begun before.
  std::uint64_t last_open_step = 0;  ///< The interval between rebalances counts from here.
  BalancingMode mode = BalancingMode::kOn;
  std::vector<std::uint64_t> epochs{};  ///< [num_moe_layers]; empty: all 0.
};

enum class DecisionKind : std::uint8_t {
  kDrop,    ///< A unit of the active plan will not be committed: cancel its copies, return its
            ///< buffers.
  kCommit,  ///< Install a unit now.
  kRetire,  ///< The active plan has no pending unit any more.
  kAdopt,   ///< The open generation's plan becomes the active one: start its copies.
  kClose,   ///< The open generation ended without a plan.
  kOpen,    ///< A generation is open: plan it on the state as of now.
  kResetPlanner,  ///< A rank has lost its load history: all begin theirs anew.
};

struct Decision {
  DecisionKind kind = DecisionKind::kOpen;
  Reason reason = Reason::kNone;
  GenerationId generation;
  std::uint32_t unit = 0;  ///< kDrop, kCommit.
  const MigrationPlan* plan =
      nullptr;  ///< kDrop, kCommit, kRetire, kAdopt; kClose if one was held here.
};

class Agreement {
 public:
  explicit Agreement(const AgreementConfig& config, AgreedState begin = {});

  // --- Steps ---
  bool packet_due(std::uint64_t step) const noexcept { return step % config_.packet_interval == 0; }
  /// The step whose packet set must be used at begin_step(step), if any (rule 1).
  std::optional<std::uint64_t> set_due(std::uint64_t step) const noexcept;
  /// Uses the packet set of `step`, [num_ranks] headers in rank order: aborts, commits, adopt or
  /// close, open. Sets are used in order, each once. `decisions` is cleared and filled in the order
  /// in which they are to be carried out.
  /// @returns kInternal when the set shows that ranks disagree (nothing is decided then, now or
  /// later).
  Status use_set(std::uint64_t step, std::span<const PacketHeader> packets,
                 std::vector<Decision>& decisions);
  /// Writes this rank's part of the packet of `step`. What it reports staged is promised from here
  /// on (rule 7).
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
  /// The planner's history is gone here, or the planner for good; told until a set has heard.
  void planner_lost() noexcept { planner_lost_ = true; }
  void planner_off() noexcept { planner_off_ = true; }
  void ask_mode(BalancingMode mode) noexcept { asked_mode_ = mode; }

  // --- Membership ---
  /// Rules 12 and 13: commits what some rank has committed already, drops the rest, closes the open
  /// generation. This object decides nothing more; the next membership begins with a new one.
  /// @param target_epochs [num_moe_layers] the highest of all ranks.
  /// @returns kInternal when a layer cannot be brought there: its bytes were promised and are gone.
  Status roll_forward(std::span<const std::uint64_t> target_epochs,
                      std::vector<Decision>& decisions);

  // --- Agreed state: equal on all ranks after the same sets ---
  /// The newest set that was used.
  std::uint64_t used_step() const noexcept { return used_step_; }
  std::span<const std::uint64_t> epochs() const noexcept { return epochs_; }
  std::uint64_t digest() const noexcept { return digest_; }
  std::uint32_t membership() const noexcept { return begin_.membership; }
  std::uint64_t last_open_step() const noexcept { return last_open_step_; }
  BalancingMode mode() const noexcept { return mode_; }
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

  Status check_set(std::uint64_t step, std::span<const PacketHeader> packets);
  void apply_aborts(std::span<const PacketHeader> packets);
  void apply_commits(std::span<const PacketHeader> packets);
  std::uint32_t agreed_cursor(std::span<const PacketHeader> packets) const;
  void commit_unit(std::uint32_t unit);
  void adopt_or_close(std::uint64_t step, std::span<const PacketHeader> packets);
  void adopt();
  void heed_planners(std::uint64_t step, std::uint32_t flags);
  std::span<const PacketHeader> planners(std::span<const PacketHeader> packets) const noexcept {
    return config_.leader_plans ? packets.first(1) : packets;
  }
  void maybe_open(std::uint64_t step, std::uint32_t flags);
  void close_open(Reason reason);
  void drop_unit(std::uint32_t unit, Reason reason);
  void retire_if_finished();
  void decide(const Decision& decision);

  const AgreementConfig config_;
  const AgreedState begin_;
  std::vector<Decision>* decisions_ = nullptr;  // during use_set, roll_forward

  // Agreed state.
  std::vector<std::uint64_t> epochs_;
  std::uint64_t digest_ = 0;
  std::uint64_t used_step_ = 0;
  GenerationId open_;
  std::vector<std::uint64_t> open_base_epochs_;
  std::uint64_t last_open_step_ = 0;
  std::uint64_t last_change_step_ = 0;
  std::uint64_t last_reset_step_ = 0;
  BalancingMode mode_ = BalancingMode::kOn;
  bool planners_off_ = false;
  const MigrationPlan* active_ = nullptr;
  std::vector<UnitState> unit_states_;
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
  BalancingMode asked_mode_ = BalancingMode::kOn;
};

}  // namespace swiftbalancer
