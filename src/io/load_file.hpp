#pragma once
// Reads expert loads from a file: .npy or JSON, one window or several (docs/formats.md). Used by
// `plan` and `inspect`. Thread-safe.

#include <string>
#include <vector>

#include <swiftbalancer/load.hpp>

namespace swiftbalancer::io {

/// @returns one ExpertLoad per window, at least one, all of the same shape.
/// @throws Error kIo: not readable, not of a known format, wrong shape or value. Names the file.
std::vector<ExpertLoad> read_loads(const std::string& path);

}  // namespace swiftbalancer::io
