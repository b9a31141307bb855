// BalancerCore's set-up: what is checked and built before the first step.

#include <algorithm>
#include <numeric>
#include <string>

#include "runtime/balancer_core.hpp"
#include "runtime/config.hpp"

namespace swiftbalancer {
namespace {

std::string slot_name(int layer, int local_slot) {
  return "layer " + std::to_string(layer) + " slot " + std::to_string(local_slot);
}

void check_rank(int rank, const ClusterShape& shape) {
  if (rank >= 0 && rank < shape.num_ranks()) return;
  throw Error(ErrorCode::kInvalidArgument, "rank " + std::to_string(rank) +
                                               " does not exist; the shape has ranks 0 to " +
                                               std::to_string(shape.num_ranks() - 1));
}

}  // namespace

BalancerCore::BalancerCore(const ClusterShape& cluster_shape, const BalancerConfig& balancer_config,
                           int first_rank, std::unique_ptr<Transport> worker_transport)
    : first_shape(cluster_shape),
      shape(cluster_shape),
      config((validate(balancer_config, cluster_shape), balancer_config)),
      transport(std::move(worker_transport)),
      rank((check_rank(first_rank, shape), first_rank)),
      num_local_slots(shape.slots_per_rank(rank)),
      layout(shape),
      slot_parts(static_cast<std::size_t>(shape.num_moe_layers() * num_local_slots)),
      part_bytes(static_cast<std::size_t>(shape.num_moe_layers())),
      expert_bytes(static_cast<std::size_t>(shape.num_moe_layers()), 0),
      slot_contents(slot_parts.size(), kEmptySlot),
      counters(layout.num_counters(), 0) {
  ranks.resize(static_cast<std::size_t>(shape.num_ranks()));
  std::iota(ranks.begin(), ranks.end(), 0);
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
  if (transport->num_ranks() != shape.num_ranks()) {
    throw Error(ErrorCode::kInvalidArgument,
                "the transport joins " + std::to_string(transport->num_ranks()) +
                    " ranks, the shape has " + std::to_string(shape.num_ranks()));
  }
  const ConfigText mine = config_text(config, shape, &placement, part_bytes);
  std::vector<ConfigText> all(static_cast<std::size_t>(shape.num_ranks()));
  const auto handle = transport->post_all_gather(0, std::as_bytes(std::span(&mine, 1)),
                                                 std::as_writable_bytes(std::span(all)));
  wait_done(*transport, handle, Clock::now() + config.deadline).throw_if_failed();
  for (std::size_t peer = 0; peer < all.size(); ++peer) {
    const std::string difference = first_difference(all[0], all[peer]);
    if (difference.empty()) continue;
    throw Error(ErrorCode::kInvalidArgument, "rank 0 and rank " + std::to_string(peer) +
                                                 " were started differently: " + difference +
                                                 "; start all ranks alike");
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
  if (started) throw Error(ErrorCode::kInvalidState, "start() or join() called twice");
  swiftbalancer::validate(served, shape);
  check_all_registered();
  placement = served;
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    std::ranges::copy_n(served.layer(layer).begin() + shape.first_slot(rank), num_local_slots,
                        slot_contents.begin() + static_cast<std::ptrdiff_t>(index(layer, 0)));
  }
  take_memory();
}

void BalancerCore::serve_nothing() {
  if (started) throw Error(ErrorCode::kInvalidState, "start() or join() called twice");
  check_all_registered();
  take_memory();
}

// What a rank keeps through all memberships.
void BalancerCore::take_memory() {
  const auto largest = std::ranges::max_element(expert_bytes) - expert_bytes.begin();
  pool = std::make_unique<StagingPool>(part_bytes[static_cast<std::size_t>(largest)],
                                       config.staging_bytes);
  staging_capacity = pool->capacity();
  slot_memory = local_slots();
  const auto row = static_cast<std::size_t>(shape.num_logical_experts()) * kDispatchEntries;
  dispatch_tables.resize(static_cast<std::size_t>(shape.num_moe_layers()) * row);
  if (config.decode_dispatch == DispatchObjective::kActivatedExperts)
    decode_tables.resize(dispatch_tables.size());
}

void BalancerCore::begin_serving() {
  enter(shape, ranks, {}, ServedState::even(placement, shape), std::move(transport));
  started = true;
}

}  // namespace swiftbalancer
