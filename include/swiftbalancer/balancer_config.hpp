#pragma once
// The settings of a Balancer: what it balances and when, how it carries that out, and the engine's
// callbacks. Every field has a default. All of them must be equal on all ranks, except callbacks,
// paths, deadlines, worker and planner_restarts. The constructor reads them once and refuses values
// that make no sense.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include <swiftbalancer/plan_limits.hpp>

namespace swiftbalancer {

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
/// of registration, with the expert's bytes. Engine thread, inside reconfigure(). May throw. The
/// other ranks hear of every expert that is back, so all of them together may take longer than
/// BalancerConfig::deadline, one of them may not.
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
  TableKind table_kind = TableKind::kFixed;  ///< kDraw chooses by shares alone: it is refused with
                                             ///< locality_first and with kActivatedExperts.
  // How it is carried out.
  InstallMode install_mode = InstallMode::kSwap;
  std::size_t staging_bytes = std::size_t{64}
                              << 20;  ///< Pool for arriving experts; at least one expert.
  std::uint64_t packet_interval = 1;  ///< Steps between packets.
  std::uint64_t packet_lag =
      2;  ///< A packet set of step s is used at begin_step(s + packet_lag); >= 1.
  std::uint64_t max_open_sets =
      1000;  ///< Packet sets after which a generation without a plan is closed; at least
             ///< packet_lag / packet_interval, which a plan needs to be heard of.
  std::uint64_t max_active_sets =
      10'000;  ///< Packet sets without a commit after which a plan that is migrating is given up;
               ///< at least packet_lag / packet_interval.
  std::size_t copy_bytes_per_step = std::size_t{16}
                                    << 20;  ///< kCopy: bytes that one begin_step copies on a rank;
                                            ///< a unit that is larger is installed alone.
  std::chrono::milliseconds deadline{30'000};  ///< Longest wait for the packets of the other ranks,
                                               ///< and for each exchange of a reconfiguration.
  ControlMode control_mode = ControlMode::kReplicated;
  WorkerKind worker = WorkerKind::kThread;
  std::string planner_program;  ///< kProcess; empty: `swiftbalancer-planner` beside this program.
  int planner_restarts = 5;     ///< How often a lost planner is begun anew before balancing is off.
  std::chrono::milliseconds planner_deadline{
      10'000};             ///< kProcess: silence after which it counts as stuck and is ended.
  LoadExpert load_expert;  ///< Empty: a lost rank's experts without another slot end the run.
  std::string
      checkpoint;  ///< Names the weights (path, digest, revision); must be equal on all ranks.
  std::function<void(const std::string&)> log;  ///< One line each; called on either thread. Empty:
                                                ///< silent. What it throws is dropped.
  std::function<void()> thread_init;  ///< Called first on the worker, e.g. to set its affinity. If
                                      ///< it throws, that is logged, and the worker goes on.
};

}  // namespace swiftbalancer
