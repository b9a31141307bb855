#pragma once
// The control packet that every rank posts every packet_interval steps: the agreed state it has
// reached, what it holds and has staged, and the loads of its slots. Fixed size, frozen when posted
// (rule 2). Pure; written by the engine thread, carried by the worker, read by both.

#include <cstddef>
#include <cstdint>
#include <span>

#include <swiftbalancer/error.hpp>
#include <swiftbalancer/shape.hpp>

namespace swiftbalancer {

/// Of packets and of what they mean: ranks of different versions do not serve together.
inline constexpr int kProtocolVersion = 4;

inline constexpr std::uint32_t kNoUnit = 0xFFFFFFFFU;

enum PacketFlags : std::uint32_t {
  kWantsRebalance = 1U << 0,  ///< The planner's evidence calls for an early rebalance.
  kPlanFailed = 1U << 1,      ///< Planning the open generation failed here.
  kIdle = 1U << 2,            ///< No tokens of its own since the last packet.
  kPlannerLost = 1U << 3,     ///< The load history is gone here: all begin theirs anew.
  kPlannerOff = 1U << 4,      ///< The planner is gone here for good.
  kAsksMode = 1U << 5,        ///< `mode` is asked for here; in one packet per request.
};

/// Little-endian, as it lies in memory; every platform we build for is.
struct PacketHeader {
  std::uint32_t magic = 0;
  std::uint32_t bytes = 0;     ///< Whole packet.
  std::uint64_t checksum = 0;  ///< Over everything behind this field.
  std::uint32_t membership = 0;
  std::uint32_t rank = 0;
  std::uint64_t step = 0;
  std::uint64_t digest = 0;       ///< Of the agreed state: equal on all ranks.
  std::uint64_t active_step = 0;  ///< Generation of the active plan, 0: none.
  std::uint64_t open_step = 0;    ///< Generation that plan_hash belongs to, 0: none.
  std::uint64_t plan_hash =
      0;  ///< 0: not ready. Reported only while the plan's bytes are held (rule 5).
  std::uint32_t staged_cursor =
      0;  ///< Units of the active plan, absolute, in plan order (rule 6). A promise (rule 7).
  std::uint32_t abort_unit = kNoUnit;  ///< A unit that cannot be staged here, or kNoUnit.
  std::uint32_t flags = 0;
  std::uint32_t phase =
      0;                   ///< Phase of all steps since the last packet that had tokens of its own.
  std::uint32_t mode = 0;  ///< BalancingMode that is asked for if flags has kAsksMode, else 0.
  std::uint32_t load_shift = 0;  ///< Counters are tokens >> load_shift; 0 while 32 bits suffice.
};
static_assert(sizeof(PacketHeader) % 8 == 0);

/// Where things lie in a packet: header, then loads [num_moe_layers][2][max_slots_per_rank] uint32
/// in tokens. Segment 0 was recorded before the commit that fell into the packet's window (zero if
/// none), segment 1 under the current epoch.
class PacketLayout {
 public:
  explicit PacketLayout(const ClusterShape& shape) noexcept
      : num_moe_layers_(shape.num_moe_layers()), slots_(shape.max_slots_per_rank()) {}
  std::size_t bytes() const noexcept {
    return sizeof(PacketHeader) + num_counters() * sizeof(std::uint32_t);
  }
  std::size_t num_counters() const noexcept {
    return (static_cast<std::size_t>(num_moe_layers_) * 2 * static_cast<std::size_t>(slots_) + 1) /
           2 * 2;
  }
  std::size_t counter(int moe_layer_id, int segment, int local_slot) const noexcept {
    return (static_cast<std::size_t>(moe_layer_id) * 2 + static_cast<std::size_t>(segment)) *
               static_cast<std::size_t>(slots_) +
           static_cast<std::size_t>(local_slot);
  }

 private:
  int num_moe_layers_;
  int slots_;
};

/// 64-bit mixing of one more word into a running digest; the one hash of plans, packets and agreed
/// state.
constexpr std::uint64_t mix(std::uint64_t digest, std::uint64_t word) noexcept {
  // splitmix64 finaliser (Steele, Lea, Flood 2014) over the sum; order matters through the
  // multiplication.
  std::uint64_t z = digest * 0x9E3779B97F4A7C15ULL + word + 0x632BE59BD9B4E019ULL;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31);
}

/// Checksum of a message, over what lies behind its checksum field. Any changed word changes it.
std::uint64_t checksum_of(std::span<const std::byte> covered) noexcept;

/// Fills magic, bytes and checksum of a packet whose other fields are written.
void seal_packet(std::span<std::byte> packet) noexcept;
/// Reads and checks the packet that `rank` posted at `step` of `membership`.
/// @returns kTransport naming rank and field when it is not what it should be.
Status open_packet(std::span<const std::byte> packet, std::uint32_t membership, int rank,
                   std::uint64_t step, PacketHeader& header);

}  // namespace swiftbalancer
