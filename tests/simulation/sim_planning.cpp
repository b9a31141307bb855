#include "simulation/sim_planning.hpp"

#include <algorithm>
#include <new>
#include <stdexcept>
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

// Any call may; of what kind makes no difference.
void SimPlanMaker::maybe_throw() const {
  if (!behaviour_.throws()) return;
  if (history_ % 3 == 0) throw std::bad_alloc();
  if (history_ % 3 == 1) throw std::runtime_error("a fault of the planner");
  throw history_;
}

void SimPlanMaker::restart(const ClusterShape& shape, const ServedState& served) {
  maybe_throw();
  shape_ = std::make_unique<ClusterShape>(shape);
  served_ = served;
  history_ = 1;
  observed_.clear();
  record_->observed_step = 0;
  record_->works = record_->answered = false;
}

void SimPlanMaker::on_committed(int moe_layer_id, std::span<const std::int32_t> placement,
                                std::span<const std::uint32_t> shares) {
  maybe_throw();
  std::ranges::copy(placement, served_.placement.layer(moe_layer_id).begin());
  served_.shares[static_cast<std::size_t>(moe_layer_id)].assign(shares.begin(), shares.end());
}

void SimPlanMaker::observe(std::uint64_t step, const ExpertLoad& load, Phase phase,
                           PlanAnswers& answers) {
  if (record_->observed_step != 0 && step != record_->observed_step + behaviour_.interval)
    record_->broken = "the loads of step " + std::to_string(step) + " follow those of step " +
                      std::to_string(record_->observed_step);
  record_->observed_step = step;
  record_->observed_phase = phase;
  if (behaviour_.is_lost()) throw PlannerLost("was killed");
  maybe_throw();
  for (int layer = 0; layer < load.num_moe_layers(); ++layer) {
    for (const std::int64_t tokens : load.layer(layer))
      history_ = mix(history_, static_cast<std::uint64_t>(tokens));
  }
  history_ = mix(history_, static_cast<std::uint64_t>(phase));
  if (down_for_ > 0) {
    observed_.push_back(step);
  } else {
    answers.observed(step, behaviour_.wants_rebalance());
  }
}

void SimPlanMaker::open(const GenerationId& generation, PlanAnswers& answers) {
  record_->opened = generation;
  record_->plan.reset();
  record_->works = true;
  maybe_throw();
  if (behaviour_.fails()) return answer_with_failure(answers);
  std::uint64_t seed = mix(mix(history_, generation.step), generation.membership);
  if (behaviour_.differs()) ++seed;
  record_->plan = random_plan(served_, *shape_, seed, behaviour_.uneven_shares);
  rounds_left_ = behaviour_.rounds();
}

void SimPlanMaker::close() {
  record_->works = record_->answered = false;
  maybe_throw();
}

bool SimPlanMaker::advance(PlanAnswers& answers) {
  if (down_for_ > 0) {
    if (--down_for_ > 0) return true;
    ++restarts_;
    for (; !observed_.empty(); observed_.pop_front())
      answers.observed(observed_.front(), behaviour_.wants_rebalance());
    return true;
  }
  if (!record_->works) return false;
  maybe_throw();
  if (--rounds_left_ > 0) return true;
  if (behaviour_.fails()) {
    answer_with_failure(answers);
    return true;
  }
  record_->works = false;
  record_->answered = true;
  answers.planned(*record_->plan);
  return true;
}

void SimPlanMaker::answer_with_failure(PlanAnswers& answers) {
  record_->works = false;
  record_->answered = true;
  answers.failed("by choice");
}

// What it worked on counts as failed: the guard says so.
void SimPlanMaker::abandon(std::optional<std::chrono::milliseconds> pause) noexcept {
  ++record_->losses;
  record_->off = !pause;
  record_->answered |= std::exchange(record_->works, false);
  observed_.clear();
  down_for_ = pause ? kRoundsUntilUp : 0;
}

}  // namespace swiftbalancer::simulation
