#pragma once
// NumPy's .npy files: arrays of numbers of any integer or float type, either byte order, either
// memory order. Strict: what is not exactly as the format says is refused. Used by the readers of
// loads and placements. Thread-safe.
// Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace swiftbalancer::io {

struct NumberArray {
  std::vector<std::int64_t> shape;
  std::vector<double> values;  ///< Row-major, finite, between -2^53 and 2^53: whole ones are exact.
};

/// "[2, 0, 17]": where the value with this row-major index is, for messages.
std::string place_in_array(std::span<const std::int64_t> shape, std::size_t index);
/// A number in a message: shortest text that reads back the same.
std::string number_text(double value);

bool is_npy(std::string_view bytes) noexcept;
/// Reads int8 to int64, uint8 to uint64, float16, float32 and float64.
/// @param path for messages. @throws Error kIo: no .npy file, truncated or too long, another
/// element type, a value that is not finite or has a magnitude of 2^53 or more. Names file and
/// place.
NumberArray parse_npy(const std::string& path, std::string_view bytes);
/// An int32 array in row-major order, version 1 of the format.
/// @param values as many as the shape says.
std::string format_npy(std::span<const std::int64_t> shape, std::span<const std::int32_t> values);

}  // namespace swiftbalancer::io
