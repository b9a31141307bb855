#pragma once
// The one place where the simulation reaches into the runtime: a rank's core (the engine thread's
// half of a Balancer), its worker, and a reconfiguration. Whatever else the simulation does goes
// through these functions, so that a change of the runtime's inside is followed here alone.

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <swiftbalancer/balancer.hpp>

#include "runtime/balancer_core.hpp"
#include "runtime/reconfiguration.hpp"

namespace swiftbalancer::simulation {

using Core = BalancerCore;
using Change = Reconfiguration;

// ---- Set-up ----

/// @param transport null for a rank that joins: it gets one with its reconfiguration.
inline std::unique_ptr<Core> make_core(const ClusterShape& shape, const BalancerConfig& config,
                                       int first_rank, std::unique_ptr<Transport> transport,
                                       std::function<std::unique_ptr<Planning>()> make_planning) {
  auto core = std::make_unique<Core>(shape, config, first_rank, std::move(transport));
  core->own_planning = std::move(make_planning);
  return core;
}
inline void register_weights(Core& core, int layer, int local_slot,
                             std::span<const WeightPart> parts) {
  core.register_weights(layer, local_slot, parts);
}
inline void start(Core& core, const Placement& served) {
  core.serve(served);
  core.begin_serving();
}
/// In place of start(), for a rank that joins.
inline void start_empty(Core& core) { core.serve_nothing(); }

// ---- Steps ----

inline Status begin(Core& core, const StepInfo& info) { return core.begin_step(info); }
inline void record(Core& core, int layer, std::span<const std::uint32_t> counts) {
  core.record(layer, counts);
}
inline Status end(Core& core) { return core.end_step(); }
inline bool in_step(const Core& core) { return core.in_step; }
/// The last step begun.
inline std::uint64_t step_of(const Core& core) { return core.step; }
/// The packet sets up to this step are complete here, as far as the core has heard.
inline std::uint64_t ready_step(const Core& core) { return core.ready_step; }
inline void take_reports(Core& core) { core.take_reports(); }
/// The planner's evidence calls for a rebalance, in the next packet.
inline void request_rebalance(Core& core, bool wanted) { core.wants_rebalance = wanted; }
inline void set_mode(Core& core, BalancingMode mode) {
  core.asked_mode = mode;
  core.agreement->ask_mode(mode);
}

// ---- What is served ----

inline const ClusterShape& shape_of(const Core& core) { return core.shape; }
/// This rank's number among the live ranks, and the first numbers of all of them.
inline int rank_of(const Core& core) { return core.rank; }
inline std::span<const int> ranks_of(const Core& core) { return core.ranks; }
inline int num_local_slots(const Core& core) { return core.num_local_slots; }
inline const Placement& placement(const Core& core) { return core.placement; }
/// Of the phase of the step.
inline DispatchView dispatch_view(const Core& core, int layer) {
  const auto row = static_cast<std::size_t>(core.shape.num_logical_experts()) * kDispatchEntries;
  return DispatchView(core.tables_of_phase().data() + static_cast<std::size_t>(layer) * row);
}
/// With TableKind::kDraw.
inline const DrawTable& draw_table(const Core& core, int layer) {
  return core.draw_tables[static_cast<std::size_t>(layer)];
}
inline std::span<std::byte* const> slot_parts(const Core& core, int layer, int local_slot) {
  return core.slot_parts[core.index(layer, local_slot)];
}
inline std::span<const BalancerEvent> events(const Core& core) { return core.events; }
inline const BalancerStats& stats(const Core& core) { return core.stats; }
inline Health health(const Core& core) {
  Health health = core.health;
  health.mode = core.agreement->mode();
  return health;
}
/// What the worker has reported of this rank's planner.
inline bool planner_lost(const Core& core) { return core.planner_lost; }
inline bool planner_off(const Core& core) { return core.planner_off; }
/// Plans that are held here: ready, or active.
inline std::size_t num_plans(const Core& core) { return core.plans.size(); }

// ---- Agreement and membership ----

inline const Agreement& agreement(const Core& core) { return *core.agreement; }
inline std::uint32_t membership_of(const Core& core) { return core.begin.membership; }
/// Has entered a membership and is not between two.
inline bool serves(const Core& core) { return core.started && !core.frozen; }
/// @param transport joins exactly the live ranks. @param joins the core has served nothing yet.
inline std::unique_ptr<Change> make_reconfiguration(Core& core, std::span<const int> live_ranks,
                                                    std::unique_ptr<Transport> transport,
                                                    bool joins) {
  return std::make_unique<Change>(core, live_ranks, std::move(transport), joins);
}
/// @returns true when it is over, with its status; if that is good, the core has entered.
inline bool advance(Core& core, Change& change, Status& status) {
  if (!change.advance()) return false;
  status = change.status();
  if (status.ok()) core.started = true;
  return true;
}

// ---- Worker ----

/// Null before the first membership and between two, when it must not run.
inline Worker* worker(const Core& core) { return core.frozen ? nullptr : core.worker.get(); }
/// Whether a message that goes at once (eager) brings the leader's plan.
inline bool is_plan_tag(std::uint64_t tag) { return tag >> 61 == 1; }
inline std::uint64_t plan_tag(const GenerationId& generation) {
  return std::uint64_t{1} << 61 | generation.step;
}

}  // namespace swiftbalancer::simulation
