#pragma once
// Makes a rank's snapshots from its record, its log and its balancer: sums that go on from one to
// the next. Engine thread of one rank, outside the four calls.

#include <cstddef>
#include <cstdint>
#include <vector>

#include <swiftbalancer/balancer.hpp>

#include "engine/balancer_log.hpp"
#include "engine/record.hpp"

namespace swiftbalancer::engine {

class SnapshotMaker {
 public:
  /// Every kSnapshotInterval steps, and at once when the agreed mode or the membership has changed:
  /// the same steps on all ranks.
  bool due(std::uint64_t step, const Balancer& balancer);
  /// @param record with the rank and the counts of all steps so far.
  RankSnapshot make(std::uint64_t step, const RankRecord& record, const BalancerLog& log,
                    const Balancer& balancer);

 private:
  void add_counts(const RankRecord& record, std::size_t num_layers);

  BalancingMode mode_ = BalancingMode::kOn;
  std::uint32_t membership_ = 0;
  std::int64_t tokens_ = 0;
  std::vector<std::int64_t> layer_tokens_;
  // How much of the records has been told.
  std::size_t steps_ = 0, slot_tokens_ = 0, commits_ = 0, ended_ = 0;
};

}  // namespace swiftbalancer::engine
