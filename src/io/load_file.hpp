#pragma once
// Reads expert loads from a file: .npy or JSON, one window or several (docs/formats.md). Used by
// `plan`, `compare` and `inspect`. Thread-safe.

#include <span>
#include <string>
#include <vector>

#include <swiftbalancer/load.hpp>

namespace swiftbalancer::io {

/// Whole numbers are tokens as they are. A file that holds a fraction has means or shares, which do
/// not say how many tokens are behind them: all its values are multiplied by the power of two that
/// brings the largest sum over a layer just below 2^40, and rounded to the nearest whole number.
/// @returns one ExpertLoad per window, at least one, all of the same shape; every layer's sum is
/// below 2^53.
/// @throws Error kIo: not readable, not of a known format, wrong shape or value. Names file and
/// place.
std::vector<ExpertLoad> read_loads(const std::string& path);

/// @param windows at least one, all of the same shape.
/// @throws Error kInvalidArgument: a layer's sum reaches 2^53.
ExpertLoad sum_of_windows(std::span<const ExpertLoad> windows);

}  // namespace swiftbalancer::io
