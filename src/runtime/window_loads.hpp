#pragma once
// From packets to expert loads. A packet counts tokens per slot; which expert a slot held is known
// from the placement that its window ran under (rule 15: loads carry their epoch and are split at
// commits). Takes its memory when it is made and none later. Worker thread only.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <swiftbalancer/load.hpp>
#include <swiftbalancer/placement.hpp>

#include "protocol/packet.hpp"
#include "runtime/packet_ring.hpp"

namespace swiftbalancer {

class WindowLoads {
 public:
  /// @param served at the beginning of the first window. @param num_ring_slots used in turn.
  WindowLoads(const ClusterShape& shape, const Placement& served, std::size_t num_ring_slots);

  /// A layer was committed; segment 1 of the window under way is counted under `placement`
  /// [num_slots] from here on. Cost: that row.
  void committed(int moe_layer_id, std::span<const std::int32_t> placement) noexcept;
  /// The window ends: its packet is in this ring slot. Remembers what it ran under, as a number per
  /// layer and segment.
  void window_ended(std::uint32_t ring_slot) noexcept;
  /// Loads of a gathered set, mapped with the placements of its window.
  /// @param load [num_moe_layers, num_logical_experts], is overwritten.
  void map(PacketRing& ring, std::uint32_t ring_slot, ExpertLoad& load) const noexcept;

 private:
  // Which of a layer's kept rows its slots are read by, before and after a commit within the
  // window.
  struct Version {
    std::uint32_t segment[2] = {0, 0};
  };

  std::size_t ended(std::size_t ring_slot, int moe_layer_id) const noexcept {
    return ring_slot * static_cast<std::size_t>(shape_.num_moe_layers()) +
           static_cast<std::size_t>(moe_layer_id);
  }
  std::size_t row(int moe_layer_id, std::uint32_t version) const noexcept {
    return (static_cast<std::size_t>(moe_layer_id) * num_versions_ + version) *
           static_cast<std::size_t>(shape_.num_slots());
  }

  // Constant after construction.
  const ClusterShape& shape_;
  const PacketLayout layout_;
  const std::uint32_t num_versions_;

  std::vector<std::int32_t> rows_;  // [num_moe_layers, num_versions, num_slots]
  std::vector<Version> under_way_;  // [num_moe_layers]
  std::vector<Version> ended_;      // [ring slots, num_moe_layers]
};

}  // namespace swiftbalancer
