#include <swiftbalancer/balancer_events.hpp>

namespace swiftbalancer {

std::string_view to_string(BalancerEventKind kind) {
  switch (kind) {
    case BalancerEventKind::kOpened:
      return "opened";
    case BalancerEventKind::kAdopted:
      return "adopted";
    case BalancerEventKind::kClosed:
      return "closed";
    case BalancerEventKind::kCommitted:
      return "committed";
    case BalancerEventKind::kDropped:
      return "dropped";
    case BalancerEventKind::kRetired:
      return "retired";
    case BalancerEventKind::kPlannersReset:
      return "planners_reset";
    case BalancerEventKind::kBalancingOff:
      return "balancing_off";
  }
  return "unknown";
}

std::string_view to_string(Reason reason) {
  switch (reason) {
    case Reason::kNone:
      return "none";
    case Reason::kNothingToGain:
      return "nothing_to_gain";
    case Reason::kPlannerFailed:
      return "planner_failed";
    case Reason::kDifferentPlans:
      return "different_plans";
    case Reason::kTooLate:
      return "too_late";
    case Reason::kCopyFailed:
      return "copy_failed";
    case Reason::kSuperseded:
      return "superseded";
    case Reason::kBaseChanged:
      return "base_changed";
    case Reason::kPaused:
      return "paused";
    case Reason::kPlanOnly:
      return "plan_only";
    case Reason::kReconfigured:
      return "reconfigured";
    case Reason::kPlannersReset:
      return "planners_reset";
    case Reason::kTooOld:
      return "too_old";
  }
  return "unknown";
}

}  // namespace swiftbalancer
