#pragma once
// The expert weights of one rank: memory for each of its slots in every layer, filled from the
// checkpoint, registered with the Balancer, and compared with the checkpoint on request. After
// registration only Balancer::slot_parts() tells where an expert lies. Engine thread of one rank;
// the memory outlives the Balancer.

#include <cstddef>
#include <cstdint>
#include <vector>

#include <swiftbalancer/balancer.hpp>
#include <swiftbalancer/error.hpp>
#include <swiftbalancer/placement.hpp>
#include <swiftbalancer/shape.hpp>

#include "engine/model.hpp"

namespace swiftbalancer::engine {

class SlotMemory {
 public:
  /// Copies the experts of a placement into the rank's slots.
  /// @param placement null: the slots stay empty, all zero.
  SlotMemory(const Model& model, const ClusterShape& shape, const Placement* placement, int rank);
  void register_with(Balancer& balancer);

 private:
  struct Slot {
    std::vector<WeightPart> parts;
  };
  std::vector<std::byte> memory_;
  std::vector<Slot> slots_;  ///< [num_moe_layers, slots of this rank]
  int slots_per_layer_;
};

/// Compares what the balancer serves from this rank's slots of a layer with the checkpoint.
/// @returns kInternal naming layer, slot and expert of the first difference.
Status verify_slots(const Model& model, const ClusterShape& shape, const Balancer& balancer,
                    int rank, int moe_layer_id);

}  // namespace swiftbalancer::engine
