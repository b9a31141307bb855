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
  const Core& core = *mine.core;
  const auto now = std::pair(placement(core), agreed_state(agreement(core)));
  const auto [first, is_new] =
      forwards_.try_emplace(StepOf{membership_of(core), step_of(core)}, now);
  if (!is_new && first->second != now) {
    violated("rank " + std::to_string(mine.id) + " runs step " + std::to_string(step_of(core)) +
             " on another agreed state than its peers");
  }
  // Same inputs, same plans.
  for (const BalancerEvent& event : events(core)) {
    if (event.reason == Reason::kDifferentPlans && options_.planner_differs == 0)
      violated("the ranks made different plans of the same inputs");
  }
  for (int layer = 0; layer < shape_.num_moe_layers(); ++layer) {
    // Invariant 5: every logical expert always has a slot.
    if (!is_valid_layer(placement(core).layer(layer), shape_of(core)))
      violated("layer " + std::to_string(layer) + " lost an expert");
  }
  check_tables(mine);
  check_slots(mine);
}

// Invariant 3: routing never names a slot that does not hold the expert, and names every slot that
// is to have a share of an expert's tokens.
void SimCluster::check_tables(const Rank& mine) const {
  const Core& core = *mine.core;
  for (int layer = 0; layer < shape_.num_moe_layers(); ++layer) {
    const DispatchView view = dispatch_view(core, layer);
    for (int expert = 0; expert < shape_.num_logical_experts(); ++expert) {
      for (std::uint32_t ticket = 0; ticket < kDispatchEntries; ++ticket) {
        const auto slot = static_cast<std::size_t>(view.slot(expert, ticket));
        if (slot >= static_cast<std::size_t>(shape_of(core).num_slots()) ||
            placement(core).layer(layer)[slot] != expert)
          violated("the dispatch table names a slot of another expert");
      }
    }
  }
}

void SimCluster::check_slots(const Rank& mine) const {
  const Core& core = *mine.core;
  for (int layer = 0; layer < shape_.num_moe_layers(); ++layer) {
    for (int slot = 0; slot < num_local_slots(core); ++slot) {
      Weights weights;
      std::memcpy(&weights, slot_parts(core, layer, slot)[0], sizeof weights);
      const auto expert = placement(core).layer(
          layer)[static_cast<std::size_t>(shape_of(core).first_slot(rank_of(core)) + slot)];
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
  for (int id : ranks_of(*mine.core)) {
    const auto found = rank(id).routed.find({membership_of(*mine.core), step});
    if (found == rank(id).routed.end())
      violated("a set of step " + std::to_string(step) + " is used that rank " +
               std::to_string(id) + " has not posted in this membership");
    for (int layer = 0; layer < shape_.num_moe_layers(); ++layer) {
      const auto part = found->second.layer(layer);
      for (std::size_t expert = 0; expert < part.size(); ++expert)
        routed.layer(layer)[expert] += part[expert];
    }
  }
  if (worker(*mine.core)->last_observed() != routed) {
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
        busy |= worker(*each->core)->run_once();
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
    if (!each->alive || each->worker_stopped || agreement(*each->core).active_plan() != nullptr)
      continue;
    if (worker(*each->core)->num_free_buffers() != options_.staging_experts) {
      violated("rank " + std::to_string(each->id) + " has " +
               std::to_string(worker(*each->core)->num_free_buffers()) + " free buffers of " +
               std::to_string(options_.staging_experts) + " with no plan active");
    }
  }
}

}  // namespace swiftbalancer::simulation
