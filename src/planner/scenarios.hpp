#pragma once
// Several loads planned for at once: phases that take turns, or parts of a window that differ by
// more than noise. Used by the planner and its plan jobs; pure, fixed-order arithmetic.

#include <cstdint>
#include <span>
#include <vector>

#include <swiftbalancer/load.hpp>
#include <swiftbalancer/shape.hpp>

namespace swiftbalancer {

/// Loads that come for some part of the time.
struct Scenario {
  ExpertLoad load;
  double weight = 1.0;  ///< > 0, relative to the others'.
};

/// The weighted mean of the scenarios' distributions, as loads that sum to `total` per layer
/// (rounded; layers without load in any scenario stay without).
ExpertLoad blend(std::span<const Scenario> scenarios, std::int64_t total);
/// [num_logical_experts] of one layer: the largest share of each expert over the scenarios.
std::vector<std::int64_t> envelope(std::span<const Scenario> scenarios, int moe_layer_id);
/// Imbalance of one layer, weighted mean over the scenarios in which it has load; 1 without any.
/// @param rank_speeds [num_ranks], or empty: all alike.
double mean_imbalance(const ClusterShape& shape, std::span<const std::int32_t> slots,
                      std::span<const std::uint32_t> shares, std::span<const Scenario> scenarios,
                      int moe_layer_id, std::span<const double> rank_speeds = {});

/// Bins of a window told apart: two scenarios when the bins are of two kinds that take turns and
/// differ by more than noise, else none. @param bins loads of one shape, oldest first.
/// @param dispersion of their noise.
std::vector<Scenario> scenarios_of(std::span<const ExpertLoad* const> bins, double dispersion);

}  // namespace swiftbalancer
