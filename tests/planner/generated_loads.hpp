#pragma once
// Seeded loads with the skew of a large model: the hottest of 256 experts has 6.5 times the mean
// (lognormal with sigma 0.78, or zipf with exponent 0.44). For tests and benchmarks of planners.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include <swiftbalancer/load.hpp>

namespace swiftbalancer::testing {

enum class Skew { kLognormal, kZipf };

struct Distribution {
  int layers = 0, experts = 0;
  std::vector<double> weight{};  // [layers][experts], each layer sums to 1
};

inline Distribution generated_distribution(int layers, int experts, Skew skew, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  Distribution result{layers, experts, {}};
  for (int layer = 0; layer < layers; ++layer) {
    std::vector<double> weight(static_cast<std::size_t>(experts));
    for (std::size_t i = 0; i < weight.size(); ++i) {
      weight[i] = skew == Skew::kLognormal ? std::exp(0.78 * normal(random))
                                           : std::pow(static_cast<double>(i + 1), -0.44);
    }
    std::shuffle(weight.begin(), weight.end(), random);
    const double sum = std::accumulate(weight.begin(), weight.end(), 0.0);
    for (double value : weight) result.weight.push_back(value / sum);
  }
  return result;
}

inline Distribution interpolated(const Distribution& from, const Distribution& to, double part) {
  Distribution result = from;
  for (std::size_t i = 0; i < result.weight.size(); ++i)
    result.weight[i] += part * (to.weight[i] - from.weight[i]);
  return result;
}

/// Tokens of each expert when so many are routed in every layer: multinomial, up to the total
/// (independent Poisson counts).
inline ExpertLoad sampled(const Distribution& distribution, double tokens, unsigned seed) {
  std::mt19937 random(seed);
  ExpertLoad load(distribution.layers, distribution.experts);
  std::size_t i = 0;
  for (int layer = 0; layer < distribution.layers; ++layer) {
    for (std::int64_t& count : load.layer(layer)) {
      count = std::poisson_distribution<std::int64_t>(tokens * distribution.weight[i++])(random);
    }
  }
  return load;
}

}  // namespace swiftbalancer::testing
