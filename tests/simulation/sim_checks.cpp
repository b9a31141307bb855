// Invariants of what is served: placements, tables, weights, loads, and that nothing is lost.

#include <algorithm>
#include <cstdlib>

#include "simulation/sim_cluster.hpp"
#include "simulation/sim_rank.hpp"

namespace swiftbalancer::simulation {
namespace {

std::size_t index(int value) { return static_cast<std::size_t>(value); }

template <typename Words>
std::uint64_t mix_all(std::uint64_t digest, const Words& words) {
  for (const auto word : words) digest = mix(digest, static_cast<std::uint64_t>(word));
  return digest;
}

std::uint64_t digest_of(const Served& served) {
  std::uint64_t digest = 0;
  for (int layer = 0; layer < served.placement.num_moe_layers(); ++layer)
    digest = mix_all(mix_all(digest, served.placement.layer(layer)), served.shares[index(layer)]);
  return digest;
}

// The whole agreed state, not only the epochs.
std::uint64_t digest_of(const Agreement& agreement) {
  std::uint64_t digest = mix_all(agreement.membership(), agreement.epochs());
  for (std::uint64_t word :
       {agreement.digest(), agreement.last_open_step(),
        static_cast<std::uint64_t>(agreement.mode()), agreement.open_generation().step,
        std::uint64_t{agreement.open_generation().membership}, agreement.active_generation().step})
    digest = mix(digest, word);
  if (agreement.active_plan() == nullptr) return digest;
  digest = mix(digest, agreement.active_plan()->hash);
  for (std::uint32_t unit = 0; unit < agreement.active_plan()->units.size(); ++unit)
    digest = mix(digest, agreement.unit_pending(unit) ? 1 : 0);
  return digest;
}

}  // namespace

// Invariants 1, 2, 8: all ranks run a step on the same placement and the same agreed state,
// whenever they get there.
void SimCluster::check_forward(Rank& mine) {
  const Core& core = *mine.core;
  if (placement(core) != mine.served.placement)
    violated(mine, "the placement is not what was committed");
  const Forward now{digest_of(mine.served), digest_of(agreement(core))};
  const auto [first, is_new] =
      forwards_.try_emplace(StepOf{membership_of(core), step_of(core)}, now);
  if (first->second.served != now.served)
    violated(mine, "runs on another placement than its peers");
  if (first->second.agreed != now.agreed)
    violated(mine, "runs on another agreed state than its peers");
  for (int layer = 0; is_new && layer < shape_.num_moe_layers(); ++layer) {
    // Invariant 5: every logical expert always has a slot.
    if (!is_valid_layer(placement(core).layer(layer), shape_of(core)))
      violated(mine, "layer " + std::to_string(layer) + " lost an expert");
  }
  check_tables(mine);
  check_slots(mine);
}

// Invariant 3: routing never names a slot that does not hold the expert, and divides an expert's
// tokens over its slots as planned.
void SimCluster::check_tables(Rank& mine) {
  const bool by_one_slot = drawn_.decode_tables && mine.phase == Phase::kDecode;
  bool& unchecked = by_one_slot ? mine.one_slots_unchecked : mine.shares_unchecked;
  if (!unchecked && !chance(6)) return;
  unchecked = false;
  std::uint64_t choices = 0;
  for (int layer = 0; layer < shape_.num_moe_layers(); ++layer) {
    if (by_one_slot) {
      check_one_slot_table(mine, layer, choices);
    } else {
      check_shares_table(mine, layer);
    }
    if (drawn_.draw_tables) check_draws(mine, layer);
  }
  if (!by_one_slot) return;
  const StepOf now{membership_of(*mine.core), step_of(*mine.core)};
  if (one_slot_choices_.try_emplace(now, choices).first->second != choices)
    violated(mine, "a decode table sends an expert's tokens elsewhere than its peers'");
}

// Of an expert's entries each slot has its share, within one entry.
void SimCluster::check_shares_table(const Rank& mine, int layer) const {
  constexpr int kEntryShare = kShareUnit / kDispatchEntries;
  const DispatchView view = dispatch_view(*mine.core, layer);
  const auto slots = mine.served.placement.layer(layer);
  std::vector<int> entries(slots.size(), 0);
  for (int expert = 0; expert < shape_.num_logical_experts(); ++expert) {
    for (std::uint32_t ticket = 0; ticket < kDispatchEntries; ++ticket) {
      const auto slot = static_cast<std::size_t>(view.slot(expert, ticket));
      if (slot >= slots.size() || slots[slot] != expert)
        violated(mine, "the dispatch table names a slot of another expert");
      ++entries[slot];
    }
  }
  for (std::size_t slot = 0; slot < slots.size(); ++slot) {
    const int share = static_cast<int>(mine.served.shares[index(layer)][slot]);
    const int given = entries[slot] * kEntryShare;
    if (std::abs(given - share) < kEntryShare && (share != 0 || given == 0)) continue;
    violated(mine, "the dispatch table gives slot " + std::to_string(slot) + " of layer " +
                       std::to_string(layer) + " a share of " + std::to_string(given) +
                       ", planned were " + std::to_string(share) + " of " +
                       std::to_string(kShareUnit));
  }
}

// In decode steps each expert is on one slot, the same for all ranks.
void SimCluster::check_one_slot_table(const Rank& mine, int layer, std::uint64_t& choices) const {
  const DispatchView view = dispatch_view(*mine.core, layer);
  const auto slots = mine.served.placement.layer(layer);
  for (int expert = 0; expert < shape_.num_logical_experts(); ++expert) {
    const std::int32_t slot = view.slot(expert, 0);
    choices = mix(choices, static_cast<std::uint64_t>(slot));
    if (index(slot) >= slots.size() || slots[index(slot)] != expert)
      violated(mine, "the decode table names a slot of another expert");
    for (std::uint32_t ticket = 1; ticket < kDispatchEntries; ++ticket) {
      if (view.slot(expert, ticket) != slot)
        violated(mine, "the decode table divides an expert's tokens over slots");
    }
  }
}

// Of consecutive tickets each slot gets its share, within the logarithm of their number.
void SimCluster::check_draws(const Rank& mine, int layer) const {
  constexpr std::uint32_t kTickets = 256, kMostOff = 10;
  const DrawTable& table = draw_table(*mine.core, layer);
  const auto slots = mine.served.placement.layer(layer);
  std::vector<std::uint32_t> drawn(slots.size(), 0);
  const auto first = static_cast<std::uint32_t>(step_of(*mine.core)) * 37;
  for (int expert = 0; expert < shape_.num_logical_experts(); ++expert) {
    const bool alone = std::ranges::count(slots, expert) == 1;
    for (std::uint32_t ticket = 0; ticket < (alone ? 1 : kTickets); ++ticket) {
      const std::int32_t slot = table.slot(expert, first + ticket, rank_of(*mine.core));
      if (index(slot) >= slots.size() || slots[index(slot)] != expert)
        violated(mine, "the draw table names a slot of another expert");
      drawn[index(slot)] += alone ? kTickets : 1;
    }
  }
  for (std::size_t slot = 0; slot < slots.size(); ++slot) {
    const std::int64_t share = mine.served.shares[index(layer)][slot];
    const std::int64_t off = std::int64_t{drawn[slot]} * kShareUnit - share * kTickets;
    if (std::abs(off) <= std::int64_t{kMostOff} * kShareUnit && (share != 0 || drawn[slot] == 0))
      continue;
    violated(mine, "the draw table gives slot " + std::to_string(slot) + " of layer " +
                       std::to_string(layer) + " " + std::to_string(drawn[slot]) + " of " +
                       std::to_string(kTickets) + " tokens, planned were " + std::to_string(share) +
                       " of " + std::to_string(kShareUnit));
  }
}

void SimCluster::check_slots(const Rank& mine) const {
  const Core& core = *mine.core;
  const auto first = index(shape_of(core).first_slot(rank_of(core)));
  for (int layer = 0; layer < shape_.num_moe_layers(); ++layer) {
    const auto slots = placement(core).layer(layer);
    for (int slot = 0; slot < num_local_slots(core); ++slot) {
      const auto expert = slots[first + index(slot)];
      const auto parts = slot_parts(core, layer, slot);
      if (expert == kEmptySlot || weights_.are_of(layer, expert, parts)) continue;
      violated(mine, "layer " + std::to_string(layer) + " slot " + std::to_string(slot) +
                         " holds " + weights_.describe(parts) + ", the placement says expert " +
                         std::to_string(expert));
    }
  }
}

// Invariants 5 and 6: what the worker takes for the loads of a set is what was routed, expert by
// expert, and of the phase that all ranks with tokens were in.
void SimCluster::check_loads(const Rank& mine) const {
  const Core& core = *mine.core;
  const Worker& observer = *worker(core);
  const std::uint64_t step = observer.last_observed_step();
  const auto found = sets_.find({membership_of(core), step});
  const std::string set = "the set of step " + std::to_string(step);
  if (found == sets_.end() || found->second.posted != ranks_of(core).size())
    violated(mine, set + " is used, and not all ranks have posted it in this membership");
  if (observer.last_observed() != found->second.load)
    violated(mine, "loads of " + set + " are attributed to other experts than they were routed to");
  const PlannerRecord& planner = *mine.planner;
  if (planner.observed_step == step && planner.observed_phase != found->second.phase)
    violated(mine, "loads of " + set + " are taken for those of another phase");
}

// At the end, when the network is quiet and no plan is active: every buffer is back, no operation
// is left, every plan has been given back.
void SimCluster::check_nothing_leaks() {
  for (bool busy = true; busy;) {
    busy = false;
    for (const auto& each : ranks_) busy |= each->alive && run_worker(*each);
    while (const auto event = networks_.back()->pick(random_)) {
      networks_.back()->happen(*event, SimNetwork::Fate::kGood);
      busy = true;
    }
  }
  for (const auto& each : ranks_) {
    if (!each->alive || each->worker_stopped) continue;
    take_reports(*each->core);
    const int free = worker(*each->core)->num_free_buffers();
    if (free != drawn_.staging_experts) {
      violated(*each, std::to_string(free) + " buffers of " +
                          std::to_string(drawn_.staging_experts) + " are free, no plan is active");
    }
    if (const int left = network_of(*each).num_operations(member(*each)); left > 0)
      violated(*each, std::to_string(left) + " operations are left, no plan is active");
    if (const auto left = num_plans(*each->core); left > 0)
      violated(*each, std::to_string(left) + " plans are held, none is active");
  }
}

}  // namespace swiftbalancer::simulation
