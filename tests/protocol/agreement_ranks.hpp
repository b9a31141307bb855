#pragma once
// Ranks in lock step, driven by hand: the packets of a step are exchanged at once, sets are used
// when they are due. Whatever one rank decides the others must decide too.

#include <gtest/gtest.h>

#include <map>
#include <vector>

#include "protocol/agreement.hpp"

namespace swiftbalancer::testing {

struct AgreementRanks {
  explicit AgreementRanks(AgreementConfig config, const AgreedState& begin = {}) : now(begin.step) {
    for (config.rank = 0; config.rank < config.num_ranks; ++config.rank)
      ranks.emplace_back(config, begin);
  }

  /// Runs one step. @returns what was decided in it.
  std::vector<BalancerEventKind> step() {
    ++now;
    last.clear();
    if (const auto due = ranks[0].set_due(now)) {
      for (Agreement& rank : ranks) use(rank, *due);
    }
    if (ranks[0].packet_due(now)) {
      packets[now].resize(ranks.size());
      for (std::size_t rank = 0; rank < ranks.size(); ++rank)
        ranks[rank].fill_packet(now, packets[now][rank]);
    }
    std::vector<BalancerEventKind> kinds;
    for (const BalancerEvent& decision : last) kinds.push_back(decision.kind);
    return kinds;
  }
  /// Runs steps until something is decided, at most `most`.
  std::vector<BalancerEventKind> decide(int most = 100) {
    std::vector<BalancerEventKind> kinds;
    while (most-- > 0 && kinds.empty()) kinds = step();
    return kinds;
  }
  void steps(std::uint64_t count) {
    while (count-- > 0) step();
  }
  void open() {
    for (int i = 0; i < 100 && !ranks[0].open_generation(); ++i) step();
    ASSERT_TRUE(ranks[0].open_generation());
  }
  MigrationPlan plan_of(const std::vector<int>& layers, std::uint64_t hash) const {
    MigrationPlan plan;
    plan.generation = ranks[0].open_generation();
    plan.hash = hash;
    for (int layer : layers) {
      plan.units.emplace_back();
      plan.units.back().moe_layer_id = layer;
    }
    return plan;
  }
  void hold(const MigrationPlan& plan) {
    for (Agreement& rank : ranks) EXPECT_TRUE(rank.plan_ready(plan));
  }
  void hold_and_adopt(const MigrationPlan& plan) {
    hold(plan);
    for (int i = 0; i < 100 && ranks[0].active_plan() != &plan; ++i) step();
    ASSERT_EQ(ranks[0].active_plan(), &plan);
  }
  void stage(const MigrationPlan& plan, std::uint32_t cursor) {
    for (Agreement& rank : ranks) rank.staged(plan.generation, cursor);
  }

  std::vector<Agreement> ranks;
  std::map<std::uint64_t, std::vector<PacketHeader>> packets;
  std::vector<BalancerEvent> last;  ///< Of the newest step.
  std::uint64_t now = 0;

 private:
  void use(Agreement& rank, std::uint64_t due) {
    std::vector<BalancerEvent> decisions;
    const Status status = rank.use_set(due, packets.at(due), decisions);
    EXPECT_TRUE(status.ok()) << status.message();
    if (&rank == &ranks[0]) last = decisions;
    ASSERT_EQ(decisions.size(), last.size());
    for (std::size_t i = 0; i < last.size(); ++i) {
      EXPECT_EQ(decisions[i].kind, last[i].kind);
      EXPECT_EQ(decisions[i].reason, last[i].reason);
      EXPECT_EQ(decisions[i].unit, last[i].unit);
      EXPECT_EQ(decisions[i].rank, last[i].rank);
    }
    EXPECT_EQ(rank.digest(), ranks[0].digest());
  }
};

/// Two ranks of three layers that open a generation as soon as they can.
inline AgreementConfig eager_config(int num_ranks = 2) {
  AgreementConfig config;
  config.num_ranks = num_ranks;
  config.num_moe_layers = 3;
  config.packet_lag = 2;
  config.rebalance_interval = 1;
  config.max_open_sets = 5;
  config.max_active_sets = 50;
  return config;
}

}  // namespace swiftbalancer::testing
