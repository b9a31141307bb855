#pragma once
// The inner loops of the even search: many candidates at once, with the same results on every
// platform (each candidate on its own, then a maximum). Used by the even search only; pure.

#include <cstddef>
#include <cstdint>
#include <vector>

namespace swiftbalancer {

/// Two ranks under a swap.
struct SwapRanks {
  float drop;      ///< Twice the difference of their levels.
  float slowness;  ///< Sum of both.
};

/// The places of one of them.
struct SwapPlaces {
  const float* pieces;   ///< Infinite where padded.
  const float* weights;  ///< 1 / moves of taking the piece away, when the other costs one.
  int num_slots;
};

/// The best weighted gain of swapping a piece of the higher rank for one of the lower one's.
/// @param padded places of a rank, a multiple of EvenState::kLanes.
float best_swap(SwapRanks ranks, SwapPlaces high, SwapPlaces low, int padded);

/// Redundant replicas that could be given up, as columns. The gain of putting a piece in the place
/// of one: (given + bonus - piece * (taken + piece * slow)) * weight.
struct Victims {
  std::vector<std::int32_t> rank, expert;
  std::vector<float> given, taken, slow, weight;
  std::size_t size = 0;

  void resize(std::size_t most);
  /// Completes the columns so that scans need no remainder.
  void pad();
};

/// @param gains the weighted gain of each victim. @returns the best of them.
float score_victims(const Victims& victims, float piece, float bonus, float* gains);

}  // namespace swiftbalancer
