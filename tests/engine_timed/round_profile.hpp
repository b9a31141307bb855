#pragma once
// A profile of round numbers, so that tests can work out every charge by hand, and devices on it.

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include <swiftbalancer/balancer.hpp>
#include <swiftbalancer/shape.hpp>

#include "engine/timed_device.hpp"

namespace swiftbalancer::engine {

/// 1 byte of memory = 1 ns, 1 byte on the link = 10 ns, between nodes 100 ns, 1 flop = 0.001 ns;
/// copies take a quarter.
inline HardwareProfile round_profile() {
  HardwareProfile profile;
  profile.name = "round";
  profile.model = "none";
  const std::initializer_list<std::pair<const char*, double>> constants = {
      {"expert_bytes", 1000.0},
      {"expert_flops_per_token", 100'000.0},       // 100 ns
      {"attention_flops_per_token", 200'000.0},    // 200 ns
      {"attention_weight_bytes", 500.0},           // 500 ns
      {"attention_bytes_per_context_token", 3.0},  // 3 ns
      {"head_flops_per_token", 300'000.0},         // 300 ns
      {"head_weight_bytes", 800.0},                // 800 ns
      {"dispatch_bytes_per_row", 2.0},             // 20 ns, between nodes 200 ns
      {"combine_bytes_per_row", 4.0},              // 40 ns, between nodes 400 ns
      {"flops", 1e12},
      {"hbm_bandwidth", 1e9},
      {"link_bandwidth", 1e8},
      {"link_latency", 7e-9},
      {"node_link_bandwidth", 1e7},
      {"node_link_latency", 70e-9},
      {"kernel_overhead", 5e-9},
      {"step_barrier", 11e-9},
      {"copy_link_share", 0.25},
      {"packet_overhead_bytes", 10.0},
      {"begin_step_call", 13e-9},
      {"record_call", 2e-9},
      {"end_step_call", 17e-9},
      {"install_swap_per_expert", 19e-9},
      {"install_tables_per_unit", 23e-9},
      {"observe_loads", 400e-9},
      {"plan_eplb", 9000e-9},
      {"plan_static", 1e-9},
      {"plan_stress", 9000e-9},
      {"plan_swift", 600e-9}};
  for (const auto& [name, value] : constants) profile.constants[name] = {value, "", ""};
  return profile;
}

/// One expert over the link: 7 + 1000 * 10 / 0.25; between nodes: 70 + 1000 * 100 / 0.25; within a
/// rank: 2 * 1000.
inline constexpr std::int64_t kLinkCopyNs = 40'007;
inline constexpr std::int64_t kNodeCopyNs = 400'070;
inline constexpr std::int64_t kLocalCopyNs = 2'000;
/// observe_loads + plan_swift.
inline constexpr std::int64_t kPlanningNs = 1'000;

/// Four slots per rank, as many experts as slots.
inline ClusterShape even_shape(int num_ranks, int num_nodes = 1) {
  return ClusterShape({.num_moe_layers = 2,
                       .num_logical_experts = 4 * num_ranks,
                       .num_ranks = num_ranks,
                       .num_slots = 4 * num_ranks,
                       .num_nodes = num_nodes});
}

inline TimedDeviceOptions options_for(const ClusterShape& shape, int buffers = 8) {
  TimedDeviceOptions options;
  options.policy = "swift";
  options.staging_capacity_per_rank.assign(static_cast<std::size_t>(shape.num_ranks()), buffers);
  options.packet_bytes = 90;  // with overhead 100 bytes: 1000 ns a packet on the link
  return options;
}

/// One copy of a unit by ranks; slots are the first of each rank unless offsets say otherwise.
inline ExpertCopy copy_between(const ClusterShape& shape, int source, int destination,
                               int offset = 0) {
  return {.logical_id = 0,
          .source_slot = shape.first_slot(source) + offset,
          .destination_slot = shape.first_slot(destination) + offset};
}

/// A plan of one unit per list of copies.
inline MigrationPlan plan_of(std::vector<std::vector<ExpertCopy>> units) {
  MigrationPlan plan;
  plan.generation = {0, 1};
  for (auto& copies : units)
    plan.units.push_back(
        {.moe_layer_id = 0, .copies = std::move(copies), .placement = {}, .shares = {}});
  return plan;
}

inline BalancerEvent event(BalancerEventKind kind, const MigrationPlan* plan = nullptr,
                           std::uint32_t unit = 0) {
  return {.kind = kind, .reason = Reason::kNone, .generation = {0, 1}, .unit = unit, .plan = plan};
}

inline std::vector<std::int64_t> all_at(const ClusterShape& shape, std::int64_t clock) {
  return std::vector<std::int64_t>(static_cast<std::size_t>(shape.num_ranks()), clock);
}

}  // namespace swiftbalancer::engine
