#include "runtime/balancer_core.hpp"

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

#include "core/test_fault.hpp"

namespace swiftbalancer {

// ---- The four calls ----

Status BalancerCore::begin_step(const StepInfo& info) {
  if (!started || frozen || in_step || info.step != step + 1) {
    return {ErrorCode::kInvalidArgument,
            "begin_step(" + std::to_string(info.step) + ") out of order; next is step " +
                std::to_string(step + 1) + ", after start(), end_step() and reconfigure()"};
  }
  step = info.step;
  in_step = true;
  phase = info.phase;
  if (!info.idle) {
    window_phase = idle_window || window_phase == info.phase ? info.phase : Phase::kMixed;
    idle_window = false;
  }
  ++stats.steps;
  events.clear();
  send_releases();
  std::optional<std::uint64_t> due = agreement->set_due(step);
  if (faulty(Fault::kEarlyUse)) {  // as soon as it is here, which is sooner on some ranks
    const std::uint64_t next =
        (agreement->used_step() / config.packet_interval + 1) * config.packet_interval;
    due = ready_step >= next || due == next ? std::optional(next) : std::nullopt;
  }
  if (due) {
    if (Status status = use_set(*due); !status.ok()) {
      fail(status.message());
      return status;
    }
  }
  worker->flush();
  return {};
}

void BalancerCore::record(int layer, std::span<const std::uint32_t> counts) noexcept {
  std::uint32_t* now = counters.data() + layout.counter(layer, 1, 0);
  const std::size_t slots = std::min(counts.size(), static_cast<std::size_t>(num_local_slots));
  for (std::size_t slot = 0; slot < slots; ++slot) now[slot] += counts[slot];
}

Status BalancerCore::end_step() {
  if (!in_step) return {ErrorCode::kInvalidArgument, "end_step() without begin_step()"};
  in_step = false;
  const Status posted = agreement->packet_due(step) ? post_packet(step) : Status();
  worker->flush();
  return posted;
}

Status BalancerCore::post_packet(std::uint64_t posted_step) {
  take_reports();
  tell_agreement();
  const std::uint32_t slot = ring->slot_of(posted_step);
  const auto packet = ring->mine(slot);
  PacketHeader header;
  header.phase = static_cast<std::uint32_t>(window_phase);
  header.flags = idle_window ? kIdle : 0U;
  agreement->fill_packet(posted_step, header);
  std::memcpy(packet.data(), &header, sizeof header);
  std::memcpy(packet.data() + sizeof header, counters.data(), counters.size() * sizeof counters[0]);
  close_window();
  return send({.kind = Command::Kind::kPostPacket, .slot = slot, .step = posted_step});
}

// Here and not in record(): the pass over all slots is due once a packet, not once a layer and
// step.
void BalancerCore::close_window() noexcept {
  if (!received.empty()) {
    for (int layer = 0; layer < shape.num_moe_layers(); ++layer)
      add_counters(layer, std::span(received).subspan(index(layer, 0)));
  }
  std::ranges::fill(counters, 0U);
  idle_window = true;
  window_phase = Phase::kMixed;
}

void BalancerCore::add_counters(int layer, std::span<std::int64_t> total) const noexcept {
  const std::uint32_t* before = counters.data() + layout.counter(layer, 0, 0);
  const std::uint32_t* now = counters.data() + layout.counter(layer, 1, 0);
  const std::size_t slots = std::min(total.size(), static_cast<std::size_t>(num_local_slots));
  for (std::size_t slot = 0; slot < slots; ++slot)
    total[slot] += std::int64_t{before[slot]} + std::int64_t{now[slot]};
}

void BalancerCore::received_tokens(int layer, std::span<std::int64_t> out) {
  if (received.empty()) received.assign(slot_parts.size(), 0);
  const std::size_t slots = std::min(out.size(), static_cast<std::size_t>(num_local_slots));
  std::copy_n(received.begin() + static_cast<std::ptrdiff_t>(index(layer, 0)), slots, out.begin());
  add_counters(layer, out);
}

// ---- Packet sets ----

// By the rules only packets can be waited for; plans and copies go through here too, so that a wait
// would be seen.
template <typename Ready>
Status BalancerCore::wait_until(std::uint64_t& waits, const char* what, Ready ready) {
  if (ready()) return {};
  take_reports();
  if (ready() || faulty(Fault::kGoOnAlone)) return {};
  ++waits;
  const auto start = Clock::now();
  const auto deadline = start + config.deadline;
  while (!ready() && !stopped && Clock::now() < deadline) {
    worker->wait_for_report(deadline);
    take_reports();
  }
  stats.wait_time += Clock::now() - start;
  if (ready()) return {};
  if (stopped) return worker->failure();
  return {ErrorCode::kTimeout, "rank " + std::to_string(rank) + " waited " +
                                   std::to_string(config.deadline.count()) + " ms at step " +
                                   std::to_string(step) + " for " + what +
                                   "; its worker says: " + worker->waiting_for()};
}

Status BalancerCore::use_set(std::uint64_t set_step) {
  Status arrived = wait_until(stats.waits_for_packets, "the packets of the other ranks",
                              [&] { return ready_step >= set_step; });
  if (!arrived.ok()) return arrived;
  const std::uint32_t slot = ring->slot_of(set_step);
  for (int peer = 0; peer < shape.num_ranks(); ++peer) {  // The worker has checked them.
    std::memcpy(&headers[static_cast<std::size_t>(peer)], ring->packet(slot, peer).data(),
                sizeof(PacketHeader));
  }
  if (faulty(Fault::kRefreshPacket))
    agreement->fill_packet(set_step, headers[static_cast<std::size_t>(rank)]);
  ++stats.packet_sets;
  if (Status status = agreement->use_set(set_step, headers, decisions); !status.ok()) return status;
  for (const Decision& decision : decisions) {
    if (Status status = carry_out(decision); !status.ok()) return status;
  }
  return send({.kind = Command::Kind::kObserve, .slot = slot, .step = set_step});
}

Status BalancerCore::carry_out(const Decision& decision) {
  add_event(decision);
  tell_failure(decision);
  Command command{
      .unit = decision.unit, .reason = decision.reason, .generation = decision.generation};
  switch (decision.kind) {
    case DecisionKind::kDrop:
      command.kind = Command::Kind::kDrop;
      ++stats.units_dropped;
      break;
    case DecisionKind::kCommit:
      command.kind = Command::Kind::kCommitted;
      if (Status status = install(*decision.plan, decision.unit); !status.ok()) return status;
      seen_to_work(decision.generation);
      break;
    case DecisionKind::kRetire:
      command.kind = Command::Kind::kRetire;
      release_later(decision.plan);
      break;
    case DecisionKind::kAdopt:
      command.kind = Command::Kind::kAdopt;
      if (Status status = wait_until(stats.waits_for_plans, "a plan",
                                     [&] { return prepared(decision.plan) != nullptr; });
          !status.ok()) {
        return status;
      }
      command.plan = prepared(decision.plan);
      ready_plan = nullptr;
      staged_generation = decision.generation;
      staged_cursor = 0;
      failed_unit = kNoUnit;
      ++stats.plans_adopted;
      stats.plan_step = step;
      note_prediction(*decision.plan);
      break;
    case DecisionKind::kClose:
      command.kind = Command::Kind::kClose;
      count_close(decision);
      if (ready_plan != nullptr) release_later(&ready_plan->migration);
      ready_plan = nullptr;
      break;
    case DecisionKind::kOpen:
      command.kind = Command::Kind::kOpen;
      ++stats.generations_opened;
      break;
    case DecisionKind::kResetPlanner:
      command.kind = Command::Kind::kResetPlanner;
      planner_lost = wants_rebalance = false;
      ++stats.planner_resets;
      break;
    case DecisionKind::kBalancingOff:
      return {};
  }
  return send(command);
}

void BalancerCore::count_close(const Decision& decision) {
  if (decision.reason == Reason::kNothingToGain) {
    ++stats.plans_empty;
    seen_to_work(decision.generation);
  } else if (decision.reason == Reason::kPlanOnly) {
    ++stats.plans_shadowed;
    seen_to_work(decision.generation);
  } else {
    ++stats.plans_dropped;
  }
  if (decision.plan != nullptr) note_prediction(*decision.plan);
}

void BalancerCore::note_prediction(const MigrationPlan& plan) noexcept {
  stats.plan_imbalance_before = plan.imbalance_before;
  stats.plan_imbalance_after = plan.imbalance_after;
}

// A lost command would leave worker and engine with different views: better no step than a wrong
// one.
Status BalancerCore::send(const Command& command) noexcept {
  if (worker->send(command)) return {};
  return {ErrorCode::kInternal, "rank " + std::to_string(rank) + ": the worker's queue is full"};
}

// What goes wrong is said once, with what is needed to look into it (rule 4: different plans, with
// the hashes).
void BalancerCore::tell_failure(const Decision& decision) {
  const std::string generation = "generation " + std::to_string(decision.generation.step);
  if (decision.reason == Reason::kDifferentPlans) {
    std::string hashes;
    for (const PacketHeader& packet : headers) {
      if (packet.open_step != decision.generation.step || packet.plan_hash == 0) continue;
      hashes += " rank " + std::to_string(packet.rank) + " " + std::to_string(packet.plan_hash);
    }
    fail(generation + " closed, the ranks made different plans:" + hashes);
  } else if (decision.reason == Reason::kTooLate) {
    fail(generation + " closed, not all ranks had a plan in time");
  } else if (decision.reason == Reason::kPlannerFailed) {
    fail(generation + " closed, planning failed on a rank");
  } else if (decision.reason == Reason::kCopyFailed) {
    fail(generation + ": a copy of MoE layer " +
         std::to_string(decision.plan->units[decision.unit].moe_layer_id) + " failed");
  } else if (decision.kind == DecisionKind::kDrop && decision.reason == Reason::kTooOld) {
    fail(generation + " ended, rank " + std::to_string(decision.rank) +
         " did not get its copies in time");
  } else if (decision.kind == DecisionKind::kBalancingOff && decision.rank != rank) {
    fail("the planner of rank " + std::to_string(decision.rank) +
         " is gone for good: balancing is off");
  }
}

// Weights and maps together, in place. Rule 15: what was counted so far was counted under the
// placement before.
Status BalancerCore::install(const MigrationPlan& plan, std::uint32_t unit_id) {
  const CommitUnit& unit = plan.units[unit_id];
  const PreparedUnit& ready = prepared(&plan)->units[unit_id];
  const int layer = unit.moe_layer_id;
  Status staged =
      wait_until(stats.waits_for_copies, "a copy", [&] { return staged_cursor > unit_id; });
  if (!staged.ok()) return staged;
  const auto& sizes = part_bytes[static_cast<std::size_t>(layer)];
  for (const Install& expert : ready.installs) {
    auto& parts = slot_parts[index(layer, expert.local_slot)];
    if (expert.parts.size() != parts.size())
      return {ErrorCode::kInternal, "unit " + std::to_string(unit_id) + " is not staged here"};
    for (std::size_t part = 0; part < parts.size(); ++part) {
      if (config.install_mode == InstallMode::kSwap) {
        parts[part] = expert.parts[part];
      } else {
        std::memcpy(parts[part], expert.parts[part], sizes[part]);
      }
    }
  }
  std::ranges::copy(unit.placement, placement.layer(layer).begin());
  std::ranges::copy_n(unit.placement.begin() + shape.first_slot(rank), num_local_slots,
                      slot_contents.begin() + static_cast<std::ptrdiff_t>(index(layer, 0)));
  if (!faulty(Fault::kStaleTable)) {
    const auto row = static_cast<std::size_t>(shape.num_logical_experts()) * kDispatchEntries;
    const std::size_t at = static_cast<std::size_t>(layer) * row;
    ready.dispatch_rows.copy_to(std::span(dispatch_tables).subspan(at, row));
    if (!decode_tables.empty())
      ready.decode_rows.copy_to(std::span(decode_tables).subspan(at, row));
    if (!draw_tables.empty())
      draw_tables[static_cast<std::size_t>(layer)].build(unit.placement, unit.shares);
  }
  std::uint32_t* before = counters.data() + layout.counter(layer, 0, 0);
  std::uint32_t* now = counters.data() + layout.counter(layer, 1, 0);
  for (int slot = 0; slot < num_local_slots && !faulty(Fault::kLoadsUnsplit); ++slot)
    before[slot] += std::exchange(now[slot], 0U);
  ++stats.units_committed;
  stats.moves += static_cast<std::uint64_t>(ready.moves);
  stats.migrated_bytes +=
      static_cast<std::uint64_t>(ready.moves) * expert_bytes[static_cast<std::size_t>(layer)];
  return {};
}

void BalancerCore::add_event(const Decision& decision) {
  if (decision.kind == DecisionKind::kResetPlanner || decision.kind == DecisionKind::kBalancingOff)
    return;
  const auto kind = [&decision] {
    switch (decision.kind) {
      case DecisionKind::kDrop:
        return BalancerEventKind::kDropped;
      case DecisionKind::kCommit:
        return BalancerEventKind::kCommitted;
      case DecisionKind::kRetire:
        return BalancerEventKind::kRetired;
      case DecisionKind::kAdopt:
        return BalancerEventKind::kAdopted;
      case DecisionKind::kClose:
        return BalancerEventKind::kClosed;
      case DecisionKind::kOpen:
      case DecisionKind::kResetPlanner:
      case DecisionKind::kBalancingOff:
        break;
    }
    return BalancerEventKind::kOpened;
  };
  events.push_back({kind(), decision.reason, decision.generation, decision.unit, decision.plan});
}

// ---- Plans ----

PreparedPlan* BalancerCore::prepared(const MigrationPlan* plan) noexcept {
  const auto found = std::ranges::find_if(
      plans, [plan](const PreparedPlan* each) { return &each->migration == plan; });
  return found != plans.end() ? *found : nullptr;
}

// Events of this step point into the plan: it goes at the next begin_step.
void BalancerCore::release_later(const MigrationPlan* plan) {
  PreparedPlan* released = prepared(plan);
  std::erase(plans, released);
  to_release.push_back(released);
}

void BalancerCore::send_releases() noexcept {
  for (PreparedPlan* plan : to_release) {
    if (!worker->send({.kind = Command::Kind::kRelease, .plan = plan})) delete plan;
  }
  to_release.clear();
}

}  // namespace swiftbalancer
