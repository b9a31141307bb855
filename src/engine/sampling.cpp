#include "engine/sampling.hpp"

#include <algorithm>
#include <cmath>

#include "engine/random.hpp"

namespace swiftbalancer::engine {

std::int32_t choose_token(std::span<float> logits, const TrafficOptions& options, int request,
                          int position) {
  const auto best = std::max_element(logits.begin(), logits.end());
  if (options.sampling == Sampling::kGreedy)
    return static_cast<std::int32_t>(best - logits.begin());
  const float top = *best;
  double total = 0.0;
  for (float& logit : logits) {
    logit = static_cast<float>(std::exp(static_cast<double>(logit - top) / options.temperature));
    total += static_cast<double>(logit);
  }
  // A stream of its own, apart from those that drew the prompts.
  const std::uint64_t stream = (std::uint64_t{1} << 63) | static_cast<std::uint64_t>(request);
  double left = draw_unit(options.seed, stream, static_cast<std::uint64_t>(position)) * total;
  for (std::size_t token = 0; token < logits.size(); ++token) {
    left -= static_cast<double>(logits[token]);
    if (left < 0.0) return static_cast<std::int32_t>(token);
  }
  return static_cast<std::int32_t>(best - logits.begin());
}

}  // namespace swiftbalancer::engine
