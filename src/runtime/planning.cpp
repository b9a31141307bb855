#include "runtime/planning.hpp"

#include <exception>
#include <utility>

#include "runtime/guarded_planning.hpp"

namespace swiftbalancer {
namespace {

class ThreadPlanMaker final : public PlanMaker {
 public:
  explicit ThreadPlanMaker(PlannerConfig config) : config_(std::move(config)) {
    make_policy(config_.policy);
  }

  void restart(const ClusterShape& shape, const ServedState& served) override {
    if (!running_) ++restarts_;
    running_ = true;
    job_.reset();
    planner_.reset();
    planner_ = std::make_unique<Planner>(shape, config_);
    planner_->on_served(served, false);
  }
  void on_committed(int moe_layer_id, std::span<const std::int32_t> placement,
                    std::span<const std::uint32_t> shares) override {
    planner_->on_committed(moe_layer_id, placement, shares);
  }
  void on_rebalancing(bool rebalancing) override { planner_->on_rebalancing(rebalancing); }
  void observe(std::uint64_t step, const ExpertLoad& load, Phase phase,
               PlanAnswers& answers) override {
    planner_->observe(load, phase);
    answers.observed(step, planner_->wants_rebalance());
  }
  void open(const GenerationId& generation, PlanAnswers& answers) override {
    try {
      job_ = planner_->begin_plan(generation.step);
    } catch (const std::exception& error) {
      fail(error, answers);
    }
  }
  void close() override { job_.reset(); }
  bool advance(PlanAnswers& answers) override {
    if (job_ == nullptr) return false;
    try {
      if (!job_->advance()) return true;
      answers.planned(job_->take());
      job_.reset();
    } catch (const std::exception& error) {
      fail(error, answers);
    }
    return true;
  }
  void abandon(std::optional<std::chrono::milliseconds>) noexcept override {
    job_.reset();
    planner_.reset();
    running_ = false;
  }
  bool running() const noexcept override { return running_; }
  int restarts() const noexcept override { return restarts_; }

 private:
  // It ends its generation on all ranks. A job has copies of all that it reads, so that the planner
  // knows what it knew before, and the next generation goes on.
  void fail(const std::exception& error, PlanAnswers& answers) noexcept {
    job_.reset();
    answers.failed(error.what());
  }

  // Constant after construction.
  const PlannerConfig config_;

  std::unique_ptr<Planner> planner_;  // none from a loss until restart()
  std::unique_ptr<PlanJob> job_;      // of the open generation
  bool running_ = true;
  int restarts_ = 0;
};

}  // namespace

std::unique_ptr<Planning> make_thread_planning(const PlannerConfig& config, int max_restarts) {
  return make_guarded_planning(std::make_unique<ThreadPlanMaker>(config),
                               {.name = "planner", .max_restarts = max_restarts});
}

}  // namespace swiftbalancer
