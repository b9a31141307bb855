#pragma once
// Placement (slot -> logical expert) is the truth; every other map derives from it here. Pure
// values, thread-compatible.

#include <cstdint>
#include <span>
#include <vector>

#include <swiftbalancer/shape.hpp>

namespace swiftbalancer {

/// What the map holds for a slot without an expert: one of a rank that has joined, until a plan
/// fills it.
inline constexpr std::int32_t kEmptySlot = -1;

/// physical_to_logical_map [num_moe_layers, num_slots]: at(l, p) = e means slot p of layer l holds
/// logical expert e.
class Placement {
 public:
  Placement() = default;
  Placement(int num_moe_layers, int num_slots)
      : num_moe_layers_(num_moe_layers),
        num_slots_(num_slots),
        slots_(static_cast<std::size_t>(num_moe_layers) * static_cast<std::size_t>(num_slots)) {}

  /// The placement served before any load is known: experts in contiguous blocks over the ranks;
  /// spare slots hold experts spread evenly over all, each on a rank that does not hold that expert
  /// where one exists.
  static Placement initial(const ClusterShape& shape);

  int num_moe_layers() const noexcept { return num_moe_layers_; }
  int num_slots() const noexcept { return num_slots_; }
  std::span<std::int32_t> layer(int moe_layer_id) noexcept {
    return {slots_.data() + offset(moe_layer_id), row()};
  }
  std::span<const std::int32_t> layer(int moe_layer_id) const noexcept {
    return {slots_.data() + offset(moe_layer_id), row()};
  }
  friend bool operator==(const Placement&, const Placement&) = default;

 private:
  std::size_t row() const noexcept { return static_cast<std::size_t>(num_slots_); }
  std::size_t offset(int moe_layer_id) const noexcept {
    return static_cast<std::size_t>(moe_layer_id) * row();
  }

  int num_moe_layers_ = 0;
  int num_slots_ = 0;
  std::vector<std::int32_t> slots_;
};

/// @throws Error kInvalidArgument unless every slot holds an expert in [0, E) and every expert has
/// a slot.
void validate(const Placement& placement, const ClusterShape& shape);
/// The same for one layer [num_slots]. @returns false where validate() would throw.
bool is_valid_layer(std::span<const std::int32_t> slots, const ClusterShape& shape) noexcept;

/// replica_count [num_logical_experts] of one layer.
std::vector<std::int32_t> replica_count(std::span<const std::int32_t> slots,
                                        int num_logical_experts);
/// expert_map [num_logical_experts] of one layer and rank: local slot (the first, if several) or
/// -1.
std::vector<std::int32_t> expert_map(std::span<const std::int32_t> slots, const ClusterShape& shape,
                                     int rank);
/// log2phy [num_logical_experts] of one layer and source rank: the slot to send to. The rank's own
/// slot if it has one, else one on its node, else any; among equals the choice rotates with the
/// rank.
std::vector<std::int32_t> log2phy(std::span<const std::int32_t> slots, const ClusterShape& shape,
                                  int rank);
/// Experts that a rank gains between two placements of one layer, over all ranks: the unit of cost.
int count_moves(std::span<const std::int32_t> from, std::span<const std::int32_t> to,
                const ClusterShape& shape);
/// Slots that hold an expert which an earlier slot of the same rank holds too.
int count_same_rank_duplicates(std::span<const std::int32_t> slots, const ClusterShape& shape);

}  // namespace swiftbalancer
