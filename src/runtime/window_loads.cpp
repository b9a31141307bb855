#include "runtime/window_loads.hpp"

#include <cstring>

#include "core/test_fault.hpp"

namespace swiftbalancer {

WindowLoads::WindowLoads(const ClusterShape& shape, const Placement& served,
                         std::size_t num_ring_slots)
    : shape_(shape),
      layout_(shape),
      before_(std::make_shared<const Placement>(served)),
      now_(before_),
      windows_(num_ring_slots) {}

void WindowLoads::committed(const Placement& served) {
  now_ = std::make_shared<const Placement>(served);
}

void WindowLoads::window_ended(std::uint32_t ring_slot) {
  windows_[ring_slot] = {{before_, now_}};
  before_ = now_;
}

ExpertLoad WindowLoads::map(PacketRing& ring, std::uint32_t ring_slot) const {
  ExpertLoad load(shape_.num_moe_layers(), shape_.num_logical_experts());
  const Window& window = windows_[ring_slot];
  for (int rank = 0; rank < shape_.num_ranks(); ++rank) {
    const std::byte* counters = ring.packet(ring_slot, rank).data() + sizeof(PacketHeader);
    for (int layer = 0; layer < shape_.num_moe_layers(); ++layer) {
      auto tokens = load.layer(layer);
      for (int segment = 0; segment < 2; ++segment) {
        const auto slots =
            (faulty(Fault::kLoadsByCurrent) ? now_ : window.segment[segment])->layer(layer);
        for (int local = 0; local < shape_.slots_per_rank(rank); ++local) {
          const std::int32_t expert =
              slots[static_cast<std::size_t>(shape_.first_slot(rank) + local)];
          if (expert == kEmptySlot) continue;
          std::uint32_t count = 0;
          std::memcpy(&count, counters + layout_.counter(layer, segment, local) * sizeof count,
                      sizeof count);
          tokens[static_cast<std::size_t>(expert)] += count;
        }
      }
    }
  }
  return load;
}

}  // namespace swiftbalancer
