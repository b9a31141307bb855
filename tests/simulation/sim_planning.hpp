#pragma once
// A planner for the simulation: random legal plans that depend on everything a planner may depend
// on (loads observed since the last restart, what is served, the generation), so that ranks whose
// histories differ plan differently. May fail, differ and lose its history when told so.

#include <algorithm>
#include <deque>
#include <functional>
#include <random>

#include "protocol/packet.hpp"
#include "runtime/planning.hpp"

namespace swiftbalancer::simulation {

/// A random legal plan: swaps and overwrites of replicas. The same for the same base and seed.
Plan random_plan(const ServedState& base, const ClusterShape& shape, std::uint64_t seed);

class SimPlanning final : public Planning {
 public:
  struct Faults {
    std::function<bool()> fails, differs, loses_history;
    std::function<int()> rounds;  ///< Calls of advance() until a plan is made.
  };
  explicit SimPlanning(Faults faults) : faults_(std::move(faults)) {}

  void restart(const ClusterShape& shape, const ServedState& served) override {
    shape_ = std::make_unique<ClusterShape>(shape);
    served_ = without_empty_slots(served, shape);
    history_ = 1;
    lost_ = false;
    rounds_left_ = 0;
  }
  void on_committed(int moe_layer_id, std::span<const std::int32_t> placement,
                    std::span<const std::uint32_t> shares) override {
    std::ranges::copy(placement, served_.placement.layer(moe_layer_id).begin());
    fill_empty_slots(served_.placement.layer(moe_layer_id), *shape_);
    served_.shares[static_cast<std::size_t>(moe_layer_id)].assign(shares.begin(), shares.end());
  }
  void on_rebalancing(bool) override {}
  void observe(std::uint64_t step, const ExpertLoad& load, Phase) override {
    for (int layer = 0; layer < load.num_moe_layers(); ++layer) {
      for (std::int64_t tokens : load.layer(layer))
        history_ = mix(history_, static_cast<std::uint64_t>(tokens));
    }
    PlanningEvent observed;
    observed.step = step;
    events_.push_back(std::move(observed));
    if (lost_ || !faults_.loses_history()) return;
    lost_ = true;
    rounds_left_ = 0;
    PlanningEvent lost;
    lost.kind = PlanningEvent::Kind::kLost;
    events_.push_back(std::move(lost));
  }
  void open(const GenerationId& generation) override {
    generation_ = generation;
    if (lost_ || faults_.fails()) return fail();
    std::uint64_t seed = mix(mix(history_, generation.step), generation.membership);
    if (faults_.differs()) ++seed;
    plan_ = random_plan(served_, *shape_, seed);
    rounds_left_ = faults_.rounds();
  }
  void close() override { rounds_left_ = 0; }
  bool advance() override {
    if (rounds_left_ == 0) return false;
    if (--rounds_left_ > 0) return true;
    if (faults_.fails()) {
      fail();
      return true;
    }
    PlanningEvent planned;
    planned.kind = PlanningEvent::Kind::kPlan;
    planned.generation = generation_;
    planned.plan = plan_;
    events_.push_back(std::move(planned));
    return true;
  }
  std::optional<PlanningEvent> next_event() override {
    if (events_.empty()) return std::nullopt;
    PlanningEvent event = std::move(events_.front());
    events_.pop_front();
    return event;
  }

 private:
  void fail() {
    PlanningEvent failed;
    failed.kind = PlanningEvent::Kind::kFailed;
    failed.generation = generation_;
    events_.push_back(std::move(failed));
  }

  const Faults faults_;
  std::unique_ptr<ClusterShape> shape_;
  ServedState served_;
  std::uint64_t history_ = 1;
  bool lost_ = false;
  GenerationId generation_;
  Plan plan_;
  int rounds_left_ = 0;
  std::deque<PlanningEvent> events_;
};

}  // namespace swiftbalancer::simulation
