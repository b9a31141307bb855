// What the worker reports, and what of it the agreement is told.

#include <algorithm>
#include <string>
#include <utility>

#include "runtime/balancer_core.hpp"

namespace swiftbalancer {

void BalancerCore::take_reports() {
  Report report;
  while (worker->receive(report)) take(report);
  const std::uint64_t dropped = worker->dropped_samples();
  stats.dropped_samples += dropped - std::exchange(dropped_known, dropped);
}

void BalancerCore::take(const Report& report) {
  switch (report.kind) {
    case Report::Kind::kSetReady:
      ready_step = report.step;
      return;
    case Report::Kind::kPlanReady:
      plans.push_back(report.plan);
      if (report.generation == agreement->open_generation()) {
        ready_plan = report.plan;
      } else {
        release_later(&report.plan->migration);
      }
      return;
    case Report::Kind::kPlanFailed:
      failed_generation = report.generation;
      return;
    case Report::Kind::kStaged:
      if (report.generation == staged_generation) staged_cursor = report.cursor;
      return;
    case Report::Kind::kUnitFailed:
      if (report.generation == staged_generation) failed_unit = report.cursor;
      return;
    case Report::Kind::kObserved:
      observed_step = report.step;
      if (!planner_off) health.planner_running = true;
      wants_rebalance = report.wants_rebalance;
      return;
    case Report::Kind::kPlannerLost:
      planner_lost = true;
      health.planner_running = false;
      health.planner_restarts = restarts_before + static_cast<int>(report.cursor);
      note_failure("the planner process was lost");  // the worker has said how
      return;
    case Report::Kind::kPlannerOff:
      planner_lost = false;
      planner_off = true;
      health.planner_running = false;
      agreement->planner_off();
      health.ok = true;  // the last word replaces what was wrong before
      fail("the planner process was restarted too often: balancing is off");
      return;
    case Report::Kind::kStopped:
      stopped = true;
      fail(worker->failure().message());
      return;
  }
}

// What has been reported, or as much of it as hold_progress_at() allows.
void BalancerCore::tell_agreement() {
  if (ready_plan != nullptr && (!limit || limit->plan_ready))
    agreement->plan_ready(ready_plan->migration);
  if (failed_generation && (!limit || limit->plan_ready)) agreement->plan_failed(failed_generation);
  if (failed_unit != kNoUnit) agreement->unit_failed(staged_generation, failed_unit);
  agreement->staged(staged_generation,
                    limit ? std::min(limit->staged_cursor, staged_cursor) : staged_cursor);
  agreement->set_wants_rebalance(wants_rebalance);
  if (planner_lost) agreement->planner_lost();
}

// One line for what goes on failing.
void BalancerCore::fail(const std::string& reason) {
  if (note_failure(reason) && config.log)
    config.log("rank " + std::to_string(rank) + ": " + reason);
}

bool BalancerCore::note_failure(const std::string& reason) {
  ++health.failures;
  failed_at = step;
  if (!health.ok) return false;
  health.ok = false;
  health.reason = reason;
  return true;
}

// A plan that was opened after the failure has come to its end on all ranks.
void BalancerCore::seen_to_work(const GenerationId& generation) noexcept {
  if (health.ok || planner_off || !health.planner_running) return;
  health.ok = generation.step + config.packet_lag > failed_at;
}

Status BalancerCore::hold_progress_at(const WorkerProgress& target) {
  limit = target;
  const auto start = Clock::now();
  const auto deadline = start + config.deadline;
  const auto reached = [&] {
    const bool plan = !target.plan_ready || !agreement->open_generation() ||
                      ready_plan != nullptr || failed_generation == agreement->open_generation();
    return observed_step >= target.observed_step && plan && staged_cursor >= target.staged_cursor;
  };
  take_reports();
  while (!reached() && !stopped && Clock::now() < deadline) {
    worker->wait_for_report(deadline);
    take_reports();
  }
  held_time += Clock::now() - start;
  if (reached()) return {};
  if (stopped) return worker->failure();
  return {ErrorCode::kTimeout,
          "rank " + std::to_string(rank) +
              ": the balancer worker did not get as far as the timed device asks within " +
              std::to_string(config.deadline.count()) + " ms"};
}

}  // namespace swiftbalancer
