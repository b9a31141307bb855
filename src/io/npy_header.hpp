#pragma once
// The header of a .npy file: a Python dictionary of three keys. Used by npy.cpp. Thread-safe.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace swiftbalancer::io {

struct NpyHeader {
  std::string descr;  ///< Element type, e.g. "<i8".
  bool fortran_order = false;
  std::vector<std::int64_t> shape;
  std::uint64_t num_values = 1;  ///< Product of the shape.
};

/// @param text without magic and length. @throws Error kIo: not such a dictionary, a key missing,
/// unknown or given twice, a shape of more than 2^32 values.
NpyHeader parse_npy_header(const std::string& path, std::string_view text);

}  // namespace swiftbalancer::io
