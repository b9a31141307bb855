#pragma once
// Walks a stretch of a message whose memory is a list of parts. Pure.

#include <algorithm>
#include <cstddef>
#include <span>

namespace swiftbalancer::ring {

/// Calls visit(span) for the memory of bytes [offset, offset + bytes) of the concatenated parts, in
/// order.
template <typename Byte, typename Visit>
void for_each_piece(std::span<const std::span<Byte>> parts, std::size_t offset, std::size_t bytes,
                    Visit&& visit) {
  for (const std::span<Byte>& part : parts) {
    if (bytes == 0) return;
    if (offset >= part.size()) {
      offset -= part.size();
      continue;
    }
    const std::size_t length = std::min(bytes, part.size() - offset);
    visit(part.subspan(offset, length));
    offset = 0;
    bytes -= length;
  }
}

template <typename Byte>
std::size_t total_bytes(std::span<const std::span<Byte>> parts) noexcept {
  std::size_t total = 0;
  for (const std::span<Byte>& part : parts) total += part.size();
  return total;
}

}  // namespace swiftbalancer::ring
