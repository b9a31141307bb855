#pragma once
// The tokens that this rank's slots have received since its last packet: recorded layer by layer,
// split where a commit changes what the slots hold (rule 15), and handed over as the body of a
// packet. Engine thread only. The one place that counts: counters that live on a device come in
// here.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <swiftbalancer/load.hpp>
#include <swiftbalancer/shape.hpp>

#include "protocol/packet.hpp"

namespace swiftbalancer {

class WindowCounters {
 public:
  WindowCounters(const ClusterShape& shape, int num_local_slots);

  /// A new membership: the window under way ends, and none of it is posted.
  void enter(const ClusterShape& shape);
  /// A step of this phase begins. @param idle this rank has no tokens of its own in it.
  void begin_step(Phase phase, bool idle) noexcept;
  /// Adds one layer's tokens, [slots of this rank]. A layer or slots that do not exist are ignored.
  void record(int moe_layer_id, std::span<const std::uint32_t> counts) noexcept;
  /// A layer's slots hold other experts from here on.
  void split(int moe_layer_id) noexcept;
  /// Writes phase, flags and counters into a packet and begins the next window.
  void end_window(PacketHeader& header, std::span<std::byte> body) noexcept;
  /// Tokens of each slot in all windows since the first call. @param out [slots of this rank]
  void received_tokens(int moe_layer_id, std::span<std::int64_t> out);

 private:
  // Counters of one layer in the packet's layout: those of the segment before a commit, then those
  // of now, each [max_slots_per_rank].
  std::size_t layer_begin(int moe_layer_id) const noexcept {
    return layout_.counter(moe_layer_id, 0, 0);
  }
  void carry(int moe_layer_id) noexcept;
  void write_shifted(PacketHeader& header, std::span<std::byte> body) const noexcept;
  void close() noexcept;
  void add_to(int moe_layer_id, std::span<std::int64_t> total) const noexcept;

  const std::size_t num_local_slots_;
  int num_moe_layers_;
  PacketLayout layout_;
  std::vector<std::uint32_t> counters_;
  // What did not fit into 32 bits, in the same layout. Rarely used: packets are posted long before.
  std::vector<std::uint64_t> carried_;
  bool any_carried_ = false;
  bool idle_ = true;
  Phase phase_ = Phase::kMixed;         // of all steps of the window, as far as not idle
  std::vector<std::int64_t> received_;  // [layers * local slots] of closed windows; empty until
                                        // somebody asks
};

}  // namespace swiftbalancer
