#pragma once
// What a simulated run is like: drawn from its seed, or made smaller by hand when a failure is
// shrunk.

#include <cstdint>
#include <string>
#include <vector>

#include <swiftbalancer/balancer.hpp>

namespace swiftbalancer::simulation {

enum class Nodes : std::uint8_t { kOne, kBlocks, kInterleaved };
/// What ranks say of a step.
enum class Phases : std::uint8_t { kAllDecode, kPerStep, kPerRank };

struct SimOptions {
  std::uint64_t seed = 1;

  // Shape and weights.
  int num_ranks = 2;
  int num_moe_layers = 2;
  int num_logical_experts = 4;
  int num_slots = 6;
  bool uneven_slots = false;  ///< Ranks have different numbers of slots.
  Nodes nodes = Nodes::kOne;
  int num_parts = 1;          ///< Of an expert's weights, of different sizes.
  bool uneven_parts = false;  ///< Layers have parts of different sizes (install mode copy only).

  // Configuration.
  std::uint64_t packet_interval = 1;
  std::uint64_t packet_lag = 1;
  std::uint64_t rebalance_interval = 3;
  std::uint64_t max_open_sets = 8;
  std::uint64_t max_active_sets = 10'000;
  int copies_per_step = 0;  ///< Experts that copy_bytes_per_step has room for; 0: all.
  int staging_experts = 2;  ///< Buffers of a rank's pool.
  InstallMode install_mode = InstallMode::kSwap;
  ControlMode control_mode = ControlMode::kReplicated;
  bool decode_tables = false;
  bool draw_tables = false;

  // Engines and network.
  std::uint64_t num_steps = 30;
  bool barrier = true;  ///< Nobody ends a step that somebody has not begun, as in an all-to-all;
                        ///< else ranks are as far apart as packets allow.
  Phases phases = Phases::kAllDecode;
  bool uneven_shares = false;  ///< Plans split an expert's tokens unevenly over its replicas.
  bool can_cancel = true;
  bool slow_senders = false;  ///< A sender learns later than its receiver that a copy is done.
  int ring_bytes = 0;         ///< Each pair's messages flow in order through a ring of this size;
                              ///< 0: any message may overtake any other, and comes as a whole.
  bool blocking = false;      ///< Ranks wait inside reconfigure(); else it runs event by event.
  int planner_restarts = -1;  ///< Losses of a planner after which it is off for good; < 0: never.

  // Faults, in percent of the events they apply to.
  int copy_failure = 0;
  int send_failure = 0;
  int planner_failure = 0;
  int planner_differs = 0;
  int planner_throws = 0;  ///< A call of the planner ends with an exception.
  int planner_loss = 0;    ///< A rank loses its load history.
  int early_request = 0;   ///< A rank asks for an early rebalance (supersedes a plan still moving).
  int idle = 0;
  int slow_copies = 0;   ///< A copy that could move does not, this often.
  int stuck_copies = 0;  ///< A copy does not move until the end of the run.
  int slow_loads = 0;    ///< An expert is still not loaded, of the times one looks.
  int mode_change = 0;   ///< In percent of steps.

  // Faults over the whole run: how many.
  int deaths = 0;
  bool silent_deaths = false;  ///< Nobody tells of a death: ranks notice, by wait() or by waiting.
  int joins = 0;
  int bad_joins = 0;        ///< Of the joins: by a rank that is configured otherwise.
  int gather_failures = 0;  ///< Gathers that fail on one rank.
  int damages = 0;          ///< Messages with a wrong bit.
  int losses = 0;           ///< Plan messages that do not arrive.
  int timeouts = 0;         ///< A rank does not get its packet set in time.
  int change_timeouts = 0;  ///< A rank does not get the others' answers in a reconfiguration.
  int load_failures = 0;    ///< An expert cannot be loaded.

  static SimOptions draw(std::uint64_t seed);
  /// Nothing fails any more, and nothing new begins.
  void clear_faults();
  /// Variants that are simpler by one thing each: for shrinking a failure.
  std::vector<SimOptions> simpler() const;
  std::string to_string() const;

  ShapeOptions shape() const;
};

}  // namespace swiftbalancer::simulation
