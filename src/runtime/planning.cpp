#include "runtime/planning.hpp"

#include <deque>
#include <exception>
#include <utility>

namespace swiftbalancer {
namespace {

class ThreadPlanning final : public Planning {
 public:
  explicit ThreadPlanning(PlannerConfig config) : config_(std::move(config)) {}

  void restart(const ClusterShape& shape, const ServedState& served) override {
    job_.reset();
    planner_ = std::make_unique<Planner>(shape, config_);
    planner_->on_served(served, false);
  }
  void on_served(const ServedState& served, bool rebalancing) override {
    planner_->on_served(served, rebalancing);
  }
  void observe(std::uint64_t step, const ExpertLoad& load, Phase phase) override {
    planner_->observe(load, phase);
    PlanningEvent observed;
    observed.step = step;
    observed.wants_rebalance = planner_->wants_rebalance();
    events_.push_back(std::move(observed));
  }
  void open(const GenerationId& generation) override {
    generation_ = generation;
    try {
      job_ = planner_->begin_plan(generation.step);
    } catch (const std::exception& error) {
      failed(error);
    }
  }
  void close() override { job_.reset(); }
  bool advance() override {
    if (job_ == nullptr) return false;
    try {
      if (!job_->advance()) return true;
      PlanningEvent planned;
      planned.kind = PlanningEvent::Kind::kPlan;
      planned.generation = generation_;
      planned.plan = job_->take();
      job_.reset();
      events_.push_back(std::move(planned));
    } catch (const std::exception& error) {
      failed(error);
    }
    return true;
  }
  std::optional<PlanningEvent> next_event() override {
    if (events_.empty()) return std::nullopt;
    PlanningEvent event = std::move(events_.front());
    events_.pop_front();
    return event;
  }

 private:
  // A planner that fails ends its generation on all ranks; serving and the next generation go on.
  void failed(const std::exception& error) {
    job_.reset();
    PlanningEvent event;
    event.kind = PlanningEvent::Kind::kFailed;
    event.generation = generation_;
    event.why = std::string("planning failed: ") + error.what();
    events_.push_back(std::move(event));
  }

  const PlannerConfig config_;
  std::unique_ptr<Planner> planner_;
  std::unique_ptr<PlanJob> job_;
  GenerationId generation_;
  std::deque<PlanningEvent> events_;
};

}  // namespace

std::unique_ptr<Planning> make_thread_planning(const PlannerConfig& config) {
  return std::make_unique<ThreadPlanning>(config);
}

}  // namespace swiftbalancer
