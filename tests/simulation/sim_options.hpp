#pragma once
// What a simulated run is like: drawn from its seed, or made smaller by hand when a failure is
// shrunk.

#include <cstdint>
#include <string>
#include <vector>

#include <swiftbalancer/balancer.hpp>

namespace swiftbalancer::simulation {

struct SimOptions {
  std::uint64_t seed = 1;
  int num_ranks = 2;
  int num_moe_layers = 2;
  int num_logical_experts = 4;
  int num_slots = 6;
  std::uint64_t packet_interval = 1;
  std::uint64_t packet_lag = 1;
  std::uint64_t rebalance_interval = 3;
  std::uint64_t max_open_sets = 8;
  int staging_experts = 2;  ///< Buffers of a rank's pool.
  InstallMode install_mode = InstallMode::kSwap;
  ControlMode control_mode = ControlMode::kReplicated;
  bool can_cancel = true;
  bool slow_senders = false;  ///< A sender learns later than its receiver that a copy is done.
  std::uint64_t num_steps = 30;
  // Faults, in percent of the events they apply to.
  int copy_failure = 0;
  int send_failure = 0;
  int planner_failure = 0;
  int planner_differs = 0;
  int planner_loss = 0;   ///< A rank loses its load history.
  int early_request = 0;  ///< A rank asks for an early rebalance (supersedes a plan still moving).
  int idle = 0;
  int slow_copies = 0;  ///< A copy that could move does not, this often.
  int mode_change = 0;  ///< In percent of steps.
  // Faults of the membership, over the whole run.
  int deaths = 0;
  int joins = 0;
  int gather_failures = 0;

  static SimOptions draw(std::uint64_t seed);
  /// Variants that are simpler by one thing each: for shrinking a failure.
  std::vector<SimOptions> simpler() const;
  std::string to_string() const;
};

}  // namespace swiftbalancer::simulation
