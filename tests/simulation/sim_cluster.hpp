#pragma once
// A whole cluster in one thread: the product's core, worker, reconfiguration, migration and
// protocol on every rank, over SimNetworks, scheduled by a seed. After every event the general
// invariants of the design are checked: none of them knows of a particular fault.

#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "simulation/core_access.hpp"
#include "simulation/sim_options.hpp"
#include "simulation/sim_planning.hpp"
#include "simulation/sim_transport.hpp"
#include "simulation/sim_weights.hpp"

namespace swiftbalancer::simulation {

/// Thrown when an invariant is broken; the message says which, where and with what seed.
struct Violation : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// What a run has met.
struct SimResult {
  std::uint64_t events = 0;
  std::uint64_t commits = 0;
  std::uint64_t drops = 0;
  std::uint64_t adopted = 0;
  std::uint64_t closed = 0;
  std::uint64_t superseded = 0;
  std::uint64_t reconfigurations = 0;
  std::uint64_t rolled_forward = 0;
  std::uint64_t loaded = 0;
  std::uint64_t resets = 0;
  std::uint64_t joined = 0;
  std::uint64_t refused = 0;     ///< Ranks that were configured otherwise.
  std::uint64_t timeouts = 0;    ///< Steps and exchanges that were waited for in vain.
  std::uint64_t repeated = 0;    ///< Steps begun again after that.
  std::uint64_t peers_lost = 0;  ///< Deaths that a rank noticed by itself.
  std::uint64_t damaged = 0;
  std::uint64_t plans_lost = 0;
  std::uint64_t planners_off = 0;
  std::uint64_t calls = 0;       ///< Reconfigurations that ranks waited in.
  std::uint64_t given_up = 0;    ///< Units of plans that had become too old.
  std::uint64_t stuck = 0;       ///< Copies that did not end.
  std::uint64_t bounded = 0;     ///< Sets that committed as much as one may, of a plan with more.
  std::uint64_t slow_loads = 0;  ///< Times that a call looked and its expert was still not loaded.
  std::uint64_t apart = 0;       ///< Steps begun two or more ahead of another rank.
  SimResult& operator+=(const SimResult& other);
  std::string to_string() const;
};

class SimCluster {
 public:
  explicit SimCluster(const SimOptions& options);
  ~SimCluster();
  /// Runs to the last step and until the network is quiet. @throws Violation.
  SimResult run();

 private:
  struct Rank;
  struct Attempt;
  struct Before;
  using StepOf = std::pair<std::uint32_t, std::uint64_t>;  // membership, step

  // Set-up and end (sim_cluster.cpp).
  BalancerConfig config_of(const Rank& rank);
  void make_core(Rank& made);
  std::unique_ptr<Planning> make_planning(const Rank& rank);
  void load_expert(const Rank& rank, int layer, int expert, std::span<std::byte* const> parts);
  bool finished() const;
  std::string standing() const;
  /// From here on nothing fails and nothing new begins: what is under way must come to its end.
  void settle();
  void run_until_finished(std::uint64_t most_events, const char* otherwise);

  // Scheduling (sim_schedule.cpp).
  void schedule_one();
  void deliver();
  void run_engine(Rank& rank);
  /// @returns whether there was something to do.
  bool run_worker(Rank& rank);
  bool is_set_ready(const Rank& rank, std::uint64_t step) const;
  bool may_begin(const Rank& rank) const;
  bool may_end(const Rank& rank) const;
  void begin(Rank& rank, const StepInfo& info);
  void begin_too_early(Rank& rank);
  void fail_to_begin(Rank& rank);
  void begin_again(Rank& rank);
  void route_tokens(Rank& rank);
  void end(Rank& rank);
  void ask_mode(Rank& rank, BalancingMode mode);
  StepInfo next_step(const Rank& rank);

  // Membership (sim_membership.cpp).
  void maybe_change_membership();
  void kill_one();
  void end_process(Rank& rank);
  void join_one();
  void begin_attempt(std::vector<int> live);
  /// Another attempt, by those of the last one that live.
  void begin_attempt_again();
  std::vector<int> living() const;
  bool can_go_on(const std::vector<int>& live) const;
  SimNetwork& network_of(const Rank& rank) const;
  int member(const Rank& rank) const;
  void notice(Rank& rank);
  void notice_loss(Rank& rank);
  void reconfigure(Rank& rank);
  void begin_call(Rank& rank);
  Status outcome_of_wait(const Rank& rank);
  void continue_call(Rank& rank, Status outcome);
  void break_off_call(Rank& rank);
  void end_change(Rank& rank, const Status& status);
  void end_failed_change(Rank& rank, const Status& status);
  void send_misfits_away();
  void enter(Rank& rank);

  // Invariants of what is served (sim_checks.cpp).
  void check_forward(Rank& rank);
  void check_tables(Rank& rank);
  void check_shares_table(const Rank& rank, int layer) const;
  void check_one_slot_table(const Rank& rank, int layer, std::uint64_t& choices) const;
  void check_draws(const Rank& rank, int layer) const;
  void check_slots(const Rank& rank) const;
  void check_loads(const Rank& rank) const;
  void check_nothing_leaks();
  // Invariants of what is agreed (sim_agreed_checks.cpp).
  Before look(const Rank& rank) const;
  void check_step(Rank& rank, const Before& before);
  void check_sets(const Rank& rank, const Before& before) const;
  void check_mode(const Rank& rank, const Before& before) const;
  void check_requests(const Rank& rank, const Before& before);
  void check_bounds(Rank& rank, const Before& before);
  void check_planners(const Rank& rank, const Before& before);
  void check_health(const Rank& rank, const Before& before) const;
  void check_entered(const Rank& rank) const;
  void take_event(Rank& rank, const BalancerEvent& event);
  void take_plan(const Rank& rank, const MigrationPlan& plan) const;
  void take_commit(Rank& rank, const CommitUnit& unit);
  void count(const BalancerEvent& event);
  bool is_planning(const Rank& rank) const;
  bool is_explained(Reason reason) const;

  bool chance(int percent) { return static_cast<int>(random_() % 100) < percent; }
  [[noreturn]] void violated(const std::string& what) const;
  [[noreturn]] void violated(const Rank& rank, const std::string& what) const;
  Rank& rank(int id) const { return *ranks_[static_cast<std::size_t>(id)]; }

  SimOptions options_;  // faults are cleared at the end
  const SimOptions drawn_;
  std::mt19937_64 random_;
  ClusterShape shape_;
  const SimWeights weights_;
  std::vector<std::unique_ptr<SimNetwork>> networks_;  // one per attempt
  std::vector<Attempt> attempts_;
  std::vector<std::unique_ptr<Rank>> ranks_;
  int deaths_ = 0;
  bool loads_fail_ = false;  // by choice: an expert could not be loaded
  // What the first rank to get there did; the others must do the same.
  struct Forward {
    std::uint64_t served = 0;  // digests
    std::uint64_t agreed = 0;
  };
  std::map<StepOf, Forward> forwards_;
  std::map<StepOf, std::uint64_t> one_slot_choices_;
  // What all ranks together have recorded in the window that ended with a step.
  struct Set {
    ExpertLoad load;
    std::size_t posted = 0;
    bool idle = true;
    Phase phase = Phase::kMixed;
  };
  std::map<StepOf, Set> sets_;
  std::set<StepOf> late_sets_;                   // posted while some rank was planning
  std::set<StepOf> resets_;                      // steps at which planners began anew
  std::map<std::uint32_t, std::uint64_t> offs_;  // membership -> the set that tells so
  std::map<BalancingMode, std::size_t> mode_requests_;
  std::map<BalancingMode, std::set<StepOf>> mode_changes_;  // steps at which it became so
  int pauses_ = 0;  // the rank that asks for a pause at the end
  bool settling_ = false;
  SimResult result_;
};

}  // namespace swiftbalancer::simulation
