// The planned shares reach the tokens: what slots count follows what the plan says.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "engine/figures.hpp"
#include "engine_serve/support.hpp"

namespace swiftbalancer::engine::testing {
namespace {

// One domain and one early answer: most of the run is served under one set of shares.
ServeOptions long_run(const char* policy) {
  ServeOptions options = small_run(8);
  options.transport = TransportKind::kShm;
  options.max_batch_tokens = 128;
  options.traffic.domains = {"python"};
  options.traffic.steps_per_segment = 150;
  options.traffic.arrivals_per_step = 12.0;
  options.balancer.policy = policy;
  options.balancer.rebalance_interval = 16;
  options.balancer.window_assignments = 2048;
  return options;
}

const RunRecord& swift_run() {
  static const RunRecord run = serve(long_run("swift"));
  return run;
}

const RunRecord& drawn_run() {
  static const RunRecord run = [] {
    ServeOptions options = long_run("swift");
    options.balancer.table_kind = TableKind::kDraw;
    return serve(options);
  }();
  return run;
}

// Of what is served from the last commit of a layer on: tokens by slot and by expert.
struct Counted {
  CommitRecord served;
  std::vector<double> slots;
  std::vector<double> experts;
};

std::vector<Counted> counted_since_last_commits(const RunRecord& run) {
  const auto layers = static_cast<std::size_t>(run.shape.num_moe_layers);
  const auto slots = run.slot_tokens.size() / (run.steps * layers);
  const auto experts = run.expert_tokens.size() / (run.steps * layers);
  std::vector<Counted> result;
  for (std::size_t layer = 0; layer < layers; ++layer) {
    const auto last = std::find_if(run.commits.rbegin(), run.commits.rend(), [&](const auto& c) {
      return c.moe_layer_id == static_cast<int>(layer);
    });
    if (last == run.commits.rend()) continue;
    Counted counted{*last, std::vector<double>(slots), std::vector<double>(experts)};
    for (std::size_t step = last->step; step <= run.steps; ++step) {
      const std::size_t row = (step - 1) * layers + layer;
      for (std::size_t i = 0; i < slots; ++i) counted.slots[i] += run.slot_tokens[row * slots + i];
      for (std::size_t i = 0; i < experts; ++i)
        counted.experts[i] += run.expert_tokens[row * experts + i];
    }
    result.push_back(std::move(counted));
  }
  return result;
}

void expect_tokens_follow_shares(const RunRecord& run) {
  int checked = 0;
  for (const Counted& counted : counted_since_last_commits(run)) {
    for (std::size_t slot = 0; slot < counted.slots.size(); ++slot) {
      const auto expert = static_cast<std::size_t>(counted.served.placement[slot]);
      const std::uint32_t share = counted.served.shares[slot];
      if (counted.experts[expert] < 4096 || share == kShareUnit) continue;
      EXPECT_NEAR(counted.slots[slot] / counted.experts[expert],
                  static_cast<double>(share) / kShareUnit, 0.01)
          << "layer " << counted.served.moe_layer_id << ", slot " << slot;
      ++checked;
    }
  }
  EXPECT_GE(checked, 2) << "the run was to be long enough for a replicated expert";
}

TEST(ServedShares, TokensFollowThePlannedSharesWithinOnePercentAt4096TokensPerExpert) {
  expect_tokens_follow_shares(swift_run());
}

TEST(ServedShares, DrawnTokensFollowThePlannedSharesLikewise) {
  expect_tokens_follow_shares(drawn_run());
  EXPECT_EQ(drawn_run().outputs, swift_run().outputs);
}

TEST(ServedShares, BalanceAchievedFollowsBalancePlanned) {
  const std::vector<RunRecord> runs{swift_run()};
  const Comparison comparison = compare(runs, 2048);
  const RunFigures& figures = comparison.runs[0];
  ASSERT_GT(comparison.windows.size(), 10U);
  for (std::size_t w = 0; w < comparison.windows.size(); ++w) {
    EXPECT_NEAR(figures.imbalance_per_window[w].mean_over_layers,
                figures.planned_per_window[w].mean_over_layers, 0.02)
        << "window " << w;
  }
  EXPECT_NEAR(figures.mean_over_windows, figures.planned_mean_over_windows, 0.01);
  EXPECT_LT(figures.planned_per_window.back().mean_over_layers,
            figures.planned_per_window.front().mean_over_layers)
      << "the plan was to win something";
}

// In how many slots some expert's tokens of a step are, at most.
int most_slots_of_an_expert(const RunRecord& run, std::uint64_t step, const Placement& placement) {
  const auto layers = static_cast<std::size_t>(run.shape.num_moe_layers);
  const auto slots = run.slot_tokens.size() / (run.steps * layers);
  int most = 0;
  for (std::size_t layer = 0; layer < layers; ++layer) {
    const std::uint32_t* tokens = run.slot_tokens.data() + ((step - 1) * layers + layer) * slots;
    std::vector<int> used(static_cast<std::size_t>(run.shape.num_logical_experts));
    for (std::size_t slot = 0; slot < slots; ++slot) {
      const auto expert = static_cast<std::size_t>(placement.layer(static_cast<int>(layer))[slot]);
      if (tokens[slot] > 0) most = std::max(most, ++used[expert]);
    }
  }
  return most;
}

// Steps, {decode, other}, that spread some expert over several slots, and those that do not.
struct Steps {
  int spread[2] = {0, 0};
  int alone[2] = {0, 0};
};

Steps steps_of(const RunRecord& run) {
  Steps steps;
  Placement placement = run.initial;
  auto commit = run.commits.begin();
  for (std::uint64_t step = 1; step <= run.steps; ++step) {
    for (; commit != run.commits.end() && commit->step == step; ++commit)
      placement = placement_after(std::move(placement), {commit, commit + 1});
    if (run.step_tokens[step - 1] == 0) continue;
    const std::size_t kind = run.decode_steps[step - 1] != 0 ? 0 : 1;
    ++(most_slots_of_an_expert(run, step, placement) > 1 ? steps.spread : steps.alone)[kind];
  }
  return steps;
}

// Prompts for a while, then only decoding.
ServeOptions prompts_then_decoding(DispatchObjective decode_dispatch) {
  ServeOptions options = small_run(4);
  options.traffic.steps_per_segment = 8;
  options.traffic.arrivals_per_step = 4.0;
  options.traffic.min_output_tokens = options.traffic.max_output_tokens = 24;
  options.balancer.policy = "swift";
  options.balancer.rebalance_interval = 4;
  options.balancer.window_assignments = 512;
  options.balancer.decode_dispatch = decode_dispatch;
  return options;
}

TEST(ServedDecodeDispatch, OneSlotPerExpertInStepsOfDecodingAloneAndSharesInTheOthers) {
  const RunRecord run = serve(prompts_then_decoding(DispatchObjective::kActivatedExperts));
  const Steps steps = steps_of(run);
  EXPECT_EQ(steps.spread[0], 0) << "a decode step used several slots of an expert";
  EXPECT_GT(steps.alone[0], 10);
  EXPECT_GT(steps.spread[1], 10);
  EXPECT_EQ(run.outputs, serve(prompts_then_decoding(DispatchObjective::kTokens)).outputs);
}

TEST(ServedDecodeDispatch, IsBySharesInDecodingTooUnlessAskedFor) {
  const Steps steps = steps_of(serve(prompts_then_decoding(DispatchObjective::kTokens)));
  EXPECT_GT(steps.spread[0], 10);
}

TEST(ServedLocality, LocalityFirstKeepsMoreTokensOnTheirRankAndNode) {
  ServeOptions options = long_run("swift");
  options.traffic.steps_per_segment = 60;
  options.num_redundant_experts = 64;
  options.num_nodes = 2;
  const RunRecord plain = serve(options);
  options.balancer.locality_first = true;
  const RunRecord local = serve(options);
  EXPECT_EQ(plain.locality.rows, local.locality.rows);
  EXPECT_GT(local.locality.own_rank, plain.locality.own_rank * 11 / 10);
  EXPECT_GT(local.locality.own_node, plain.locality.own_node * 11 / 10);
  EXPECT_EQ(local.outputs, plain.outputs);
}

}  // namespace
}  // namespace swiftbalancer::engine::testing
