#include "simulation/sim_planning.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

#include <swiftbalancer/dispatch_table.hpp>

namespace swiftbalancer::simulation {
namespace {

constexpr int kRoundsUntilUp = 5;

// Each expert's tokens over its slots: all but the last get a random part of what is left, now and
// then nothing.
std::vector<std::uint32_t> random_shares(const std::vector<std::int32_t>& slots, int num_experts,
                                         std::mt19937_64& random) {
  std::vector<std::uint32_t> shares(slots.size(), 0);
  const auto replicas = replica_count(slots, num_experts);
  std::vector<std::int32_t> left(replicas.begin(), replicas.end());
  std::vector<std::uint32_t> unit(replicas.size(), kShareUnit);
  for (std::size_t slot = 0; slot < slots.size(); ++slot) {
    const auto expert = static_cast<std::size_t>(slots[slot]);
    if (--left[expert] == 0) {
      shares[slot] = unit[expert];
    } else if (random() % 4 != 0) {
      shares[slot] = static_cast<std::uint32_t>(random() % (unit[expert] + 1));
    }
    unit[expert] -= shares[slot];
  }
  return shares;
}

}  // namespace

Plan random_plan(const ServedState& base, const ClusterShape& shape, std::uint64_t seed,
                 bool uneven_shares) {
  std::mt19937_64 random(seed);
  Plan plan;
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    if (random() % 4 == 0) continue;
    const auto now = base.placement.layer(layer);
    std::vector<std::int32_t> next(now.begin(), now.end());
    for (std::uint64_t change = random() % 4; change-- > 0;) {
      auto& a = next[random() % next.size()];
      auto& b = next[random() % next.size()];
      if (random() % 2 == 0) {
        std::swap(a, b);
      } else if (std::ranges::count(next, b) > 1) {
        b = a;
      }
    }
    LayerChange entry;
    entry.moe_layer_id = layer;
    entry.plan.placement = next;
    entry.plan.shares = uneven_shares ? random_shares(next, shape.num_logical_experts(), random)
                                      : even_shares(next, shape.num_logical_experts());
    entry.plan.moves = count_moves(now, next, shape);
    plan.moves += entry.plan.moves;
    plan.changes.push_back(std::move(entry));
  }
  std::ranges::shuffle(plan.changes, random);
  return plan;
}

void SimPlanning::restart(const ClusterShape& shape, const ServedState& served) {
  if (off_) return;
  shape_ = std::make_unique<ClusterShape>(shape);
  served_ = served;
  history_ = 1;
  has_history_ = true;
  forget_job();
}

void SimPlanning::observe(std::uint64_t step, const ExpertLoad& load, Phase phase) {
  if (record_->observed_step != 0 && step != record_->observed_step + behaviour_.interval)
    record_->broken = "the loads of step " + std::to_string(step) + " follow those of step " +
                      std::to_string(record_->observed_step);
  record_->observed_step = step;
  record_->observed_phase = phase;
  if (!has_history_) {
    ++ignored_;
    return;
  }
  for (int layer = 0; layer < load.num_moe_layers(); ++layer) {
    for (const std::int64_t tokens : load.layer(layer))
      history_ = mix(history_, static_cast<std::uint64_t>(tokens));
  }
  history_ = mix(history_, static_cast<std::uint64_t>(phase));
  PlanningEvent observed;
  observed.step = step;
  observed.wants_rebalance = behaviour_.wants_rebalance();
  (down_for_ > 0 ? held_ : events_).push_back(std::move(observed));
  if (behaviour_.loses_history()) lose_history();
}

void SimPlanning::lose_history() {
  has_history_ = false;
  held_.clear();
  ++record_->losses;
  PlanningEvent lost;
  off_ = behaviour_.max_restarts >= 0 && restarts_ >= behaviour_.max_restarts;
  record_->off |= off_;
  lost.kind = off_ ? PlanningEvent::Kind::kOff : PlanningEvent::Kind::kLost;
  events_.push_back(std::move(lost));
  if (record_->works) fail();
  if (!off_) down_for_ = kRoundsUntilUp;
}

void SimPlanning::open(const GenerationId& generation) {
  generation_ = record_->opened = generation;
  record_->plan.reset();
  record_->works = true;
  if (!has_history_ || behaviour_.fails()) return fail();
  std::uint64_t seed = mix(mix(history_, generation.step), generation.membership);
  if (behaviour_.differs()) ++seed;
  record_->plan = random_plan(served_, *shape_, seed, behaviour_.uneven_shares);
  rounds_left_ = behaviour_.rounds();
}

void SimPlanning::forget_job() {
  rounds_left_ = 0;
  record_->works = false;
}

bool SimPlanning::advance() {
  if (down_for_ > 0) {
    if (--down_for_ > 0) return true;
    ++restarts_;
    std::ranges::move(held_, std::back_inserter(events_));
    held_.clear();
    return true;
  }
  if (rounds_left_ == 0) return false;
  if (--rounds_left_ > 0) return true;
  if (behaviour_.fails()) {
    fail();
    return true;
  }
  PlanningEvent planned;
  planned.kind = PlanningEvent::Kind::kPlan;
  planned.generation = generation_;
  planned.plan = *record_->plan;
  answer(std::move(planned));
  return true;
}

void SimPlanning::fail() {
  PlanningEvent failed;
  failed.kind = PlanningEvent::Kind::kFailed;
  failed.generation = generation_;
  answer(std::move(failed));
}

void SimPlanning::answer(PlanningEvent event) {
  forget_job();
  record_->answered = true;
  events_.push_back(std::move(event));
}

std::optional<PlanningEvent> SimPlanning::next_event() {
  if (events_.empty()) return std::nullopt;
  PlanningEvent event = std::move(events_.front());
  events_.pop_front();
  if (event.kind == PlanningEvent::Kind::kPlan || event.kind == PlanningEvent::Kind::kFailed)
    record_->answered = false;
  return event;
}

}  // namespace swiftbalancer::simulation
