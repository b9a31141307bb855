#pragma once
// What SimCluster keeps of a rank and of an attempt at a membership.

#include "core/test_fault.hpp"
#include "simulation/sim_cluster.hpp"

namespace swiftbalancer::simulation {

// An expert's weights name it, so that wrong bytes are seen wherever they turn up.
struct Weights {
  std::int32_t layer = -1;
  std::int32_t expert = -1;
  std::uint64_t check[2] = {0, 0};
  static Weights of(int layer, std::int32_t expert) {
    const auto word = mix(static_cast<std::uint64_t>(layer), static_cast<std::uint64_t>(expert));
    return {layer, expert, {word, ~word}};
  }
  bool operator==(const Weights&) const = default;
};

struct SimCluster::Attempt {
  std::vector<int> live;
};

struct SimCluster::Rank {
  int id = 0;
  bool alive = true;
  bool joins = false;           // has served nothing yet
  bool worker_stopped = false;  // by a failed gather; until the next membership
  std::size_t attempt = 0;      // that it follows
  std::unique_ptr<Core> core;
  std::unique_ptr<Change> change;
  std::vector<Weights> memory;  // [layer][local slot]
  // Window's last step -> tokens of this rank's slots, by expert.
  std::map<StepOf, ExpertLoad> routed;
  ExpertLoad window;

  bool serves() const { return alive && change == nullptr && simulation::serves(*core); }
};

}  // namespace swiftbalancer::simulation
