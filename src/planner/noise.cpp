#include "planner/noise.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>

namespace swiftbalancer {

double noise_imbalance(int num_ranks, double tokens, double dispersion) {
  if (num_ranks < 2 || tokens <= 0.0) return 0.0;
  // Expected maximum of 2^k standard normal values (order statistics, e.g. Harter 1961); linear in
  // between.
  constexpr std::array kExpectedMaximum = {0.0,   0.564, 1.029, 1.424, 1.766, 2.070,
                                           2.344, 2.594, 2.826, 3.041, 3.243, 3.434};
  const auto k =
      std::min(static_cast<std::size_t>(std::bit_width(static_cast<unsigned>(num_ranks)) - 1),
               kExpectedMaximum.size() - 2);
  const double part = static_cast<double>(num_ranks) / static_cast<double>(1U << k) - 1.0;
  const double maximum =
      kExpectedMaximum[k] + part * (kExpectedMaximum[k + 1] - kExpectedMaximum[k]);
  return maximum * std::sqrt(dispersion * (num_ranks - 1) / tokens);
}

}  // namespace swiftbalancer
