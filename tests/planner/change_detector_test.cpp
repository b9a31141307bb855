// What the history tells from noise when steps are large: the statistics of production sizes.

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "planner/load_history.hpp"

namespace swiftbalancer {
namespace {

constexpr int kLayers = 3, kExperts = 64;
constexpr std::int64_t kDetectorWindow = 4096;

ClusterShape generated_shape() {
  return ClusterShape({.num_moe_layers = kLayers,
                       .num_logical_experts = kExperts,
                       .num_ranks = 8,
                       .num_slots = 80});
}

using Shares = std::vector<double>;  // [kLayers * kExperts], mean 1

// Skewed as recorded loads are: the hottest expert has about five times the mean.
Shares domain(unsigned seed, double deviation = 0.75) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal(0.0, deviation);
  Shares shares;
  for (int i = 0; i < kLayers * kExperts; ++i) shares.push_back(std::exp(normal(random)));
  return shares;
}

// Normal counts around tokens * share, whose variance is `dispersion` times that of independent
// tokens.
ExpertLoad step(const Shares& shares, double tokens, double dispersion, std::mt19937& random) {
  std::normal_distribution<double> normal;
  ExpertLoad load(kLayers, kExperts);
  for (int layer = 0; layer < kLayers; ++layer) {
    const double* row = shares.data() + static_cast<std::ptrdiff_t>(layer) * kExperts;
    double sum = 0.0;
    for (int expert = 0; expert < kExperts; ++expert) sum += row[expert];
    for (int expert = 0; expert < kExperts; ++expert) {
      const double mean = tokens * row[expert] / sum;
      const double count = mean + std::sqrt(dispersion * mean) * normal(random);
      load.layer(layer)[static_cast<std::size_t>(expert)] = std::llround(std::max(0.0, count));
    }
  }
  return load;
}

TEST(ChangeDetector, RaisesNoFalseAlarmInTenThousandStationarySteps) {
  for (const double dispersion : {1.0, 4.0}) {
    for (unsigned seed = 0; seed < 3; ++seed) {
      SCOPED_TRACE(std::to_string(dispersion) + ", seed " + std::to_string(seed));
      std::mt19937 random(seed);
      const Shares shares = domain(100 + seed);
      LoadHistory history(generated_shape(), kDetectorWindow);
      for (int i = 0; i < 10'000; ++i) history.add(step(shares, 8192, dispersion, random));
      EXPECT_EQ(history.num_changes(), 0);
      EXPECT_NEAR(history.dispersion(), dispersion, 0.15 * dispersion);
    }
  }
}

TEST(ChangeDetector, SeesASwitchInTwoLargeStepsAndCutsThere) {
  for (unsigned seed = 0; seed < 8; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    LoadHistory history(generated_shape(), kDetectorWindow);
    const Shares before = domain(seed), after = domain(seed + 50);
    for (int i = 0; i < 30 + static_cast<int>(seed); ++i)
      history.add(step(before, 8192, 2.0, random));
    history.add(step(after, 8192, 2.0, random));
    history.add(step(after, 8192, 2.0, random));
    EXPECT_EQ(history.num_changes(), 1);
    EXPECT_EQ(history.num_blocks_since_change(), 2U);
  }
}

TEST(ChangeDetector, SeesASmallChangeOnceItIsCertain) {
  std::mt19937 random(5);
  Shares before = domain(1), after = before;
  for (std::size_t i = 0; i < after.size(); ++i) after[i] *= i % 2 == 0 ? 1.25 : 0.8;
  LoadHistory history(generated_shape(), kDetectorWindow);
  for (int i = 0; i < 100; ++i) history.add(step(before, 8192, 1.0, random));
  ASSERT_EQ(history.num_changes(), 0);
  for (int i = 0; i < 8; ++i) history.add(step(after, 8192, 1.0, random));
  EXPECT_EQ(history.num_changes(), 1);
}

TEST(ChangeDetector, CostsFewPassesOverTheCountersPerStep) {
  std::mt19937 random(1);
  LoadHistory history(generated_shape(), kDetectorWindow);
  const Shares shares = domain(1);
  constexpr int kSteps = 1000;
  for (int i = 0; i < kSteps; ++i) history.add(step(shares, 8192, 1.0, random));
  EXPECT_LT(history.work(), std::int64_t{10} * kSteps * kLayers * kExperts);
}

}  // namespace
}  // namespace swiftbalancer
