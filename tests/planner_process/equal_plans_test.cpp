// A planner process makes the plans that the worker's thread makes, to the byte.

#include <gtest/gtest.h>

#include <swiftbalancer/policy.hpp>

#include "planner/routing_traffic.hpp"
#include "planner_process/processes.hpp"
#include "runtime/plan_bytes.hpp"

namespace swiftbalancer {
namespace {

using testing::DrivenPlanning;
using testing::RecordedRouting;
using testing::RoutingTraffic;
using Kind = PlanningEvent::Kind;

constexpr int kSteps = 240;
constexpr int kInterval = 10;

PlanningEvent next_event(Planning& thread) {
  while (thread.advance()) {
  }
  auto event = thread.next_event();
  EXPECT_TRUE(event.has_value());
  return event.value_or(PlanningEvent{});
}

std::vector<std::byte> bytes_of(const PlanningEvent& event, const ClusterShape& shape) {
  EXPECT_EQ(event.kind, Kind::kPlan) << event.why;
  std::vector<std::byte> bytes(most_plan_bytes(shape));
  bytes.resize(encode_plan(event.generation, event.plan, shape, bytes));
  EXPECT_FALSE(bytes.empty());
  return bytes;
}

// Both plannings, asked the same.
class Pair {
 public:
  Pair(const ClusterShape& shape, const PlannerConfig& config)
      : shape_(shape),
        served_(ServedState::initial(shape)),
        thread_(make_thread_planning(config, 0)),
        process_({.program = testing::planner_program()}, config) {
    restart();
  }
  void restart() {
    thread_->restart(shape_, served_);
    process_->restart(shape_, served_);
  }
  bool observe(std::uint64_t step, const ExpertLoad& load) {
    thread_->observe(step, load, Phase::kMixed);
    process_->observe(step, load, Phase::kMixed);
    const PlanningEvent expected = next_event(*thread_);
    const PlanningEvent event = process_.next();
    EXPECT_EQ(event.kind, Kind::kObserved) << event.why;
    EXPECT_EQ(event.step, step);
    EXPECT_EQ(event.wants_rebalance, expected.wants_rebalance) << "step " << step;
    return expected.wants_rebalance;
  }
  void open(const GenerationId& generation) {
    for (Planning* planning : both()) {
      planning->open(generation);
      planning->on_rebalancing(true);
    }
  }
  /// Layer by layer, as commits come.
  void plan_and_commit() {
    const PlanningEvent expected = next_event(*thread_);
    const PlanningEvent event = process_.next();
    EXPECT_EQ(bytes_of(event, shape_), bytes_of(expected, shape_));
    num_moves_ += event.plan.moves;
    for (const LayerChange& change : event.plan.changes) {
      std::ranges::copy(change.plan.placement,
                        served_.placement.layer(change.moe_layer_id).begin());
      served_.shares[static_cast<std::size_t>(change.moe_layer_id)] = change.plan.shares;
      for (Planning* planning : both())
        planning->on_committed(change.moe_layer_id, change.plan.placement, change.plan.shares);
    }
    close();
  }
  void close() {
    for (Planning* planning : both()) {
      planning->close();
      planning->on_rebalancing(false);
    }
  }
  int num_moves() const noexcept { return num_moves_; }

 private:
  std::vector<Planning*> both() { return {thread_.get(), &*process_}; }

  const ClusterShape shape_;
  ServedState served_;
  std::unique_ptr<Planning> thread_;
  DrivenPlanning process_;
  int num_moves_ = 0;
};

// @returns moves.
int plan_alike(const PlannerConfig& config) {
  const RecordedRouting routing;
  RoutingTraffic traffic(routing, 256, 0, 7);
  const ClusterShape shape = testing::shape_of(RecordedRouting::kLayers, RecordedRouting::kExperts,
                                               8, RecordedRouting::kExperts + 16);
  Pair pair(shape, config);
  for (int step = 1; step <= kSteps && !::testing::Test::HasFailure(); ++step) {
    if (step % 60 == 0) traffic.switch_to(step / 60 % RecordedRouting::kDomains);
    if (step % 100 == 0) traffic.drift_to((step / 100 + 1) % RecordedRouting::kDomains);
    const auto at = static_cast<std::uint64_t>(step);
    const bool wants = pair.observe(at, traffic.next_step());
    if (step == 150) pair.restart();
    if (!wants && step % kInterval != 0) continue;
    pair.open({.membership = 2, .step = at});
    if (step % 7 == 0) {
      pair.close();  // While it plans: the plan under way is void.
    } else {
      pair.plan_and_commit();
    }
  }
  return pair.num_moves();
}

class EqualPlans : public ::testing::TestWithParam<std::string_view> {};

TEST_P(EqualPlans, OverManyRoundsOfDriftingTraffic) {
  const int moves = plan_alike({.policy = std::string(GetParam())});
  if (make_policy(GetParam())->capabilities().moves) {
    EXPECT_GT(moves, 0);
  }
}

TEST(EqualPlansWithLimits, OverManyRoundsOfDriftingTraffic) {
  PlannerConfig config;
  config.limits = {.max_moves_per_rebalance = 12,
                   .max_bytes_per_rank = 500,
                   .gate = CostGate{1e-4, 1e-5, 1000.0},
                   .max_rank_moves = 2,
                   .max_replicas = 3,
                   .rank_speeds = {1.0, 0.5, 1.0, 1.0, 1.0, 1.0, 2.0, 1.0},
                   .pinned_experts = {3}};
  config.expert_bytes.assign(RecordedRouting::kLayers, 100);
  EXPECT_GT(plan_alike(config), 0);
}

INSTANTIATE_TEST_SUITE_P(Policies, EqualPlans, ::testing::ValuesIn(policy_names()),
                         [](const auto& test) { return std::string(test.param); });

TEST(PlannerProcess, AnswersInOrderWhatWasAskedBeforeItWasUp) {
  const ClusterShape shape = testing::shape_of(40, 256, 8, 288);  // Loads fill the ring many times.
  DrivenPlanning process({.program = testing::planner_program()});
  process->restart(shape, ServedState::initial(shape));
  for (std::uint64_t step = 1; step <= 100; ++step)
    process->observe(step, testing::skewed_load(shape, static_cast<int>(step)), Phase::kMixed);
  for (std::uint64_t step = 1; step <= 100; ++step) {
    const PlanningEvent event = process.next();
    ASSERT_EQ(event.kind, Kind::kObserved) << event.why;
    ASSERT_EQ(event.step, step);
  }
  EXPECT_FALSE(process->must_be_polled());
}

}  // namespace
}  // namespace swiftbalancer
