#include "io/npy.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>

#include <swiftbalancer/error.hpp>

#include "io/file_error.hpp"
#include "io/npy_header.hpp"

namespace swiftbalancer::io {
namespace {

static_assert(std::endian::native == std::endian::little,
              "values are decoded on a little-endian machine");

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr std::size_t kLengthBegin = 8;                // behind magic and version
constexpr std::uint32_t kMaxNpyHeaderBytes = 4096;     // NumPy writes about 120
constexpr double kMaxExactCount = 9007199254740992.0;  // 2^53: below it every whole double is exact

// IEEE 754 half precision: 1 sign, 5 exponent, 10 fraction bits.
double half_value(std::uint16_t bits) {
  const int exponent = (bits >> 10) & 0x1F;
  const double fraction = bits & 0x3FF;
  double value = std::ldexp(1024.0 + fraction, exponent - 25);
  if (exponent == 0) value = std::ldexp(fraction, -24);
  if (exponent == 0x1F) value = fraction == 0.0 ? HUGE_VAL : std::nan("");
  return (bits & 0x8000) != 0 ? -value : value;
}

struct Half {
  std::uint16_t bits;
  explicit operator double() const { return half_value(bits); }
};

template <typename T>
double decode(const char* bytes, bool swapped) {
  std::array<char, sizeof(T)> raw;
  std::copy_n(bytes, raw.size(), raw.begin());
  if (swapped) std::ranges::reverse(raw);
  return static_cast<double>(std::bit_cast<T>(raw));
}

struct ElementType {
  std::string_view name;  // without byte order
  std::size_t bytes;
  double (*decode)(const char* bytes, bool swapped);
};

constexpr std::array kElementTypes = {
    ElementType{"i1", 1, decode<std::int8_t>},   ElementType{"i2", 2, decode<std::int16_t>},
    ElementType{"i4", 4, decode<std::int32_t>},  ElementType{"i8", 8, decode<std::int64_t>},
    ElementType{"u1", 1, decode<std::uint8_t>},  ElementType{"u2", 2, decode<std::uint16_t>},
    ElementType{"u4", 4, decode<std::uint32_t>}, ElementType{"u8", 8, decode<std::uint64_t>},
    ElementType{"f2", 2, decode<Half>},          ElementType{"f4", 4, decode<float>},
    ElementType{"f8", 8, decode<double>},
};

const ElementType& element_type(const std::string& path, const std::string& descr) {
  if (!descr.empty() && std::string_view("<>=|").find(descr.front()) != std::string_view::npos) {
    for (const ElementType& type : kElementTypes) {
      if (type.name == std::string_view(descr).substr(1)) return type;
    }
  }
  fail(path, "element type '" + descr +
                 "' is not supported; save as int8 to int64, uint8 to uint64, float16, float32 or "
                 "float64");
}

// Distance between neighbours of each dimension, in values.
std::vector<std::size_t> strides_of(const NpyHeader& header) {
  std::vector<std::size_t> strides(header.shape.size(), 1);
  for (std::size_t k = 1; k < strides.size(); ++k) {
    const std::size_t d = header.fortran_order ? k : strides.size() - 1 - k;
    const std::size_t inner = header.fortran_order ? d - 1 : d + 1;
    strides[d] = strides[inner] * static_cast<std::size_t>(header.shape[inner]);
  }
  return strides;
}

NumberArray read_values(const std::string& path, const NpyHeader& header, const ElementType& type,
                        std::string_view data) {
  const bool swapped = header.descr.front() == '>';
  const std::vector<std::size_t> strides = strides_of(header);
  NumberArray array{header.shape, {}};
  array.values.reserve(header.num_values);
  std::vector<std::int64_t> index(header.shape.size(), 0);
  std::size_t source = 0;
  while (array.values.size() < header.num_values) {
    const double value = type.decode(data.data() + source * type.bytes, swapped);
    if (!(std::abs(value) < kMaxExactCount)) {
      fail(path, "value " + number_text(value) + " at " +
                     place_in_array(header.shape, array.values.size()) +
                     "; numbers must be finite and below 2^53");
    }
    array.values.push_back(value);
    for (std::size_t d = index.size(); d-- > 0;) {
      source += strides[d];
      if (++index[d] < header.shape[d]) break;
      source -= strides[d] * static_cast<std::size_t>(header.shape[d]);
      index[d] = 0;
    }
  }
  return array;
}

}  // namespace

std::string place_in_array(std::span<const std::int64_t> shape, std::size_t index) {
  std::string place;
  for (std::size_t d = shape.size(); d-- > 0;) {
    const auto extent = static_cast<std::size_t>(shape[d]);
    place = std::to_string(index % extent) + (place.empty() ? "" : ", ") + place;
    index /= extent;
  }
  return "[" + place + "]";
}

std::string number_text(double value) {
  std::array<char, 32> text;
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value).ptr;
  return {text.data(), end};
}

bool is_npy(std::string_view bytes) noexcept { return bytes.starts_with(kMagic); }

NumberArray parse_npy(const std::string& path, std::string_view bytes) {
  if (!is_npy(bytes) || bytes.size() < kLengthBegin + 4) fail(path, "is no .npy file");
  const int version = bytes[6];
  if (version < 1 || version > 3 || bytes[7] != 0) {
    fail(path, "is of version " + std::to_string(version) + "." + std::to_string(bytes[7]) +
                   " of the .npy format; 1.0, 2.0 and 3.0 are known");
  }
  const std::size_t length_bytes = version == 1 ? 2 : 4;
  std::uint32_t header_length = 0;
  std::memcpy(&header_length, bytes.data() + kLengthBegin, length_bytes);
  if (header_length > kMaxNpyHeaderBytes) {
    fail(path, "has a header of " + std::to_string(header_length) + " bytes; at most " +
                   std::to_string(kMaxNpyHeaderBytes));
  }
  const std::size_t data_begin = kLengthBegin + length_bytes + header_length;
  if (data_begin > bytes.size()) fail(path, "is truncated within its header");

  const NpyHeader header =
      parse_npy_header(path, bytes.substr(kLengthBegin + length_bytes, header_length));
  const ElementType& type = element_type(path, header.descr);
  const std::string_view data = bytes.substr(data_begin);
  if (data.size() != header.num_values * type.bytes) {
    fail(path, "holds " + std::to_string(data.size()) + " bytes of values; its shape needs " +
                   std::to_string(header.num_values * type.bytes));
  }
  return read_values(path, header, type, data);
}

std::string format_npy(std::span<const std::int64_t> shape, std::span<const std::int32_t> values) {
  constexpr std::size_t kAlignment = 64;
  std::string header = "{'descr': '<i4', 'fortran_order': False, 'shape': (";
  for (const std::int64_t extent : shape) header += std::to_string(extent) + ", ";
  header += "), }";
  const std::size_t prefix = kLengthBegin + sizeof(std::uint16_t);
  const std::size_t end = prefix + header.size() + 1;
  header.append((kAlignment - end % kAlignment) % kAlignment, ' ');
  header += '\n';

  const auto length = static_cast<std::uint16_t>(header.size());
  std::string file(kMagic);
  file += {'\x01', '\0'};
  file.append(reinterpret_cast<const char*>(&length), sizeof length);
  file += header;
  file.append(reinterpret_cast<const char*>(values.data()), values.size_bytes());
  return file;
}

}  // namespace swiftbalancer::io
