#pragma once
// The best guess of the distribution behind few counts: they are drawn towards what was expected,
// as far as that is worth more than they are (empirical Bayes). Used by the planner; pure,
// fixed-order arithmetic.

#include <cstdint>

#include <swiftbalancer/load.hpp>

#include "planner/domain_memory.hpp"

namespace swiftbalancer {

/// A load in fractions of a token.
struct LoadEstimate {
  /// One token counts so much: the expected tokens are fractions.
  static constexpr std::int64_t kUnit = 64;
  ExpertLoad load;
};

/// @param counts of less than 2^50 tokens per layer. @param dispersion of their noise: a counted
/// token is worth 1 / dispersion independent ones.
/// @returns per layer, the counts and the tokens that the expectation is worth, in units of kUnit:
/// the sum says how much evidence there is.
LoadEstimate estimate_load(const ExpertLoad& counts, double dispersion,
                           const Expectation& expectation);

}  // namespace swiftbalancer
