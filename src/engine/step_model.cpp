#include "engine/step_model.hpp"

namespace swiftbalancer::engine {

StepModel step_model(const HardwareProfile& profile) {
  StepModel model;
  model.expert_bytes = profile.value("expert_bytes");
  model.expert_flops_per_token = profile.value("expert_flops_per_token");
  model.attention_flops_per_token = profile.value("attention_flops_per_token");
  model.attention_weight_bytes = profile.value("attention_weight_bytes");
  model.attention_bytes_per_context_token = profile.value("attention_bytes_per_context_token");
  model.head_flops_per_token = profile.value("head_flops_per_token");
  model.head_weight_bytes = profile.value("head_weight_bytes");
  model.dispatch_bytes_per_row = profile.value("dispatch_bytes_per_row");
  model.combine_bytes_per_row = profile.value("combine_bytes_per_row");
  model.flops = profile.value("flops");
  model.hbm_bandwidth = profile.value("hbm_bandwidth");
  model.link_bandwidth = profile.value("link_bandwidth");
  model.link_latency = profile.value("link_latency");
  model.node_link_bandwidth = profile.value("node_link_bandwidth");
  model.node_link_latency = profile.value("node_link_latency");
  model.kernel_overhead = profile.value("kernel_overhead");
  model.step_barrier = profile.value("step_barrier");
  return model;
}

CostGate cost_gate_of(const HardwareProfile& profile, const ServedSteps& steps) {
  StepModel model = step_model(profile);
  model.tokens_per_step = steps.tokens_per_step;
  model.top_k = steps.top_k;
  return cost_gate(model, steps.num_ranks, profile.value("copy_link_share"), steps.horizon_steps);
}

}  // namespace swiftbalancer::engine
