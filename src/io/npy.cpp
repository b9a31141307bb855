#include "io/npy.hpp"

#include <bit>
#include <cmath>
#include <cstring>
#include <regex>
#include <string_view>

#include <swiftbalancer/error.hpp>

#include "io/text_file.hpp"

namespace swiftbalancer::io {
namespace {

static_assert(std::endian::native == std::endian::little,
              "the reader copies little-endian values as they are");

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr std::uint64_t kMaxValues = std::uint64_t{1} << 32;
constexpr std::uint32_t kMaxHeaderBytes =
    4096;  // NumPy writes about 120; std::regex recurses per character
constexpr double kMaxCount = 9007199254740992.0;  // 2^53: every whole double up to here is exact

[[noreturn]] void fail(const std::string& path, const std::string& what) {
  throw Error(ErrorCode::kIo, path + ": " + what);
}

struct Header {
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::uint64_t num_values = 1;
};

std::vector<std::int64_t> parse_shape(const std::string& path, const std::string& text) {
  std::vector<std::int64_t> shape;
  std::size_t position = 0;
  while (position < text.size()) {
    std::size_t digits = 0;
    while (position + digits < text.size() &&
           std::isdigit(static_cast<unsigned char>(text[position + digits])) != 0)
      ++digits;
    if (digits > 10) fail(path, "shape (" + text + ") is too large");
    if (digits > 0) shape.push_back(std::stoll(text.substr(position, digits)));
    position += digits + 1;
  }
  return shape;
}

Header parse_header(const std::string& path, const std::string& text) {
  static const std::regex descr("'descr': *'([^']*)'"), order("'fortran_order': *(True|False)"),
      shape("'shape': *\\(([0-9, ]*)\\)");
  std::smatch match;
  Header header;
  if (!std::regex_search(text, match, descr))
    fail(path, "the header names no element type (descr)");
  header.dtype = match[1];
  if (!std::regex_search(text, match, order)) fail(path, "the header names no fortran_order");
  if (match[1] == "True")
    fail(path, "the array is in Fortran order; save it in C order (numpy.ascontiguousarray)");
  if (!std::regex_search(text, match, shape)) fail(path, "the header names no shape");
  header.shape = parse_shape(path, match[1]);
  for (const std::int64_t extent : header.shape) {
    const auto factor = static_cast<std::uint64_t>(extent);
    // Asked before multiplying: the product itself may wrap around to a small number.
    if (factor != 0 && header.num_values > kMaxValues / factor)
      fail(path, "shape (" + match[1].str() + ") is too large");
    header.num_values *= factor;
  }
  return header;
}

template <typename T>
std::vector<std::int64_t> convert(const std::string& path, std::string_view bytes) {
  std::vector<std::int64_t> values(bytes.size() / sizeof(T));
  for (std::size_t i = 0; i < values.size(); ++i) {
    T value;
    std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
    const auto number = static_cast<double>(value);
    if (!(number >= 0.0) || number > kMaxCount || number != std::floor(number)) {
      fail(path, "value " + std::to_string(value) + " at index " + std::to_string(i) +
                     "; loads are whole numbers of tokens from 0 to 2^53 (scale fractions up)");
    }
    values[i] = static_cast<std::int64_t>(value);
  }
  return values;
}

}  // namespace

CountArray read_npy(const std::string& path) {
  const std::string file = read_text_file(path);
  const std::string_view bytes = file;
  if (bytes.substr(0, kMagic.size()) != kMagic || bytes.size() < 12) fail(path, "is no .npy file");
  // Version 1 has a header length of 2 bytes, later ones of 4.
  const std::size_t length_bytes = bytes[6] == 1 ? 2 : 4;
  std::uint32_t header_length = 0;
  std::memcpy(&header_length, bytes.data() + 8, length_bytes);
  if (header_length > kMaxHeaderBytes) {
    fail(path, "has a header of " + std::to_string(header_length) + " bytes; at most " +
                   std::to_string(kMaxHeaderBytes));
  }
  const std::size_t data_begin = 8 + length_bytes + header_length;
  if (data_begin > bytes.size()) fail(path, "is truncated within its header");

  const Header header =
      parse_header(path, std::string(bytes.substr(8 + length_bytes, header_length)));
  const std::string_view data = bytes.substr(data_begin);
  const auto checked = [&](std::size_t value_bytes) {
    const std::uint64_t expected = header.num_values * value_bytes;
    if (data.size() != expected) {
      fail(path, "holds " + std::to_string(data.size()) + " bytes of values; its shape needs " +
                     std::to_string(expected));
    }
    return data;
  };
  if (header.dtype == "<i8") return {header.shape, convert<std::int64_t>(path, checked(8))};
  if (header.dtype == "<i4") return {header.shape, convert<std::int32_t>(path, checked(4))};
  if (header.dtype == "<f4") return {header.shape, convert<float>(path, checked(4))};
  if (header.dtype == "<f8") return {header.shape, convert<double>(path, checked(8))};
  fail(path, "element type '" + header.dtype +
                 "' is not supported; save as int64, int32, float32 or float64");
}

}  // namespace swiftbalancer::io
