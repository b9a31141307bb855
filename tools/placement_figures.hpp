#pragma once
// How well placements balance given loads. Used by `plan` and `compare`. Main thread.

#include <span>

#include <swiftbalancer/load.hpp>
#include <swiftbalancer/shape.hpp>

#include "io/placement_file.hpp"
#include "planner/planner.hpp"

namespace swiftbalancer::tool {

struct PlacementFigures {
  OverLayers imbalance;
  OverLayers balancedness;
  /// Mean over layers of max rank load / lower bound - 1.
  double lower_bound_gap_mean = 0.0;
};

/// @param rank_speed [num_ranks] relative; a rank's load then counts as its time, load / speed, and
/// the mean as the time of all ranks together. Empty: all alike.
PlacementFigures figures_of(const ClusterShape& shape, const ServedState& state,
                            const ExpertLoad& load, std::span<const double> rank_speed = {});

/// Over all layers.
int same_rank_duplicates(const ClusterShape& shape, const Placement& placement);

/// The placement with the shares that level its ranks best under these loads.
ServedState level_shares(const ClusterShape& shape, const Placement& placement,
                         const ExpertLoad& load, std::span<const double> rank_speed = {});

/// What a placement file says is served; even shares where it has none.
ServedState served_state(const io::PlacementFile& file, const ClusterShape& shape);
bool has_even_shares(const ServedState& state, const ClusterShape& shape);

}  // namespace swiftbalancer::tool
