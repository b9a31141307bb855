#pragma once
// Preallocated memory for the packet sets under way: per ring slot this rank's packet and the
// gathered set. The engine thread writes a slot's packet and reads its set; the worker gathers in
// between. The command queue orders the two.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "protocol/packet.hpp"

namespace swiftbalancer {

class PacketRing {
 public:
  PacketRing(const PacketLayout& layout, int num_ranks, std::uint64_t interval, std::uint64_t lag)
      : interval_(interval),
        packet_bytes_(layout.bytes()),
        num_slots_(lag / interval + 4),
        mine_(num_slots_ * packet_bytes_),
        sets_(num_slots_ * packet_bytes_ * static_cast<std::size_t>(num_ranks)),
        set_bytes_(packet_bytes_ * static_cast<std::size_t>(num_ranks)) {}

  std::size_t num_slots() const noexcept { return num_slots_; }
  std::uint32_t slot_of(std::uint64_t step) const noexcept {
    return static_cast<std::uint32_t>(step / interval_ % num_slots_);
  }
  std::span<std::byte> mine(std::uint32_t slot) noexcept {
    return {mine_.data() + slot * packet_bytes_, packet_bytes_};
  }
  std::span<std::byte> set(std::uint32_t slot) noexcept {
    return {sets_.data() + slot * set_bytes_, set_bytes_};
  }
  std::span<std::byte> packet(std::uint32_t slot, int rank) noexcept {
    return set(slot).subspan(static_cast<std::size_t>(rank) * packet_bytes_, packet_bytes_);
  }

 private:
  std::uint64_t interval_;
  std::size_t packet_bytes_;
  std::size_t num_slots_;
  std::vector<std::byte> mine_;
  std::vector<std::byte> sets_;
  std::size_t set_bytes_;
};

}  // namespace swiftbalancer
