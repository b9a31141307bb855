#pragma once
// How long a step of the served model is expected to take under a placement: the charges of the
// timed device (engine/timed_device.hpp), with expected tokens in place of counted ones. Called by
// the sweep. Pure; fixed order of all arithmetic.

#include <cstdint>
#include <span>

#include <swiftbalancer/policy.hpp>

namespace swiftbalancer {

/// Constants of a hardware profile, under their names there, and what a step carries.
struct StepModel {
  double expert_bytes = 0.0;
  double expert_flops_per_token = 0.0;
  double attention_flops_per_token = 0.0;
  double attention_weight_bytes = 0.0;
  double attention_bytes_per_context_token = 0.0;
  double head_flops_per_token = 0.0;
  double head_weight_bytes = 0.0;
  double dispatch_bytes_per_row = 0.0;
  double combine_bytes_per_row = 0.0;
  double flops = 0.0;
  double hbm_bandwidth = 0.0;
  double link_bandwidth = 0.0;
  double link_latency = 0.0;
  double node_link_bandwidth = 0.0;
  double node_link_latency = 0.0;
  double kernel_overhead = 0.0;
  double step_barrier = 0.0;
  double tokens_per_step = 0.0;  ///< Over all ranks, spread evenly over them.
  double top_k = 0.0;            ///< Experts that a token visits in each layer.
  double context_length = 0.0;   ///< Cached positions of each token's sequence.
};

/// Seconds of one MoE layer with its attention: the slowest rank's exchange and experts.
/// @param shares [num_slots] in kShareUnit, or empty for an even split.
double layer_seconds(const StepModel& model, const LayerProblem& problem,
                     std::span<const std::int32_t> placement,
                     std::span<const std::uint32_t> shares);

/// Seconds of a step outside its layers: head and the agreement of ranks.
double seconds_outside_layers(const StepModel& model, int num_ranks);

}  // namespace swiftbalancer
