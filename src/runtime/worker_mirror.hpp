#pragma once
// What the engine thread knows of its worker: plans that are ready, how far copies are staged,
// which packet sets are here. Owns the plans from the moment they are reported until they are
// released. Engine thread only.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "protocol/agreement.hpp"
#include "runtime/simulated_progress.hpp"
#include "runtime/worker_messages.hpp"

namespace swiftbalancer {

class WorkerMirror {
 public:
  WorkerMirror();

  /// A new worker begins at `step`: whatever was under way is over.
  void begin(std::uint64_t step);
  void take(Report report, const Agreement& agreement);
  /// Tells the agreement what has been reported, or as much of it as hold_at() allows.
  void tell(Agreement& agreement) const;

  // --- Decisions ---
  /// The plan that the agreement means; null: it is not held here.
  PreparedPlan* prepared(const MigrationPlan* plan) noexcept;
  void adopted(const GenerationId& generation) noexcept;
  /// The open generation ended without its plan.
  void closed() noexcept;
  /// No decision names this plan any more. It lives on until its release, since events of this step
  /// point into it.
  void retired(const MigrationPlan* plan) noexcept;
  void planners_reset() noexcept { planner_lost_ = wants_rebalance_ = false; }
  /// Plans to be released one by one; null: none is left.
  std::unique_ptr<PreparedPlan> next_release() noexcept;

  /// The newest packet set that is complete here.
  std::uint64_t ready_step() const noexcept { return ready_step_; }
  std::uint32_t staged_cursor() const noexcept { return staged_cursor_; }
  bool planner_lost() const noexcept { return planner_lost_; }
  /// That are ready or active, not yet released.
  std::size_t num_plans() const noexcept { return plans_.size(); }

  // --- Simulated devices ---
  void hold_at(const WorkerProgress& limit) noexcept { limit_ = limit; }
  bool has_reached(const WorkerProgress& target, const Agreement& agreement) const noexcept;

 private:
  void release(std::unique_ptr<PreparedPlan>& plan) noexcept;

  using Plans = std::vector<std::unique_ptr<PreparedPlan>>;
  Plans::iterator find(const MigrationPlan* plan) noexcept;

  Plans plans_;
  std::vector<std::unique_ptr<PreparedPlan>> released_;
  PreparedPlan* ready_ = nullptr;  // of the open generation
  GenerationId failed_;
  GenerationId staged_;
  std::uint32_t staged_cursor_ = 0;
  std::uint32_t failed_unit_ = kNoUnit;
  std::uint64_t ready_step_ = 0;
  std::uint64_t observed_step_ = 0;
  bool wants_rebalance_ = false;
  bool planner_lost_ = false;  // told until a reset
  std::optional<WorkerProgress> limit_;
};

}  // namespace swiftbalancer
