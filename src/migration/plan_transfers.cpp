#include "migration/plan_transfers.hpp"

#include <string>

#include <swiftbalancer/error.hpp>

#include "migration/copy_tag.hpp"

namespace swiftbalancer {
namespace {

void check_nameable(const MigrationPlan& plan) {
  if (plan.units.size() > kMaxUnits) {
    throw Error(ErrorCode::kInternal, "plan has " + std::to_string(plan.units.size()) +
                                          " units; tags can name " + std::to_string(kMaxUnits));
  }
  for (const CommitUnit& unit : plan.units) {
    if (unit.copies.size() > kMaxCopiesPerUnit) {
      throw Error(ErrorCode::kInternal, "commit unit has " + std::to_string(unit.copies.size()) +
                                            " copies; tags can name " +
                                            std::to_string(kMaxCopiesPerUnit));
    }
  }
}

}  // namespace

PlanTransfers transfers_of(const MigrationPlan& plan, const ClusterShape& shape, int rank) {
  check_nameable(plan);
  PlanTransfers transfers;
  transfers.peers.resize(static_cast<std::size_t>(shape.num_ranks()));
  transfers.units.resize(plan.units.size() + 1);
  for (std::uint32_t u = 0; u < plan.units.size(); ++u) {
    const std::vector<ExpertCopy>& copies = plan.units[u].copies;
    for (std::uint32_t k = 0; k < copies.size(); ++k) {
      const int source = shape.rank_of_slot(copies[k].source_slot);
      const int destination = shape.rank_of_slot(copies[k].destination_slot);
      if (destination == rank) {
        transfers.arrivals.push_back({u, k, source});
        ++transfers.units[u].missing;
      } else if (source == rank) {
        transfers.peers[static_cast<std::size_t>(destination)].departures.push_back(
            transfers.departures.size());
        transfers.departures.push_back({u, k, destination});
      }
    }
    transfers.units[u + 1].first_arrival = transfers.arrivals.size();
    transfers.units[u + 1].first_departure = transfers.departures.size();
  }
  return transfers;
}

}  // namespace swiftbalancer
