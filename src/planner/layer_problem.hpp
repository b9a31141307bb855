#pragma once
// What every policy does around its own idea: check the problem, and fill in the figures that a
// plan reports. Used by the policies; pure functions.

#include <cstdint>
#include <span>
#include <vector>

#include <swiftbalancer/policy.hpp>

namespace swiftbalancer {

/// @throws Error kInvalidArgument when a span does not fit the shape, a load is negative, or the
/// placement loses an expert or has an empty slot.
void check_problem(const LayerProblem& problem);

/// Completes a plan from its placement and shares: imbalance before and after, moves, work.
LayerPlan make_plan(const LayerProblem& problem, std::vector<std::int32_t> placement,
                    std::vector<std::uint32_t> shares, std::int64_t work);

/// The plan that changes nothing.
LayerPlan unchanged_plan(const LayerProblem& problem);

/// The sum, e.g. of a layer's tokens.
std::int64_t total(std::span<const std::int64_t> counts) noexcept;

/// A sequence of well mixed numbers from a seed (splitmix64, public domain, S. Vigna).
class Mixer {
 public:
  explicit Mixer(std::uint64_t seed) noexcept : state_(seed) {}
  std::uint64_t next() noexcept {
    std::uint64_t z = (state_ += 0x9E3779B97F4A7C15ULL);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
  }
  /// Uniform enough in [0, bound) for tests of independence; the modulo bias is below 2^-32.
  std::size_t below(std::size_t bound) noexcept { return static_cast<std::size_t>(next() % bound); }

 private:
  std::uint64_t state_;
};

}  // namespace swiftbalancer
