// BalancerCore's set-up: what is checked and built before the first step.

#include <algorithm>
#include <numeric>
#include <string>

#include "runtime/balancer_core.hpp"
#include "runtime/config.hpp"

namespace swiftbalancer {
namespace {

AgreementConfig agreement_config(const ClusterShape& shape, const BalancerConfig& config,
                                 int rank) {
  AgreementConfig result;
  result.rank = rank;
  result.num_ranks = shape.num_ranks();
  result.num_moe_layers = shape.num_moe_layers();
  result.packet_interval = config.packet_interval;
  result.packet_lag = config.packet_lag;
  result.rebalance_interval = config.rebalance_interval;
  result.max_open_sets = config.max_open_sets;
  return result;
}

std::string slot_name(int layer, int local_slot) {
  return "layer " + std::to_string(layer) + " slot " + std::to_string(local_slot);
}

int checked_rank(const Transport& transport, const ClusterShape& shape) {
  if (transport.num_ranks() != shape.num_ranks()) {
    throw Error(ErrorCode::kInvalidArgument,
                "the transport joins " + std::to_string(transport.num_ranks()) +
                    " ranks, the shape has " + std::to_string(shape.num_ranks()));
  }
  return transport.rank();
}

}  // namespace

BalancerCore::BalancerCore(const ClusterShape& cluster_shape, const BalancerConfig& balancer_config,
                           std::unique_ptr<Transport> worker_transport)
    : shape(cluster_shape),
      config((validate(balancer_config), balancer_config)),
      transport(std::move(worker_transport)),
      rank(checked_rank(*transport, shape)),
      num_local_slots(shape.slots_per_rank(rank)),
      layout(shape),
      ring(layout, shape.num_ranks(), config.packet_interval, config.packet_lag),
      agreement(agreement_config(shape, config, rank)),
      slot_parts(static_cast<std::size_t>(shape.num_moe_layers() * num_local_slots)),
      part_bytes(static_cast<std::size_t>(shape.num_moe_layers())),
      expert_bytes(static_cast<std::size_t>(shape.num_moe_layers()), 0),
      counters(layout.num_counters(), 0),
      headers(static_cast<std::size_t>(shape.num_ranks())) {
  make_policy(config.policy);  // Throws now, with the names that exist, rather than on the worker.
  const auto units = static_cast<std::size_t>(shape.num_moe_layers()) * 4;
  decisions.reserve(units);
  events.reserve(units);
  plans.reserve(16);
  to_release.reserve(16);
}

BalancerCore::~BalancerCore() {
  worker.reset();
  for (PreparedPlan* plan : plans) delete plan;
  for (PreparedPlan* plan : to_release) delete plan;
}

void BalancerCore::register_weights(int layer, int local_slot, std::span<const WeightPart> parts) {
  if (started)
    throw Error(ErrorCode::kInvalidState, "register_weights after start(); register before");
  if (layer < 0 || layer >= shape.num_moe_layers() || local_slot < 0 ||
      local_slot >= num_local_slots) {
    throw Error(ErrorCode::kInvalidArgument,
                slot_name(layer, local_slot) + " does not exist on rank " + std::to_string(rank) +
                    ": it has " + std::to_string(shape.num_moe_layers()) + " layers of " +
                    std::to_string(num_local_slots) + " slots");
  }
  std::vector<std::size_t> sizes;
  auto& pointers = slot_parts[index(layer, local_slot)];
  pointers.clear();
  for (const WeightPart& part : parts) {
    sizes.push_back(part.bytes);
    pointers.push_back(part.data);
  }
  auto& expected = part_bytes[static_cast<std::size_t>(layer)];
  if (expected.empty()) expected = sizes;
  if (sizes.empty() || sizes != expected) {
    throw Error(ErrorCode::kInvalidArgument, slot_name(layer, local_slot) +
                                                 " has parts of other sizes than the slots of its "
                                                 "layer before; within a layer all are equal");
  }
  expert_bytes[static_cast<std::size_t>(layer)] =
      std::accumulate(sizes.begin(), sizes.end(), std::size_t{0});
}

void BalancerCore::check_all_registered() const {
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    for (int slot = 0; slot < num_local_slots; ++slot) {
      if (slot_parts[index(layer, slot)].empty()) {
        throw Error(ErrorCode::kInvalidState,
                    slot_name(layer, slot) + " of rank " + std::to_string(rank) +
                        " has no weights; call register_weights for every layer and slot first");
      }
    }
    if (config.install_mode == InstallMode::kSwap &&
        part_bytes[static_cast<std::size_t>(layer)] != part_bytes[0]) {
      throw Error(ErrorCode::kInvalidArgument,
                  "experts of layer " + std::to_string(layer) +
                      " have parts of other sizes than those of layer 0; install mode swap needs "
                      "them equal: use install mode copy");
    }
  }
}

// A rank that was configured otherwise would agree on nothing; find out before the first step, with
// both values.
void BalancerCore::agree_on_configuration() {
  const std::uint64_t mine = config_digest(config, shape, placement, part_bytes);
  std::vector<std::uint64_t> all(static_cast<std::size_t>(shape.num_ranks()));
  const auto handle = transport->post_all_gather(0, std::as_bytes(std::span(&mine, 1)),
                                                 std::as_writable_bytes(std::span(all)));
  wait_done(*transport, handle, Clock::now() + config.deadline).throw_if_failed();
  for (std::size_t peer = 0; peer < all.size(); ++peer) {
    if (all[peer] != mine) {
      throw Error(
          ErrorCode::kInvalidArgument,
          "rank " + std::to_string(peer) +
              " was started with another shape, configuration, placement or expert size (digest " +
              std::to_string(all[peer]) + ") than rank " + std::to_string(rank) + " (digest " +
              std::to_string(mine) + "); start all ranks alike");
    }
  }
}

LocalSlots BalancerCore::local_slots() const {
  LocalSlots slots;
  slots.part_bytes = part_bytes;
  slots.parts.resize(static_cast<std::size_t>(shape.num_moe_layers()));
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    for (int slot = 0; slot < num_local_slots; ++slot) {
      slots.parts[static_cast<std::size_t>(layer)].push_back(slot_parts[index(layer, slot)]);
    }
  }
  return slots;
}

void BalancerCore::serve(const Placement& served) {
  if (started) throw Error(ErrorCode::kInvalidState, "start() called twice");
  swiftbalancer::validate(served, shape);
  check_all_registered();
  placement = served;
  const auto row = static_cast<std::size_t>(shape.num_logical_experts()) * kDispatchEntries;
  dispatch_tables.resize(static_cast<std::size_t>(shape.num_moe_layers()) * row);
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    build_dispatch_table(
        served.layer(layer), even_shares(served.layer(layer), shape.num_logical_experts()), shape,
        rank, std::span(dispatch_tables).subspan(static_cast<std::size_t>(layer) * row, row));
  }
}

void BalancerCore::make_worker(BeginPlan begin_plan) {
  const auto largest = std::ranges::max_element(expert_bytes) - expert_bytes.begin();
  auto pool = std::make_unique<StagingPool>(part_bytes[static_cast<std::size_t>(largest)],
                                            config.staging_bytes);
  staging_capacity = pool->capacity();

  const ServedState served = ServedState::even(placement, shape);
  WorkerOptions options;
  const PlannerConfig planner{config.policy, config.max_moves_per_layer, config.imbalance_trigger,
                              config.min_gain, config.window_assignments};
  options.swap = config.install_mode == InstallMode::kSwap;
  options.thread_init = config.thread_init;
  options.log = config.log;
  worker = std::make_unique<Worker>(shape, options, std::move(transport), ring, std::move(pool),
                                    make_thread_planning(planner, std::move(begin_plan)),
                                    local_slots(), served);
  started = true;
}

}  // namespace swiftbalancer
