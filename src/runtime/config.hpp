#pragma once
// What a BalancerConfig may hold, and the text by which ranks find out at start that they were
// started alike.

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include <swiftbalancer/balancer.hpp>

namespace swiftbalancer {

/// @throws Error kInvalidArgument: key, value, what is allowed.
void validate(const BalancerConfig& config);

/// Everything that must be equal on all ranks, as lines "key value": build, configuration, shape,
/// expert sizes, checkpoint, initial placement. Of fixed size, to be gathered.
struct ConfigText {
  char text[6144] = {};
};

/// @param served null: not compared (a rank that joins serves nothing yet).
ConfigText config_text(const BalancerConfig& config, const ClusterShape& shape,
                       const Placement* served,
                       std::span<const std::vector<std::size_t>> part_bytes);

/// @returns "packet_lag is 2 on the one and 3 on the other", or "" if they are equal. The texts may
/// come from anybody.
std::string first_difference(const ConfigText& one, const ConfigText& other);

}  // namespace swiftbalancer
