#pragma once
// A plan outside of serving: full (from nothing) or incremental (from a placement), timed. Used by
// `plan`. Main thread.

#include <optional>
#include <span>

#include <swiftbalancer/load.hpp>
#include <swiftbalancer/policy.hpp>
#include <swiftbalancer/shape.hpp>

#include "limit_settings.hpp"
#include "planner/planner.hpp"

namespace swiftbalancer::tool {

struct OfflineProblem {
  ClusterShape shape;
  PlannerConfig config;
  ExpertLoad load;
  Dispatch dispatch = Dispatch::kEven;
  std::optional<ServedState> from;  ///< Without it: a full plan.
  /// If not null, prepared. Full plans keep them; incremental ones go by config.limits. Where they
  /// bind groups to nodes the plan is a full one also with `from`, which then counts the moves and
  /// says what is pinned.
  const LimitSettings* limits = nullptr;
};

/// Relative speeds of the ranks that a problem is limited by; empty: all alike.
std::span<const double> rank_speed_of(const OfflineProblem& problem);

struct OfflinePlan {
  ServedState planned;
  int moves = 0;  ///< From `from`; 0 without it.
  int changed_layers = 0;
  double milliseconds = 0.0;  ///< Planning alone, the shortest of several runs.
};

/// Whether a problem is planned from scratch.
bool is_full(const OfflineProblem& problem);

/// Plans on the calling thread. @throws Error kInvalidArgument: policy unknown, problem not valid.
OfflinePlan make_offline_plan(const OfflineProblem& problem);

}  // namespace swiftbalancer::tool
