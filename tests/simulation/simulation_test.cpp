// Thousands of seeded schedules of whole clusters. A failure prints its seed; run it again with
//   scripts/soak.sh --seed <seed>

#include <cstdlib>
#include <string>

#include <gtest/gtest.h>

#include "sanitized.hpp"
#include "simulation/sim_cluster.hpp"

namespace swiftbalancer::simulation {
namespace {

std::uint64_t environment(const char* name, std::uint64_t otherwise) {
  const char* value = std::getenv(name);
  return value != nullptr ? std::stoull(value) : otherwise;
}

constexpr std::uint64_t kBlocks = 4;
// Seeds of a block. Sanitizers look for other things, which need fewer.
std::uint64_t seeds_of_block() { return testing_support::is_sanitized() ? 250 : 2'500; }

std::string failure_of(const SimOptions& options) {
  try {
    SimCluster(options).run();
    return "";
  } catch (const std::exception& violation) {
    return violation.what();
  }
}

// Makes a failing run simpler as long as it still fails.
std::string shrunk(SimOptions options) {
  std::string failure = failure_of(options);
  for (bool simpler = true; simpler;) {
    simpler = false;
    for (const SimOptions& variant : options.simpler()) {
      const std::string still = failure_of(variant);
      if (still.empty()) continue;
      failure = still;
      options = variant;
      simpler = true;
      break;
    }
  }
  return failure;
}

class Schedules : public testing::TestWithParam<std::uint64_t> {};

TEST_P(Schedules, KeepTheInvariants) {
  const std::uint64_t only = environment("SWIFTBALANCER_SEED", 0);
  const std::uint64_t count = only != 0 ? 1 : environment("SWIFTBALANCER_SEEDS", seeds_of_block());
  const std::uint64_t first =
      only != 0 ? only : environment("SWIFTBALANCER_FIRST_SEED", 1) + GetParam() * count;
  SimResult total;
  for (std::uint64_t seed = first; seed < first + count; ++seed) {
    try {
      total += SimCluster(SimOptions::draw(seed)).run();
    } catch (const std::exception& violation) {
      FAIL() << violation.what() << "\nreplay: scripts/soak.sh --seed " << seed
             << "\nshrunk: " << shrunk(SimOptions::draw(seed));
    }
  }
  std::cout << count << " schedules: " << total.to_string() << '\n';
  if (count < 2'000) return;  // A block of a soak: too few to have met everything.
  // The schedules must have exercised what they are there for.
  EXPECT_GT(total.commits, count);
  EXPECT_GT(total.drops, count / 20);
  EXPECT_GT(total.closed, count / 10);
  EXPECT_GT(total.superseded, count / 250);
  EXPECT_GT(total.reconfigurations, count / 2);
  EXPECT_GT(total.rolled_forward, count / 250);  // rare: about one in 120 schedules
  EXPECT_GT(total.loaded, count / 10);
  EXPECT_GT(total.resets, count / 10);
  EXPECT_GT(total.joined, count / 100);
  EXPECT_GT(total.refused, count / 200);
  EXPECT_GT(total.timeouts, count / 10);
  EXPECT_GT(total.repeated, count / 50);
  EXPECT_GT(total.peers_lost, count / 10);
  EXPECT_GT(total.damaged, count / 50);
  EXPECT_GT(total.plans_lost, count / 50);
  EXPECT_GT(total.planners_off, count / 50);
  EXPECT_GT(total.apart, count);
  EXPECT_GT(total.given_up, count / 100);
  EXPECT_GT(total.stuck, count / 100);
  EXPECT_GT(total.bounded, count / 200);
  EXPECT_GT(total.calls, count / 10);
  EXPECT_GT(total.slow_loads, count / 20);
}

INSTANTIATE_TEST_SUITE_P(Blocks, Schedules, testing::Range(std::uint64_t{0}, kBlocks));

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
