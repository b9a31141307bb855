#pragma once
// Writes .npy files as NumPy does, and as it does not.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <span>
#include <string>

namespace swiftbalancer::testing {

/// Version 1 of the format.
inline std::string npy_with_header(const std::string& header, const std::string& data) {
  const auto length = static_cast<std::uint16_t>(header.size());
  std::string file("\x93NUMPY\x01\x00", 8);
  file.append(reinterpret_cast<const char*>(&length), sizeof length);
  return file + header + data;
}

inline std::string npy(const std::string& descr, const std::string& shape, const std::string& data,
                       bool fortran_order = false) {
  return npy_with_header("{'descr': '" + descr + "', 'fortran_order': " +
                             (fortran_order ? "True" : "False") + ", 'shape': (" + shape + "), }\n",
                         data);
}

template <typename T>
std::string raw(std::initializer_list<T> values, bool big_endian = false) {
  std::string bytes;
  for (const T value : values) {
    char part[sizeof(T)];
    std::memcpy(part, &value, sizeof(T));
    if (big_endian) std::ranges::reverse(part);
    bytes.append(part, sizeof(T));
  }
  return bytes;
}

}  // namespace swiftbalancer::testing
