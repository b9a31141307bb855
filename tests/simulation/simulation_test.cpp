// Thousands of seeded schedules of whole clusters. A failure prints its seed; run it again with
//   SWIFTBALANCER_SEED=<seed> simulation_test --gtest_filter='Simulation.*'
// SWIFTBALANCER_SEEDS=<n> runs more.

#include <cstdlib>
#include <string>

#include <gtest/gtest.h>

#include "simulation/sim_cluster.hpp"

namespace swiftbalancer::simulation {
namespace {

std::uint64_t environment(const char* name, std::uint64_t otherwise) {
  const char* value = std::getenv(name);
  return value != nullptr ? std::stoull(value) : otherwise;
}

SimResult operator+(const SimResult& a, const SimResult& b) {
  return {a.commits + b.commits, a.drops + b.drops,           a.adopted + b.adopted,
          a.closed + b.closed,   a.superseded + b.superseded, a.events + b.events};
}

TEST(Simulation, EverySeededScheduleKeepsTheInvariants) {
  const std::uint64_t only = environment("SWIFTBALANCER_SEED", 0);
  const std::uint64_t first = only != 0 ? only : 1;
  const std::uint64_t last = only != 0 ? only : environment("SWIFTBALANCER_SEEDS", 2500);
  SimResult total;
  for (std::uint64_t seed = first; seed <= last; ++seed) {
    try {
      total = total + SimCluster(SimOptions::draw(seed)).run();
    } catch (const std::exception& violation) {
      FAIL() << violation.what() << "\nreplay: SWIFTBALANCER_SEED=" << seed;
    }
  }
  std::cout << last - first + 1 << " schedules: " << total.events << " events, " << total.adopted
            << " plans adopted, " << total.closed << " generations closed, " << total.commits
            << " units committed, " << total.drops << " dropped, " << total.superseded
            << " superseded\n";
  if (only != 0) return;
  // The schedules must have exercised what they are there for.
  EXPECT_GT(total.commits, last);
  EXPECT_GT(total.drops, last / 10);
  EXPECT_GT(total.closed, last / 10);
  EXPECT_GT(total.superseded, last / 100);
}

TEST(Simulation, TheSameSeedGivesTheSameRun) {
  for (std::uint64_t seed : {3U, 44U, 505U}) {
    const SimResult once = SimCluster(SimOptions::draw(seed)).run();
    const SimResult again = SimCluster(SimOptions::draw(seed)).run();
    EXPECT_EQ(once.events, again.events);
    EXPECT_EQ(once.commits, again.commits);
  }
}

}  // namespace
}  // namespace swiftbalancer::simulation
