#pragma once
// Memory that is reserved ahead, so that what follows cannot fail, and kept for the next time.
// Pure.

#include <algorithm>
#include <cstddef>
#include <vector>

namespace swiftbalancer::ring {

/// Room for `more` elements. Grows as push_back() does, so that many calls cost little.
template <typename T>
void make_room(std::vector<T>& elements, std::size_t more) {
  const std::size_t needed = elements.size() + more;
  if (needed > elements.capacity()) elements.reserve(std::max(needed, 2 * elements.capacity()));
}

/// Empties a buffer for messages; up to this size its memory is kept.
inline constexpr std::size_t kKeptBytes = std::size_t{1} << 20;
inline void empty_buffer(std::vector<std::byte>& bytes) noexcept {
  bytes.clear();
  if (bytes.capacity() > kKeptBytes) std::vector<std::byte>().swap(bytes);
}

}  // namespace swiftbalancer::ring
