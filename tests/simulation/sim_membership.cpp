// Who serves: deaths, joins, and the way from one membership to the next.

#include <algorithm>
#include <utility>

#include "simulation/sim_cluster.hpp"
#include "simulation/sim_rank.hpp"

namespace swiftbalancer::simulation {

void SimCluster::begin_attempt(std::vector<int> live) {
  networks_.push_back(std::make_unique<SimNetwork>(
      SimNetwork::Options{.num_ranks = static_cast<int>(live.size()),
                          .can_cancel = options_.can_cancel,
                          .slow_senders = options_.slow_senders,
                          .ring_bytes = static_cast<std::size_t>(options_.ring_bytes)}));
  attempts_.push_back({std::move(live)});
  attempts_.back().has_misfit =
      std::ranges::any_of(ranks_, [](const auto& each) { return each->is_misfit; });
}

std::vector<int> SimCluster::living() const {
  std::vector<int> live = attempts_.back().live;
  std::erase_if(live, [this](int id) { return !rank(id).alive; });
  return live;
}

void SimCluster::begin_attempt_again() { begin_attempt(living()); }

SimNetwork& SimCluster::network_of(const Rank& mine) const { return *networks_[mine.attempt]; }

int SimCluster::member(const Rank& mine) const {
  const auto& live = attempts_[mine.attempt].live;
  return static_cast<int>(std::ranges::find(live, mine.id) - live.begin());
}

// Somebody must be left who serves, and all experts must find room.
bool SimCluster::can_go_on(const std::vector<int>& live) const {
  int slots = 0;
  bool serving = false;
  for (int id : live) {
    if (rank(id).is_misfit) continue;
    slots += shape_.slots_per_rank(id);
    serving |= !rank(id).joins;
  }
  return serving && slots >= shape_.num_logical_experts();
}

void SimCluster::maybe_change_membership() {
  // Deaths, joins and failures are sought where they hurt: inside reconfigurations.
  const bool changing =
      std::ranges::any_of(ranks_, [](const auto& each) { return each->reconfigures(); });
  if (random_() % (changing ? 150 : 400) != 0) return;
  const auto kind = random_() % 3;
  if (kind == 0 && options_.deaths > 0) kill_one();
  if (kind == 1 && options_.joins > 0) join_one();
  if (kind == 2 && options_.gather_failures > 0) {
    --options_.gather_failures;
    networks_.back()->fail_gather(static_cast<int>(random_() % attempts_.back().live.size()));
  }
}

void SimCluster::end_process(Rank& gone) {
  gone.alive = gone.is_misfit = false;
  for (std::size_t i = 0; i < networks_.size(); ++i) {
    const auto& members = attempts_[i].live;
    const auto place = std::ranges::find(members, gone.id);
    if (place != members.end())
      networks_[i]->die(static_cast<int>(place - members.begin()), random_);
  }
  gone.call.reset();
  gone.change.reset();
  gone.core.reset();
}

void SimCluster::kill_one() {
  std::vector<int> live = living();
  const auto victim = live.begin() + static_cast<std::ptrdiff_t>(random_() % live.size());
  Rank& dead = rank(*victim);
  live.erase(victim);
  if (!can_go_on(live)) return;
  --options_.deaths;
  ++deaths_;
  end_process(dead);
  if (!options_.silent_deaths) begin_attempt_again();
}

// A rank that died earlier comes back as a new process, with nothing.
void SimCluster::join_one() {
  const auto dead = std::ranges::find_if(ranks_, [](const auto& each) { return !each->alive; });
  if (dead == ranks_.end()) return;
  --options_.joins;
  Rank& joins = **dead;
  std::vector<int> live = living();
  live.insert(std::ranges::lower_bound(live, joins.id), joins.id);
  joins.is_misfit = options_.bad_joins > 0;
  if (joins.is_misfit) --options_.bad_joins;
  joins.alive = joins.joins = true;
  joins.worker_stopped = joins.late = false;
  joins.attempt = 0;
  joins.members.clear();
  joins.phase = Phase::kMixed;
  make_core(joins);
  start_empty(*joins.core);
  begin_attempt(std::move(live));
  ++result_.joined;
}

void SimCluster::notice(Rank& mine) {
  if (mine.call != nullptr) break_off_call(mine);
  if (!mine.alive) return;  // it was not taken in
  if (mine.joins) {
    mine.left_with.reset();
  } else if (mine.change == nullptr) {
    const Core& core = *mine.core;
    mine.left_with = {membership_of(core), used_step(core), health(core).mode};
  }
  mine.attempt = attempts_.size() - 1;
  mine.change.reset();
  if (options_.blocking) return begin_call(mine);
  mine.change =
      make_reconfiguration(*mine.core, attempts_.back().live,
                           std::make_unique<SimTransport>(*networks_.back(), member(mine)));
}

// This rank asks for a reconfiguration, of those who live, unless somebody has asked before.
void SimCluster::notice_loss(Rank& mine) {
  if (mine.attempt + 1 == attempts_.size()) begin_attempt_again();
}

void SimCluster::reconfigure(Rank& mine) {
  const auto commits = stats(*mine.core).units_committed;
  Status status;
  const bool over = advance(*mine.core, *mine.change, status);
  result_.rolled_forward += stats(*mine.core).units_committed - commits;
  if (!over) status = outcome_of_wait(mine);
  if (!over && status.ok()) return;
  mine.change.reset();
  end_change(mine, status);
}

// How a wait for the others' answers ends.
Status SimCluster::outcome_of_wait(const Rank& mine) {
  if (options_.change_timeouts > 0 && chance(3)) {
    --options_.change_timeouts;
    ++result_.timeouts;
    return {ErrorCode::kTimeout, "the others do not answer in time"};
  }
  if (chance(10) && network_of(mine).waits_in_vain(member(mine))) {
    ++result_.peers_lost;
    return {ErrorCode::kPeerLost, "a peer is lost"};
  }
  return {};
}

// ---- The same as a call that waits ----

void SimCluster::begin_call(Rank& mine) {
  ++result_.calls;
  mine.call = std::make_unique<SimCall>([&](SimCall& call) {
    return simulation::reconfigure(
        *mine.core, attempts_[mine.attempt].live,
        std::make_unique<SimTransport>(*networks_[mine.attempt], member(mine), &call));
  });
  continue_call(mine, {});  // From here on it makes no more steps.
}

void SimCluster::continue_call(Rank& mine, Status outcome) {
  const auto commits = stats(*mine.core).units_committed;
  const bool over = mine.call->resume(std::move(outcome));
  result_.rolled_forward += stats(*mine.core).units_committed - commits;
  if (!over) return;
  const Status status = mine.call->status();
  mine.call.reset();
  end_change(mine, status);
}

// The engine hears of another change while it waits: its deadline passes.
void SimCluster::break_off_call(Rank& mine) {
  while (mine.call != nullptr)
    continue_call(mine, {ErrorCode::kTimeout, "the others do not answer in time"});
}

void SimCluster::end_change(Rank& mine, const Status& status) {
  if (status.ok()) return enter(mine);
  end_failed_change(mine, status);
}

void SimCluster::end_failed_change(Rank& mine, const Status& status) {
  switch (status.code()) {
    case ErrorCode::kTimeout:
    case ErrorCode::kPeerLost:
      break;
    case ErrorCode::kTransport:
      if (network_of(mine).num_faults() == 0)
        violated(mine, "reconfiguration: " + status.message());
      break;
    case ErrorCode::kUnavailable:
      if (!loads_fail_) violated(mine, "reconfiguration: " + status.message());
      break;
    case ErrorCode::kInvalidArgument:
      if (!attempts_[mine.attempt].has_misfit)
        violated(mine, "reconfiguration: " + status.message());
      send_misfits_away();
      break;
    default:
      violated(mine, "reconfiguration: " + status.message());
  }
  notice_loss(mine);
}

// Nobody takes them in.
void SimCluster::send_misfits_away() {
  for (const auto& each : ranks_) {
    if (!each->is_misfit) continue;
    end_process(*each);
    ++result_.refused;
  }
}

void SimCluster::enter(Rank& mine) {
  const bool first = mine.attempt == 0 && !mine.joins;
  mine.joins = mine.worker_stopped = mine.late = false;
  mine.window = {ExpertLoad(shape_.num_moe_layers(), shape_.num_logical_experts())};
  mine.entered_step = step_of(*mine.core);
  mine.idle_sets = 0;
  mine.served.placement = placement(*mine.core);
  mine.served.shares.clear();
  for (int layer = 0; layer < shape_.num_moe_layers(); ++layer) {
    mine.served.shares.push_back(
        even_shares(mine.served.placement.layer(layer), shape_.num_logical_experts()));
  }
  mine.shares_unchecked = mine.one_slots_unchecked = true;
  // A request that nobody left has heard is asked again.
  if (const auto asked = agreement(*mine.core).unheard_mode()) ++mode_requests_[*asked];
  if (!first) {
    ++result_.reconfigurations;
    check_entered(mine);
  }
  mine.members.assign(ranks_of(*mine.core).begin(), ranks_of(*mine.core).end());
  check_forward(mine);
}

}  // namespace swiftbalancer::simulation
