#pragma once
// What SimCluster keeps of a rank and of an attempt at a membership.

#include "simulation/sim_call.hpp"
#include "simulation/sim_cluster.hpp"

namespace swiftbalancer::simulation {

/// What a rank serves, as its events and memberships tell: the checks compare with it.
struct Served {
  Placement placement;
  std::vector<std::vector<std::uint32_t>> shares;  // [layer][slot]
};

/// What was recorded since the last packet.
struct Window {
  ExpertLoad load;
  bool idle = true;
  Phase phase = Phase::kMixed;  // of all steps with tokens of its own
};

/// What a rank had agreed on when it was last frozen.
struct LeftWith {
  std::uint32_t membership = 0;
  std::uint64_t used_step = 0;
  BalancingMode mode = BalancingMode::kOn;
};

/// What a rank had reached before a step.
struct SimCluster::Before {
  bool late = false;
  BalancingMode mode = BalancingMode::kOn;
  bool active = false;  // a plan
  std::uint64_t packet_sets = 0;
  std::uint64_t planner_resets = 0;
  Health health;
};

struct SimCluster::Attempt {
  std::vector<int> live;
  bool has_misfit = false;  // a rank that is configured otherwise
};

struct SimCluster::Rank {
  int id = 0;
  bool alive = true;
  bool joins = false;           // has served nothing yet
  bool is_misfit = false;       // configured otherwise than the others: is not taken in
  bool worker_stopped = false;  // by a failed gather or a lost peer; until the next membership
  bool late = false;            // its begin_step has failed
  bool repeats = false;         // and it will repeat it; else it asks for a reconfiguration
  StepInfo late_step{};
  std::size_t attempt = 0;  // that it follows
  std::unique_ptr<Core> core;
  std::unique_ptr<Change> change;  // its reconfiguration that is under way, event by event,
  std::unique_ptr<SimCall> call;   // or as a call that blocks
  std::shared_ptr<PlannerRecord> planner = std::make_shared<PlannerRecord>();
  std::vector<std::byte> memory;  // [layer][local slot][part]
  Window window;
  Served served;
  std::uint64_t entered_step = 0;     // at which its membership began
  std::vector<int> members;           // of its membership
  std::optional<LeftWith> left_with;  // none: it joins
  Phase phase = Phase::kMixed;        // of its step
  std::uint64_t idle_sets = 0;        // since its active plan was adopted or a unit of it committed
  bool shares_unchecked = true;       // Since its tables were last checked they have changed,
  bool one_slots_unchecked = true;    // those of decode steps likewise.
  int commits = 0;                    // of its last set,
  int installs = 0;                   // and the experts that it installed for them
  int rounds_with_answer = 0;  // of its worker, since its planner or the leader's has answered

  bool reconfigures() const { return change != nullptr || call != nullptr; }
  bool serves() const { return alive && !reconfigures() && simulation::serves(*core); }
};

}  // namespace swiftbalancer::simulation
