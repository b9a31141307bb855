#pragma once
// What the planner knows of the hardware: step times and the cost gate, from a hardware profile.
// Used by serve() and the tool, main thread.

#include "engine/timed_device.hpp"
#include "planner/cost_gate.hpp"

namespace swiftbalancer::engine {

/// The profile's constants; what a step carries is left at 0.
StepModel step_model(const HardwareProfile& profile);

struct ServedSteps {
  double tokens_per_step = 0.0;  ///< Over all ranks.
  int top_k = 1;
  int num_ranks = 1;
  int horizon_steps = 1;  ///< Over which moves must pay.
};
CostGate cost_gate_of(const HardwareProfile& profile, const ServedSteps& steps);

}  // namespace swiftbalancer::engine
