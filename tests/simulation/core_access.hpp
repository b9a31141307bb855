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

inline std::unique_ptr<Core> make_core(const ClusterShape& shape, const BalancerConfig& config,
                                       int first_rank, WorkerSide::MakePlanning make_planning) {
  return std::make_unique<Core>(shape, config, first_rank, std::move(make_planning));
}
inline void register_weights(Core& core, int layer, int local_slot,
                             std::span<const WeightPart> parts) {
  core.register_weights(layer, local_slot, parts);
}
inline void start(Core& core, const Placement& served, std::unique_ptr<Transport> transport) {
  core.start_empty();
  core.serve(served, std::move(transport));
}
/// In place of start(), for a rank that joins.
inline void start_empty(Core& core) { core.start_empty(); }

// ---- Steps ----

inline Status begin(Core& core, const StepInfo& info) { return core.begin_step(info); }
inline void record(Core& core, int layer, std::span<const std::uint32_t> counts) {
  core.record(layer, counts);
}
inline Status end(Core& core) { return core.end_step(); }
inline bool in_step(const Core& core) { return core.in_step(); }
/// The last step begun.
inline std::uint64_t step_of(const Core& core) { return core.step(); }
/// The packet sets up to this step are complete here, as far as the core has heard.
inline std::uint64_t ready_step(const Core& core) { return core.mirror().ready_step(); }
inline void take_reports(Core& core) { core.take_reports(); }
inline void set_mode(Core& core, BalancingMode mode) { core.set_mode(mode); }

// ---- What is served ----

inline const ClusterShape& shape_of(const Core& core) { return core.shape(); }
/// This rank's number among the live ranks, and the first numbers of all of them.
inline int rank_of(const Core& core) { return core.rank(); }
inline std::span<const int> ranks_of(const Core& core) { return core.ranks(); }
inline int num_local_slots(const Core& core) { return core.experts().num_local_slots(); }
inline const Placement& placement(const Core& core) { return core.experts().placement(); }
/// Of the phase of the step.
inline DispatchView dispatch_view(const Core& core, int layer) {
  return core.dispatch_table(layer);
}
/// With TableKind::kDraw.
inline const DrawTable& draw_table(const Core& core, int layer) {
  return *core.experts().draw_table(layer);
}
inline std::span<std::byte* const> slot_parts(const Core& core, int layer, int local_slot) {
  return core.experts().parts(layer, local_slot);
}
inline std::span<const BalancerEvent> events(const Core& core) { return core.events(); }
inline const BalancerStats& stats(const Core& core) { return core.stats(); }
inline Health health(const Core& core) { return core.health(); }
/// What the worker has reported of this rank's planner.
inline bool planner_lost(const Core& core) { return core.mirror().planner_lost(); }
inline bool planner_off(const Core& core) { return core.planner_off_here(); }
/// The worker has reported a plan for the open generation, or that there is none.
inline bool has_answer(const Core& core) {
  return core.mirror().has_reached({.plan_ready = true}, *core.agreement());
}
/// Plans that are held here: ready, or active.
inline std::size_t num_plans(const Core& core) { return core.mirror().num_plans(); }

// ---- Agreement and membership ----

inline const Agreement& agreement(const Core& core) { return *core.agreement(); }
inline std::uint32_t membership_of(const Core& core) { return core.membership(); }
/// The newest packet set that was used in it, also between two.
inline std::uint64_t used_step(const Core& core) { return core.used_step(); }
/// Has entered a membership and is not between two.
inline bool serves(const Core& core) { return core.serves(); }
/// A whole reconfiguration; waits on the transport. If it goes well, the core has entered.
inline Status reconfigure(Core& core, std::span<const int> live_ranks,
                          std::unique_ptr<Transport> transport) {
  return core.reconfigure(live_ranks, std::move(transport));
}
/// The same, event by event. @param transport joins exactly the live ranks.
inline std::unique_ptr<Change> make_reconfiguration(Core& core, std::span<const int> live_ranks,
                                                    std::unique_ptr<Transport> transport) {
  return core.begin_reconfiguration(live_ranks, std::move(transport));
}
/// @returns true when it is over, with its status; if that is good, the core has entered.
inline bool advance(Core& core, Change& change, Status& status) {
  if (!change.advance()) return false;
  status = change.status();
  if (status.ok()) core.enter(change.take());
  return true;
}

// ---- Worker ----

/// Null before the first membership and between two, when it must not run.
inline Worker* worker(const Core& core) { return core.serves() ? core.worker() : nullptr; }
/// A plan is here, and what the engine needs of it is being worked out.
inline bool is_preparing(const Core& core) {
  return worker(core) != nullptr && worker(core)->is_preparing();
}
/// Whether a message that goes at once (eager) brings the leader's plan.
inline bool is_plan_tag(std::uint64_t tag) { return tag >> 61 == 1; }
inline std::uint64_t plan_tag(const GenerationId& generation) {
  return std::uint64_t{1} << 61 | generation.step;
}

}  // namespace swiftbalancer::simulation
