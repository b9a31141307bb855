#pragma once
// What a BalancerConfig may hold, and the text by which ranks find out at start that they were
// started alike.

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include <swiftbalancer/balancer_config.hpp>
#include <swiftbalancer/placement.hpp>
#include <swiftbalancer/shape.hpp>

#include "planner/planner.hpp"

namespace swiftbalancer {

/// @throws Error kInvalidArgument: key, value, what is allowed.
void validate(const BalancerConfig& config, const ClusterShape& shape);

/// The same, with a log that throws nothing: what the engine's own throws is dropped.
BalancerConfig with_safe_log(const BalancerConfig& config);

/// What is planned by. @param first_shape that the config was made for. @param live_ranks numbers
/// in it of the ranks that are left: their speeds, and a step's tokens are theirs alone.
/// @param expert_bytes [num_moe_layers]
PlannerConfig planner_config(const BalancerConfig& config, const ClusterShape& first_shape,
                             std::span<const int> live_ranks,
                             std::span<const std::size_t> expert_bytes);

/// Everything that must be equal on all ranks, as lines "key value": build, configuration, shape,
/// expert sizes, checkpoint, initial placement. Of fixed size, to be gathered: lists are in it by
/// their digests, and so is what a long value has beyond its first 200 letters.
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
