#include "planner/cost_gate.hpp"

#include <limits>

namespace swiftbalancer {
namespace {

constexpr double kHysteresis = 1.25;  // Gain over cost that a change of a layer needs.

}  // namespace

double CostGate::price() const noexcept {
  const double worth = seconds_per_imbalance * horizon_steps;
  return worth > 0.0 ? seconds_per_move / worth : std::numeric_limits<double>::infinity();
}

bool CostGate::is_worth_it(double gain, int moves) const noexcept {
  return moves == 0 ? gain > 0.0 : gain > kHysteresis * price() * moves;
}

CostGate cost_gate(const StepModel& model, int num_ranks, double copy_link_share,
                   double horizon_steps) {
  const double rows = model.tokens_per_step * model.top_k / num_ranks;
  const double row_bytes = model.dispatch_bytes_per_row + model.combine_bytes_per_row;
  CostGate gate;
  gate.seconds_per_imbalance =
      rows * (model.expert_flops_per_token / model.flops + row_bytes / model.link_bandwidth);
  // A copy lasts bytes / (share * bandwidth), and meanwhile the exchange, were it to fill the time,
  // is slower by share / (1 - share).
  gate.seconds_per_move = model.expert_bytes / (model.link_bandwidth * (1.0 - copy_link_share));
  gate.horizon_steps = horizon_steps;
  return gate;
}

}  // namespace swiftbalancer
