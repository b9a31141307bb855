// The invariants of design section 6, checked in general: none of them knows of a particular fault.

#include <algorithm>
#include <cstring>

#include "simulation/sim_cluster.hpp"
#include "simulation/sim_rank.hpp"

namespace swiftbalancer::simulation {
namespace {

// The whole agreed state, not only the epochs.
std::vector<std::uint64_t> agreed_state(const Agreement& agreement) {
  std::vector<std::uint64_t> state(agreement.epochs().begin(), agreement.epochs().end());
  for (std::uint64_t word :
       {agreement.digest(), std::uint64_t{agreement.membership()}, agreement.last_open_step(),
        static_cast<std::uint64_t>(agreement.mode()), agreement.open_generation().step,
        std::uint64_t{agreement.open_generation().membership}, agreement.active_generation().step})
    state.push_back(word);
  if (agreement.active_plan() != nullptr) {
    state.push_back(agreement.active_plan()->hash);
    for (std::uint32_t unit = 0; unit < agreement.active_plan()->units.size(); ++unit)
      state.push_back(agreement.unit_pending(unit) ? 1 : 0);
  }
  return state;
}

}  // namespace

void SimCluster::violated(const std::string& what) const {
  throw Violation(what + "  [" + options_.to_string() + "]");
}

// Invariants 1, 2, 8: all ranks run a step on the same placement and the same agreed state.
void SimCluster::check_forward(const Rank& mine) {
  const BalancerCore& core = *mine.core;
  const auto now = std::pair(core.placement, agreed_state(*core.agreement));
  const auto [first, is_new] = forwards_.try_emplace(StepOf{core.begin.membership, core.step}, now);
  if (!is_new && first->second != now) {
    violated("rank " + std::to_string(mine.id) + " runs step " + std::to_string(core.step) +
             " on another agreed state than its peers");
  }
  // Same inputs, same plans.
  for (const BalancerEvent& event : core.events) {
    if (event.reason == Reason::kDifferentPlans && options_.planner_differs == 0)
      violated("the ranks made different plans of the same inputs");
  }
  for (int layer = 0; layer < shape_.num_moe_layers(); ++layer) {
    // Invariant 5: every logical expert always has a slot.
    if (!is_valid_layer(core.placement.layer(layer), core.shape))
      violated("layer " + std::to_string(layer) + " lost an expert");
  }
  check_tables(mine);
  check_slots(mine);
}

// Invariant 3: routing never names a slot that does not hold the expert, and names every slot that
// is to have a share of an expert's tokens.
void SimCluster::check_tables(const Rank& mine) const {
  const BalancerCore& core = *mine.core;
  const auto row = static_cast<std::size_t>(shape_.num_logical_experts()) * kDispatchEntries;
  for (int layer = 0; layer < shape_.num_moe_layers(); ++layer) {
    const DispatchView view(core.dispatch_tables.data() + static_cast<std::size_t>(layer) * row);
    for (int expert = 0; expert < shape_.num_logical_experts(); ++expert) {
      for (std::uint32_t ticket = 0; ticket < kDispatchEntries; ++ticket) {
        const auto slot = static_cast<std::size_t>(view.slot(expert, ticket));
        if (slot >= static_cast<std::size_t>(core.shape.num_slots()) ||
            core.placement.layer(layer)[slot] != expert)
          violated("the dispatch table names a slot of another expert");
      }
    }
  }
}

void SimCluster::check_slots(const Rank& mine) const {
  const BalancerCore& core = *mine.core;
  for (int layer = 0; layer < shape_.num_moe_layers(); ++layer) {
    for (int slot = 0; slot < core.num_local_slots; ++slot) {
      Weights weights;
      std::memcpy(&weights, core.slot_parts[core.index(layer, slot)][0], sizeof weights);
      const auto expert = core.placement.layer(
          layer)[static_cast<std::size_t>(core.shape.first_slot(core.rank) + slot)];
      if (expert == kEmptySlot || weights == Weights::of(layer, expert)) continue;
      violated("rank " + std::to_string(mine.id) + " layer " + std::to_string(layer) + " slot " +
               std::to_string(slot) + " holds expert " + std::to_string(weights.expert) +
               " of layer " + std::to_string(weights.layer) +
               " (or a mixture), the placement says " + std::to_string(expert));
    }
  }
}

// Invariants 5 and 6: what the worker takes for the loads of a set is what was routed, expert by
// expert.
void SimCluster::check_loads(const Rank& mine, std::uint64_t step) const {
  ExpertLoad routed(shape_.num_moe_layers(), shape_.num_logical_experts());
  for (int id : mine.core->ranks) {
    const auto found = rank(id).routed.find({mine.core->begin.membership, step});
    if (found == rank(id).routed.end())
      violated("a set of step " + std::to_string(step) + " is used that rank " +
               std::to_string(id) + " has not posted in this membership");
    for (int layer = 0; layer < shape_.num_moe_layers(); ++layer) {
      const auto part = found->second.layer(layer);
      for (std::size_t expert = 0; expert < part.size(); ++expert)
        routed.layer(layer)[expert] += part[expert];
    }
  }
  if (mine.core->worker->last_observed() != routed) {
    violated("loads of step " + std::to_string(step) +
             " are attributed to other experts than they were routed to");
  }
}

// At the end, with no plan active, every buffer is back.
void SimCluster::check_nothing_leaks() {
  for (bool busy = true; busy;) {  // until the network is quiet
    busy = false;
    for (const auto& each : ranks_) {
      if (!each->alive || each->worker_stopped) continue;
      try {
        busy |= each->core->worker->run_once();
      } catch (const Error& error) {
        if (error.code() != ErrorCode::kTransport) throw;
        each->worker_stopped = true;
      }
    }
    for (const auto& event : networks_.back()->possible()) {
      networks_.back()->happen(event, SimNetwork::Fate::kGood);
      busy = true;
      break;
    }
  }
  for (const auto& each : ranks_) {
    if (!each->alive || each->worker_stopped || each->core->agreement->active_plan() != nullptr)
      continue;
    if (each->core->worker->num_free_buffers() != options_.staging_experts) {
      violated("rank " + std::to_string(each->id) + " has " +
               std::to_string(each->core->worker->num_free_buffers()) + " free buffers of " +
               std::to_string(options_.staging_experts) + " with no plan active");
    }
  }
}

}  // namespace swiftbalancer::simulation
