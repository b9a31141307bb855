#pragma once
// This rank's part in a migration plan: what arrives here, what leaves here, unit by unit, in plan
// order. Data and the function that fills it; used by CopyExecutor alone, on the balancer worker.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <swiftbalancer/migration_plan.hpp>
#include <swiftbalancer/shape.hpp>
#include <swiftbalancer/transport.hpp>

#include "migration/copy_executor.hpp"

namespace swiftbalancer {

/// One expert that comes to this rank, from a peer or from another slot here.
struct Arrival {
  std::uint32_t unit;
  std::uint32_t copy;
  int source_rank;
  int buffer = -1;
  bool ended = false;  ///< Done or failed, and reported so by the transport.
  TransportHandle handle{};
  std::vector<std::span<std::byte>>
      parts{};  ///< What the transport was given, kept as long as the transfer.
};

/// One expert that this rank sends.
struct Departure {
  std::uint32_t unit;
  std::uint32_t copy;
  int peer;
  bool ended = false;
  TransportHandle handle{};
  std::vector<std::span<const std::byte>> parts{};
};

struct UnitTransfers {
  enum class State : std::uint8_t { kPending, kCommitted, kDropped };
  State state = State::kPending;
  bool failed = false;
  std::size_t missing = 0;  ///< Arrivals whose bytes are not here.
  std::size_t first_arrival =
      0;  ///< The unit's arrivals end where those of the next begin; likewise departures.
  std::size_t first_departure = 0;
  std::vector<StagedExpert> staged;
};

/// Departures to one peer.
struct PeerQueue {
  std::vector<std::size_t> departures;
  std::size_t next = 0;
  int in_flight = 0;
};

struct PlanTransfers {
  std::vector<UnitTransfers> units;  ///< [units + 1]: the last marks the end.
  std::vector<Arrival> arrivals;
  std::vector<Departure> departures;
  std::vector<PeerQueue> peers;  ///< [num_ranks]

  std::size_t num_units() const noexcept { return units.empty() ? 0 : units.size() - 1; }
  std::span<Arrival> arrivals_of(std::uint32_t unit) noexcept {
    return {arrivals.data() + units[unit].first_arrival,
            arrivals.data() + units[unit + 1].first_arrival};
  }
  std::span<Departure> departures_of(std::uint32_t unit) noexcept {
    return {departures.data() + units[unit].first_departure,
            departures.data() + units[unit + 1].first_departure};
  }
};

/// @throws Error kInternal when the plan is larger than tags can name.
PlanTransfers transfers_of(const MigrationPlan& plan, const ClusterShape& shape, int rank);

}  // namespace swiftbalancer
