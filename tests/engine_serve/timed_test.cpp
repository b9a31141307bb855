// Virtual time: the same to the bit in every run, and complete.

#include <gtest/gtest.h>

#include <numeric>

#include "engine_serve/support.hpp"

namespace swiftbalancer::engine::testing {
namespace {

ServeOptions timed_run(const std::string& policy, TransportKind transport) {
  ServeOptions options = small_run(4);
  options.transport = transport;
  options.device = DeviceKind::kTimed;
  options.hardware = data("hardware/h100_nvlink_deepseek_v3.yaml");
  options.token_scale = 64;
  options.traffic.steps_per_segment = 12;
  options.balancer.policy = policy;
  options.balancer.rebalance_interval = 8;
  options.balancer.window_assignments = 256;
  return options;
}

std::int64_t total_ns(const RunRecord& run) {
  return std::accumulate(run.step_time_ns.begin(), run.step_time_ns.end(), std::int64_t{0});
}

class TimedServe : public ::testing::TestWithParam<const char*> {};

TEST_P(TimedServe, GivesTheSameTimesAndCommitsInEveryRun) {
  const RunRecord first = serve(timed_run(GetParam(), TransportKind::kShm));
  for (const auto transport : {TransportKind::kShm, TransportKind::kThread}) {
    const RunRecord again = serve(timed_run(GetParam(), transport));
    EXPECT_EQ(again.step_time_ns, first.step_time_ns);
    EXPECT_EQ(again.critical_ns, first.critical_ns);
    EXPECT_EQ(again.output_digest, first.output_digest);
    ASSERT_EQ(again.commits.size(), first.commits.size());
    for (std::size_t i = 0; i < first.commits.size(); ++i) {
      EXPECT_EQ(again.commits[i].step, first.commits[i].step);
      EXPECT_EQ(again.commits[i].placement, first.commits[i].placement);
    }
  }
}

TEST_P(TimedServe, ChargesEveryNanosecondToATermOfTheCriticalPath) {
  const RunRecord run = serve(timed_run(GetParam(), TransportKind::kThread));
  ASSERT_EQ(run.step_time_ns.size(), run.steps);
  std::int64_t charged = 0;
  for (const auto& [term, ns] : run.critical_ns) charged += ns;
  EXPECT_EQ(charged, total_ns(run));
  EXPECT_GT(run.critical_ns.at("attention"), 0);
  for (const std::int64_t ns : run.step_time_ns) EXPECT_GT(ns, 0);
}

INSTANTIATE_TEST_SUITE_P(Policies, TimedServe, ::testing::Values("static", "eplb", "swift"),
                         [](const auto& param) { return std::string(param.param); });

TEST(TimedServeOutputs, AreThoseOfAnUntimedRun) {
  ServeOptions untimed = timed_run("swift", TransportKind::kThread);
  untimed.device = DeviceKind::kNone;
  const RunRecord timed = serve(timed_run("swift", TransportKind::kThread));
  const RunRecord plain = serve(untimed);
  EXPECT_EQ(timed.outputs, plain.outputs);
  EXPECT_TRUE(plain.step_time_ns.empty());
  EXPECT_TRUE(plain.critical_ns.empty());
}

}  // namespace
}  // namespace swiftbalancer::engine::testing
