#include "runtime/config.hpp"

#include <bit>
#include <string>

#include "protocol/packet.hpp"

namespace swiftbalancer {
namespace {

[[noreturn]] void refuse(const char* key, const std::string& value, const char* allowed) {
  throw Error(ErrorCode::kInvalidArgument,
              std::string(key) + " is " + value + "; allowed: " + allowed);
}

void require_positive(const char* key, std::uint64_t value) {
  if (value == 0) refuse(key, "0", "at least 1");
}

}  // namespace

void validate(const BalancerConfig& config) {
  require_positive("rebalance_interval", config.rebalance_interval);
  require_positive("packet_interval", config.packet_interval);
  require_positive("packet_lag", config.packet_lag);
  require_positive("max_open_sets", config.max_open_sets);
  require_positive("staging_bytes", config.staging_bytes);
  if (config.packet_lag > 1000)
    refuse("packet_lag", std::to_string(config.packet_lag), "1 to 1000 steps");
  if (!(config.imbalance_trigger >= 1.0)) {
    refuse("imbalance_trigger", std::to_string(config.imbalance_trigger),
           "1.0 or more (max / mean)");
  }
  if (!(config.min_gain >= 0.0)) refuse("min_gain", std::to_string(config.min_gain), "0 or more");
  if (config.window_assignments <= 0) {
    refuse("window_assignments", std::to_string(config.window_assignments), "at least 1");
  }
  if (config.deadline.count() <= 0)
    refuse("deadline", std::to_string(config.deadline.count()) + " ms", "at least 1 ms");
}

std::uint64_t config_digest(const BalancerConfig& config, const ClusterShape& shape,
                            const Placement& served,
                            std::span<const std::vector<std::size_t>> part_bytes) {
  std::uint64_t digest = 0;
  for (char letter : config.policy) digest = mix(digest, static_cast<std::uint64_t>(letter));
  for (std::uint64_t word :
       {config.rebalance_interval, std::bit_cast<std::uint64_t>(config.imbalance_trigger),
        std::bit_cast<std::uint64_t>(config.min_gain),
        static_cast<std::uint64_t>(config.max_moves_per_layer),
        static_cast<std::uint64_t>(config.window_assignments),
        static_cast<std::uint64_t>(config.install_mode),
        static_cast<std::uint64_t>(config.staging_bytes), config.packet_interval, config.packet_lag,
        config.max_open_sets, static_cast<std::uint64_t>(shape.num_logical_experts()),
        static_cast<std::uint64_t>(shape.num_expert_groups())}) {
    digest = mix(digest, word);
  }
  for (int rank = 0; rank < shape.num_ranks(); ++rank) {
    digest = mix(digest, static_cast<std::uint64_t>(shape.slots_per_rank(rank)));
    digest = mix(digest, static_cast<std::uint64_t>(shape.node_of_rank(rank)));
  }
  for (const std::vector<std::size_t>& layer : part_bytes) {
    for (std::size_t bytes : layer) digest = mix(digest, bytes);
  }
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    for (std::int32_t expert : served.layer(layer))
      digest = mix(digest, static_cast<std::uint64_t>(expert));
  }
  return digest;
}

}  // namespace swiftbalancer
