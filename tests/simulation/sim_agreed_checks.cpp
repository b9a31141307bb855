// Invariants of what the ranks agree on, step by step, and of what they tell of it.

#include <algorithm>
#include <numeric>

#include "simulation/sim_cluster.hpp"
#include "simulation/sim_rank.hpp"

namespace swiftbalancer::simulation {
namespace {

bool is_failure(Reason reason) {
  return reason == Reason::kDifferentPlans || reason == Reason::kTooLate ||
         reason == Reason::kPlannerFailed || reason == Reason::kCopyFailed ||
         reason == Reason::kTooOld;
}

bool ends_well(const BalancerEvent& event) {
  return event.kind == BalancerEventKind::kCommitted ||
         (event.kind == BalancerEventKind::kClosed &&
          (event.reason == Reason::kNothingToGain || event.reason == Reason::kPlanOnly));
}

}  // namespace

SimCluster::Before SimCluster::look(const Rank& mine) const {
  const BalancerStats& reached = stats(*mine.core);
  return {mine.late,
          agreement(*mine.core).mode(),
          agreement(*mine.core).active_plan() != nullptr,
          reached.packet_sets,
          reached.planner_resets,
          health(*mine.core)};
}

void SimCluster::check_step(Rank& mine, const Before& before) {
  if (stats(*mine.core).waits_for_plans + stats(*mine.core).waits_for_copies > 0)
    violated(mine, "the engine waited for a plan or a copy");
  mine.commits = mine.installs = 0;
  for (const BalancerEvent& event : events(*mine.core)) take_event(mine, event);
  check_sets(mine, before);
  check_mode(mine, before);
  check_requests(mine, before);
  check_bounds(mine, before);
  check_planners(mine, before);
  check_health(mine, before);
}

// ---- Decisions ----

void SimCluster::take_event(Rank& mine, const BalancerEvent& event) {
  if (rank_of(*mine.core) == 0) count(event);
  if (!is_explained(event.reason))
    violated(mine, std::string(to_string(event.kind)) + " because of " +
                       std::string(to_string(event.reason)) + ", which nothing explains");
  const StepOf set{membership_of(*mine.core), agreement(*mine.core).used_step()};
  // Nobody can have answered in a packet that was posted before the generation was known.
  const bool known = set.second >= event.generation.step + drawn_.packet_lag;
  if (event.reason == Reason::kTooLate && known && !late_sets_.contains(set))
    violated(mine, "a generation is closed because it is late, and nobody worked on it any more");
  if (event.kind == BalancerEventKind::kAdopted) take_plan(mine, *event.plan);
  if (event.kind == BalancerEventKind::kCommitted) take_commit(mine, event.plan->units[event.unit]);
}

void SimCluster::count(const BalancerEvent& event) {
  result_.commits += event.kind == BalancerEventKind::kCommitted ? 1 : 0;
  result_.drops += event.kind == BalancerEventKind::kDropped ? 1 : 0;
  result_.given_up += event.reason == Reason::kTooOld ? 1 : 0;
  result_.superseded += event.reason == Reason::kSuperseded ? 1 : 0;
  result_.adopted += event.kind == BalancerEventKind::kAdopted ? 1 : 0;
  result_.closed += event.kind == BalancerEventKind::kClosed ? 1 : 0;
}

bool SimCluster::is_explained(Reason reason) const {
  switch (reason) {
    case Reason::kDifferentPlans:
      return drawn_.planner_differs > 0;
    case Reason::kPlannerFailed:
      return drawn_.planner_failure + drawn_.planner_loss + drawn_.planner_throws + drawn_.losses +
                 drawn_.damages >
             0;
    case Reason::kCopyFailed:
      // A layer whose copies did not end takes no others until they do.
      return drawn_.copy_failure + drawn_.send_failure > 0 ||
             (!drawn_.can_cancel && drawn_.max_active_sets < 10'000);
    case Reason::kTooOld:
      return drawn_.max_active_sets < 10'000;
    case Reason::kPaused:
    case Reason::kPlanOnly:
      return drawn_.mode_change > 0 || settling_;
    default:
      return true;
  }
}

// Whether this rank, as it posts a packet, is still to get to a plan for the open generation: a
// planner works on it, or the leader's message is under way, or the worker gets the answer ready.
bool SimCluster::is_planning(const Rank& mine) const {
  constexpr int kMostRounds = 300;  // until a worker has reported an answer
  const GenerationId& open = agreement(*mine.core).open_generation();
  if (!open || has_answer(*mine.core)) return false;
  if (is_preparing(*mine.core)) return true;
  const auto members = ranks_of(*mine.core);
  const bool has_leader = drawn_.control_mode == ControlMode::kLeader;
  const PlannerRecord& planner = *(has_leader ? rank(members[0]) : mine).planner;
  if (planner.opened != open || planner.works) return true;
  if (planner.answered && mine.rounds_with_answer < kMostRounds) return true;
  return has_leader && network_of(mine).is_under_way(0, rank_of(*mine.core), plan_tag(open));
}

// What is adopted is what was planned: each layer's last unit leads to it.
void SimCluster::take_plan(const Rank& mine, const MigrationPlan& plan) const {
  const int planner =
      drawn_.control_mode == ControlMode::kLeader ? ranks_of(*mine.core)[0] : mine.id;
  const PlannerRecord& record = *rank(planner).planner;
  if (record.opened != plan.generation || !record.plan) return;
  for (const LayerChange& change : record.plan->changes) {
    const auto last = std::find_if(
        plan.units.rbegin(), plan.units.rend(),
        [&](const CommitUnit& unit) { return unit.moe_layer_id == change.moe_layer_id; });
    if (last == plan.units.rend()) continue;  // Nothing changes, or it does not fit the pool.
    if (last->placement != change.plan.placement || last->shares != change.plan.shares)
      violated(mine, "the plan adopted for layer " + std::to_string(change.moe_layer_id) +
                         " is not what the planner made");
  }
}

void SimCluster::take_commit(Rank& mine, const CommitUnit& unit) {
  const auto layer = static_cast<std::size_t>(unit.moe_layer_id);
  ++mine.commits;
  const int first = shape_of(*mine.core).first_slot(rank_of(*mine.core));
  for (int slot = first; slot < first + num_local_slots(*mine.core); ++slot) {
    const auto at = static_cast<std::size_t>(slot);
    if (unit.placement[at] != mine.served.placement.layer(unit.moe_layer_id)[at]) ++mine.installs;
  }
  std::ranges::copy(unit.placement, mine.served.placement.layer(unit.moe_layer_id).begin());
  mine.served.shares[layer] = unit.shares;
  mine.shares_unchecked = mine.one_slots_unchecked = true;
  std::vector<std::uint64_t> sums(static_cast<std::size_t>(shape_.num_logical_experts()), 0);
  for (std::size_t slot = 0; slot < unit.placement.size(); ++slot) {
    if (unit.placement[slot] != kEmptySlot)
      sums[static_cast<std::size_t>(unit.placement[slot])] += unit.shares[slot];
  }
  if (!std::ranges::all_of(sums, [](std::uint64_t sum) { return sum == kShareUnit; }))
    violated(mine, "the shares of an expert do not sum to one");
}

// Rules 1 and 16: the set of each step is used at its step, once.
void SimCluster::check_sets(const Rank& mine, const Before& before) const {
  const std::uint64_t step = step_of(*mine.core);
  const std::uint64_t until = step - std::min(step, drawn_.packet_lag);
  const std::uint64_t newest = until - until % drawn_.packet_interval;
  const std::uint64_t used = agreement(*mine.core).used_step();
  if (used != std::max(newest, mine.entered_step))
    violated(mine, "used the set of step " + std::to_string(used) + ", not of step " +
                       std::to_string(std::max(newest, mine.entered_step)));
  const bool due = newest > mine.entered_step && newest == until;
  if (stats(*mine.core).packet_sets != before.packet_sets + (due ? 1 : 0))
    violated(mine, "used a set twice, or none where one was due");
}

// Paused opens nothing, plan-only moves nothing. A mode holds from the step that agrees on it.
void SimCluster::check_mode(const Rank& mine, const Before& before) const {
  const BalancingMode now = agreement(*mine.core).mode();
  const auto always = [&](BalancingMode mode) { return before.mode == mode && now == mode; };
  for (const BalancerEvent& event : events(*mine.core)) {
    if (event.kind == BalancerEventKind::kOpened && always(BalancingMode::kPaused))
      violated(mine, "a generation was opened while balancing is paused");
    if (event.kind == BalancerEventKind::kAdopted && before.mode != BalancingMode::kOn &&
        now != BalancingMode::kOn)
      violated(mine, "a plan was adopted while nothing is to be moved");
  }
}

// A mode holds until some rank asks for another, and each request is heard once.
void SimCluster::check_requests(const Rank& mine, const Before& before) {
  const BalancingMode now = agreement(*mine.core).mode();
  if (now == before.mode) return;
  auto& changes = mode_changes_[now];
  changes.insert({membership_of(*mine.core), step_of(*mine.core)});
  if (changes.size() > mode_requests_[now])
    violated(mine, "the mode changes to one that nobody has asked for");
}

// An open generation comes to its end (rule 4), so does an active plan that does not get on, and
// not before (rule 18); what one begin_step copies is bounded.
void SimCluster::check_bounds(Rank& mine, const Before& before) {
  const Agreement& agreed = agreement(*mine.core);
  const auto has = [&](auto is) { return std::ranges::any_of(events(*mine.core), is); };
  const bool used = stats(*mine.core).packet_sets != before.packet_sets;
  if (used && before.active) mine.idle_sets = mine.commits > 0 ? 0 : mine.idle_sets + 1;
  const bool given_up = has([](const auto& event) { return event.reason == Reason::kTooOld; });
  if (given_up && mine.idle_sets < drawn_.max_active_sets)
    violated(mine, "a plan is given up after " + std::to_string(mine.idle_sets) + " sets");
  if (has([](const auto& event) { return event.kind == BalancerEventKind::kAdopted; }))
    mine.idle_sets = 0;
  if (agreed.active_plan() != nullptr && mine.idle_sets >= drawn_.max_active_sets)
    violated(mine, "a plan does not get on for " + std::to_string(mine.idle_sets) + " sets");
  const bool copies = drawn_.install_mode == InstallMode::kCopy && drawn_.copies_per_step > 0;
  if (copies && mine.commits > 1 && mine.installs > drawn_.copies_per_step)
    violated(mine, std::to_string(mine.installs) + " experts are copied in one step");
  if (copies && mine.commits > 0 && mine.installs == drawn_.copies_per_step &&
      agreed.active_plan() != nullptr)
    ++result_.bounded;
  if (!agreed.open_generation()) return;
  const std::uint64_t sets =
      (agreed.used_step() - agreed.open_generation().step) / drawn_.packet_interval;
  if (sets >= drawn_.max_open_sets)
    violated(mine, "a generation is open for " + std::to_string(sets) + " sets");
}

// A lost history is answered by all ranks beginning theirs anew, once.
void SimCluster::check_planners(const Rank& mine, const Before& before) {
  if (stats(*mine.core).planner_resets == before.planner_resets) return;
  resets_.insert({membership_of(*mine.core), step_of(*mine.core)});
  std::uint64_t losses = 0;
  for (const auto& each : ranks_) losses += each->planner->losses;
  if (resets_.size() > losses)
    violated(mine, "planners begin anew for the " + std::to_string(resets_.size()) +
                       ". time, histories were lost " + std::to_string(losses) + " times");
}

// ---- Health ----

void SimCluster::check_health(const Rank& mine, const Before& before) const {
  const Health now = health(*mine.core);
  if (now.mode != agreement(*mine.core).mode() || now.membership != membership_of(*mine.core))
    violated(mine, "health tells another mode or membership than was agreed on");
  if (!now.ok && (now.reason.empty() || now.failures == 0))
    violated(mine, "health is bad and says nothing of it");
  const auto decided = events(*mine.core);
  const bool failed = std::ranges::any_of(
      decided, [](const BalancerEvent& event) { return is_failure(event.reason); });
  if (failed && now.failures == before.health.failures)
    violated(mine, "health does not tell of what has failed");
  if (now.ok && !before.health.ok && !before.late && !std::ranges::any_of(decided, ends_well))
    violated(mine, "health is good again though nothing was seen to work");
  if (now.ok && failed && !std::ranges::any_of(decided, ends_well))
    violated(mine, "health is good though something has failed");
  if (stats(*mine.core).planner_resets != before.planner_resets &&
      now.failures == before.health.failures)
    violated(mine, "health does not tell that a load history was lost");
  const auto off = offs_.find(membership_of(*mine.core));
  if (off != offs_.end() && agreement(*mine.core).used_step() >= off->second && now.ok)
    violated(mine, "health is good though a planner is off");
}

// ---- Memberships ----

void SimCluster::check_entered(const Rank& mine) const {
  const Core& core = *mine.core;
  // The mode goes on: whoever has used the most sets has heard all that was asked for.
  const LeftWith* furthest = nullptr;
  for (int id : ranks_of(core)) {
    const auto& left = rank(id).left_with;
    if (left && (furthest == nullptr || std::pair(left->membership, left->used_step) >
                                            std::pair(furthest->membership, furthest->used_step)))
      furthest = &*left;
  }
  if (furthest != nullptr && agreement(core).mode() != furthest->mode)
    violated(mine, "the agreed mode is lost in a reconfiguration");
  // Ranks of a node stay together, and apart from others.
  const auto members = ranks_of(core);
  for (std::size_t i = 0; i < members.size(); ++i) {
    const int node = shape_of(core).node_of_rank(static_cast<int>(i));
    for (std::size_t j = 0; j < i; ++j) {
      const bool together = node == shape_of(core).node_of_rank(static_cast<int>(j));
      if (together != (shape_.node_of_rank(members[i]) == shape_.node_of_rank(members[j])))
        violated(mine, "ranks " + std::to_string(members[j]) + " and " +
                           std::to_string(members[i]) + " have changed their nodes");
    }
  }
  // Nothing of the membership before is left.
  if (worker(core)->num_free_buffers() != drawn_.staging_experts)
    violated(mine, "buffers are in use as a membership begins");
  for (std::size_t attempt = 0; attempt < mine.attempt; ++attempt) {
    const auto& live = attempts_[attempt].live;
    const auto place = std::ranges::find(live, mine.id);
    if (place != live.end() && networks_[attempt]->is_open(static_cast<int>(place - live.begin())))
      violated(mine, "a transport of an earlier membership is still open");
  }
  // Health tells who is gone, and that the others go on.
  const Health now = health(core);
  if (now.membership != membership_of(core))
    violated(mine, "health tells another membership than was agreed on");
  if (mine.planner->off && planner_off(core)) return;
  if (!now.ok) violated(mine, "health is bad as a membership begins: " + now.reason);
  for (int before : mine.members) {
    if (std::ranges::find(ranks_of(core), before) != ranks_of(core).end()) continue;
    if (now.reason.find("lost") == std::string::npos ||
        now.reason.find(std::to_string(before)) == std::string::npos)
      violated(mine, "health does not tell that rank " + std::to_string(before) +
                         " is lost: " + now.reason);
  }
}

}  // namespace swiftbalancer::simulation
