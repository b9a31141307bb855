#pragma once
// A planner for the simulation, behaving as one in a process of its own does: random legal plans
// that depend on everything a planner may depend on (loads observed since the last restart, what is
// served, the generation), so that ranks whose histories differ plan differently. Answers come
// late; its history may be lost, which restarts it, a bounded number of times.

#include <algorithm>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <random>

#include "protocol/packet.hpp"
#include "runtime/planning.hpp"

namespace swiftbalancer::simulation {

/// A random legal plan: swaps and overwrites of replicas, with even shares or uneven ones, some of
/// them 0. The same for the same base and seed.
Plan random_plan(const ServedState& base, const ClusterShape& shape, std::uint64_t seed,
                 bool uneven_shares);

/// What a rank's planner was asked and has answered, for the checks; outlives the planner.
struct PlannerRecord {
  std::uint64_t observed_step = 0;  ///< The last one.
  Phase observed_phase = Phase::kMixed;
  std::string broken;        ///< What was asked that must not be, or "".
  GenerationId opened;       ///< The last one.
  bool works = false;        ///< On `opened`, without an answer so far.
  bool answered = false;     ///< The answer has not been fetched.
  std::optional<Plan> plan;  ///< Of `opened`.
  std::uint64_t losses = 0;
  bool off = false;
};

class SimPlanning final : public Planning {
 public:
  struct Behaviour {
    std::function<bool()> fails, differs, loses_history, wants_rebalance;
    std::function<int()> rounds;  ///< Calls of advance() until a plan is made.
    std::uint64_t interval = 1;   ///< Steps between sets.
    int max_restarts = -1;        ///< < 0: no limit.
    bool uneven_shares = false;
  };
  SimPlanning(Behaviour behaviour, std::shared_ptr<PlannerRecord> record)
      : behaviour_(std::move(behaviour)), record_(std::move(record)) {
    record_->observed_step = 0;
    record_->works = record_->answered = false;
  }

  void restart(const ClusterShape& shape, const ServedState& served) override;
  void on_committed(int moe_layer_id, std::span<const std::int32_t> placement,
                    std::span<const std::uint32_t> shares) override {
    std::ranges::copy(placement, served_.placement.layer(moe_layer_id).begin());
    served_.shares[static_cast<std::size_t>(moe_layer_id)].assign(shares.begin(), shares.end());
  }
  void on_rebalancing(bool) override {}
  void observe(std::uint64_t step, const ExpertLoad& load, Phase phase) override;
  void open(const GenerationId& generation) override;
  void close() override { forget_job(); }
  bool advance() override;
  std::optional<PlanningEvent> next_event() override;
  bool must_be_polled() const noexcept override { return down_for_ > 0 || rounds_left_ > 0; }
  bool running() const noexcept override { return has_history_ && down_for_ == 0; }
  int restarts() const noexcept override { return restarts_; }
  std::uint64_t ignored() const noexcept override { return ignored_; }

 private:
  void lose_history();
  void fail();
  void forget_job();
  void answer(PlanningEvent event);

  const Behaviour behaviour_;
  const std::shared_ptr<PlannerRecord> record_;
  std::unique_ptr<ClusterShape> shape_;
  ServedState served_;
  std::uint64_t history_ = 1;
  bool has_history_ = false;  // until it is lost
  bool off_ = false;
  int restarts_ = 0;
  int down_for_ = 0;  // calls of advance() until it is up again
  std::uint64_t ignored_ = 0;
  GenerationId generation_;
  int rounds_left_ = 0;
  std::deque<PlanningEvent> events_;
  std::deque<PlanningEvent> held_;  // answers, until it is up
};

}  // namespace swiftbalancer::simulation
