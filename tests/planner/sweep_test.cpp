// How many redundant experts: budgets per layer against all there are, and the table of counts.

#include "planner/sweep.hpp"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>

#include <swiftbalancer/error.hpp>

#include "planner/replica_budget.hpp"
#include "planner/topology_scenes.hpp"

namespace swiftbalancer {
namespace {

using topology::pick;
using Costs = std::vector<std::vector<double>>;

// Least cost of any choice within the total.
double best_by_enumeration(std::span<const int> counts, const Costs& cost, std::int64_t total,
                           std::size_t layer = 0) {
  if (total < 0) return std::numeric_limits<double>::infinity();
  if (layer == cost.size()) return 0.0;
  double best = std::numeric_limits<double>::infinity();
  for (std::size_t option = 0; option < counts.size(); ++option) {
    best = std::min(best, cost[layer][option] +
                              best_by_enumeration(counts, cost, total - counts[option], layer + 1));
  }
  return best;
}

// Curves that fall ever more slowly, as replicas do.
Costs any_costs(std::size_t layers, std::size_t options) {
  Costs costs(layers);
  for (auto& curve : costs) {
    std::vector<int> falls;
    for (std::size_t i = 1; i < options; ++i) falls.push_back(pick(0, 100));
    std::ranges::sort(falls, std::greater<>());
    curve.push_back(1000.0);
    for (int fall : falls) curve.push_back(curve.back() - fall);
  }
  return costs;
}

TEST(ReplicaBudget, IsTheBestOfAllWhereReplicasWinEverLess) {
  EXPECT_TRUE(rc::check([] {
    const std::vector<int> counts = {0, 1, 2, 3};
    const Costs costs = any_costs(static_cast<std::size_t>(pick(1, 5)), counts.size());
    const int total = pick(0, 3 * static_cast<int>(costs.size()));
    const ReplicaBudget budget = choose_replica_budget(counts, costs, total);
    RC_ASSERT(budget.total <= total);
    RC_ASSERT(budget.total ==
              std::accumulate(budget.redundant_experts.begin(), budget.redundant_experts.end(), 0));
    RC_ASSERT(budget.cost <= best_by_enumeration(counts, costs, total) + 1e-9);
  }));
}

TEST(ReplicaBudget, IsNeverWorseThanTheSameCountEverywhere) {
  EXPECT_TRUE(rc::check([] {
    const std::vector<int> counts = {0, 2, 3, 8};
    Costs costs(static_cast<std::size_t>(pick(1, 6)));
    for (auto& curve : costs) {
      for (std::size_t i = 0; i < counts.size(); ++i) curve.push_back(pick(100, 200));
    }
    for (std::size_t option = 0; option < counts.size(); ++option) {
      double uniform = 0.0;
      for (const auto& curve : costs) uniform += curve[option];
      const auto total = counts[option] * static_cast<std::int64_t>(costs.size());
      RC_ASSERT(choose_replica_budget(counts, costs, total).cost <= uniform);
    }
  }));
}

TEST(ReplicaBudget, GivesReplicasToTheLayersThatWinByThem) {
  const std::vector<int> counts = {0, 8, 16};
  const Costs costs = {{1.0, 1.0, 1.0}, {3.0, 1.5, 1.1}, {1.2, 1.1, 1.0}};
  EXPECT_EQ(choose_replica_budget(counts, costs, 24).redundant_experts,
            (std::vector<int>{0, 16, 8}));
  EXPECT_EQ(cheapest_replica_budget(counts, costs, 3.7).redundant_experts,
            (std::vector<int>{0, 8, 0}));
  EXPECT_EQ(cheapest_replica_budget(counts, costs, 0.0).redundant_experts,
            (std::vector<int>{0, 16, 16}));
}

TEST(ReplicaBudget, SaysWhatItNeeds) {
  const std::vector<int> counts = {4, 8};
  EXPECT_THROW(choose_replica_budget(counts, {{1.0, 1.0}, {1.0, 1.0}}, 7), Error);
  EXPECT_THROW(choose_replica_budget(counts, {{1.0}}, 8), Error);
  EXPECT_THROW(choose_replica_budget(std::vector<int>{8, 8}, {{1.0, 1.0}}, 8), Error);
  EXPECT_THROW(choose_replica_budget(std::vector<int>{}, {}, 8), Error);
}

StepModel large_model() {
  return {.expert_bytes = 44e6,
          .expert_flops_per_token = 88e6,
          .attention_flops_per_token = 466e6,
          .attention_weight_bytes = 235e6,
          .attention_bytes_per_context_token = 1152,
          .head_flops_per_token = 3.7e9,
          .head_weight_bytes = 232e6,
          .dispatch_bytes_per_row = 7392,
          .combine_bytes_per_row = 14336,
          .flops = 1.2e15,
          .hbm_bandwidth = 2.5e12,
          .link_bandwidth = 3.5e11,
          .link_latency = 1e-5,
          .node_link_bandwidth = 4.3e10,
          .node_link_latency = 3e-5,
          .kernel_overhead = 1e-5,
          .step_barrier = 3e-5,
          .tokens_per_step = 65536,
          .top_k = 8,
          .context_length = 1024};
}

SweepOptions options_for(std::vector<int> counts) {
  SweepOptions options;
  options.shape.num_ranks = 8;
  options.counts = std::move(counts);
  options.expert_bytes = 1 << 20;
  return options;
}

// Layers of rising skew.
ExpertLoad skewed_layers() {
  ExpertLoad load(6, 64);
  for (int layer = 0; layer < 6; ++layer) {
    const auto tokens =
        topology::skewed_load(64, 0.2 + 0.3 * layer, static_cast<unsigned>(layer + 1));
    std::ranges::copy(tokens, load.layer(layer).begin());
  }
  return load;
}

TEST(Sweep, RowsFollowTheCountsAndMoreReplicasNeverHurt) {
  SweepOptions options = options_for({32, 0, 8, 16});
  options.step = large_model();
  const SweepResult result = run_sweep(options, skewed_layers());
  ASSERT_EQ(result.rows.size(), 4U);
  for (std::size_t i = 0; i < result.rows.size(); ++i) {
    const SweepRow& row = result.rows[i];
    EXPECT_EQ(row.redundant_experts, (std::vector<int>{0, 8, 16, 32})[i]);
    EXPECT_EQ(row.memory_bytes, std::int64_t{6} * (row.num_slots / 8) * (1 << 20));
    EXPECT_LE(row.imbalance_split.mean_over_layers, row.imbalance_even.mean_over_layers + 1e-3);
    EXPECT_GE(row.imbalance_even.worst_layer, row.imbalance_even.mean_over_layers);
    if (i == 0) continue;
    EXPECT_LE(row.imbalance_even.mean_over_layers,
              result.rows[i - 1].imbalance_even.mean_over_layers + 2e-3);
    EXPECT_LE(*row.step_seconds, *result.rows[i - 1].step_seconds * 1.002);
  }
  EXPECT_GT(result.rows[0].imbalance_even.mean_over_layers, 1.02);
}

TEST(Sweep, RecommendsTheFewestThatNoLargerCountBeats) {
  const SweepResult result = run_sweep(options_for({0, 4, 8, 16, 32, 64}), skewed_layers());
  const auto imbalance = [&](std::size_t i) {
    return result.rows[i].imbalance_split.mean_over_layers;
  };
  double best = imbalance(0);
  for (std::size_t i = 0; i < result.rows.size(); ++i) best = std::min(best, imbalance(i));
  EXPECT_LE(imbalance(result.recommended), best * (1.0 + kWorthItsMemory));
  ASSERT_GT(result.recommended, 0U);
  EXPECT_GT(imbalance(result.recommended - 1), best * (1.0 + kWorthItsMemory));
  const std::string count = std::to_string(result.rows[result.recommended].redundant_experts);
  EXPECT_EQ(result.reason.rfind(count + " redundant experts: mean imbalance is within ", 0), 0U)
      << result.reason;
}

TEST(Sweep, LayersOfTheirOwnNumberNeedFewerForTheSame) {
  SweepOptions options = options_for({0, 8, 16, 24, 32});
  options.total_redundant_experts = 6 * 8;
  const SweepResult result = run_sweep(options, skewed_layers());
  const SweepRow& row = result.rows[result.recommended];
  ASSERT_TRUE(result.cheaper);
  EXPECT_LT(result.cheaper->budget.total, 6 * row.redundant_experts);
  EXPECT_LE(result.cheaper->imbalance_mean, row.imbalance_split.mean_over_layers * 1.001);
  EXPECT_LT(*result.cheaper->memory_bytes, *row.memory_bytes);
  ASSERT_TRUE(result.shared_out);
  EXPECT_LE(result.shared_out->budget.total, 48);
  EXPECT_LT(result.shared_out->imbalance_mean, result.rows[1].imbalance_split.mean_over_layers);
}

TEST(Sweep, ALoadToScoreOnDecidesWhatIsRecommended) {
  const ExpertLoad load = skewed_layers();
  ExpertLoad next = load;
  // Another half of each layer's experts is hot.
  for (int layer = 0; layer < 6; ++layer)
    std::ranges::rotate(next.layer(layer), next.layer(layer).begin() + 32);
  const SweepOptions options = options_for({0, 16, 64});
  const SweepResult blind = run_sweep(options, load);
  const SweepResult scored = run_sweep(options, load, &next);
  double best = scored.rows[0].next_imbalance_split->mean_over_layers;
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_FALSE(blind.rows[i].next_imbalance_even);
    EXPECT_EQ(scored.rows[i].imbalance_even.mean_over_layers,
              blind.rows[i].imbalance_even.mean_over_layers);
    const double mean = scored.rows[i].next_imbalance_split->mean_over_layers;
    EXPECT_GT(mean, scored.rows[i].imbalance_split.mean_over_layers);
    best = std::min(best, mean);
  }
  EXPECT_LE(scored.rows[scored.recommended].next_imbalance_split->mean_over_layers,
            best * (1.0 + kWorthItsMemory));
  EXPECT_NE(scored.reason.find("on the window to score on"), std::string::npos);
  const ExpertLoad other(5, 64);
  EXPECT_THROW(run_sweep(options, load, &other), Error);
}

TEST(Sweep, StepTimeFollowsTheSlowestRank) {
  const ClusterShape shape(
      {.num_moe_layers = 1, .num_logical_experts = 2, .num_ranks = 2, .num_slots = 2});
  const std::vector<std::int32_t> slots = {0, 1};
  const std::vector<std::int64_t> level = {50, 50};
  const std::vector<std::int64_t> skewed = {90, 10};
  StepModel model = large_model();
  model.link_bandwidth = 1e30;
  const auto seconds = [&](const std::vector<std::int64_t>& load, std::vector<double> speed = {}) {
    return layer_seconds(
        model, {.shape = &shape, .load = load, .placement = slots, .rank_speed = speed}, slots, {});
  };
  const double tokens = 65536.0 * 8.0;
  const double per_token = model.expert_flops_per_token / model.flops;
  EXPECT_NEAR(seconds(skewed) - seconds(level), 0.4 * tokens * per_token, 1e-9);
  EXPECT_NEAR(seconds(level, {1.0, 0.5}) - seconds(level), 0.5 * tokens * per_token, 1e-9);
}

TEST(Sweep, CountsThatCannotBeAreNamed) {
  const auto refusal = [](SweepOptions options) -> std::string {
    try {
      run_sweep(options, skewed_layers());
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(refusal(options_for({})),
            "sweep: no counts of redundant experts are given; give at least one");
  EXPECT_EQ(refusal(options_for({0, 8, 8})), "sweep: count 8 is given twice");
  EXPECT_EQ(refusal(options_for({8, -1})),
            "sweep: count -1 is below 0; 0 means no redundant experts");
  SweepOptions limited = options_for({0, 128});
  limited.max_replicas = 2;
  EXPECT_EQ(refusal(limited).rfind("with 128 redundant experts: max_replicas is 2: ", 0), 0U);
}

TEST(Sweep, BytesThatCannotBeCountedAreRefused) {
  SweepOptions options = options_for({0});
  options.expert_bytes = 1e18;
  try {
    run_sweep(options, skewed_layers());
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_NE(std::string(error.what()).find("expert_bytes is too large"), std::string::npos);
  }
}

}  // namespace
}  // namespace swiftbalancer
