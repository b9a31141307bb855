// CopyExecutor over the thread transport: ranks are threads that commit what all of them have
// staged.

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "expert_ranks.hpp"
#include "random_rows.hpp"
#include "wait_limit.hpp"

namespace swiftbalancer::testing {
namespace {

using std::chrono::steady_clock;

class ThreadRanks : public ::testing::TestWithParam<bool> {};

TEST_P(ThreadRanks, StageAndInstallPlanAfterPlan) {
  const bool swap = GetParam();
  constexpr int kRanks = 4, kBuffers = 2, kLayers = 6;
  constexpr std::uint64_t kPlans = 3;
  ShapeOptions options;
  options.num_moe_layers = kLayers;
  options.num_logical_experts = 10;
  options.num_ranks = kRanks;
  options.num_slots = 16;
  const ClusterShape shape(options);

  Random random(2024);
  std::vector<Placement> targets{Placement::initial(shape)};
  std::vector<MigrationPlan> plans;
  for (std::uint64_t step = 1; step <= kPlans; ++step) {
    Placement next = targets.back();
    for (int layer = 0; layer < kLayers; ++layer) {
      std::ranges::copy(changed_row(random_row(shape, random), shape, 3, random),
                        next.layer(layer).begin());
    }
    plans.push_back(make_plan(shape, targets.back(), next, kBuffers, step));
    for (const CommitUnit& unit : plans.back().units) {
      std::ranges::copy(unit.placement, targets.back().layer(unit.moe_layer_id).begin());
    }
    targets.push_back(targets.back());
  }

  auto transports = make_thread_transports(kRanks);
  // Larger than a ring, so that transfers take several turns.
  const PartBytes parts{300'000, 64};
  const std::vector<PartBytes> part_bytes(kLayers, parts);
  std::vector<std::unique_ptr<ExpertRank>> ranks;
  for (int rank = 0; rank < kRanks; ++rank) {
    ranks.push_back(std::make_unique<ExpertRank>(shape, *transports[static_cast<std::size_t>(rank)],
                                                 part_bytes, parts, kBuffers,
                                                 Placement::initial(shape)));
  }

  // Units staged by each rank, counted over all plans: what packets carry in a running system.
  std::vector<std::atomic<std::uint64_t>> staged(kRanks);
  const auto deadline = steady_clock::now() + testing_support::kWaitLimit;
  const auto serve = [&](int me) {
    ExpertRank& rank = *ranks[static_cast<std::size_t>(me)];
    std::uint64_t units_before = 0;
    for (const MigrationPlan& plan : plans) {
      rank.executor->adopt(plan);
      std::uint32_t next = 0;
      while (next < plan.units.size() && steady_clock::now() < deadline) {
        const bool more = rank.executor->progress();
        const std::uint64_t mine = units_before + rank.executor->staged_cursor();
        if (staged[static_cast<std::size_t>(me)].exchange(mine) != mine) {
          for (auto& transport : transports) transport->wake();
        }
        std::uint64_t least = mine;
        for (const auto& cursor : staged) least = std::min(least, cursor.load());
        if (units_before + next < least) {
          rank.install(plan.units[next], next, swap);
          ++next;
        } else if (!more) {
          (void)transports[static_cast<std::size_t>(me)]->wait(deadline);
        }
      }
      if (next < plan.units.size()) return;
      rank.executor->retire();
      units_before += plan.units.size();
    }
  };
  std::vector<std::thread> threads;
  for (int rank = 0; rank < kRanks; ++rank) threads.emplace_back(serve, rank);
  for (std::thread& thread : threads) thread.join();

  for (const auto& rank : ranks) {
    EXPECT_FALSE(rank->executor->active()) << "rank " << rank->rank << " ran into the deadline";
    rank->expect_placement(targets.back());
    EXPECT_EQ(rank->pool.num_free(), rank->pool.capacity());
  }
}

INSTANTIATE_TEST_SUITE_P(BothInstalls, ThreadRanks, ::testing::Bool(),
                         [](const auto& test) { return test.param ? "Swap" : "Copy"; });

}  // namespace
}  // namespace swiftbalancer::testing
