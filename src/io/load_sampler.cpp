#include "io/load_sampler.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

namespace swiftbalancer::io {
namespace {

// splitmix64 (public domain, S. Vigna).
class Random {
 public:
  Random(std::uint64_t seed, std::uint64_t step, std::uint64_t layer)
      : state_(mix(mix(mix(seed) ^ step) ^ layer)) {}
  /// Uniform in (0, 1).
  double unit() {
    state_ += kStep;
    return (static_cast<double>(mix(state_) >> 12) + 0.5) * 0x1.0p-52;
  }

 private:
  static constexpr std::uint64_t kStep = 0x9E3779B97F4A7C15ULL;
  static std::uint64_t mix(std::uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
    return x ^ (x >> 31);
  }
  std::uint64_t state_;
};

// Waiting times between successes are geometric: few draws where successes are few.
std::int64_t count_by_waiting(Random& random, std::int64_t trials, double chance) {
  const double scale = 1.0 / std::log1p(-chance);
  double used = 0.0;
  for (std::int64_t successes = 0;; ++successes) {
    used += std::floor(std::log(random.unit()) * scale) + 1.0;
    if (used > static_cast<double>(trials)) return successes;
  }
}

// log(k!) less Stirling's formula for it.
double stirling_rest(double k) {
  constexpr std::array kExact = {0.0810614667953272, 0.0413406959554092, 0.0276779256849983,
                                 0.0207906721037650, 0.0166446911898211, 0.0138761288230707,
                                 0.0118967099458917, 0.0104112652619720, 0.00925546218271273,
                                 0.00833056343336287};
  if (k < static_cast<double>(kExact.size())) return kExact[static_cast<std::size_t>(k)];
  const double square = 1.0 / ((k + 1.0) * (k + 1.0));
  return (1.0 / 12 - (1.0 / 360 - square / 1260) * square) / (k + 1.0);
}

// Transformed rejection with squeeze, algorithm BTRS: W. Hoermann, "The generation of binomial
// random variates", Journal of Statistical Computation and Simulation 46 (1993). Exact; for trials
// * chance >= 10 and chance <= 1/2.
std::int64_t count_by_rejection(Random& random, std::int64_t num_trials, double chance) {
  const auto trials = static_cast<double>(num_trials);
  const double deviation = std::sqrt(trials * chance * (1.0 - chance));
  const double b = 1.15 + 2.53 * deviation, a = -0.0873 + 0.0248 * b + 0.01 * chance;
  const double centre = trials * chance + 0.5, squeeze = 0.92 - 4.2 / b;
  const double odds = chance / (1.0 - chance), alpha = (2.83 + 5.1 / b) * deviation;
  const double mode = std::floor((trials + 1.0) * chance);
  while (true) {
    const double u = random.unit() - 0.5, v = random.unit();
    const double edge = 0.5 - std::abs(u);
    const double count = std::floor((2.0 * a / edge + b) * u + centre);
    if (count < 0.0 || count > trials) continue;
    if (edge >= 0.07 && v <= squeeze) return static_cast<std::int64_t>(count);
    const double height = std::log(v * alpha / (a / (edge * edge) + b));
    const double bound = (mode + 0.5) * std::log((mode + 1.0) / (odds * (trials - mode + 1.0))) +
                         (trials + 1.0) * std::log((trials - mode + 1.0) / (trials - count + 1.0)) +
                         (count + 0.5) * std::log(odds * (trials - count + 1.0) / (count + 1.0)) +
                         stirling_rest(mode) + stirling_rest(trials - mode) - stirling_rest(count) -
                         stirling_rest(trials - count);
    if (height <= bound) return static_cast<std::int64_t>(count);
  }
}

std::int64_t binomial(Random& random, std::int64_t trials, double chance) {
  if (trials == 0 || chance <= 0.0) return 0;
  if (chance >= 1.0) return trials;
  if (chance > 0.5) return trials - binomial(random, trials, 1.0 - chance);
  const double expected = static_cast<double>(trials) * chance;
  return expected < 10.0 ? count_by_waiting(random, trials, chance)
                         : count_by_rejection(random, trials, chance);
}

}  // namespace

// Expert by expert: how many of the tokens that are left go to it, given what is left of the
// distribution.
ExpertLoad sample_step(const ExpertLoad& window, std::int64_t assignments, std::uint64_t seed,
                       std::uint64_t step) {
  ExpertLoad load(window.num_moe_layers(), window.num_logical_experts());
  for (int layer = 0; layer < window.num_moe_layers(); ++layer) {
    Random random(seed, step, static_cast<std::uint64_t>(layer));
    const auto weights = window.layer(layer);
    const auto tokens = load.layer(layer);
    std::int64_t weight_left = 0, tokens_left = assignments;
    for (const std::int64_t weight : weights) weight_left += weight;
    for (std::size_t expert = 0; expert < weights.size() && weight_left > 0; ++expert) {
      const double chance = static_cast<double>(weights[expert]) / static_cast<double>(weight_left);
      tokens[expert] = binomial(random, tokens_left, chance);
      tokens_left -= tokens[expert];
      weight_left -= weights[expert];
    }
  }
  return load;
}

}  // namespace swiftbalancer::io
