#include "runtime/worker_mirror.hpp"

#include <algorithm>
#include <utility>

namespace swiftbalancer {

// At once there are the active plan, one that is ready, and those whose events were read last.
constexpr std::size_t kMostPlans = 16;

WorkerMirror::WorkerMirror() {
  plans_.reserve(kMostPlans);
  released_.reserve(kMostPlans);
}

void WorkerMirror::begin(std::uint64_t step) {
  for (auto& plan : plans_) release(plan);
  plans_.clear();
  ready_ = nullptr;
  failed_ = staged_ = {};
  staged_cursor_ = 0;
  failed_unit_ = kNoUnit;
  ready_step_ = observed_step_ = step;
  wants_rebalance_ = planner_lost_ = false;
}

void WorkerMirror::take(Report report, const Agreement& agreement) {
  switch (report.kind) {
    case Report::Kind::kSetReady:
      ready_step_ = report.step;
      return;
    case Report::Kind::kPlanReady:
      if (report.plan->migration.generation != agreement.open_generation())
        return release(report.plan);
      if (plans_.size() == kMostPlans) return;
      ready_ = report.plan.get();
      plans_.push_back(std::move(report.plan));
      return;
    case Report::Kind::kPlanFailed:
      failed_ = report.generation;
      return;
    case Report::Kind::kStaged:
      if (report.generation == staged_) staged_cursor_ = report.cursor;
      return;
    case Report::Kind::kUnitFailed:
      if (report.generation == staged_) failed_unit_ = report.cursor;
      return;
    case Report::Kind::kObserved:
      observed_step_ = report.step;
      wants_rebalance_ = report.wants_rebalance;
      return;
    case Report::Kind::kPlannerLost:
      planner_lost_ |= !report.mended;
      return;
    case Report::Kind::kPlannerOff:
      planner_lost_ = false;
      return;
  }
}

void WorkerMirror::tell(Agreement& agreement) const {
  const bool plan_may_be_told = !limit_ || limit_->plan_ready;
  if (ready_ != nullptr && plan_may_be_told) agreement.plan_ready(ready_->migration);
  if (failed_ && plan_may_be_told) agreement.plan_failed(failed_);
  if (failed_unit_ != kNoUnit) agreement.unit_failed(staged_, failed_unit_);
  agreement.staged(staged_,
                   limit_ ? std::min(limit_->staged_cursor, staged_cursor_) : staged_cursor_);
  agreement.set_wants_rebalance(wants_rebalance_);
  if (planner_lost_) agreement.planner_lost();
}

WorkerMirror::Plans::iterator WorkerMirror::find(const MigrationPlan* plan) noexcept {
  return std::ranges::find_if(plans_,
                              [plan](const auto& each) { return &each->migration == plan; });
}

PreparedPlan* WorkerMirror::prepared(const MigrationPlan* plan) noexcept {
  const auto found = find(plan);
  return found != plans_.end() ? found->get() : nullptr;
}

void WorkerMirror::adopted(const GenerationId& generation) noexcept {
  ready_ = nullptr;
  staged_ = generation;
  staged_cursor_ = 0;
  failed_unit_ = kNoUnit;
}

void WorkerMirror::closed() noexcept {
  if (ready_ != nullptr) retired(&ready_->migration);
  ready_ = nullptr;
}

void WorkerMirror::retired(const MigrationPlan* plan) noexcept {
  const auto found = find(plan);
  if (found == plans_.end()) return;
  release(*found);
  plans_.erase(found);
}

void WorkerMirror::release(std::unique_ptr<PreparedPlan>& plan) noexcept {
  if (released_.size() < kMostPlans) released_.push_back(std::move(plan));
}

std::unique_ptr<PreparedPlan> WorkerMirror::next_release() noexcept {
  if (released_.empty()) return nullptr;
  std::unique_ptr<PreparedPlan> plan = std::move(released_.back());
  released_.pop_back();
  return plan;
}

bool WorkerMirror::has_reached(const WorkerProgress& target,
                               const Agreement& agreement) const noexcept {
  const bool plan = !target.plan_ready || !agreement.open_generation() || ready_ != nullptr ||
                    failed_ == agreement.open_generation();
  return observed_step_ >= target.observed_step && plan && staged_cursor_ >= target.staged_cursor;
}

}  // namespace swiftbalancer
