#include <swiftbalancer/load.hpp>

#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <swiftbalancer/dispatch_table.hpp>

namespace swiftbalancer {
namespace {

ClusterShape two_ranks() {
  ShapeOptions options;
  options.num_moe_layers = 1;
  options.num_logical_experts = 3;
  options.num_ranks = 2;
  options.num_slots = 4;
  return ClusterShape(options);
}

TEST(RankLoad, SplitsAnExpertsLoadOverItsSlotsByShare) {
  const std::vector<std::int32_t> slots{0, 1, 0, 2};
  const std::vector<std::int64_t> load{100, 10, 30};
  EXPECT_THAT(rank_load(two_ranks(), slots, {}, load), testing::ElementsAre(60.0, 80.0));
  const std::vector<std::uint32_t> shares{kShareUnit / 4 * 3, kShareUnit, kShareUnit / 4,
                                          kShareUnit};
  EXPECT_THAT(rank_load(two_ranks(), slots, shares, load), testing::ElementsAre(85.0, 55.0));
}

TEST(Balance, ImbalanceAndBalancednessAreInverse) {
  const std::vector<double> loads{60, 80, 40};
  EXPECT_DOUBLE_EQ(imbalance(loads), 80.0 / 60.0);
  EXPECT_DOUBLE_EQ(balancedness(loads), 60.0 / 80.0);
  EXPECT_DOUBLE_EQ(imbalance(std::vector<double>{0, 0}), 1.0) << "a layer without load";
}

TEST(Balance, AggregationsAreNamedAndDiffer) {
  const std::vector<double> per_layer{1.0, 1.5};
  EXPECT_DOUBLE_EQ(aggregate_imbalance(per_layer).mean_over_layers, 1.25);
  EXPECT_DOUBLE_EQ(aggregate_imbalance(per_layer).worst_layer, 1.5);
  EXPECT_DOUBLE_EQ(aggregate_balancedness(std::vector<double>{1.0, 0.5}).worst_layer, 0.5);
}

}  // namespace
}  // namespace swiftbalancer
