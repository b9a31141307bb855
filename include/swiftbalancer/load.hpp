#pragma once
// Expert loads and the two measures of balance derived from them. Pure values, thread-compatible.

#include <cstdint>
#include <span>
#include <vector>

#include <swiftbalancer/shape.hpp>

namespace swiftbalancer {

/// What a step does: experts are chosen differently for prompts and for single tokens.
enum class Phase : std::uint8_t { kPrefill, kDecode, kMixed };

/// expert_load [num_moe_layers, num_logical_experts]: tokens routed to a logical expert in a
/// window.
class ExpertLoad {
 public:
  ExpertLoad() = default;
  ExpertLoad(int num_moe_layers, int num_logical_experts)
      : num_moe_layers_(num_moe_layers),
        num_logical_experts_(num_logical_experts),
        tokens_(static_cast<std::size_t>(num_moe_layers) *
                static_cast<std::size_t>(num_logical_experts)) {}
  int num_moe_layers() const noexcept { return num_moe_layers_; }
  int num_logical_experts() const noexcept { return num_logical_experts_; }
  std::span<std::int64_t> layer(int moe_layer_id) noexcept {
    return {tokens_.data() + offset(moe_layer_id), row()};
  }
  std::span<const std::int64_t> layer(int moe_layer_id) const noexcept {
    return {tokens_.data() + offset(moe_layer_id), row()};
  }
  friend bool operator==(const ExpertLoad&, const ExpertLoad&) = default;

 private:
  std::size_t row() const noexcept { return static_cast<std::size_t>(num_logical_experts_); }
  std::size_t offset(int moe_layer_id) const noexcept {
    return static_cast<std::size_t>(moe_layer_id) * row();
  }
  int num_moe_layers_ = 0;
  int num_logical_experts_ = 0;
  std::vector<std::int64_t> tokens_;
};

/// rank load [num_ranks] of one layer: over a rank's slots, load of the expert times the slot's
/// share.
/// @param shares [num_slots] in kShareUnit, or empty for an even split. Fixed order of additions.
std::vector<double> rank_load(const ClusterShape& shape, std::span<const std::int32_t> slots,
                              std::span<const std::uint32_t> shares,
                              std::span<const std::int64_t> load);

/// max / mean of rank loads, >= 1; 1 for a layer without load.
double imbalance(std::span<const double> rank_loads);
/// mean / max of rank loads, (0, 1]; 1 for a layer without load.
double balancedness(std::span<const double> rank_loads);

/// A measure aggregated over layers; both aggregations, always named.
struct OverLayers {
  double mean_over_layers = 1.0;
  double worst_layer = 1.0;
};
OverLayers aggregate_imbalance(std::span<const double> imbalance_per_layer);
OverLayers aggregate_balancedness(std::span<const double> balancedness_per_layer);

}  // namespace swiftbalancer
