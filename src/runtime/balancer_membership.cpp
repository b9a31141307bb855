// BalancerCore from one membership to the next (rules 12 to 14).

#include <algorithm>
#include <string>

#include "core/test_fault.hpp"
#include "planner/metro.hpp"
#include "runtime/balancer_core.hpp"
#include "runtime/config.hpp"
#include "runtime/planner_process/process_planning.hpp"
#include "runtime/reconfiguration.hpp"

namespace swiftbalancer {

Status BalancerCore::reconfigure(std::span<const int> live_ranks,
                                 std::unique_ptr<Transport> new_transport, bool joins) {
  Reconfiguration change(*this, live_ranks, std::move(new_transport), joins);
  const auto deadline = Clock::now() + config.deadline;
  while (!change.advance()) {
    if (Status waited = change.transport().wait(deadline); !waited.ok()) {
      if (change.advance()) break;
      return waited;
    }
  }
  if (change.status().ok()) worker->launch();
  return change.status();
}

// Rule 12: nothing is discarded; what the worker has reported so far counts.
void BalancerCore::freeze() noexcept {
  frozen = true;
  in_step = false;
  if (worker == nullptr) return;
  worker->stop();
  take_reports();
}

// Rule 13.
Status BalancerCore::roll_forward(std::span<const std::uint64_t> target_epochs) {
  if (worker == nullptr) return {};
  events.clear();
  if (faulty(Fault::kDiscardOnNotice)) {
    static_cast<void>(agreement->roll_forward(agreement->epochs(), decisions));
    for (const Decision& decision : decisions) static_cast<void>(carry_out(decision));
  }
  if (Status status = agreement->roll_forward(target_epochs, decisions); !status.ok())
    return status;
  for (const Decision& decision : decisions) {
    if (Status status = carry_out(decision); !status.ok()) return status;
  }
  try {
    worker->carry_out_remaining();
  } catch (const Error& error) {
    return {error.code(), error.what()};
  }
  stats.dropped_samples += (step - std::min(step, ready_step)) / config.packet_interval;
  begin.epochs.assign(agreement->epochs().begin(), agreement->epochs().end());
  begin.last_open_step = agreement->last_open_step();
  begin.mode = agreement->mode();
  // With it goes the old transport, and with that every transfer of the old membership: the fence.
  worker.reset();
  return {};
}

void BalancerCore::enter(const ClusterShape& live_shape, std::vector<int> live_ranks,
                         const AgreedState& state, const ServedState& served,
                         std::unique_ptr<Transport> new_transport) {
  if (started) note_losses(live_ranks);
  shape = live_shape;
  ranks = std::move(live_ranks);
  rank = new_transport->rank();
  begin = state;
  step = state.step;
  transport = std::move(new_transport);
  worker.reset();
  ring.emplace(PacketLayout(shape), shape.num_ranks(), config.packet_interval, config.packet_lag);
  AgreementConfig agreed;
  agreed.rank = rank;
  agreed.num_ranks = shape.num_ranks();
  agreed.num_moe_layers = shape.num_moe_layers();
  agreed.packet_interval = config.packet_interval;
  agreed.packet_lag = config.packet_lag;
  agreed.rebalance_interval = config.rebalance_interval;
  agreed.max_open_sets = config.max_open_sets;
  agreed.leader_plans = config.control_mode == ControlMode::kLeader;
  agreement.emplace(agreed, state);
  agreement->ask_mode(asked_mode);
  headers.assign(static_cast<std::size_t>(shape.num_ranks()), {});
  close_window();
  layout = PacketLayout(shape);
  counters.assign(layout.num_counters(), 0);
  idle_window = true;
  const auto units = static_cast<std::size_t>(shape.num_moe_layers()) * 4;
  decisions.reserve(units);
  events.reserve(units);
  placement = served.placement;
  build_tables(served);
  make_worker(served);
}

// The ranks left have gone on: what was wrong before went with the old membership.
void BalancerCore::note_losses(std::span<const int> live_ranks) {
  std::string lost;
  for (const int each : ranks) {
    if (std::ranges::find(live_ranks, each) == live_ranks.end())
      lost += (lost.empty() ? "" : ", ") + std::to_string(each);
  }
  if (!lost.empty()) {
    const std::string reason = "rank " + lost + " lost at step " + std::to_string(step) + "; " +
                               std::to_string(live_ranks.size()) + " ranks go on";
    if (health.ok) {
      fail(reason);
    } else if (!planner_off) {
      health.reason = reason;
    }
  }
  health.ok = !planner_off;
}

void BalancerCore::build_tables(const ServedState& served) {
  const auto row = static_cast<std::size_t>(shape.num_logical_experts()) * kDispatchEntries;
  DispatchTableBuilder tables(shape, config.locality_first);
  draw_tables.clear();
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    const auto at = static_cast<std::size_t>(layer);
    tables.build(served.placement.layer(layer), served.shares[at], rank,
                 std::span(dispatch_tables).subspan(at * row, row));
    if (config.table_kind == TableKind::kDraw)
      draw_tables.emplace_back(shape).build(served.placement.layer(layer), served.shares[at]);
    if (decode_tables.empty()) continue;
    tables.build(served.placement.layer(layer),
                 one_slot_shares(shape, served.placement.layer(layer)), rank,
                 std::span(decode_tables).subspan(at * row, row));
  }
}

// A history begins anew with a membership, so the planner does too: what it plans by depends on the
// ranks.
void BalancerCore::make_planning() {
  const bool plans_here = config.control_mode == ControlMode::kReplicated || rank == 0;
  if (!plans_here || config.worker == WorkerKind::kProcess) {
    restarts_before = health.planner_restarts;
    health.planner_running = !planner_off;
  }
  if (faulty(Fault::kPlannerKept) && planning != nullptr) return;
  planning.reset();
  if (!plans_here) return;
  if (own_planning) {
    planning = own_planning();
    return;
  }
  const PlannerConfig planner = planner_config(config, first_shape, ranks, expert_bytes);
  if (config.worker == WorkerKind::kProcess) {
    planning = make_process_planning(planner, {.program = config.planner_program,
                                               .max_restarts = config.planner_restarts,
                                               .deadline = config.planner_deadline});
  } else {
    planning = make_thread_planning(planner, config.planner_restarts);
  }
}

void BalancerCore::make_worker(const ServedState& served) {
  make_planning();
  WorkerOptions options;
  options.swap = config.install_mode == InstallMode::kSwap;
  options.control_mode = config.control_mode;
  options.thread_init = config.thread_init;
  options.locality_first = config.locality_first;
  options.decode_dispatch = config.decode_dispatch;
  options.log = config.log;
  worker = std::make_unique<Worker>(shape, options, std::move(transport),
                                    Worker::Belongings{*ring, *pool, slot_memory, planning.get()},
                                    begin, served);
  ready_step = observed_step = step;
  ready_plan = nullptr;
  failed_generation = staged_generation = {};
  staged_cursor = 0;
  dropped_known = 0;
  failed_unit = kNoUnit;
  wants_rebalance = planner_lost = stopped = frozen = false;
  if (planner_off) agreement->planner_off();
}

}  // namespace swiftbalancer
