#pragma once
// What one rank's balancing has done and how it is: plain counters and health, as
// Balancer::stats() and Balancer::health() give them. Engine thread.

#include <chrono>
#include <cstdint>
#include <string>

#include <swiftbalancer/migration_plan.hpp>

namespace swiftbalancer {

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
  std::uint64_t dropped_samples = 0;      ///< Packet sets whose loads no planner took in here: it
                                          ///< was lost, or the membership ended before.
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

}  // namespace swiftbalancer
