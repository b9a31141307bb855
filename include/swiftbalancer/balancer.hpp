#pragma once
// Start here. A Balancer is one rank's part of live expert balancing. The engine creates it,
// registers its expert weights, starts it, and then makes four calls per step, all on the engine's
// thread, all bounded:
//
// clang-format off
//   balancer.begin_step({step, phase, idle});    // installs what was agreed for this step, enqueues due work
//   for every MoE layer:
//     route with balancer.dispatch_table(layer), run the experts from balancer.slot_parts(layer, slot);
//     balancer.record(layer, expert_token_counts);
//   balancer.end_step();                         // hands the counts over when a packet is due
// clang-format on
//
// All ranks make the same steps. Everything else (packets, planning, copies) happens on the
// balancer worker, a thread of this object. If balancing fails, serving goes on with the last
// committed placement.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <swiftbalancer/dispatch_table.hpp>
#include <swiftbalancer/error.hpp>
#include <swiftbalancer/load.hpp>
#include <swiftbalancer/migration_plan.hpp>
#include <swiftbalancer/placement.hpp>
#include <swiftbalancer/plan_limits.hpp>
#include <swiftbalancer/shape.hpp>
#include <swiftbalancer/transport.hpp>

namespace swiftbalancer {

struct StepInfo {
  std::uint64_t step = 0;  ///< 1, 2, 3, ...: the same on every rank.
  /// Of all ranks' tokens together: decode_dispatch goes by it, and loads of phases are kept apart.
  Phase phase = Phase::kMixed;
  bool idle = false;  ///< This rank has no tokens of its own in this step.
};

/// How a commit puts received weights into place.
enum class InstallMode : std::uint8_t {
  kSwap,  ///< The staging buffer becomes the slot: the engine reads experts through slot_parts().
          ///< O(1) an expert.
  kCopy,  ///< Received bytes are copied into the registered memory, which never changes its role.
};

/// What the choice among an expert's replicas keeps low on the worst rank.
enum class DispatchObjective : std::uint8_t {
  kTokens,            ///< Tokens, by planned shares: compute sets the time (prefill).
  kActivatedExperts,  ///< Experts that get any token, each on one slot: reading their weights sets
                      ///< the time (decode).
};

/// Where an engine reads which replica a token goes to.
enum class TableKind : std::uint8_t {
  kFixed,  ///< dispatch_table(): rows of one width, for kernels.
  kDraw,   ///< draw_table() as well: the shares themselves, for engines that choose on the CPU.
};

/// Who plans.
enum class ControlMode : std::uint8_t {
  kReplicated,  ///< Every rank plans; the hashes of the plans are compared.
  kLeader,      ///< The lowest live rank plans and sends its plan; the hashes are compared too.
};

/// Where planning runs. Packets and copies are driven by a thread of the engine's process anyway.
enum class WorkerKind : std::uint8_t {
  kThread,
  kProcess,  ///< A process of the program `swiftbalancer-planner`, started by this one.
};

/// Brings an expert back whose only live slots were lost: fills the parts of a slot, in the order
/// of registration, with the expert's bytes. Engine thread, inside reconfigure(). May throw.
using LoadExpert =
    std::function<void(int moe_layer_id, int logical_id, std::span<std::byte* const> parts)>;

struct BalancerConfig {
  // What is balanced, and when.
  std::string policy = "swift";
  std::uint64_t rebalance_interval =
      64;  ///< Steps between rebalances; a drift is answered earlier.
  double imbalance_trigger =
      1.10;  ///< Imbalance, beyond sampling noise, that calls for a rebalance at once.
  double min_gain = 0.01;  ///< Predicted fall of imbalance below which a plan is dropped; down to a
                           ///< quarter of it where loads are known well.
  int max_moves_per_layer = -1;  ///< Per rebalance; < 0: no limit.
  PlanLimits limits{};           ///< Budgets over all layers, cost gate, what placements keep.
                                 ///< rank_speeds are those of the first shape's ranks.
  std::int64_t window_assignments =
      4096;                     ///< Token-expert assignments per layer that are worth judging.
  bool locality_first = false;  ///< dispatch_table() prefers slots of its own rank, then of its
                                ///< own node, as far as the shares allow, which are planned for
                                ///< it (all ranks are taken to have as many tokens: where they
                                ///< differ, rank loads are less level than planned).
  DispatchObjective decode_dispatch =
      DispatchObjective::kTokens;            ///< Of dispatch_table() in steps of Phase::kDecode.
  TableKind table_kind = TableKind::kFixed;  ///< kDraw goes by the shares alone: neither with
                                             ///< locality_first nor with kActivatedExperts.
  // How it is carried out.
  InstallMode install_mode = InstallMode::kSwap;
  std::size_t staging_bytes = std::size_t{64}
                              << 20;  ///< Pool for arriving experts; at least one expert.
  std::uint64_t packet_interval = 1;  ///< Steps between packets.
  std::uint64_t packet_lag =
      2;  ///< A packet set of step s is used at begin_step(s + packet_lag); >= 1.
  std::uint64_t max_open_sets =
      1000;  ///< Packet sets after which a generation without a plan is closed.
  std::chrono::milliseconds deadline{30'000};  ///< Longest wait for the packets of the other ranks.
  ControlMode control_mode = ControlMode::kReplicated;
  WorkerKind worker = WorkerKind::kThread;
  std::string planner_program;  ///< kProcess; empty: `swiftbalancer-planner` beside this program.
  int planner_restarts = 5;  ///< kProcess: how often it is started again before balancing is off.
  std::chrono::milliseconds planner_deadline{
      10'000};             ///< kProcess: silence after which it counts as stuck and is ended.
  LoadExpert load_expert;  ///< Empty: a lost rank's experts without another slot end the run.
  std::string
      checkpoint;  ///< Names the weights (path, digest, revision); must be equal on all ranks.
  std::function<void(const std::string&)>
      log;                            ///< One line each; called on either thread. Empty: silent.
  std::function<void()> thread_init;  ///< Called first on the worker, e.g. to set its affinity.
};

/// One part of an expert's weights (a projection, its scales, ...): opaque bytes owned by the
/// engine.
struct WeightPart {
  std::byte* data = nullptr;
  std::size_t bytes = 0;
};

enum class BalancerEventKind : std::uint8_t {
  kOpened,     ///< A generation was opened: the ranks plan.
  kAdopted,    ///< All ranks hold the same plan: copies start.
  kClosed,     ///< A generation ended without a plan; see reason.
  kCommitted,  ///< A unit was installed at this step.
  kDropped,    ///< A unit will not be installed; see reason.
  kRetired,    ///< The last unit of the active plan was committed or dropped.
};

std::string_view to_string(BalancerEventKind kind);
std::string_view to_string(Reason reason);

/// What the agreement did in the last begin_step, in order.
struct BalancerEvent {
  BalancerEventKind kind = BalancerEventKind::kOpened;
  Reason reason = Reason::kNone;
  GenerationId generation;
  std::uint32_t unit = 0;               ///< kCommitted, kDropped: index into plan->units.
  const MigrationPlan* plan = nullptr;  ///< kAdopted, kCommitted, kDropped, kClosed (if there was
                                        ///< one): valid until the next begin_step.
};

/// How far the worker is with what the agreement waits for.
struct WorkerProgress {
  std::uint64_t observed_step = 0;  ///< Last packet set whose loads the planner has seen.
  bool plan_ready = false;          ///< The open generation's plan is held here (or has failed).
  std::uint32_t staged_cursor =
      0;  ///< Units of the active plan, in order, whose bytes are all here.
};

/// Plain counters of this rank, engine thread.
struct BalancerStats {
  std::uint64_t steps = 0;
  std::uint64_t packet_sets = 0;
  std::uint64_t generations_opened = 0;
  std::uint64_t plans_adopted = 0;
  std::uint64_t plans_empty = 0;    ///< Closed because nothing was worth moving.
  std::uint64_t plans_dropped = 0;  ///< Closed for any other reason.
  std::uint64_t units_committed = 0;
  std::uint64_t units_dropped = 0;
  std::uint64_t moves = 0;           ///< Experts installed, over all ranks.
  std::uint64_t migrated_bytes = 0;  ///< Of those moves.
  std::uint64_t waits_for_packets =
      0;                              ///< begin_step found the packet set of its step not complete.
  std::uint64_t waits_for_plans = 0;  ///< Always 0: nobody waits for planning.
  std::uint64_t waits_for_copies = 0;     ///< Always 0: nobody waits for a transfer.
  std::chrono::nanoseconds wait_time{0};  ///< Of all these waits.
  std::uint64_t plans_shadowed = 0;       ///< Closed because the mode is kPlanOnly.
  std::uint64_t planner_resets = 0;       ///< Load histories that all ranks began anew.
  std::uint64_t dropped_samples = 0;      ///< Packet sets whose loads this rank's planner, which
                                          ///< was lost, never saw or answered.
  std::uint64_t reconfigurations = 0;
  std::uint64_t experts_loaded = 0;    ///< By load_expert, on this rank.
  std::uint64_t plan_step = 0;         ///< At which the last plan was adopted; 0: none.
  double plan_imbalance_before = 1.0;  ///< Predicted by the last plan, mean over layers.
  double plan_imbalance_after = 1.0;
};

struct Health {
  bool ok = true;      ///< False from a failure until balancing is seen to work again: a later plan
                       ///< is installed or was found unnecessary, or the ranks left have gone on.
                       ///< False for good once balancing is off. Serving goes on with the last
                       ///< committed placement.
  std::string reason;  ///< Of the last time that ok became false, one line; it stays.
  std::uint64_t failures = 0;               ///< Noticed on this rank so far, recovered or not.
  BalancingMode mode = BalancingMode::kOn;  ///< As agreed.
  bool planner_running = true;  ///< False while a planner process is down, and for good once it was
                                ///< restarted too often: then balancing is off.
  int planner_restarts = 0;
  std::uint32_t membership = 0;  ///< Reconfigurations so far.
};

class Balancer {
 public:
  /// @param transport used by the worker alone; its ranks are those of the shape. @throws Error
  /// kInvalidArgument: a value out of range, unknown policy.
  Balancer(const ClusterShape& shape, const BalancerConfig& config,
           std::unique_ptr<Transport> transport);
  /// For join(): the transport joins the live ranks, this one among them.
  /// @param live_ranks as for reconfigure().
  Balancer(const ClusterShape& shape, const BalancerConfig& config,
           std::unique_ptr<Transport> transport, std::span<const int> live_ranks);
  /// Stops the worker. No call may be under way, and all ranks have ended their last step: to a
  /// slower one this rank is lost.
  ~Balancer();
  Balancer(const Balancer&) = delete;
  Balancer& operator=(const Balancer&) = delete;

  /// Registers the weights of a local slot; before start(), every layer and slot once, with the
  /// same parts within a layer (kSwap: within the model). The memory is borrowed and outlives the
  /// balancer; with kSwap it serves as staging too, so only slot_parts() tells where an expert
  /// lies.
  /// @throws Error kInvalidArgument, kInvalidState after start().
  void register_weights(int moe_layer_id, int local_slot, std::span<const WeightPart> parts);
  /// Starts the worker with the placement that the registered slots hold now. Collective: returns
  /// when all ranks have called it and are configured alike.
  /// @throws Error kInvalidArgument: invalid placement, staging_bytes below one expert, ranks
  /// configured differently; kInvalidState: slots missing, called twice; kTimeout, kPeerLost,
  /// kTransport: other ranks did not come.
  void start(const Placement& served);

  /// In place of start(), for a rank that joins a cluster at work, made with the live ranks: its
  /// slots start empty, and a plan fills them. Collective with the others' reconfigure(). The
  /// weights are registered. @returns as reconfigure(). @throws Error as start().
  Status join();

  // --- Membership. Engine thread, between steps or in place of the rest of a forward. ---

  /// Goes on with other ranks, or with the same after a failed gather. Collective among
  /// `live_ranks` over `transport`, a new one that joins exactly them, in this order; the old
  /// transport is closed. What some rank has committed is committed by all (roll forward), the plan
  /// under way is dropped, experts without a live slot are brought back by load_expert. Afterwards
  /// ranks and slots are numbered over the live ranks (shape(), rank()), and the next step is
  /// steps_begun() + 1: the highest that any rank has begun, plus one.
  /// @param live_ranks numbers of the first shape, ascending; own rank among them.
  /// @returns kTimeout, kPeerLost or kTransport: another rank was lost meanwhile, call it again
  /// with those left; kUnavailable: experts cannot be brought back; kInternal: ranks disagree.
  Status reconfigure(std::span<const int> live_ranks, std::unique_ptr<Transport> transport);
  /// The shape as of the last reconfiguration. Address fixed.
  const ClusterShape& shape() const noexcept;
  /// This rank's number in shape().
  int rank() const noexcept;
  /// Numbers that the ranks of shape() had in the first shape.
  std::span<const int> live_ranks() const noexcept;
  /// The last step begun; after a reconfiguration the highest that any rank has begun.
  std::uint64_t steps_begun() const noexcept;

  /// Asks for a mode, on any rank; agreed by the packets that follow. It stays until some rank asks
  /// for another, whatever ranks are lost. Of several asked for at once the most restrictive
  /// counts: paused, plan-only, on.
  void set_mode(BalancingMode mode) noexcept;

  // --- The four calls. Engine thread. No allocation; no system call when nothing is due. ---

  /// Installs what was agreed for this step. May wait for the packet set of its step, for nothing
  /// else.
  /// @returns a failure when the step must not be run: kTimeout or kPeerLost (names the ranks),
  /// kTransport (a packet that is not what it should be), kInternal (the ranks have diverged, the
  /// worker has stopped), kInvalidArgument (step out of order).
  Status begin_step(const StepInfo& info) noexcept;
  /// The choices of one layer for this source rank and the phase of the step; valid until the next
  /// begin_step.
  DispatchView dispatch_table(int moe_layer_id) const noexcept;
  /// Likewise with TableKind::kDraw, refreshed in place by begin_step; else nullptr.
  const DrawTable* draw_table(int moe_layer_id) const noexcept;
  /// Adds one layer's tokens received per local slot after dispatch, [slots of this rank].
  void record(int moe_layer_id, std::span<const std::uint32_t> expert_token_counts) noexcept;
  /// Ends the step; posts this rank's packet when one is due.
  Status end_step() noexcept;

  // --- Reading. Engine thread, between begin_step and the next. ---

  /// What is served now. Address and size are fixed; contents change inside begin_step only.
  const Placement& placement() const noexcept;
  /// Epoch of each layer [num_moe_layers]: committed changes.
  std::span<const std::uint64_t> epochs() const noexcept;
  /// Current memory of a local slot's parts (kSwap: changes inside begin_step; kCopy: as
  /// registered).
  std::span<std::byte* const> slot_parts(int moe_layer_id, int local_slot) const noexcept;
  /// Tokens that each local slot of a layer has received, whatever experts it held in the meantime:
  /// a count that never falls, of which differences are used. Kept from the first call on, at the
  /// cost of one pass over all slots a packet; nobody who does not call pays for it.
  /// @param out [slots of this rank]
  void received_tokens(int moe_layer_id, std::span<std::int64_t> out) const;
  /// Events of the last begin_step, in order; after reconfigure() those by which it ended what was
  /// under way, with slots numbered as before.
  std::span<const BalancerEvent> events() const noexcept;
  const BalancerStats& stats() const noexcept;
  Health health() const;
  std::size_t expert_bytes(int moe_layer_id) const noexcept;
  /// Staging buffers of this rank's pool (each holds one expert).
  int staging_capacity() const noexcept;
  /// Size of one rank's packet.
  std::size_t packet_bytes() const noexcept;

  /// For harnesses that decide when finished work counts (a simulated device): waits in wall time,
  /// outside the four calls, until the worker has got at least as far as `target`, and reports
  /// exactly `target` in the packets that follow. Never called: packets report the true progress.
  /// @returns kTimeout after the deadline.
  Status hold_progress_at(const WorkerProgress& target);
  /// Wall time that hold_progress_at() has waited.
  std::chrono::nanoseconds held_time() const noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace swiftbalancer
