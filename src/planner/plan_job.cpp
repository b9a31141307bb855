#include "planner/plan_job.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <utility>

#include "planner/layer_problem.hpp"

namespace swiftbalancer {
namespace {

// The price of a move, as a part of the gain that a whole plan must bring: the last percent of
// balance takes most moves and is gone with the next drift.
constexpr double kMovePrice = 0.2;
// Of the noise of a sample that moves must win on even shares.
constexpr double kNoises = 2.0;
// The part of that gain that is asked of a plan which may move nothing and so costs no transfer.
constexpr double kSharesPrice = 0.25;

double total(std::span<const std::int64_t> counts) {
  std::int64_t sum = 0;
  for (std::int64_t count : counts) sum += count;
  return static_cast<double>(sum);
}

std::span<const std::uint32_t> shares_of(const ServedState& served, int layer) {
  return served.shares[static_cast<std::size_t>(layer)];
}

bool changes(const LayerPlan& plan, const ServedState& served, int layer) {
  return !std::ranges::equal(plan.placement, served.placement.layer(layer)) ||
         !std::ranges::equal(plan.shares, shares_of(served, layer));
}

double gain_per_move(const LayerPlan& plan) {
  const double gain = plan.imbalance_before - plan.imbalance_after;
  return plan.moves == 0 ? std::numeric_limits<double>::infinity() : gain / plan.moves;
}

class Job final : public PlanJob {
 public:
  explicit Job(PlanInput input)
      : input_(std::move(input)), policy_(make_policy(input_.config.policy)) {}

  bool advance() override {
    if (layer_ == input_.shape.num_moe_layers()) return true;
    LayerPlan plan = input_.scenarios.size() > 1 ? plan_for_scenarios() : plan_for(load());
    before_.push_back(plan.imbalance_before);
    after_.push_back(plan.imbalance_before);
    if (changes(plan, input_.served, layer_) && is_worth_it(plan)) {
      after_.back() = plan.imbalance_after;
      plan_.changes.push_back({layer_, std::move(plan)});
    }
    return ++layer_ == input_.shape.num_moe_layers();
  }

  Plan take() override {
    plan_.imbalance_before = aggregate_imbalance(before_);
    const bool gated = policy_->capabilities().gated;
    const double price = input_.config.max_moves_per_layer == 0 ? kSharesPrice : 1.0;
    if (gated && gain_ < price * input_.config.min_gain * input_.shape.num_moe_layers()) {
      plan_.changes.clear();
      after_ = before_;
    }
    plan_.imbalance_after = aggregate_imbalance(after_);
    for (const LayerChange& change : plan_.changes) plan_.moves += change.plan.moves;
    std::stable_sort(plan_.changes.begin(), plan_.changes.end(),
                     [](const LayerChange& a, const LayerChange& b) {
                       return gain_per_move(a.plan) > gain_per_move(b.plan);
                     });
    return std::move(plan_);
  }

 private:
  double price() const {
    return input_.gate ? input_.gate->price() : kMovePrice * input_.config.min_gain;
  }

  std::span<const std::int64_t> load() const { return input_.load.layer(layer_); }

  LayerPlan plan_for(std::span<const std::int64_t> load) const {
    return policy_->plan_layer(problem(load));
  }

  // The better of two plans: for the blend, and for the most that each expert gets in any scenario,
  // which holds apart what is hot at different times.
  LayerPlan plan_for_scenarios() const {
    LayerPlan best = plan_for(load());
    rate(best);
    LayerPlan other = plan_for(envelope(input_.scenarios, layer_));
    rate(other);
    if (other.imbalance_after + price() * other.moves < best.imbalance_after + price() * best.moves)
      best = std::move(other);
    return best;
  }

  void rate(LayerPlan& plan) const {
    plan.imbalance_before =
        mean_imbalance(input_.shape, input_.served.placement.layer(layer_),
                       shares_of(input_.served, layer_), input_.scenarios, layer_);
    plan.imbalance_after =
        mean_imbalance(input_.shape, plan.placement, plan.shares, input_.scenarios, layer_);
  }

  LayerProblem problem(std::span<const std::int64_t> load) const {
    LayerProblem problem;
    problem.shape = &input_.shape;
    problem.load = load;
    problem.placement = input_.served.placement.layer(layer_);
    problem.shares = shares_of(input_.served, layer_);
    problem.max_moves = input_.config.max_moves_per_layer;
    problem.min_gain = price();
    problem.dispatch = input_.dispatch;
    problem.locality_first = input_.config.locality_first;
    // Layers of one plan get unrelated seeds, whatever the loads.
    problem.seed = Mixer(input_.seed ^ Mixer(static_cast<std::uint64_t>(layer_)).next()).next();
    return problem;
  }

  // What noise alone would show is no gain: a plan can not be better than its loads are known.
  bool is_worth_it(const LayerPlan& plan) {
    if (!policy_->capabilities().gated) return true;
    const double noise =
        noise_imbalance(input_.shape.num_ranks(), total(load()) / input_.unit, input_.dispersion);
    const double gain = plan.imbalance_before - std::max(plan.imbalance_after, 1.0 + noise);
    if (gain <= 0.0 || gain < price() * plan.moves) return false;
    // What is served was planned on a sample as noisy as this one.
    if (input_.dispatch == Dispatch::kEven && plan.moves > 0 &&
        plan.imbalance_before - plan.imbalance_after <= kNoises * noise)
      return false;
    if (input_.gate && !input_.gate->is_worth_it(gain, plan.moves)) return false;
    gain_ += gain;
    return true;
  }

  PlanInput input_;
  std::unique_ptr<Policy> policy_;
  int layer_ = 0;
  double gain_ = 0.0;  // sum over layers, beyond noise
  std::vector<double> before_;
  std::vector<double> after_;
  Plan plan_;
};

class EmptyJob final : public PlanJob {
 public:
  explicit EmptyJob(const std::vector<double>& imbalance) {
    plan_.imbalance_before = plan_.imbalance_after = aggregate_imbalance(imbalance);
  }
  bool advance() override { return true; }
  Plan take() override { return plan_; }

 private:
  Plan plan_;
};

}  // namespace

double noise_imbalance(int num_ranks, double tokens, double dispersion) {
  if (num_ranks < 2 || tokens <= 0.0) return 0.0;
  // Expected maximum of 2^k standard normal values (order statistics, e.g. Harter 1961); linear in
  // between.
  constexpr std::array kExpectedMaximum = {0.0,   0.564, 1.029, 1.424, 1.766, 2.070,
                                           2.344, 2.594, 2.826, 3.041, 3.243, 3.434};
  const auto k =
      std::min(static_cast<std::size_t>(std::bit_width(static_cast<unsigned>(num_ranks)) - 1),
               kExpectedMaximum.size() - 2);
  const double part = static_cast<double>(num_ranks) / static_cast<double>(1U << k) - 1.0;
  const double maximum =
      kExpectedMaximum[k] + part * (kExpectedMaximum[k + 1] - kExpectedMaximum[k]);
  return maximum * std::sqrt(dispersion * (num_ranks - 1) / tokens);
}

std::unique_ptr<PlanJob> make_plan_job(PlanInput input) {
  return std::make_unique<Job>(std::move(input));
}

std::unique_ptr<PlanJob> make_empty_job(const ClusterShape& shape, const ServedState& served,
                                        const ExpertLoad& load) {
  return std::make_unique<EmptyJob>(imbalance_per_layer(shape, served, load));
}

std::vector<double> imbalance_per_layer(const ClusterShape& shape, const ServedState& served,
                                        const ExpertLoad& load) {
  std::vector<double> result;
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    result.push_back(imbalance(rank_load(shape, served.placement.layer(layer),
                                         shares_of(served, layer), load.layer(layer))));
  }
  return result;
}

}  // namespace swiftbalancer
