#pragma once
// A whole cluster in one thread: the product's BalancerCore, Worker, Reconfiguration, migration and
// protocol on every rank, over SimNetworks, scheduled by a seed. After every event the general
// invariants of the design are checked.

#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "simulation/core_access.hpp"
#include "simulation/sim_options.hpp"
#include "simulation/sim_planning.hpp"
#include "simulation/sim_transport.hpp"

namespace swiftbalancer::simulation {

/// Thrown when an invariant is broken; the message says which, where and with what seed.
struct Violation : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct SimResult {
  std::uint64_t commits = 0;
  std::uint64_t drops = 0;
  std::uint64_t adopted = 0;
  std::uint64_t closed = 0;
  std::uint64_t superseded = 0;
  std::uint64_t events = 0;
  std::uint64_t reconfigurations = 0;
  std::uint64_t rolled_forward = 0;
  std::uint64_t loaded = 0;
  std::uint64_t resets = 0;
  std::uint64_t joined = 0;
  SimResult& operator+=(const SimResult& other);
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

  // Set-up (sim_cluster.cpp).
  void make_core(Rank& rank, std::unique_ptr<Transport> transport);
  std::unique_ptr<SimPlanning> make_planning();

  // Scheduling.
  void schedule_one();
  void run_engine(Rank& rank);
  void run_worker(Rank& rank);
  void deliver();
  bool can_begin(const Rank& rank) const;
  bool can_end(const Rank& rank) const;
  void begin(Rank& rank);
  void end(Rank& rank);
  void route_tokens(Rank& rank);
  bool finished() const;
  /// From here on nothing fails and nothing new begins: what is under way must come to its end.
  void settle();
  void count(const Rank& rank);

  // Membership.
  void maybe_change_membership();
  void kill_one();
  void join_one();
  void new_attempt(std::vector<int> live);
  bool can_hold(const std::vector<int>& live) const;
  void notice(Rank& rank);
  void reconfigure(Rank& rank);

  // Invariants (sim_checks.cpp).
  void check_forward(const Rank& rank);
  void check_tables(const Rank& rank) const;
  void check_slots(const Rank& rank) const;
  void check_loads(const Rank& rank, std::uint64_t step) const;
  void check_nothing_leaks();
  bool chance(int percent) { return static_cast<int>(random_() % 100) < percent; }
  [[noreturn]] void violated(const std::string& what) const;
  Rank& rank(int id) const { return *ranks_[static_cast<std::size_t>(id)]; }

  SimOptions options_;
  std::mt19937_64 random_;
  ClusterShape shape_;
  BalancerConfig config_;
  std::vector<std::unique_ptr<SimNetwork>> networks_;  // one per attempt
  std::vector<Attempt> attempts_;
  std::vector<std::unique_ptr<Rank>> ranks_;
  int deaths_left_, joins_left_, gather_failures_left_;
  using StepOf = std::pair<std::uint32_t, std::uint64_t>;  // membership, step
  // What the first rank to get there did; the others must do the same.
  std::map<StepOf, std::pair<Placement, std::vector<std::uint64_t>>> forwards_;
  bool settling_ = false;
  SimResult result_;
};

}  // namespace swiftbalancer::simulation
