#pragma once
// What the messages between the engine's process and its planner process hold. Encoding trusts its
// arguments; decoding checks sizes, counts and ranges first. Pure; any thread.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <swiftbalancer/load.hpp>
#include <swiftbalancer/migration_plan.hpp>
#include <swiftbalancer/shape.hpp>

#include "planner/planner.hpp"

namespace swiftbalancer::planner_messages {

using Bytes = std::vector<std::byte>;

/// Begin anew: all that a planner is made from.
struct Restart {
  ClusterShape shape;
  PlannerConfig config;
  ServedState served;
};
Bytes encode_restart(const ClusterShape& shape, const PlannerConfig& config,
                     const ServedState& served);
/// This and the other decoders: @throws Error kTransport: the message makes no sense.
Restart decode_restart(std::span<const std::byte> bytes);

/// A layer is served otherwise; no slot of it is empty.
struct Committed {
  int moe_layer_id = 0;
  std::vector<std::int32_t> placement;
  std::vector<std::uint32_t> shares;
};
Bytes encode_committed(int moe_layer_id, std::span<const std::int32_t> placement,
                       std::span<const std::uint32_t> shares);
Committed decode_committed(std::span<const std::byte> bytes, const ClusterShape& shape);

Bytes encode_rebalancing(bool rebalancing);
bool decode_rebalancing(std::span<const std::byte> bytes);

struct Observe {
  std::uint64_t step = 0;
  Phase phase = Phase::kMixed;
  ExpertLoad load;
};
Bytes encode_observe(std::uint64_t step, const ExpertLoad& load, Phase phase);
Observe decode_observe(std::span<const std::byte> bytes, const ClusterShape& shape);

struct Observed {
  std::uint64_t step = 0;
  bool wants_rebalance = false;
};
Bytes encode_observed(const Observed& observed);
Observed decode_observed(std::span<const std::byte> bytes);

/// A generation, and what follows it: nothing (open), why (failed), a plan message (plan).
Bytes encode_generation(const GenerationId& generation, std::span<const std::byte> rest = {});
/// @param rest set to what follows, a part of `bytes`.
GenerationId decode_generation(std::span<const std::byte> bytes, std::span<const std::byte>& rest);

/// Longest answer of a planner of this shape.
std::size_t most_answer_bytes(const ClusterShape& shape);
/// Text from another process, fit for one line of a log.
std::string printable(std::span<const std::byte> text);

}  // namespace swiftbalancer::planner_messages
