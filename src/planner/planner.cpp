#include "planner/planner.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include <swiftbalancer/dispatch_table.hpp>
#include <swiftbalancer/error.hpp>

#include "planner/load_history.hpp"
#include "planner/plan_job.hpp"

namespace swiftbalancer {
namespace {

// When to look again at traffic that has not changed: with so many times the data.
constexpr std::int64_t kLookAgainFactor = 2;
// A change is answered with half a window of evidence, which is what it takes to notice it; a
// second plan corrects the first with the data that has come meanwhile.
constexpr std::int64_t kFirstLookFraction = 2;
constexpr int kPlansPerChange = 2;
constexpr std::int64_t kCorrectWithinWindows = 3;
// Part of the excess that triggers moves.
constexpr double kExcessWorthALook = 0.3;

void require(bool condition, const std::string& message) {
  if (!condition) throw Error(ErrorCode::kInvalidArgument, message);
}

PlannerConfig checked(const PlannerConfig& config) {
  require(std::isfinite(config.imbalance_trigger) && config.imbalance_trigger >= 1.0,
          "imbalance_trigger is " + std::to_string(config.imbalance_trigger) +
              "; it must be at least 1 (max / mean rank load)");
  require(std::isfinite(config.min_gain) && config.min_gain >= 0.0,
          "min_gain is " + std::to_string(config.min_gain) + "; it must be at least 0");
  require(config.window_assignments > 0, "window_assignments is " +
                                             std::to_string(config.window_assignments) +
                                             "; it must be at least 1");
  return config;
}

}  // namespace

ServedState ServedState::even(const Placement& placement, const ClusterShape& shape) {
  ServedState served{placement, {}};
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    served.shares.push_back(
        even_shares(served.placement.layer(layer), shape.num_logical_experts()));
  }
  return served;
}

ServedState without_empty_slots(const ServedState& served, const ClusterShape& shape) {
  ServedState filled = served;
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    const auto row = filled.placement.layer(layer);
    std::vector<std::int32_t> replicas = replica_count(row, shape.num_logical_experts());
    for (int slot = 0; slot < shape.num_slots(); ++slot) {
      if (row[static_cast<std::size_t>(slot)] != kEmptySlot) continue;
      const int rank = shape.rank_of_slot(slot);
      const auto own = row.subspan(static_cast<std::size_t>(shape.first_slot(rank)),
                                   static_cast<std::size_t>(shape.slots_per_rank(rank)));
      std::int32_t best = -1;
      for (std::int32_t expert = 0; expert < shape.num_logical_experts(); ++expert) {
        if (std::ranges::find(own, expert) != own.end()) continue;
        const auto count = [&](std::int32_t e) { return replicas[static_cast<std::size_t>(e)]; };
        if (best < 0 || count(expert) < count(best)) best = expert;
      }
      if (best < 0) best = 0;  // More slots than experts: a duplicate cannot be avoided.
      row[static_cast<std::size_t>(slot)] = best;
      ++replicas[static_cast<std::size_t>(best)];
    }
  }
  return filled;
}

struct Planner::Impl {
  Impl(const ClusterShape& given_shape, const PlannerConfig& given_config)
      : shape(given_shape),
        config(checked(given_config)),
        capabilities(make_policy(config.policy)->capabilities()),
        history(shape, config.window_assignments),
        served(ServedState::initial(shape)) {}

  // Whether there is evidence that no plan was asked about yet.
  bool has_new_evidence() const {
    return capabilities.moves && history.assignments_since_change() >= look_at;
  }

  void note_look() {
    if (history.assignments_since_change() < look_at) return;
    look_at = kLookAgainFactor * history.assignments_since_change();
  }

  void note_change() {
    if (changes == history.num_changes()) return;
    changes = history.num_changes();
    look_at = config.window_assignments / kFirstLookFraction;
    plans_since_change = 0;
  }

  // Mean over layers of the imbalance that noise does not explain, under what is served.
  double imbalance_beyond_noise() const {
    const ExpertLoad& load = history.since_change();
    const double dispersion = history.dispersion();
    const std::vector<double> per_layer = imbalance_per_layer(shape, served, load);
    double sum = 0.0;
    for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
      std::int64_t tokens = 0;
      for (std::int64_t count : load.layer(layer)) tokens += count;
      sum += std::max(
          1.0, per_layer[static_cast<std::size_t>(layer)] -
                   noise_imbalance(shape.num_ranks(), static_cast<double>(tokens), dispersion));
    }
    return sum / shape.num_moe_layers();
  }

  // Traffic that has not changed since experts were moved for it moves none again, unless those
  // plans turn out to be bad: more data sharpens the shares only, which costs no transfer.
  int allowed_moves() const {
    const bool correcting =
        plans_since_change < kPlansPerChange &&
        history.assignments_since_change() <= kCorrectWithinWindows * config.window_assignments;
    if (plans_since_change == 0 || correcting) return config.max_moves_per_layer;
    return imbalance_beyond_noise() <= config.imbalance_trigger ? 0 : config.max_moves_per_layer;
  }

  // A plan is committed unit by unit and counts once.
  void note_moves(const ServedState& now) {
    if (counted || now.placement == served.placement) return;
    ++plans_since_change;
    counted = true;
  }

  // What is small enough to bear is still worth a look: better shares cost nothing, and a look is
  // taken rarely.
  void judge() {
    const double excess = kExcessWorthALook * (config.imbalance_trigger - 1.0);
    wants = !rebalancing && has_new_evidence() && imbalance_beyond_noise() > 1.0 + excess;
  }

  ClusterShape shape;
  PlannerConfig config;
  PolicyCapabilities capabilities;
  LoadHistory history;
  ServedState served;
  bool rebalancing = false;
  bool wants = false;
  int changes = 0;  // of the traffic, as of the last note
  std::int64_t look_at =
      config.window_assignments;  // assignments since the change that make new evidence
  int plans_since_change = 0;     // that moved experts
  bool counted = false;           // whether the plan under way is one of them
};

Planner::Planner(const ClusterShape& shape, const PlannerConfig& config)
    : impl_(std::make_unique<Impl>(shape, config)) {}
Planner::~Planner() = default;

void Planner::observe(const ExpertLoad& load) {
  require(load.num_moe_layers() == impl_->shape.num_moe_layers() &&
              load.num_logical_experts() == impl_->shape.num_logical_experts(),
          "load is [" + std::to_string(load.num_moe_layers()) + ", " +
              std::to_string(load.num_logical_experts()) + "]; the shape needs [" +
              std::to_string(impl_->shape.num_moe_layers()) + ", " +
              std::to_string(impl_->shape.num_logical_experts()) + "] (layers, logical experts)");
  const int blocks = impl_->history.num_blocks();
  impl_->history.add(load);
  impl_->note_change();
  // Between blocks the evidence hardly grows; judging costs a pass over all layers.
  if (blocks != impl_->history.num_blocks()) impl_->judge();
}

void Planner::on_served(const ServedState& served, bool rebalancing) {
  impl_->note_moves(served);
  impl_->served = served;
  impl_->rebalancing = rebalancing;
  impl_->judge();
}

bool Planner::wants_rebalance() const { return impl_->wants; }

std::unique_ptr<PlanJob> Planner::begin_plan(std::uint64_t seed) {
  const bool due = impl_->has_new_evidence();
  impl_->note_look();
  impl_->counted = false;
  impl_->wants = false;
  const bool gated = impl_->capabilities.gated;
  // Ungated policies follow the last window, as their originals do.
  ExpertLoad load = gated ? impl_->history.since_change() : impl_->history.last_window();
  const bool load_is_empty = assignments_of(load) == 0;
  if ((gated && !due) || load_is_empty) return make_empty_job(impl_->shape, impl_->served, load);
  PlannerConfig config = impl_->config;
  if (gated) config.max_moves_per_layer = impl_->allowed_moves();
  return make_plan_job(
      {impl_->shape, config, impl_->served, std::move(load), impl_->history.dispersion(), seed});
}

}  // namespace swiftbalancer
