#pragma once
// A whole cluster in one thread: the product's BalancerCore, Worker, planner hook, migration and
// protocol on every rank, over SimNetwork, scheduled by a seed. After every event the general
// invariants of the design are checked.

#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "runtime/balancer_core.hpp"
#include "simulation/sim_transport.hpp"

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
  std::uint64_t num_steps = 30;
  // Faults, in percent of the events they apply to.
  int copy_failure = 0;
  int planner_failure = 0;
  int planner_differs = 0;
  int early_request = 0;  ///< A rank asks for an early rebalance (supersedes a plan still moving).
  int idle = 0;
  int slow_copies = 0;  ///< A copy that could complete does not, this often.

  static SimOptions draw(std::uint64_t seed);
  std::string to_string() const;
};

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
};

class SimCluster {
 public:
  explicit SimCluster(const SimOptions& options);
  ~SimCluster();
  /// Runs to the last step and until the network is quiet. @throws Violation.
  SimResult run();

 private:
  struct Rank;

  void schedule_one();
  bool can_begin(const Rank& rank) const;
  bool can_end(const Rank& rank) const;
  void begin(Rank& rank);
  void end(Rank& rank);
  void route_tokens(Rank& rank);
  void check_slots(const Rank& rank) const;
  void check_forward(const Rank& rank);
  void run_worker(Rank& rank);
  void check_nothing_leaks();
  std::unique_ptr<PlanJob> begin_plan(int rank, std::uint64_t generation);
  bool chance(int percent) { return static_cast<int>(random_() % 100) < percent; }
  [[noreturn]] void violated(const std::string& what) const;

  SimOptions options_;
  std::mt19937_64 random_;
  ClusterShape shape_;
  SimNetwork network_;
  std::vector<std::unique_ptr<Rank>> ranks_;
  // What the first rank to get there did; the others must do the same.
  std::map<std::uint64_t, std::pair<Placement, std::uint64_t>>
      forwards_;  // step -> placement, digest
  std::map<std::uint64_t, ServedState> base_of_generation_;
  SimResult result_;
};

}  // namespace swiftbalancer::simulation
