#pragma once
// What ranks serve: placement and replica shares of all layers, and how level it is. Pure.

#include <cstdint>
#include <span>
#include <vector>

#include <swiftbalancer/load.hpp>
#include <swiftbalancer/placement.hpp>
#include <swiftbalancer/shape.hpp>

namespace swiftbalancer {

/// Placement and shares of all layers: what is served, or what is planned.
struct ServedState {
  Placement placement;
  std::vector<std::vector<std::uint32_t>> shares;  ///< [num_moe_layers][num_slots] in kShareUnit
  /// Every expert's tokens split evenly over its slots.
  static ServedState even(const Placement& placement, const ClusterShape& shape);
  static ServedState initial(const ClusterShape& shape) {
    return even(Placement::initial(shape), shape);
  }
};

/// The same with every empty slot holding an expert that its rank does not have, with no share:
/// what policies plan from. Experts with few replicas come first. Nothing changes without empty
/// slots.
ServedState without_empty_slots(const ServedState& served, const ClusterShape& shape);
/// One layer of it, in place. Takes no memory where no slot is empty.
void fill_empty_slots(std::span<std::int32_t> placement, const ClusterShape& shape);

/// Imbalance of each layer of a load under what is served.
/// @param rank_speeds [num_ranks], or empty: all alike; else it is the imbalance of times.
std::vector<double> imbalance_per_layer(const ClusterShape& shape, const ServedState& served,
                                        const ExpertLoad& load,
                                        std::span<const double> rank_speeds = {});

}  // namespace swiftbalancer
