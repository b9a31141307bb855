#pragma once
// What is left when ranks are dead, for planning offline: the shape of the survivors, and the
// placement that they serve once the experts that lost all copies have a slot again. The runtime
// does the same inside a reconfiguration, without loads (migration/rehome.hpp). Called by the tool.
// Pure, deterministic.

#include <cstdint>
#include <span>
#include <vector>

#include <swiftbalancer/load.hpp>
#include <swiftbalancer/placement.hpp>
#include <swiftbalancer/shape.hpp>

namespace swiftbalancer {

struct Survivors {
  ShapeOptions options;  ///< Of the ranks that are left, renumbered; nodes without ranks are gone.
  std::vector<int> ranks;  ///< [options.num_ranks] the numbers that they had.
};

/// @throws Error kInvalidArgument: a rank that does not exist or is named twice, none left, or
/// fewer slots left than experts.
Survivors survivors_of(const ClusterShape& shape, std::span<const int> dead_ranks);

/// What a layer that lost experts may do with its slots.
struct LostExperts {
  std::span<const std::int64_t> load{};    ///< [num_logical_experts]
  std::span<const double> rank_speed{};    ///< [num_ranks] of the survivors; empty: all alike.
  std::span<const std::uint8_t> pinned{};  ///< [num_slots] of the survivors; empty: none.
  bool keep_groups = false;  ///< Prefers a slot on the node that holds most of the expert's group.
};

/// Gives every expert without a slot one, in place of an empty slot or of a replica that can be
/// spared; nothing else moves, so the moves are the fewest there can be. The heaviest expert comes
/// first, each goes where the slowest rank that it touches is least slow.
/// @param row [num_slots] of one layer of the survivors. @returns the number of experts that had no
/// slot. @throws Error kInvalidArgument when too few slots can be spared.
int place_lost_experts(const ClusterShape& shape, const LostExperts& layer,
                       std::span<std::int32_t> row);

/// What a recovery goes by beside the load.
struct RecoveryLimits {
  std::span<const int> pinned_experts{};  ///< Stay in every slot of a survivor that holds them.
  std::span<const double> rank_speed{};   ///< [num_ranks] of the survivors; empty: all alike.
  bool keep_groups = false;               ///< As LostExperts::keep_groups.
};

struct Recovered {
  Survivors survivors;
  Placement held;       ///< What the survivors hold before anything moves; may lack experts.
  Placement placement;  ///< Of the survivors; every expert has a slot.
  std::vector<int> lost_experts;  ///< [num_moe_layers] experts that `held` lacks.
};

/// All layers of a placement when ranks are dead. @throws Error as the functions above, or where
/// rank_speed does not fit the survivors.
Recovered recover(const ClusterShape& shape, const Placement& placement, const ExpertLoad& load,
                  std::span<const int> dead_ranks, const RecoveryLimits& limits = {});

}  // namespace swiftbalancer
