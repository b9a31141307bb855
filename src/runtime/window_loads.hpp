#pragma once
// From packets to expert loads. A packet counts tokens per slot; which expert a slot held is known
// from the placement that its window ran under (rule 15: loads carry their epoch and are split at
// commits). Worker thread only.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include <swiftbalancer/load.hpp>
#include <swiftbalancer/placement.hpp>

#include "protocol/packet.hpp"
#include "runtime/packet_ring.hpp"

namespace swiftbalancer {

class WindowLoads {
 public:
  WindowLoads(const ClusterShape& shape, const Placement& served, std::size_t num_ring_slots);

  /// A layer was committed; segment 1 of the window under way is counted under `served` from here
  /// on.
  void committed(const Placement& served);
  /// The window ends: its packet is in this ring slot. Remembers the placements it ran under.
  void window_ended(std::uint32_t ring_slot);
  /// Loads of a gathered set, mapped with the placements of its window.
  ExpertLoad map(PacketRing& ring, std::uint32_t ring_slot) const;

 private:
  using Shared = std::shared_ptr<const Placement>;
  struct Window {
    Shared segment[2];
  };

  const ClusterShape& shape_;
  PacketLayout layout_;
  Shared before_;  // segment 0 of the window under way
  Shared now_;
  std::vector<Window> windows_;  // [ring slot]
};

}  // namespace swiftbalancer
