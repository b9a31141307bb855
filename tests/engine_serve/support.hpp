#pragma once
// Small runs of the shipped checkpoint for the tests of serving, and the plain local forward they
// are compared with.

#include <cstdint>
#include <string>
#include <vector>

#include "engine/serve.hpp"
#include "wait_limit.hpp"

namespace swiftbalancer::engine::testing {

inline std::string data(const std::string& path) {
  return std::string(SWIFTBALANCER_SOURCE_DIR) + "/data/" + path;
}

/// A few dozen short requests of three domains, threads, no balancing.
inline ServeOptions small_run(int num_ranks) {
  ServeOptions options;
  options.model = data("models/tiny_qwen3_moe");
  options.num_ranks = num_ranks;
  options.num_redundant_experts = 16;
  options.transport = TransportKind::kThread;
  options.max_batch_tokens = 32;
  options.traffic.prompts_file = data("models/prompts.json");
  options.traffic.domains = {"python", "man_zh", "metamath"};
  options.traffic.steps_per_segment = 5;
  options.traffic.arrivals_per_step = 1.5;
  options.traffic.min_prompt_tokens = 8;
  options.traffic.max_prompt_tokens = 48;
  options.traffic.min_output_tokens = 2;
  options.traffic.max_output_tokens = 12;
  options.traffic.seed = 20261124;
  options.balancer.policy = "static";
  return options;
}

inline constexpr int kNumMovingRanks = 4;

/// small_run() over shared memory in which something is always moving; two of its four ranks can
/// hold all 64 experts.
inline ServeOptions moving_run(const std::string& faults) {
  ServeOptions options = small_run(kNumMovingRanks);
  options.num_redundant_experts = 64;
  options.transport = TransportKind::kShm;
  options.traffic.steps_per_segment = 12;
  options.balancer.policy = "stress";
  options.balancer.rebalance_interval = 1;
  options.balancer.deadline = swiftbalancer::testing_support::kWaitLimit;
  options.faults = parse_faults(faults);
  return options;
}

using Outputs = std::vector<std::vector<std::int32_t>>;

/// Answers every request alone: whole prompt at once, experts straight from the checkpoint, no
/// exchange, no placement.
Outputs local_outputs(const ServeOptions& options);

/// No child of this process, and nothing of it in shared memory.
void expect_nothing_left();

}  // namespace swiftbalancer::engine::testing
