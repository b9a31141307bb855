#pragma once
// Tells a change of the traffic from sampling noise. Given, per layer, how far the last loads lie
// from those before, it learns how far they usually do (tokens of one request are alike, so more
// than independent tokens would) and says when they lie further. Used by the load history; counts
// and fixed-order arithmetic only, so that every rank decides alike.

#include <array>
#include <cstddef>
#include <span>

namespace swiftbalancer {

/// Distance between two samples of one layer: sum over experts of (share now - share before)^2 /
/// pooled share.
struct LayerDistance {
  double measured = 0.0;
  double expected = 0.0;  ///< From independent tokens of one distribution.
};

class ChangeDetector {
 public:
  /// Lengths of the recent part that is compared with all before it, in blocks: a short one answers
  /// a large change at once, a long one sees a small change in the end.
  static constexpr std::array<std::size_t, 3> kRecentBlocks = {2, 4, 8};

  /// One comparison at one length. @param layers [num_moe_layers]; layers without load have
  /// expected == 0.
  /// @returns whether the traffic has changed; else the comparison is learnt as what is usual.
  bool has_changed(std::size_t length, std::span<const LayerDistance> layers);
  /// What is usual is learnt anew, but how alike tokens of a request are hardly depends on the
  /// traffic.
  void restart() noexcept;
  /// How many times more loads vary than those of independent tokens would, at least 1.
  double dispersion() const noexcept;

 private:
  // Running mean and variance of the distance in units of what independent tokens would show.
  struct Usual {
    double samples = 0.0;
    double mean = 1.0;
    double variance = 0.0;
  };
  std::array<Usual, kRecentBlocks.size()> usual_;
};

}  // namespace swiftbalancer
