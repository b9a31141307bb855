#include "runtime/window_loads.hpp"

#include <algorithm>
#include <cstring>

#include "runtime/runtime_rules.hpp"

namespace swiftbalancer {

namespace {

// More than are ever served: whatever a packet says, sums stay what the planner can count with.
constexpr std::int64_t kMostTokens = 1'000'000'000'000'000;

}  // namespace

// A layer's row changes once a window at most: the windows in the ring and the one under way run
// under no more rows than they are, and one.
WindowLoads::WindowLoads(const ClusterShape& shape, const Placement& served,
                         std::size_t num_ring_slots)
    : shape_(shape),
      layout_(shape),
      num_versions_(static_cast<std::uint32_t>(num_ring_slots) + 2),
      rows_(static_cast<std::size_t>(shape.num_moe_layers()) * num_versions_ *
            static_cast<std::size_t>(shape.num_slots())),
      under_way_(static_cast<std::size_t>(shape.num_moe_layers())),
      ended_(num_ring_slots * under_way_.size()) {
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer)
    std::ranges::copy(served.layer(layer), &rows_[row(layer, 0)]);
}

void WindowLoads::committed(int moe_layer_id, std::span<const std::int32_t> placement) noexcept {
  auto& [before, now] = under_way_[static_cast<std::size_t>(moe_layer_id)].segment;
  if (now == before) now = (now + 1) % num_versions_;
  std::ranges::copy(placement, &rows_[row(moe_layer_id, now)]);
}

void WindowLoads::window_ended(std::uint32_t ring_slot) noexcept {
  std::ranges::copy(under_way_, &ended_[ended(ring_slot, 0)]);
  for (Version& version : under_way_) version.segment[0] = version.segment[1];
}

void WindowLoads::map(PacketRing& ring, std::uint32_t ring_slot, ExpertLoad& load) const noexcept {
  for (int layer = 0; layer < shape_.num_moe_layers(); ++layer)
    std::ranges::fill(load.layer(layer), 0);
  for (int rank = 0; rank < shape_.num_ranks(); ++rank) {
    PacketHeader header;
    std::memcpy(&header, ring.packet(ring_slot, rank).data(), sizeof header);
    const std::byte* counters = ring.packet(ring_slot, rank).data() + sizeof header;
    for (int layer = 0; layer < shape_.num_moe_layers(); ++layer) {
      auto tokens = load.layer(layer);
      const bool by_theirs = rules::loads_by_their_placement();
      const Version& ran =
          by_theirs ? ended_[ended(ring_slot, layer)] : under_way_[static_cast<std::size_t>(layer)];
      for (int segment = 0; segment < 2; ++segment) {
        const std::uint32_t version = ran.segment[by_theirs ? segment : 1];
        const std::int32_t* slots = &rows_[row(layer, version)];
        for (int local = 0; local < shape_.slots_per_rank(rank); ++local) {
          const std::int32_t expert = slots[shape_.first_slot(rank) + local];
          if (expert == kEmptySlot) continue;
          std::uint32_t count = 0;
          std::memcpy(&count, counters + layout_.counter(layer, segment, local) * sizeof count,
                      sizeof count);
          std::int64_t& sum = tokens[static_cast<std::size_t>(expert)];
          sum = std::min(sum + std::min(std::int64_t{count} << header.load_shift, kMostTokens),
                         kMostTokens);
        }
      }
    }
  }
}

}  // namespace swiftbalancer
