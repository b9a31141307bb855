#include "simulation/sim_weights.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "protocol/packet.hpp"

namespace swiftbalancer::simulation {

SimWeights::SimWeights(const SimOptions& options) {
  for (int layer = 0; layer < options.num_moe_layers; ++layer) {
    // Of layers with larger experts, every part is larger: the pool is made for the largest.
    const std::size_t factor = options.uneven_parts ? index(layer % 3 + 1) : 1;
    auto& sizes = part_bytes_.emplace_back();
    for (int part = 0; part < options.num_parts; ++part)
      sizes.push_back(factor * sizeof(std::uint64_t) * index(2 - part % 2));
    auto& contents = contents_.emplace_back(index(options.num_logical_experts));
    for (int expert = 0; expert < options.num_logical_experts; ++expert) {
      auto& bytes = contents[index(expert)];
      bytes.resize(expert_bytes(layer));
      std::uint64_t word =
          mix(static_cast<std::uint64_t>(layer), static_cast<std::uint64_t>(expert));
      for (std::size_t at = 0; at < bytes.size(); at += sizeof word) {
        word = mix(word, at);
        std::memcpy(bytes.data() + at, &word, sizeof word);
      }
    }
  }
}

std::size_t SimWeights::expert_bytes(int layer) const {
  const auto& sizes = part_bytes_[index(layer)];
  return std::accumulate(sizes.begin(), sizes.end(), std::size_t{0});
}

std::size_t SimWeights::largest_expert_bytes() const {
  std::size_t largest = 0;
  for (int layer = 0; layer < static_cast<int>(part_bytes_.size()); ++layer)
    largest = std::max(largest, expert_bytes(layer));
  return largest;
}

void SimWeights::fill(int layer, std::int32_t expert, std::span<std::byte* const> parts) const {
  const std::byte* from = content(layer, expert).data();
  for (std::size_t part = 0; part < parts.size(); ++part) {
    std::memcpy(parts[part], from, part_bytes(layer)[part]);
    from += part_bytes(layer)[part];
  }
}

bool SimWeights::are_of(int layer, std::int32_t expert, std::span<std::byte* const> parts) const {
  const std::byte* expected = content(layer, expert).data();
  for (std::size_t part = 0; part < parts.size(); ++part) {
    if (std::memcmp(parts[part], expected, part_bytes(layer)[part]) != 0) return false;
    expected += part_bytes(layer)[part];
  }
  return true;
}

std::string SimWeights::describe(std::span<std::byte* const> parts) const {
  for (int layer = 0; layer < static_cast<int>(contents_.size()); ++layer) {
    for (int expert = 0; expert < static_cast<int>(contents_[index(layer)].size()); ++expert) {
      if (are_of(layer, expert, parts))
        return "expert " + std::to_string(expert) + " of layer " + std::to_string(layer);
    }
  }
  return "a mixture";
}

}  // namespace swiftbalancer::simulation
