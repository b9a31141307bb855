#include "engine/slot_memory.hpp"

#include <cstring>
#include <string>

namespace swiftbalancer::engine {
namespace {

constexpr std::size_t kAlignment = 64;

std::size_t aligned(std::size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

SlotMemory::SlotMemory(const Model& model, const ClusterShape& shape, const Placement* placement,
                       int rank)
    : slots_per_layer_(shape.slots_per_rank(rank)) {
  std::size_t total = kAlignment;
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    for (const auto& part : model.expert_parts(layer, 0))
      total += aligned(part.size()) * static_cast<std::size_t>(slots_per_layer_);
  }
  memory_.resize(total);
  const auto address = reinterpret_cast<std::uintptr_t>(memory_.data());
  std::byte* next = memory_.data() + (aligned(address) - address);
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    for (int s = 0; s < slots_per_layer_; ++s) {
      Slot slot;
      const auto at = static_cast<std::size_t>(shape.first_slot(rank) + s);
      const int logical_id = placement == nullptr ? 0 : placement->layer(layer)[at];
      for (const auto& part : model.expert_parts(layer, logical_id)) {
        if (placement != nullptr) std::memcpy(next, part.data(), part.size());
        slot.parts.push_back({next, part.size()});
        next += aligned(part.size());
      }
      slots_.push_back(std::move(slot));
    }
  }
}

void SlotMemory::register_with(Balancer& balancer) {
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    const int index = static_cast<int>(i);
    balancer.register_weights(index / slots_per_layer_, index % slots_per_layer_, slots_[i].parts);
  }
}

Status verify_slots(const Model& model, const ClusterShape& shape, const Balancer& balancer,
                    int rank, int moe_layer_id) {
  const auto placement = balancer.placement().layer(moe_layer_id);
  for (int s = 0; s < shape.slots_per_rank(rank); ++s) {
    const int slot = shape.first_slot(rank) + s;
    const int logical_id = placement[static_cast<std::size_t>(slot)];
    if (logical_id == kEmptySlot) continue;
    const ExpertParts expected = model.expert_parts(moe_layer_id, logical_id);
    const auto held = balancer.slot_parts(moe_layer_id, s);
    for (std::size_t part = 0; part < expected.size(); ++part) {
      if (std::memcmp(held[part], expected[part].data(), expected[part].size()) == 0) continue;
      return {ErrorCode::kInternal,
              "layer " + std::to_string(moe_layer_id) + ", slot " + std::to_string(slot) +
                  " does not hold the checkpoint's bytes of expert " + std::to_string(logical_id) +
                  " (part " + std::to_string(part) + ")"};
    }
  }
  return {};
}

}  // namespace swiftbalancer::engine
