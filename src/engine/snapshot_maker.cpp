#include "engine/snapshot_maker.hpp"

#include <numeric>

#include "engine/run_control.hpp"
#include "runtime/simulated_progress.hpp"

namespace swiftbalancer::engine {

bool SnapshotMaker::due(std::uint64_t step, const Balancer& balancer) {
  const Health health = balancer.health();
  const bool changed = health.mode != mode_ || health.membership != membership_;
  mode_ = health.mode;
  membership_ = health.membership;
  return changed || step % kSnapshotInterval == 0;
}

RankSnapshot SnapshotMaker::make(std::uint64_t step, const RankRecord& record,
                                 const BalancerLog& log, const Balancer& balancer) {
  const auto num_layers = balancer.epochs().size();
  add_counts(record, num_layers);
  const BalancerStats& stats = balancer.stats();
  const Health health = balancer.health();
  RankSnapshot snapshot;
  snapshot.rank = record.rank;
  snapshot.step = step;
  snapshot.tokens = tokens_;
  snapshot.layer_tokens = layer_tokens_;
  snapshot.waits = {stats.waits_for_packets, stats.waits_for_plans, stats.waits_for_copies,
                    stats.wait_time.count(), SimulatedProgress::held_time(balancer).count()};
  snapshot.balancing = {health.mode,
                        health.planner_running,
                        health.planner_restarts,
                        health.failures,
                        health.membership,
                        stats.planner_resets,
                        stats.dropped_samples,
                        stats.experts_loaded,
                        stats.moves,
                        stats.migrated_bytes,
                        stats.plan_step,
                        stats.plan_imbalance_before,
                        stats.plan_imbalance_after};
  snapshot.healthy = health.ok;
  snapshot.health_reason = health.reason;
  snapshot.commits.assign(log.commits().begin() + static_cast<std::ptrdiff_t>(commits_),
                          log.commits().end());
  commits_ = log.commits().size();
  for (; ended_ < log.ended().size(); ++ended_)
    snapshot.generations.push_back(log.generations()[log.ended()[ended_]]);
  return snapshot;
}

// A rank's rows of slot_tokens: one per step and layer.
void SnapshotMaker::add_counts(const RankRecord& record, std::size_t num_layers) {
  tokens_ = std::accumulate(record.tokens.begin() + static_cast<std::ptrdiff_t>(steps_),
                            record.tokens.end(), tokens_);
  layer_tokens_.resize(num_layers);
  const std::size_t rows = (record.tokens.size() - steps_) * num_layers;
  const std::size_t width = rows == 0 ? 0 : (record.slot_tokens.size() - slot_tokens_) / rows;
  for (std::size_t row = 0; row < rows; ++row) {
    const auto first =
        record.slot_tokens.begin() + static_cast<std::ptrdiff_t>(slot_tokens_ + row * width);
    layer_tokens_[row % num_layers] = std::accumulate(
        first, first + static_cast<std::ptrdiff_t>(width), layer_tokens_[row % num_layers]);
  }
  steps_ = record.tokens.size();
  slot_tokens_ = record.slot_tokens.size();
}

}  // namespace swiftbalancer::engine
