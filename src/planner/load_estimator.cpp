#include "planner/load_estimator.hpp"

#include <cstddef>

namespace swiftbalancer {

LoadEstimate estimate_load(const ExpertLoad& counts, double dispersion,
                           const Expectation& expectation) {
  LoadEstimate estimate{ExpertLoad(counts.num_moe_layers(), counts.num_logical_experts())};
  const double worth = expectation.tokens * dispersion * static_cast<double>(LoadEstimate::kUnit);
  for (int layer = 0; layer < counts.num_moe_layers(); ++layer) {
    const auto from = counts.layer(layer);
    const auto to = estimate.load.layer(layer);
    const double* shares =
        expectation.shares.data() + static_cast<std::size_t>(layer) * from.size();
    bool live = false;
    for (const std::int64_t count : from) live |= count > 0;
    if (!live) continue;  // Nothing says that this layer serves at all.
    for (std::size_t expert = 0; expert < from.size(); ++expert) {
      to[expert] = from[expert] * LoadEstimate::kUnit +
                   static_cast<std::int64_t>(worth * shares[expert] + 0.5);
    }
  }
  return estimate;
}

}  // namespace swiftbalancer
