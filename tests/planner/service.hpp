#pragma once
// A planner in service, as the runtime drives it: a plan at every interval and whenever it wants
// one; what it decides is committed at once.

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include <gtest/gtest.h>

#include "planner/plan_job.hpp"

namespace swiftbalancer::testing {

class Service {
 public:
  static constexpr int kInterval = 50;  // steps; not a multiple of the windows of tests

  Service(const ClusterShape& shape, const PlannerConfig& config)
      : shape_(shape),
        planner_(shape, config),
        served_(ServedState::initial(shape)),
        window_(static_cast<std::size_t>(shape.num_moe_layers()),
                std::vector<double>(static_cast<std::size_t>(shape.num_ranks()), 0.0)) {}

  void step(const ExpertLoad& load, Phase phase = Phase::kMixed) {
    for (int layer = 0; layer < shape_.num_moe_layers(); ++layer) {
      const auto loads =
          rank_load(shape_, served_.placement.layer(layer), shares(layer), load.layer(layer));
      for (std::size_t rank = 0; rank < loads.size(); ++rank)
        window_[static_cast<std::size_t>(layer)][rank] += loads[rank];
    }
    planner_.observe(load, phase);
    ++steps_;
    if (planner_.wants_rebalance() || steps_ % kInterval == 0) commit(plan());
  }

  Plan plan() {
    const auto job = planner_.begin_plan(static_cast<std::uint64_t>(steps_));
    for (int layer = 0; !job->advance(); ++layer) EXPECT_LT(layer, shape_.num_moe_layers());
    return job->take();
  }

  void commit(const Plan& plan) {
    for (const LayerChange& change : plan.changes) {
      EXPECT_TRUE(is_valid_layer(change.plan.placement, shape_));
      std::copy(change.plan.placement.begin(), change.plan.placement.end(),
                served_.placement.layer(change.moe_layer_id).begin());
      served_.shares[static_cast<std::size_t>(change.moe_layer_id)] = change.plan.shares;
    }
    moves_ += plan.moves;
    planner_.on_served(served_, false);
  }

  /// Imbalance of the served loads since the last call, mean over layers.
  double window_imbalance() {
    std::vector<double> per_layer;
    for (auto& loads : window_) {
      per_layer.push_back(imbalance(loads));
      std::fill(loads.begin(), loads.end(), 0.0);
    }
    return aggregate_imbalance(per_layer).mean_over_layers;
  }

  Planner& planner() { return planner_; }
  const ServedState& served() const { return served_; }
  int moves() const { return moves_; }

 private:
  std::span<const std::uint32_t> shares(int layer) const {
    return served_.shares[static_cast<std::size_t>(layer)];
  }

  ClusterShape shape_;
  Planner planner_;
  ServedState served_;
  std::vector<std::vector<double>> window_;
  int steps_ = 0;
  int moves_ = 0;
};

}  // namespace swiftbalancer::testing
