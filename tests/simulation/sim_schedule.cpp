// What happens next: every rank's engine and worker, and the network, by the seed.

#include <algorithm>
#include <utility>

#include "runtime/runtime_rules.hpp"
#include "simulation/sim_cluster.hpp"
#include "simulation/sim_rank.hpp"

namespace swiftbalancer::simulation {

void SimCluster::schedule_one() {
  // Choices: every rank's engine, every rank's worker, and as many deliveries.
  const std::size_t choice = random_() % (ranks_.size() * 4);
  Rank& mine = *ranks_[choice % ranks_.size()];
  if (choice < ranks_.size()) {
    if (mine.alive) run_engine(mine);
  } else if (choice < ranks_.size() * 2) {
    if (mine.alive) run_worker(mine);
  } else {
    deliver();
  }
  maybe_change_membership();
  for (const auto& network : networks_)
    if (!network->broken().empty()) violated(network->broken());
  ++result_.events;
}

void SimCluster::deliver() {
  // The newest networks carry what matters; the others are tried now and then.
  SimNetwork& network =
      random_() % 8 == 0 ? *networks_[random_() % networks_.size()] : *networks_.back();
  const auto event = network.pick(random_);
  if (!event) return;
  using Kind = SimNetwork::Event::Kind;
  auto fate = SimNetwork::Fate::kGood;
  if (event->kind == Kind::kCopy) {
    if (chance(options_.slow_copies)) return;
    if (chance(options_.stuck_copies)) {
      ++result_.stuck;
      fate = SimNetwork::Fate::kStuck;
    }
    if (fate == SimNetwork::Fate::kGood && chance(options_.copy_failure))
      fate = SimNetwork::Fate::kReceiveFails;
    if (fate == SimNetwork::Fate::kGood && chance(options_.send_failure))
      fate = SimNetwork::Fate::kSendFails;
  } else if (event->kind == Kind::kMessage) {
    if (options_.losses > 0 && !event->gather && is_plan_tag(event->tag) && chance(20)) {
      --options_.losses;
      ++result_.plans_lost;
      fate = SimNetwork::Fate::kLost;
    } else if (options_.damages > 0 && random_() % 300 == 0) {
      --options_.damages;
      ++result_.damaged;
      fate = SimNetwork::Fate::kDamaged;
    }
  }
  network.happen(*event, fate);
}

// ---- Engines ----

void SimCluster::run_engine(Rank& mine) {
  const auto& live = attempts_.back().live;
  if (mine.attempt + 1 < attempts_.size() && std::ranges::find(live, mine.id) != live.end()) {
    // The notice comes at some time; until then the rank goes on as far as it can.
    if (mine.joins || chance(30)) return notice(mine);
  }
  if (mine.call != nullptr) return continue_call(mine, outcome_of_wait(mine));
  if (mine.change != nullptr) return reconfigure(mine);
  if (!mine.serves()) return;
  if (mine.worker_stopped || (mine.late && !mine.repeats)) return notice_loss(mine);
  if (mine.late) return begin_again(mine);
  if (may_begin(mine)) return begin(mine, next_step(mine));
  if (may_end(mine)) return end(mine);
  if (options_.timeouts > 0 && chance(1)) return begin_too_early(mine);
  // A forward that a lost rank takes no part in does not end.
  if (in_step(*mine.core) && drawn_.barrier && chance(5) && living() != attempts_.back().live)
    notice_loss(mine);
}

bool SimCluster::is_set_ready(const Rank& mine, std::uint64_t step) const {
  Core& core = *mine.core;
  take_reports(core);
  const auto due = agreement(core).set_due(step);
  return !due || ready_step(core) >= *due || !rules::wait_for_set();
}

bool SimCluster::may_begin(const Rank& mine) const {
  if (in_step(*mine.core)) return false;
  return (settling_ || step_of(*mine.core) < options_.num_steps) &&
         is_set_ready(mine, step_of(*mine.core) + 1);
}

bool SimCluster::may_end(const Rank& mine) const {
  const Core& core = *mine.core;
  if (!in_step(core)) return false;
  return !drawn_.barrier || std::ranges::all_of(ranks_of(core), [&](int id) {
    const Rank& peer = rank(id);
    return peer.serves() && !peer.late && membership_of(*peer.core) == membership_of(core) &&
           step_of(*peer.core) >= step_of(core);
  });
}

StepInfo SimCluster::next_step(const Rank& mine) {
  const std::uint64_t step = step_of(*mine.core) + 1;
  Phase phase = Phase::kDecode;
  if (options_.phases == Phases::kPerStep) phase = static_cast<Phase>(mix(drawn_.seed, step) % 3);
  if (options_.phases == Phases::kPerRank) phase = static_cast<Phase>(random_() % 3);
  return {step, phase, chance(options_.idle)};
}

void SimCluster::begin(Rank& mine, const StepInfo& info) {
  const Before before = look(mine);
  const Status status = simulation::begin(*mine.core, info);
  if (!status.ok()) violated(mine, "begin_step failed: " + status.message());
  mine.phase = info.phase;
  mine.late = false;
  if (!info.idle) {
    const bool mixed = !mine.window.idle && mine.window.phase != info.phase;
    mine.window.phase = mixed ? Phase::kMixed : info.phase;
    mine.window.idle = false;
  }
  for (const auto& peer : ranks_) {
    const bool together = peer->serves() && membership_of(*peer->core) == membership_of(*mine.core);
    if (together && step_of(*peer->core) + 2 <= info.step) {
      ++result_.apart;
      break;
    }
  }
  check_step(mine, before);
  check_forward(mine);
  route_tokens(mine);
}

// The packets are not here, and the deadline is over.
void SimCluster::begin_too_early(Rank& mine) {
  if (in_step(*mine.core) || step_of(*mine.core) >= options_.num_steps) return;
  mine.late_step = next_step(mine);
  mine.phase = mine.late_step.phase;
  mine.repeats = chance(70);
  fail_to_begin(mine);
}

void SimCluster::fail_to_begin(Rank& mine) {
  --options_.timeouts;
  ++result_.timeouts;
  const Status status = simulation::begin(*mine.core, mine.late_step);
  if (status.code() != ErrorCode::kTimeout)
    violated(mine, "begin_step without its packets: " + status.message());
  if (health(*mine.core).ok) violated(mine, "health is good though a step has failed");
  mine.late = true;
}

// Rule 16: the step may be begun again, and nothing else is accepted before.
void SimCluster::begin_again(Rank& mine) {
  StepInfo next = mine.late_step;
  ++next.step;
  if (chance(5) && (simulation::end(*mine.core).code() != ErrorCode::kInvalidState ||
                    simulation::begin(*mine.core, next).code() != ErrorCode::kInvalidState))
    violated(mine, "a step that has failed can be passed over");
  if (is_set_ready(mine, mine.late_step.step)) {
    ++result_.repeated;
    begin(mine, mine.late_step);
  } else if (options_.timeouts > 0 && chance(1)) {
    fail_to_begin(mine);
  } else if (random_() % 2000 == 0) {
    mine.repeats = false;  // It has waited for long enough.
  }
}

// Tokens that a step sends to this rank's slots: known from step, layer and slot, so that loads can
// be checked. An empty slot gets none.
void SimCluster::route_tokens(Rank& mine) {
  Core& core = *mine.core;
  const auto first = static_cast<std::size_t>(shape_of(core).first_slot(rank_of(core)));
  std::vector<std::uint32_t> counts(static_cast<std::size_t>(num_local_slots(core)));
  for (int layer = 0; layer < shape_.num_moe_layers(); ++layer) {
    for (std::size_t slot = 0; slot < counts.size(); ++slot) {
      const auto expert = placement(core).layer(layer)[first + slot];
      counts[slot] = expert == kEmptySlot ? 0 : static_cast<std::uint32_t>(random_() % 100);
      if (expert != kEmptySlot)
        mine.window.load.layer(layer)[static_cast<std::size_t>(expert)] += counts[slot];
    }
    record(core, layer, counts);
  }
}

void SimCluster::ask_mode(Rank& mine, BalancingMode mode) {
  ++mode_requests_[mode];
  set_mode(*mine.core, mode);
}

void SimCluster::end(Rank& mine) {
  check_slots(mine);  // weights never change during a forward
  if (chance(options_.mode_change)) ask_mode(mine, static_cast<BalancingMode>(random_() % 3));
  if (settling_ && mine.id == pauses_ && agreement(*mine.core).mode() != BalancingMode::kPaused)
    ask_mode(mine, BalancingMode::kPaused);
  const Status status = simulation::end(*mine.core);
  if (!status.ok()) violated(mine, "end_step failed: " + status.message());
  if (!agreement(*mine.core).packet_due(step_of(*mine.core))) return;
  // The first set by which all know that plans, which are needed of all or of the first, are not
  // made any more.
  if (planner_off(*mine.core) &&
      (drawn_.control_mode == ControlMode::kReplicated || rank_of(*mine.core) == 0)) {
    auto& first = offs_.try_emplace(membership_of(*mine.core), step_of(*mine.core)).first->second;
    first = std::min(first, step_of(*mine.core));
  }
  if (is_planning(mine)) late_sets_.insert({membership_of(*mine.core), step_of(*mine.core)});
  Set& set = sets_[{membership_of(*mine.core), step_of(*mine.core)}];
  if (set.posted++ == 0)
    set.load = ExpertLoad(shape_.num_moe_layers(), shape_.num_logical_experts());
  for (int layer = 0; layer < shape_.num_moe_layers(); ++layer) {
    const auto part = mine.window.load.layer(layer);
    std::ranges::transform(part, set.load.layer(layer), set.load.layer(layer).begin(),
                           std::plus<>());
    std::ranges::fill(part, 0);
  }
  if (!mine.window.idle) {
    const bool mixed = !set.idle && set.phase != mine.window.phase;
    set.phase = mixed ? Phase::kMixed : mine.window.phase;
    set.idle = false;
  }
  mine.window.idle = true;
  mine.window.phase = Phase::kMixed;
}

// ---- Workers ----

bool SimCluster::run_worker(Rank& mine) {
  if (mine.worker_stopped || worker(*mine.core) == nullptr) return false;
  Worker& running = *worker(*mine.core);
  const std::uint64_t observed = running.last_observed_step();
  bool busy = false;
  try {
    busy = running.run_once();
    // As its thread does: it sleeps when there is nothing to do, and hears of lost peers then.
    if (!busy && chance(10) && network_of(mine).waits_in_vain(member(mine))) {
      ++result_.peers_lost;
      mine.worker_stopped = true;
    }
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kTransport || network_of(mine).num_faults() == 0)
      violated(mine, std::string("worker: ") + error.what());
    mine.worker_stopped = true;
    return false;
  }
  const bool has_leader = drawn_.control_mode == ControlMode::kLeader;
  const Rank& plans = has_leader ? rank(ranks_of(*mine.core)[0]) : mine;
  mine.rounds_with_answer = plans.planner->answered ? mine.rounds_with_answer + 1 : 0;
  if (!mine.planner->broken.empty()) violated(mine, mine.planner->broken);
  if (running.last_observed_step() != observed) check_loads(mine);
  return busy;
}

}  // namespace swiftbalancer::simulation
