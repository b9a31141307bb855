#pragma once
// The cost gate (swiftbalancer/plan_limits.hpp) of a step model. Called by the tool and the
// engine, which know the hardware. Pure.

#include <swiftbalancer/plan_limits.hpp>

#include "planner/step_time.hpp"

namespace swiftbalancer {

/// The hottest rank computes and exchanges its rows; a copy takes its share of the link away from
/// that exchange while it lasts.
/// @param copy_link_share of the link that copies use, in (0, 1).
CostGate cost_gate(const StepModel& model, int num_ranks, double copy_link_share,
                   double horizon_steps);

}  // namespace swiftbalancer
