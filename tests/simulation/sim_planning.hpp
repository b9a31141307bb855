#pragma once
// A planner for the simulation, under the product's own guard and behaving as one in a process of
// its own does: random legal plans that depend on everything a planner may depend on (loads
// observed since the last restart, what is served, the generation), so that ranks whose histories
// differ plan differently. Answers come late, and it may be lost.

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <random>

#include "protocol/packet.hpp"
#include "runtime/guarded_planning.hpp"

namespace swiftbalancer::simulation {

/// A random legal plan: swaps and overwrites of replicas, with even shares or uneven ones, some of
/// them 0. The same for the same base and seed.
Plan random_plan(const ServedState& base, const ClusterShape& shape, std::uint64_t seed,
                 bool uneven_shares);

/// What a rank's planner was asked and has answered, for the checks; outlives the planner.
struct PlannerRecord {
  std::uint64_t observed_step = 0;  ///< The last one, since it began anew.
  Phase observed_phase = Phase::kMixed;
  std::string broken;        ///< What was asked that must not be, or "".
  GenerationId opened;       ///< The last one.
  bool works = false;        ///< On `opened`, without an answer so far.
  bool answered = false;     ///< `opened` was answered, and has not been closed since.
  std::optional<Plan> plan;  ///< Of `opened`.
  std::uint64_t losses = 0;
  bool off = false;
};

class SimPlanMaker final : public PlanMaker {
 public:
  struct Behaviour {
    std::function<bool()> fails, differs, is_lost, throws, wants_rebalance;
    std::function<int()> rounds;  ///< Calls of advance() until a plan is made.
    std::uint64_t interval = 1;   ///< Steps between sets.
    bool uneven_shares = false;
  };
  SimPlanMaker(Behaviour behaviour, std::shared_ptr<PlannerRecord> record)
      : behaviour_(std::move(behaviour)), record_(std::move(record)) {
    record_->works = record_->answered = false;
  }

  void restart(const ClusterShape& shape, const ServedState& served) override;
  void on_committed(int moe_layer_id, std::span<const std::int32_t> placement,
                    std::span<const std::uint32_t> shares) override;
  void on_rebalancing(bool) override { maybe_throw(); }
  void observe(std::uint64_t step, const ExpertLoad& load, Phase phase,
               PlanAnswers& answers) override;
  void open(const GenerationId& generation, PlanAnswers& answers) override;
  void close() override;
  bool advance(PlanAnswers& answers) override;
  void abandon(std::optional<std::chrono::milliseconds> pause) noexcept override;
  bool must_be_polled() const noexcept override { return down_for_ > 0 || record_->works; }
  bool running() const noexcept override { return down_for_ == 0; }
  int restarts() const noexcept override { return restarts_; }

 private:
  void maybe_throw() const;
  void answer_with_failure(PlanAnswers& answers);

  const Behaviour behaviour_;
  const std::shared_ptr<PlannerRecord> record_;
  std::unique_ptr<ClusterShape> shape_;
  ServedState served_;
  std::uint64_t history_ = 1;
  int restarts_ = 0;
  int down_for_ = 0;  // calls of advance() until it is up again
  int rounds_left_ = 0;
  std::deque<std::uint64_t> observed_;  // steps to be answered once it is up
};

}  // namespace swiftbalancer::simulation
