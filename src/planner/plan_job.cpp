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
// Of the noise of a sample that moves must win.
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

// What a plan does with the layers so far.
struct Choice {
  std::vector<LayerChange> changes{};
  std::vector<double> imbalance{};  // [layers] after them
  double gain = 0.0;                // sum over layers, beyond noise
};

class Job final : public PlanJob {
 public:
  explicit Job(PlanInput input)
      : input_(std::move(input)), policy_(make_policy(input_.config.policy)) {}

  bool advance() override {
    if (layer_ == input_.shape.num_moe_layers()) return true;
    LayerPlan plan = plan_for_traffic();
    before_.push_back(plan.imbalance_before);
    if (policy_->capabilities().gated) {
      LayerPlan kept = plan.moves == 0 ? plan : plan_without_moves();
      if (is_noise(kept, plan)) plan = kept;
      take_layer(unmoved_, std::move(kept));
    }
    take_layer(choice_, std::move(plan));
    return ++layer_ == input_.shape.num_moe_layers();
  }

  Plan take() override {
    if (policy_->capabilities().gated) pass_gate();
    Plan plan;
    plan.imbalance_before = aggregate_imbalance(before_);
    plan.imbalance_after = aggregate_imbalance(choice_.imbalance);
    plan.changes = std::move(choice_.changes);
    for (const LayerChange& change : plan.changes) plan.moves += change.plan.moves;
    std::stable_sort(plan.changes.begin(), plan.changes.end(),
                     [](const LayerChange& a, const LayerChange& b) {
                       return gain_per_move(a.plan) > gain_per_move(b.plan);
                     });
    return plan;
  }

 private:
  double price() const {
    return input_.gate ? input_.gate->price() : kMovePrice * input_.config.min_gain;
  }

  std::span<const std::int64_t> load() const { return input_.load.layer(layer_); }

  LayerPlan plan_for_traffic() const {
    return input_.scenarios.size() > 1 ? plan_for_scenarios() : plan_for(load());
  }

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

  LayerPlan plan_without_moves() {
    const int max_moves = std::exchange(input_.config.max_moves_per_layer, 0);
    LayerPlan plan = plan_for_traffic();
    input_.config.max_moves_per_layer = max_moves;
    return plan;
  }

  // Moves must win more than the noise of two samples, the one that what is served was planned on
  // and this one.
  bool is_noise(const LayerPlan& kept, const LayerPlan& plan) const {
    return kept.imbalance_after - plan.imbalance_after <= kNoises * noise();
  }

  void take_layer(Choice& choice, LayerPlan plan) const {
    const double gain = plan.imbalance_before - std::max(plan.imbalance_after, 1.0 + noise());
    const bool taken = changes(plan, input_.served, layer_) &&
                       (!policy_->capabilities().gated || is_worth_it(gain, plan.moves));
    choice.imbalance.push_back(taken ? plan.imbalance_after : plan.imbalance_before);
    if (!taken) return;
    choice.gain += gain;
    choice.changes.push_back({layer_, std::move(plan)});
  }

  // What noise alone would show is no gain: a plan can not be better than its loads are known.
  bool is_worth_it(double gain, int moves) const {
    return gain > 0.0 && gain >= price() * moves &&
           (!input_.gate || input_.gate->is_worth_it(gain, moves));
  }

  // Moves must win over what new shares win alone, which cost no transfer.
  void pass_gate() {
    const double least = input_.config.min_gain * input_.shape.num_moe_layers();
    if (choice_.gain - unmoved_.gain >= least) return;
    choice_ = std::move(unmoved_);
    if (choice_.gain >= kSharesPrice * least) return;
    choice_.changes.clear();
    choice_.imbalance = before_;
  }

  double noise() const {
    return noise_imbalance(input_.shape.num_ranks(), total(load()) / input_.unit,
                           input_.dispersion);
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
    // Layers of one plan get unrelated seeds, whatever the loads.
    problem.seed = Mixer(input_.seed ^ Mixer(static_cast<std::uint64_t>(layer_)).next()).next();
    return problem;
  }

  PlanInput input_;
  std::unique_ptr<Policy> policy_;
  int layer_ = 0;
  std::vector<double> before_;  // [layers]
  Choice choice_;
  Choice unmoved_;  // of gated policies: the best that takes no moves
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
