#include "planner/plan_job.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <optional>
#include <utility>

#include "planner/layer_problem.hpp"
#include "planner/move_budget.hpp"
#include "planner/noise.hpp"
#include "planner/rank_moves.hpp"

namespace swiftbalancer {
namespace {

// The price of a move, as a part of the gain that a whole plan must bring: the last percent of
// balance takes most moves and is gone with the next drift.
constexpr double kMovePrice = 0.2;
// Less of both below a noise of 0.12, as on some hundred real requests: what is won begins to be
// more than noise.
constexpr double kLeastPartOfGain = 0.25;
constexpr double kNoiseOfFullGain = 0.12;
// Of the noise of a sample that moves must win; more where only moves can answer another sample of
// the same traffic: with even shares two differ by up to 2.4 in 1,600 layers.
constexpr double kNoises = 2.0;
constexpr double kNoisesEven = 2.5;
// The part of least_gain() that is asked of a plan which may move nothing and so costs no transfer.
constexpr double kSharesPrice = 0.25;

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

// What to do with a layer; without a plan it is left as it is.
struct Choice {
  std::optional<LayerPlan> plan{};
  double gain = 0.0;  // beyond noise
};

double sum_of_gains(const std::vector<Choice>& choices) {
  double sum = 0.0;
  for (const Choice& choice : choices) sum += choice.gain;
  return sum;
}

class Job final : public PlanJob {
 public:
  explicit Job(PlanInput input)
      : input_(std::move(input)),
        limits_(input_.config.limits),
        policy_(make_policy(input_.config.policy)),
        capabilities_(policy_->capabilities()),
        planned_(static_cast<std::size_t>(input_.shape.num_moe_layers())),
        unmoved_(planned_.size()),
        unmoved_imbalance_(planned_.size()),
        pinned_(static_cast<std::size_t>(input_.shape.num_slots()), 0) {}

  bool advance() override {
    if (layer_ == input_.shape.num_moe_layers()) return settle();
    LayerPlan plan = plan_layer(layer_, may_move() ? most_moves() : 0);
    before_.push_back(plan.imbalance_before);
    if (capabilities_.gated) plan_without_moves(plan);
    consider(layer_, std::move(plan));
    if (++layer_ < input_.shape.num_moe_layers()) return false;
    spend_budgets();
    return to_settle_.empty();
  }

  Plan take() override {
    plan_.imbalance_before = aggregate_imbalance(before_);
    if (capabilities_.gated) pass_gate();
    collect_changes();
    std::vector<double> after = before_;
    for (const LayerChange& change : plan_.changes) {
      after[static_cast<std::size_t>(change.moe_layer_id)] = change.plan.imbalance_after;
      plan_.moves += change.plan.moves;
    }
    plan_.imbalance_after = aggregate_imbalance(after);
    std::stable_sort(plan_.changes.begin(), plan_.changes.end(),
                     [](const LayerChange& a, const LayerChange& b) {
                       return gain_per_move(a.plan) > gain_per_move(b.plan);
                     });
    return std::move(plan_);
  }

 private:
  double price(int layer) const {
    if (limits_.gate) return limits_.gate->price();
    return kMovePrice * least_gain(layer);
  }
  double least_gain(int layer) const {
    return input_.config.min_gain *
           std::clamp(noise(layer) / kNoiseOfFullGain, kLeastPartOfGain, 1.0);
  }
  int most_moves() const { return input_.config.max_moves_per_layer; }
  bool may_move() const {
    return most_moves() != 0 && limits_.max_moves_per_rebalance != 0 &&
           limits_.max_bytes_per_rebalance != 0 && limits_.max_bytes_per_rank != 0;
  }

  // What new shares win alone, which cost no transfer, is not the gain of moves.
  void plan_without_moves(const LayerPlan& plan) {
    const auto at = static_cast<std::size_t>(layer_);
    unmoved_imbalance_[at] = plan.imbalance_before;
    if (plan.moves > 0 && !plans_shares()) return;
    LayerPlan unmoved = plan.moves == 0 ? plan : plan_layer(layer_, 0);
    unmoved_imbalance_[at] = unmoved.imbalance_after;
    unmoved_[at] = choose(layer_, std::move(unmoved));
  }
  bool plans_shares() const {
    return capabilities_.planned_shares && input_.dispatch == Dispatch::kSplit;
  }

  // Moves must win more than the noise of two samples: this one, and the one that what is served
  // was planned on.
  void consider(int layer, LayerPlan plan) {
    const auto at = static_cast<std::size_t>(layer);
    const double noises = input_.dispatch == Dispatch::kEven ? kNoisesEven : kNoises;
    const bool is_noise = capabilities_.gated && plan.moves > 0 &&
                          unmoved_imbalance_[at] - plan.imbalance_after <= noises * noise(layer);
    planned_[at] = is_noise ? unmoved_[at] : choose(layer, std::move(plan));
  }

  // The whole plan: its moves must win enough, or else what its shares win alone.
  void pass_gate() {
    double least = 0.0;
    for (int layer = 0; layer < input_.shape.num_moe_layers(); ++layer) least += least_gain(layer);
    const double of_shares = sum_of_gains(unmoved_);
    if (sum_of_gains(planned_) - of_shares >= least) return;
    if (of_shares < kSharesPrice * least) unmoved_.assign(unmoved_.size(), {});
    planned_ = std::move(unmoved_);
  }

  LayerPlan plan_layer(int layer, int max_moves) {
    const auto plan_for = [&](std::span<const std::int64_t> load) {
      return policy_->plan_layer(problem(layer, load, max_moves));
    };
    if (input_.scenarios.size() < 2) return plan_for(input_.load.layer(layer));
    // The better of two plans: for the blend, and for the most that each expert gets in any
    // scenario, which holds apart what is hot at different times.
    LayerPlan best = plan_for(input_.load.layer(layer));
    rate(layer, best);
    LayerPlan other = plan_for(envelope(input_.scenarios, layer));
    rate(layer, other);
    const auto value = [price = price(layer)](const LayerPlan& plan) {
      return plan.imbalance_after + price * plan.moves;
    };
    if (value(other) < value(best)) best = std::move(other);
    return best;
  }

  void rate(int layer, LayerPlan& plan) const {
    const auto imbalance_of = [&](std::span<const std::int32_t> placement,
                                  std::span<const std::uint32_t> shares) {
      return mean_imbalance(input_.shape, placement, shares, input_.scenarios, layer,
                            limits_.rank_speeds);
    };
    plan.imbalance_before =
        imbalance_of(input_.served.placement.layer(layer), shares_of(input_.served, layer));
    plan.imbalance_after = imbalance_of(plan.placement, plan.shares);
    plan.trade_offs.clear();  // They are of one load.
  }

  LayerProblem problem(int layer, std::span<const std::int64_t> load, int max_moves) {
    LayerProblem problem;
    problem.shape = &input_.shape;
    problem.load = load;
    problem.placement = input_.served.placement.layer(layer);
    problem.shares = shares_of(input_.served, layer);
    problem.max_moves = max_moves;
    problem.min_gain = price(layer);
    problem.dispatch = input_.dispatch;
    problem.rank_speed = limits_.rank_speeds;
    problem.max_replicas = limits_.max_replicas;
    problem.max_rank_moves = limits_.max_rank_moves;
    problem.max_cross_node_replicas = -1;
    if (!limits_.pinned_experts.empty()) problem.pinned = pin(problem.placement);
    problem.locality_first = input_.config.locality_first;
    // Layers of one plan get unrelated seeds, whatever the loads.
    problem.seed = Mixer(input_.seed ^ Mixer(static_cast<std::uint64_t>(layer)).next()).next();
    return problem;
  }

  // Slots that hold pinned experts; of one with more replicas than allowed the first ones.
  std::span<const std::uint8_t> pin(std::span<const std::int32_t> placement) {
    std::ranges::fill(pinned_, std::uint8_t{0});
    for (const std::int32_t expert : limits_.pinned_experts) {
      int count = 0;
      for (std::size_t slot = 0; slot < placement.size(); ++slot) {
        if (placement[slot] == expert &&
            (limits_.max_replicas <= 0 || count++ < limits_.max_replicas))
          pinned_[slot] = 1;
      }
    }
    return pinned_;
  }

  // A plan that changes something and is worth it. No plan is better than its loads are known.
  Choice choose(int layer, LayerPlan plan) const {
    if (!changes(plan, input_.served, layer)) return {};
    const double gain = plan.imbalance_before - std::max(plan.imbalance_after, 1.0 + noise(layer));
    const bool pays =
        gain > 0.0 && (limits_.gate ? limits_.gate->is_worth_it(gain, busiest_rank(layer, plan))
                                    : gain >= price(layer) * plan.moves);
    if (capabilities_.gated && !pays) return {};
    return {std::move(plan), gain};
  }

  double noise(int layer) const {
    return noise_imbalance(input_.shape.num_ranks(),
                           static_cast<double>(total(input_.load.layer(layer))) / input_.unit,
                           input_.dispersion);
  }

  int busiest_rank(int layer, const LayerPlan& plan) const {
    if (plan.moves == 0) return 0;
    return rank_moves(input_.shape, input_.served.placement.layer(layer), plan.placement).busiest();
  }
  const std::optional<LayerPlan>& plan_of(int layer) const {
    return planned_[static_cast<std::size_t>(layer)].plan;
  }
  RankMoves moves_of(int layer) const {
    return rank_moves(input_.shape, input_.served.placement.layer(layer),
                      plan_of(layer)->placement);
  }

  std::int64_t expert_bytes(int layer) const {
    const auto at = static_cast<std::size_t>(layer);
    return input_.config.expert_bytes.empty() ? 1 : input_.config.expert_bytes[at];
  }

  // Over all layers: ranks cannot receive more than their budgets together.
  std::int64_t most_bytes() const {
    const std::int64_t of_rank = limits_.max_bytes_per_rank;
    const std::int64_t of_all = limits_.max_bytes_per_rebalance;
    const int ranks = input_.shape.num_ranks();
    if (of_rank < 0 || of_rank > std::numeric_limits<std::int64_t>::max() / ranks) return of_all;
    return of_all < 0 ? of_rank * ranks : std::min(of_all, of_rank * ranks);
  }

  // How many moves each layer may make of what the budgets of the whole rebalance allow.
  void spend_budgets() {
    const MoveBudget budget{limits_.max_moves_per_rebalance, most_bytes()};
    if (budget.max_moves < 0 && budget.max_bytes < 0) return;
    std::vector<LayerCurve> curves;
    for (int layer = 0; layer < input_.shape.num_moe_layers(); ++layer) {
      const std::optional<LayerPlan>& plan = plan_of(layer);
      curves.push_back({{{}}, expert_bytes(layer), capabilities_.incremental});
      if (!plan || plan->moves == 0) continue;
      curves.back().points = curve_of(*plan);
      to_settle_.push_back(layer);
    }
    allowed_ = spend_budget(curves, budget);
    const auto gain_per_byte = [&](int layer) {
      return gain_per_move(*plan_of(layer)) / static_cast<double>(expert_bytes(layer));
    };
    // From the back.
    std::ranges::reverse(to_settle_);
    std::ranges::stable_sort(to_settle_, std::ranges::less(), gain_per_byte);
    rank_bytes_.emplace(input_.shape.num_ranks(), limits_.max_bytes_per_rank);
  }

  static std::vector<TradeOff> curve_of(const LayerPlan& plan) {
    std::vector<TradeOff> points{{0, plan.imbalance_before}};
    for (const TradeOff& point : plan.trade_offs) {
      if (point.moves > 0 && point.moves < plan.moves) points.push_back(point);
    }
    points.push_back({plan.moves, plan.imbalance_after});
    return points;
  }

  // One more call of the policy for layers that must be brought within the budgets.
  // @returns true when all are.
  bool settle() {
    if (!to_settle_.empty() && settle_layer(to_settle_.back())) {
      const int layer = to_settle_.back();
      if (plan_of(layer)) rank_bytes_->add(moves_of(layer), expert_bytes(layer));
      to_settle_.pop_back();
    }
    return to_settle_.empty();
  }

  // A plan that is too much for a rank is made again with fewer moves, the most that are not, by
  // bisection. @returns whether the layer is done with.
  bool settle_layer(int layer) {
    Choice& choice = planned_[static_cast<std::size_t>(layer)];
    const auto fits = [&] {
      return !choice.plan || rank_bytes_->fits(moves_of(layer), expert_bytes(layer));
    };
    if (too_many_ == 0) {
      const int allowed = allowed_[static_cast<std::size_t>(layer)];
      if (choice.plan->moves > allowed) plan_again(layer, allowed);
      if (fits()) return true;
      too_many_ = choice.plan->moves;
      not_too_many_ = 0;
      largest_ = unmoved_[static_cast<std::size_t>(layer)];
      return false;
    }
    const int moves = (not_too_many_ + too_many_) / 2;
    if (moves == not_too_many_) {
      choice = std::move(largest_);
      too_many_ = 0;
      return true;
    }
    plan_again(layer, moves);
    if (!fits()) {
      too_many_ = moves;
    } else {
      not_too_many_ = moves;
      largest_ = choice;
    }
    return false;
  }

  void plan_again(int layer, int most) {
    const auto at = static_cast<std::size_t>(layer);
    planned_[at] = unmoved_[at];
    if (!capabilities_.incremental || most == 0) return;
    LayerPlan plan = plan_layer(layer, most);
    if (plan.moves <= most) consider(layer, std::move(plan));
  }

  void collect_changes() {
    for (std::size_t layer = 0; layer < planned_.size(); ++layer) {
      if (planned_[layer].plan)
        plan_.changes.push_back({static_cast<int>(layer), std::move(*planned_[layer].plan)});
    }
  }

  const PlanInput input_;
  const PlanLimits& limits_;
  std::unique_ptr<Policy> policy_;
  PolicyCapabilities capabilities_;
  int layer_ = 0;
  std::vector<double> before_;             // [layers planned]
  std::vector<Choice> planned_;            // [num_moe_layers]
  std::vector<Choice> unmoved_;            // [num_moe_layers] of gated policies: without moves
  std::vector<double> unmoved_imbalance_;  // [num_moe_layers] of those
  std::vector<std::uint8_t> pinned_;       // [num_slots] of the layer being planned
  // With budgets.
  std::vector<int> to_settle_;           // layers, those to settle first at the back
  std::vector<int> allowed_;             // [num_moe_layers] moves
  std::optional<RankBytes> rank_bytes_;  // of settled layers
  int too_many_ = 0, not_too_many_ = 0;  // moves of the layer at the back, while it is bisected
  Choice largest_;                       // of its plans that fit
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

int most_advances(const ClusterShape& shape) {
  constexpr int kBesideBisection = 4;
  return shape.num_moe_layers() *
         (kBesideBisection + std::bit_width(static_cast<unsigned>(shape.num_slots())));
}

std::unique_ptr<PlanJob> make_plan_job(PlanInput input) {
  return std::make_unique<Job>(std::move(input));
}

std::unique_ptr<PlanJob> make_empty_job(const std::vector<double>& imbalance_per_layer) {
  return std::make_unique<EmptyJob>(imbalance_per_layer);
}

}  // namespace swiftbalancer
