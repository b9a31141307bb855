#include "runtime/worker_side.hpp"

#include <string>
#include <utility>

#include "migration/commit_units.hpp"
#include "runtime/config.hpp"
#include "runtime/planner_process/process_planning.hpp"
#include "runtime/runtime_rules.hpp"

namespace swiftbalancer {

WorkerSide::WorkerSide(const ClusterShape& first_shape, const BalancerConfig& config,
                       MakePlanning make_planning)
    : first_shape_(first_shape), config_(config), make_planning_(std::move(make_planning)) {}

void WorkerSide::take_memory(std::span<const std::size_t> largest_parts, LocalSlots slots) {
  pool_ = std::make_unique<StagingPool>(largest_parts, config_.staging_bytes);
  slots_ = std::move(slots);
}

void WorkerSide::make(const LiveRanks& live, const AgreedState& begin, const ServedState& served,
                      PacketRing& ring, std::unique_ptr<Transport> transport,
                      std::span<const std::size_t> expert_bytes, bool plans) {
  worker_.reset();
  make_planning(live, expert_bytes, plans);
  WorkerOptions options;
  options.swap = config_.install_mode == InstallMode::kSwap;
  options.control_mode = config_.control_mode;
  options.thread_init = config_.thread_init;
  options.locality_first = config_.locality_first;
  options.decode_dispatch = config_.decode_dispatch;
  options.log = config_.log;
  worker_ = std::make_unique<Worker>(live.shape, options, std::move(transport),
                                     Worker::Belongings{ring, *pool_, slots_, planning_.get()},
                                     begin, served);
  backlog_.clear();
  const std::size_t units = CommitUnitBuilder::max_units(live.shape, staging_capacity());
  backlog_.reserve(Worker::queue_capacity(live.shape) + 2 * Agreement::max_decisions(units));
  backlog_sent_ = 0;
  dropped_known_ = 0;
}

// A history begins anew with a membership, so the planner does too: what it plans by depends on the
// ranks.
void WorkerSide::make_planning(const LiveRanks& live, std::span<const std::size_t> expert_bytes,
                               bool plans) {
  if (!rules::planner_begins_anew() && planning_ != nullptr) return;
  planning_.reset();
  if (!plans) return;
  if (make_planning_) {
    planning_ = make_planning_();
    return;
  }
  const PlannerConfig planner = planner_config(config_, first_shape_, live.ranks, expert_bytes);
  if (config_.worker == WorkerKind::kProcess) {
    planning_ = make_process_planning(planner, {.program = config_.planner_program,
                                                .max_restarts = config_.planner_restarts,
                                                .deadline = config_.planner_deadline});
  } else {
    planning_ = make_thread_planning(planner, config_.planner_restarts);
  }
}

// @returns whether nothing is left of it.
bool WorkerSide::send_backlog() noexcept {
  while (backlog_sent_ < backlog_.size() && worker_->send(backlog_[backlog_sent_])) ++backlog_sent_;
  if (backlog_sent_ < backlog_.size()) return false;
  backlog_.clear();
  backlog_sent_ = 0;
  return true;
}

Status WorkerSide::send(Command command) noexcept {
  if (send_backlog() && worker_->send(command)) return {};
  if (backlog_.size() == backlog_.capacity()) return {ErrorCode::kInternal, "queue full"};
  backlog_.push_back(std::move(command));
  return {};
}

void WorkerSide::carry_out_remaining() {
  bool all_sent = false;
  while (!all_sent) {
    all_sent = send_backlog();
    worker_->carry_out_remaining();
  }
}

std::uint64_t WorkerSide::take_dropped_samples() noexcept {
  const std::uint64_t dropped = worker_->dropped_samples();
  return dropped - std::exchange(dropped_known_, dropped);
}

}  // namespace swiftbalancer
