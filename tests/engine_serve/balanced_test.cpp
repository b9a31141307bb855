// Balancing changes where experts are, and nothing else.

#include <gtest/gtest.h>

#include "engine_serve/support.hpp"

namespace swiftbalancer::engine::testing {
namespace {

struct BalancedCase {
  std::string name;
  std::string policy;
  InstallMode install_mode;
  int num_ranks;
  TransportKind transport;
};

ServeOptions balanced_run(const BalancedCase& c) {
  ServeOptions options = small_run(c.num_ranks);
  options.transport = c.transport;
  options.traffic.steps_per_segment = 12;
  options.verify_slots = true;
  options.balancer.policy = c.policy;
  options.balancer.install_mode = c.install_mode;
  options.balancer.rebalance_interval = 3;
  options.balancer.window_assignments = 256;
  options.balancer.min_gain = 0.0;
  options.balancer.staging_bytes = std::size_t{6}
                                   << 16;  // about ten experts: layers are committed in units
  return options;
}

const Outputs& reference() {
  static const Outputs outputs =
      local_outputs(balanced_run({"", "static", InstallMode::kSwap, 1, TransportKind::kThread}));
  return outputs;
}

class BalancedServe : public ::testing::TestWithParam<BalancedCase> {};

TEST_P(BalancedServe, KeepsOutputsAndSlotBytesThroughEveryCommit) {
  const RunRecord run = serve(balanced_run(GetParam()));
  EXPECT_EQ(run.outputs, reference());
  EXPECT_TRUE(run.healthy) << run.health_reason;
  EXPECT_GT(run.commits.size(), 0U) << "the run was to be disturbed by commits";
  EXPECT_EQ(run.verified_commits,
            run.commits.size() * static_cast<std::size_t>(GetParam().num_ranks));
  EXPECT_EQ(run.waits.for_plans, 0U);
  EXPECT_EQ(run.waits.for_copies, 0U);
}

INSTANTIATE_TEST_SUITE_P(
    Policies, BalancedServe,
    ::testing::Values(
        BalancedCase{"stress_swap_thread_3", "stress", InstallMode::kSwap, 3,
                     TransportKind::kThread},
        BalancedCase{"stress_copy_thread_3", "stress", InstallMode::kCopy, 3,
                     TransportKind::kThread},
        BalancedCase{"stress_swap_shm_8", "stress", InstallMode::kSwap, 8, TransportKind::kShm},
        BalancedCase{"stress_copy_shm_8", "stress", InstallMode::kCopy, 8, TransportKind::kShm},
        BalancedCase{"stress_swap_thread_16", "stress", InstallMode::kSwap, 16,
                     TransportKind::kThread},
        BalancedCase{"eplb_swap_shm_8", "eplb", InstallMode::kSwap, 8, TransportKind::kShm},
        BalancedCase{"eplb_copy_thread_2", "eplb", InstallMode::kCopy, 2, TransportKind::kThread},
        BalancedCase{"swift_swap_shm_8", "swift", InstallMode::kSwap, 8, TransportKind::kShm},
        BalancedCase{"swift_copy_shm_3", "swift", InstallMode::kCopy, 3, TransportKind::kShm}),
    [](const auto& param) { return param.param.name; });

TEST(BalancedServeStatic, NeverMoves) {
  const RunRecord run =
      serve(balanced_run({"", "static", InstallMode::kSwap, 3, TransportKind::kThread}));
  EXPECT_TRUE(run.commits.empty());
  EXPECT_EQ(run.outputs, reference());
}

TEST(BalancedServeOneRank, NeverMovesAnExpert) {
  for (const char* policy : {"eplb", "swift"}) {
    const RunRecord run =
        serve(balanced_run({"", policy, InstallMode::kSwap, 1, TransportKind::kThread}));
    for (const CommitRecord& commit : run.commits) EXPECT_EQ(commit.moves, 0) << policy;
    EXPECT_EQ(run.outputs, reference());
  }
}

}  // namespace
}  // namespace swiftbalancer::engine::testing
