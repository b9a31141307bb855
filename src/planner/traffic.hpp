#pragma once
// What the planner knows of the traffic of one phase (prefill, decode, mixed): its history since
// the last change, the domains remembered from before, and whether there is evidence that no plan
// was made on yet. Used by the planner; deterministic.

#include <cstdint>

#include <swiftbalancer/load.hpp>
#include <swiftbalancer/shape.hpp>

#include "planner/domain_memory.hpp"
#include "planner/load_estimator.hpp"
#include "planner/load_history.hpp"

namespace swiftbalancer {

class Traffic {
 public:
  /// @param window_assignments as PlannerConfig::window_assignments.
  Traffic(const ClusterShape& shape, std::int64_t window_assignments);

  /// @returns whether there is something to judge anew.
  bool add(const ExpertLoad& load);
  const LoadHistory& history() const noexcept { return history_; }

  /// Since the last change, or the last look at it, enough has come for another.
  bool has_new_evidence() const noexcept;
  void note_look() noexcept;
  /// A plan that moved experts, or changed shares, is served.
  void note_plan() noexcept;
  /// Whether plans may move experts for this traffic: it is new, or the plan made at its start may
  /// still be corrected.
  bool is_open() const noexcept;
  /// The distribution of this traffic as far as it is known.
  LoadEstimate estimate() const;

 private:
  void note_change();
  void look_for_known_domain();

  std::int64_t window_assignments_;
  LoadHistory history_;
  DomainMemory memory_;
  int changes_ = 0;              // of the traffic, as of the last note
  std::int64_t look_at_;         // assignments since the change that make new evidence
  std::int64_t first_look_ = 0;  // assignments since the change at the first look; 0: none yet
  int plans_since_change_ = 0;   // that changed anything
  bool is_known_ = false;        // the domain was recognised since the change
};

}  // namespace swiftbalancer
