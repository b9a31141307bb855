#pragma once
// What the ranks of a membership tell each other in a reconfiguration, as checked bytes of a size
// that the shape fixes. Pure; any thread.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <swiftbalancer/error.hpp>
#include <swiftbalancer/migration_plan.hpp>
#include <swiftbalancer/shape.hpp>

#include "planner/planner.hpp"
#include "runtime/config.hpp"

namespace swiftbalancer {

/// The first shape with these ranks only, numbered anew. @throws Error kInvalidArgument: not
/// ascending, out of range; kUnavailable: fewer slots than experts.
ClusterShape shape_of_ranks(const ClusterShape& first_shape, std::span<const int> ranks);

/// How far a rank has come (rule 12).
struct Snapshot {
  bool joins = false;
  std::uint32_t membership = 0;
  std::uint32_t newest_agreed = 0;  ///< The newest that was agreed on here, entered or not.
  std::uint64_t begun_step = 0;
  std::uint64_t used_step = 0;  ///< The newest packet set that was used.
  std::uint64_t last_open_step = 0;
  BalancingMode mode = BalancingMode::kOn;
  ConfigText config;
};
/// @param epochs [num_moe_layers], or empty for a rank that joins.
std::vector<std::byte> encode_snapshot(const Snapshot& snapshot,
                                       std::span<const std::uint64_t> epochs, int num_moe_layers);
Status decode_snapshot(std::span<const std::byte> bytes, int num_moe_layers, Snapshot& snapshot,
                       std::vector<std::uint64_t>& epochs);

/// What is served, and by which ranks of the first shape.
std::size_t membership_state_capacity(const ClusterShape& first_shape);
std::vector<std::byte> encode_membership_state(std::span<const int> ranks,
                                               const ClusterShape& first_shape,
                                               const ServedState& state);
/// @param bytes may be longer than the message.
Status decode_membership_state(std::span<const std::byte> bytes, const ClusterShape& first_shape,
                               std::vector<int>& ranks, ServedState& state);

/// Whether a rank is ready to go on, and from what.
struct Verdict {
  bool ready = false;  ///< Nothing is left to be loaded.
  bool ok = false;     ///< Nothing has gone wrong so far.
  std::uint64_t digest = 0;
  std::string why;  ///< Cut to what fits.
};
std::vector<std::byte> encode_verdict(const Verdict& verdict);
Status decode_verdict(std::span<const std::byte> bytes, Verdict& verdict);

}  // namespace swiftbalancer
