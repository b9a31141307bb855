#pragma once
// What a move costs and what balance is worth, in seconds: the gate that leaves a layer alone where
// the gain over the horizon does not pay for the bytes. Called by plan jobs. Pure.

#include "planner/step_time.hpp"

namespace swiftbalancer {

struct CostGate {
  double seconds_per_imbalance = 0.0;  ///< That 1.0 of imbalance adds to a layer, every step.
  double seconds_per_move = 0.0;       ///< By which the copy of an expert delays the steps.
  double horizon_steps = 0.0;          ///< For which the plan is expected to hold.

  /// Imbalance that one move must win to break even. Infinite where balance is worth nothing.
  double price() const noexcept;
  /// Hysteresis: what is served stays unless the gain clearly exceeds the cost.
  bool is_worth_it(double gain, int moves) const noexcept;
};

/// The hottest rank computes and exchanges its rows; a copy takes its share of the link away from
/// that exchange while it lasts. Copies of several ranks are taken to delay steps one after
/// another.
/// @param copy_link_share of the link that copies use, in (0, 1).
CostGate cost_gate(const StepModel& model, int num_ranks, double copy_link_share,
                   double horizon_steps);

}  // namespace swiftbalancer
