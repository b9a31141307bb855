#pragma once
// The inner loops of the even search: many candidates at once, with the same results on every
// platform (each candidate on its own, then a maximum). Used by the even search only; pure.
//
// What a rank costs is max(0, level - floor)^2; gains are differences of that.

#include <cstddef>
#include <cstdint>

#include "planner/even_state.hpp"

namespace swiftbalancer {

/// Two ranks under a swap. Levels are above the floor.
struct SwapRanks {
  float high, low;            ///< Levels.
  float high_slow, low_slow;  ///< Slowness.
  float cost;                 ///< Of both now.
};

/// The places of one of them.
struct SwapPlaces {
  const float* pieces;   ///< Infinite where padded.
  const float* weights;  ///< Of gains: the product of both.
  int num_slots;
};

/// @param padded places of a rank, a multiple of EvenState::kLanes.
/// @param gains  [high.num_slots][padded] the weighted gain of swapping a piece of the higher rank
///               for one of the lower one's. @returns the best of them.
float score_swaps(const SwapRanks& ranks, const SwapPlaces& high, const SwapPlaces& low, int padded,
                  float* gains);

/// Redundant replicas that could be given up, as columns. The gain of putting a piece in the place
/// of one: (given + bonus - max(0, level + piece * slow)^2) * weight.
struct Victims {
  std::int32_t* place;
  float *given, *level, *slow, *weight;
  int size = 0;

  void lay_out(Arena& arena, std::size_t most);
  /// Completes the columns so that scans need no remainder.
  void pad() noexcept;
};

/// @param gains the weighted gain of each victim. @returns the best of them.
float score_victims(const Victims& victims, float piece, float bonus, float* gains);

/// Experts that could come to the hottest rank for one of its redundant replicas, as columns. The
/// gain of one: given + relief - max(0, level + piece * slow)^2.
struct Comers {
  std::int32_t* expert;
  float *relief, *piece;  ///< What their ranks win; what comes.
  int size = 0;

  void lay_out(Arena& arena, std::size_t most);
  void pad() noexcept;
};

/// @param level of the rank without the replica. @param gains of each. @returns the best of them.
float score_comers(const Comers& comers, float given, float level, float slow, float* gains);

}  // namespace swiftbalancer
