#pragma once
// What the ranks of a run would have received, had every expert's tokens been divided exactly as
// the shares served at that step say: what the counted loads are compared with. Pure; called by
// figures, on the main thread.

#include <span>
#include <vector>

#include "engine/figures.hpp"

namespace swiftbalancer::engine {

/// @param windows ascending, disjoint. @returns [windows]; empty where it is not known: from the
/// first change of the membership on.
std::vector<RankLoads> planned_loads(const RunRecord& run, const ClusterShape& shape,
                                     std::span<const Window> windows);

}  // namespace swiftbalancer::engine
