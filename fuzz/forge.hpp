#pragma once
// A hostile sender of plan and state messages: takes any bytes as a message's body behind the
// header and seals them, so that the checks behind the checksum are reached.

#include <cstring>
#include <span>
#include <vector>

#include "protocol/packet.hpp"

namespace swiftbalancer::fuzz {

/// @param genuine a message of the right kind and shape, whose first `kept` bytes go in front.
inline std::vector<std::byte> forge(std::span<const std::byte> genuine, std::size_t kept,
                                    std::span<const std::byte> body) {
  constexpr std::size_t kBytesAt = 8, kChecksumAt = 16;
  std::vector<std::byte> message(genuine.begin(),
                                 genuine.begin() + static_cast<std::ptrdiff_t>(kept));
  message.insert(message.end(), body.begin(), body.end());
  const std::uint64_t size = message.size();
  std::memcpy(message.data() + kBytesAt, &size, sizeof size);
  const std::uint64_t checksum =
      checksum_of(std::span<const std::byte>(message).subspan(kChecksumAt + sizeof(std::uint64_t)));
  std::memcpy(message.data() + kChecksumAt, &checksum, sizeof checksum);
  return message;
}

}  // namespace swiftbalancer::fuzz
