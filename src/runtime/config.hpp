#pragma once
// What a BalancerConfig may hold, and the digest by which ranks find out at start that they were
// configured alike.

#include <cstdint>

#include <swiftbalancer/balancer.hpp>

namespace swiftbalancer {

/// @throws Error kInvalidArgument: key, value, what is allowed.
void validate(const BalancerConfig& config);

/// Of everything that must be equal on all ranks: shape, configuration, expert sizes, initial
/// placement.
std::uint64_t config_digest(const BalancerConfig& config, const ClusterShape& shape,
                            const Placement& served,
                            std::span<const std::vector<std::size_t>> part_bytes);

}  // namespace swiftbalancer
