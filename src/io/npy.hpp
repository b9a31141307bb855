#pragma once
// Reads arrays of counts from NumPy's .npy files. Strict: what is not exactly as the format says is
// refused. Used by the load reader. Thread-safe.

#include <cstdint>
#include <string>
#include <vector>

namespace swiftbalancer::io {

struct CountArray {
  std::vector<std::int64_t> shape;
  std::vector<std::int64_t> values;  ///< Row-major, all >= 0.
};

/// Reads little-endian int32, int64, float32 or float64 in row-major order; floats must hold whole
/// numbers.
/// @throws Error kIo: no .npy file, truncated or too long, another type or order, a value that is
/// negative, not whole or
///         too large. Names the file.
CountArray read_npy(const std::string& path);

}  // namespace swiftbalancer::io
