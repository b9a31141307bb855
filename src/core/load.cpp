#include <swiftbalancer/load.hpp>

#include <algorithm>

#include <swiftbalancer/dispatch_table.hpp>
#include <swiftbalancer/placement.hpp>

namespace swiftbalancer {
namespace {

double mean_of(std::span<const double> values) {
  double sum = 0.0;
  for (double value : values) sum += value;
  return values.empty() ? 0.0 : sum / static_cast<double>(values.size());
}

OverLayers aggregate(std::span<const double> per_layer, bool larger_is_worse) {
  if (per_layer.empty()) return {};
  const auto [low, high] = std::minmax_element(per_layer.begin(), per_layer.end());
  return {mean_of(per_layer), larger_is_worse ? *high : *low};
}

}  // namespace

std::vector<double> rank_load(const ClusterShape& shape, std::span<const std::int32_t> slots,
                              std::span<const std::uint32_t> shares,
                              std::span<const std::int64_t> load) {
  std::vector<double> result(static_cast<std::size_t>(shape.num_ranks()), 0.0);
  const std::vector<std::uint32_t> even = shares.empty()
                                              ? even_shares(slots, shape.num_logical_experts())
                                              : std::vector<std::uint32_t>{};
  const std::span<const std::uint32_t> used =
      shares.empty() ? std::span<const std::uint32_t>(even) : shares;
  for (std::size_t slot = 0; slot < slots.size(); ++slot) {
    const double share = static_cast<double>(used[slot]) / kShareUnit;
    result[static_cast<std::size_t>(shape.rank_of_slot(static_cast<int>(slot)))] +=
        static_cast<double>(load[static_cast<std::size_t>(slots[slot])]) * share;
  }
  return result;
}

double imbalance(std::span<const double> rank_loads) {
  const double mean = mean_of(rank_loads);
  return mean > 0.0 ? *std::max_element(rank_loads.begin(), rank_loads.end()) / mean : 1.0;
}

double balancedness(std::span<const double> rank_loads) { return 1.0 / imbalance(rank_loads); }

OverLayers aggregate_imbalance(std::span<const double> imbalance_per_layer) {
  return aggregate(imbalance_per_layer, true);
}

OverLayers aggregate_balancedness(std::span<const double> balancedness_per_layer) {
  return aggregate(balancedness_per_layer, false);
}

}  // namespace swiftbalancer
