#pragma once
// The bytes of experts: every layer, expert and part has its own, so that wrong bytes are seen
// wherever they turn up.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "simulation/sim_options.hpp"

namespace swiftbalancer::simulation {

class SimWeights {
 public:
  explicit SimWeights(const SimOptions& options);

  /// Bytes of each part of an expert of this layer.
  std::span<const std::size_t> part_bytes(int layer) const { return part_bytes_[index(layer)]; }
  std::size_t expert_bytes(int layer) const;
  /// Of the layer with the largest experts.
  std::size_t largest_expert_bytes() const;

  void fill(int layer, std::int32_t expert, std::span<std::byte* const> parts) const;
  bool are_of(int layer, std::int32_t expert, std::span<std::byte* const> parts) const;
  /// "expert 3 of layer 1", or "a mixture".
  std::string describe(std::span<std::byte* const> parts) const;

 private:
  static std::size_t index(int value) { return static_cast<std::size_t>(value); }
  std::span<const std::byte> content(int layer, std::int32_t expert) const {
    return contents_[index(layer)][index(expert)];
  }

  std::vector<std::vector<std::size_t>> part_bytes_;           // [layer][part]
  std::vector<std::vector<std::vector<std::byte>>> contents_;  // [layer][expert] parts in order
};

}  // namespace swiftbalancer::simulation
