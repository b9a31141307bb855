#pragma once
// Plans and served states as bytes: what the leader sends to the other ranks, what ranks exchange
// in a reconfiguration, and what goes to and from a planner process. Little-endian, as it lies in
// memory. Everything is checked against the shape before it is used: damaged or hostile bytes give
// a status. Pure; any thread.

#include <cstddef>
#include <span>

#include <swiftbalancer/error.hpp>
#include <swiftbalancer/migration_plan.hpp>
#include <swiftbalancer/shape.hpp>

#include "planner/planner.hpp"

namespace swiftbalancer {

/// Bytes that a plan of this shape never exceeds: one that changes every layer.
std::size_t most_plan_bytes(const ClusterShape& shape);
/// Writes the plan of a generation. @returns the message's size; 0 when `out` is too small for it
/// or the plan's rows are not those of the shape.
std::size_t encode_plan(const GenerationId& generation, const Plan& plan, const ClusterShape& shape,
                        std::span<std::byte> out);
/// Reads it back: layers in range and unique, every slot with an expert, every expert with a slot,
/// shares of an expert that sum to kShareUnit, finite imbalances, moves that add up.
/// @param bytes the whole message and nothing else.
/// @returns kTransport saying what is wrong; `plan` is unchanged then.
Status decode_plan(std::span<const std::byte> bytes, const GenerationId& expected,
                   const ClusterShape& shape, Plan& plan);

/// Size of a state's message.
std::size_t state_bytes(const ClusterShape& shape);
/// Writes a state; empty slots (kEmptySlot) have share 0. @returns as encode_plan.
std::size_t encode_state(const ServedState& state, const ClusterShape& shape,
                         std::span<std::byte> out);
/// Reads it back, with the checks of decode_plan for every layer. @returns as decode_plan.
Status decode_state(std::span<const std::byte> bytes, const ClusterShape& shape,
                    ServedState& state);

}  // namespace swiftbalancer
