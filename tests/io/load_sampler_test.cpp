// Sampled steps against the binomial distribution that they are to follow.

#include "io/load_sampler.hpp"

#include <cmath>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>

namespace swiftbalancer::io {
namespace {

ExpertLoad window_of(const std::vector<std::vector<std::int64_t>>& layers) {
  ExpertLoad window(static_cast<int>(layers.size()), static_cast<int>(layers.front().size()));
  for (std::size_t layer = 0; layer < layers.size(); ++layer)
    std::ranges::copy(layers[layer], window.layer(static_cast<int>(layer)).begin());
  return window;
}

std::int64_t sum(std::span<const std::int64_t> counts) {
  return std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
}

// Pearson's statistic of the first expert's counts against the binomial distribution; outcomes that
// are expected fewer than five times are taken together.
struct Fit {
  double chi_square = 0.0;
  int outcomes = 0;
};
Fit fit_of_first_expert(std::int64_t weight, std::int64_t others, int trials) {
  constexpr int kSteps = 20'000;
  const ExpertLoad window = window_of({{weight, others}});
  std::vector<int> seen(static_cast<std::size_t>(trials) + 1, 0);
  for (int step = 0; step < kSteps; ++step) {
    const ExpertLoad load = sample_step(window, trials, 7, static_cast<std::uint64_t>(step));
    ++seen[static_cast<std::size_t>(load.layer(0)[0])];
  }
  const double chance = static_cast<double>(weight) / static_cast<double>(weight + others);
  Fit fit;
  double rest_seen = 0.0, rest_expected = 0.0;
  const auto add = [&fit](double count, double expected) {
    fit.chi_square += (count - expected) * (count - expected) / expected;
    ++fit.outcomes;
  };
  for (int k = 0; k <= trials; ++k) {
    const double log_chance = std::lgamma(trials + 1.0) - std::lgamma(k + 1.0) -
                              std::lgamma(trials - k + 1.0) + k * std::log(chance) +
                              (trials - k) * std::log1p(-chance);
    const double expected = kSteps * std::exp(log_chance);
    if (expected >= 5.0) {
      add(seen[static_cast<std::size_t>(k)], expected);
    } else {
      rest_seen += seen[static_cast<std::size_t>(k)];
      rest_expected += expected;
    }
  }
  add(rest_seen, rest_expected);
  return fit;
}

TEST(LoadSampler, EveryTokenGoesToAnExpertThatTheWindowKnows) {
  const ExpertLoad window = window_of({{5, 0, 3, 1}, {0, 0, 0, 0}, {0, 0, 0, 9}});
  for (const std::int64_t assignments :
       {std::int64_t{0}, std::int64_t{1}, std::int64_t{4096}, std::int64_t{1} << 40}) {
    SCOPED_TRACE(assignments);
    const ExpertLoad load = sample_step(window, assignments, 1, 2);
    EXPECT_EQ(sum(load.layer(0)), assignments);
    EXPECT_EQ(load.layer(0)[1], 0);
    EXPECT_EQ(sum(load.layer(1)), 0) << "a layer without load stays without";
    EXPECT_EQ(load.layer(2)[3], assignments);
  }
}

TEST(LoadSampler, ADrawDependsOnSeedStepAndLayerOnly) {
  const ExpertLoad window = window_of({{5, 4, 3, 1}, {5, 4, 3, 1}});
  const ExpertLoad load = sample_step(window, 4096, 1, 2);
  EXPECT_EQ(load, sample_step(window, 4096, 1, 2));
  EXPECT_NE(load, sample_step(window, 4096, 1, 3));
  EXPECT_NE(load, sample_step(window, 4096, 2, 2));
  EXPECT_NE(load, sample_step(window, 4096, 2, 1)) << "seed and step do not stand for each other";
  EXPECT_FALSE(std::ranges::equal(load.layer(0), load.layer(1)));
}

// 99.9 % of true samples lie below mean + 4 standard deviations of chi-square.
TEST(LoadSampler, CountsFollowTheBinomialDistribution) {
  const struct {
    std::int64_t weight, others;
    int trials;
  } cases[] = {{1, 99, 50},     // few: by waiting times
               {1, 3, 36},      // nine expected: just by waiting times
               {1, 3, 44},      // eleven expected: just by rejection
               {2, 3, 500},     // many: by rejection
               {9, 1, 30},      // more than half
               {99, 1, 2000}};  // more than half, many
  for (const auto& c : cases) {
    const Fit fit = fit_of_first_expert(c.weight, c.others, c.trials);
    const double freedom = fit.outcomes - 1;
    EXPECT_LT(fit.chi_square, freedom + 4.0 * std::sqrt(2.0 * freedom))
        << c.trials << " tokens, weights " << c.weight << " and " << c.others;
    EXPECT_GT(fit.chi_square, freedom - 4.0 * std::sqrt(2.0 * freedom));
  }
}

// One expert's token is one that others do not get: the covariance of two is -n p q.
TEST(LoadSampler, ExpertsShareTheTokens) {
  constexpr int kSteps = 20'000, kTokens = 1000;
  const ExpertLoad window = window_of({{40, 30, 20, 10}});
  double products = 0.0;
  std::vector<double> sums(4, 0.0);
  for (int step = 0; step < kSteps; ++step) {
    const ExpertLoad load = sample_step(window, kTokens, 3, static_cast<std::uint64_t>(step));
    const auto counts = load.layer(0);
    for (std::size_t expert = 0; expert < sums.size(); ++expert)
      sums[expert] += static_cast<double>(counts[expert]);
    products += (static_cast<double>(counts[1]) - 300.0) * (static_cast<double>(counts[3]) - 100.0);
  }
  for (std::size_t expert = 0; expert < sums.size(); ++expert) {
    const double share = 0.4 - 0.1 * static_cast<double>(expert);
    EXPECT_NEAR(sums[expert] / kSteps, kTokens * share, 0.5) << expert;
  }
  EXPECT_NEAR(products / kSteps, -kTokens * 0.3 * 0.1, 4.0);
}

}  // namespace
}  // namespace swiftbalancer::io
