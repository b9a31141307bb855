#pragma once
// What the ranks decide together, as events: the agreement emits them, the worker carries them out,
// and the engine may read them (Balancer::events()). Values; a plan that one points to lives until
// the next begin_step.

#include <cstdint>
#include <string_view>

#include <swiftbalancer/migration_plan.hpp>

namespace swiftbalancer {

enum class BalancerEventKind : std::uint8_t {
  kOpened,         ///< A generation was opened: the ranks plan on what is served now.
  kAdopted,        ///< All ranks hold the same plan: copies start.
  kClosed,         ///< The open generation ended without a plan; see reason.
  kCommitted,      ///< A unit was installed at this step.
  kDropped,        ///< A unit will not be installed; see reason.
  kRetired,        ///< The last unit of the active plan was committed or dropped.
  kPlannersReset,  ///< A rank has lost its load history: all begin theirs anew.
  kBalancingOff,   ///< A rank's planner is gone for good: nothing is planned in this membership.
};

std::string_view to_string(BalancerEventKind kind);
std::string_view to_string(Reason reason);

struct BalancerEvent {
  BalancerEventKind kind = BalancerEventKind::kOpened;
  Reason reason = Reason::kNone;
  GenerationId generation;
  std::uint32_t unit = 0;               ///< kCommitted, kDropped: index into plan->units.
  const MigrationPlan* plan = nullptr;  ///< kAdopted, kCommitted, kDropped, kRetired; kClosed if
                                        ///< one was held here.
  /// The rank that it is due to, numbered in the shape of now; the lowest if there are several, -1
  /// if none: whose planner is lost, gone or failed, whose plan differed or was late, whose copy
  /// failed or was furthest behind.
  int rank = -1;
};

}  // namespace swiftbalancer
