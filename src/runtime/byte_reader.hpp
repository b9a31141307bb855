#pragma once
// Reads values from the bytes of a message, never beyond them.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include <swiftbalancer/error.hpp>

namespace swiftbalancer {

/// All calls: @throws Error kTransport: the message is too short, or makes no sense.
class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> bytes) : bytes_(bytes) {}
  template <typename T>
  T take() {
    T value;
    take_all(std::span(&value, 1));
    return value;
  }
  template <typename T>
  void take_all(std::span<T> values) {
    static_assert(std::is_trivially_copyable_v<T>);
    const auto from = take_bytes(values.size_bytes());
    if (!from.empty()) std::memcpy(values.data(), from.data(), from.size());
  }
  /// Their number comes first.
  template <typename T>
  std::vector<T> take_list() {
    const auto count = take<std::uint64_t>();
    if (count > bytes_.size() / sizeof(T)) refuse("it is too short for a list");
    std::vector<T> values(static_cast<std::size_t>(count));
    take_all(std::span<T>(values));
    return values;
  }
  std::span<const std::byte> take_bytes(std::size_t bytes) {
    if (bytes > bytes_.size()) refuse("it is too short");
    const auto taken = bytes_.first(bytes);
    bytes_ = bytes_.subspan(bytes);
    return taken;
  }
  std::span<const std::byte> rest() const noexcept { return bytes_; }
  void end() const {
    if (!bytes_.empty()) refuse("it is too long");
  }
  [[noreturn]] static void refuse(const std::string& why) {
    throw Error(ErrorCode::kTransport, "a message makes no sense: " + why);
  }

 private:
  std::span<const std::byte> bytes_;
};

}  // namespace swiftbalancer
