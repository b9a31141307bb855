#include "planner/planner.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <swiftbalancer/error.hpp>

#include "planner/layer_problem.hpp"
#include "planner/noise.hpp"
#include "planner/plan_job.hpp"
#include "planner/refuse.hpp"
#include "planner/scenarios.hpp"
#include "planner/traffic.hpp"

namespace swiftbalancer {
namespace {

// A phase with less than this part of the tokens of late is not planned for.
constexpr double kLeastPartOfTraffic = 0.02;
// What a packet set of before counts for what is of late.
constexpr double kFade = 1.0 - 1.0 / 256;
// Part of the excess that triggers moves.
constexpr double kExcessWorthALook = 0.3;

}  // namespace

struct Planner::Impl {
  Impl(const ClusterShape& given_shape, const PlannerConfig& given_config)
      : shape(given_shape),
        config(checked(given_config, given_shape)),
        capabilities(make_policy(config.policy)->capabilities()),
        served(ServedState::initial(shape)) {}

  struct PhaseTraffic {
    std::optional<Traffic> traffic{};  // from its first loads on
    double recent_assignments = 0.0;   // of late, fading
  };

  PhaseTraffic& of(Phase phase) { return phases.at(static_cast<std::size_t>(phase)); }

  // The phases that there is enough traffic of to tell, or the only one.
  std::vector<const PhaseTraffic*> known_phases() const {
    std::vector<const PhaseTraffic*> known;
    double all = 0.0;
    for (const PhaseTraffic& phase : phases) all += phase.recent_assignments;
    for (const PhaseTraffic& phase : phases) {
      if (phase.traffic && phase.recent_assignments >= kLeastPartOfTraffic * all &&
          phase.traffic->history().assignments_since_change() > 0)
        known.push_back(&phase);
    }
    return known;
  }

  // Whether there is evidence that no plan was asked about yet.
  bool has_new_evidence() const {
    return capabilities.moves && std::ranges::any_of(known_phases(), [](const PhaseTraffic* phase) {
             return phase->traffic->has_new_evidence();
           });
  }

  // Mean over layers of the imbalance that noise does not explain, under what is served, mean over
  // phases by their tokens.
  double imbalance_beyond_noise() const {
    double sum = 0.0, weights = 0.0;
    for (const PhaseTraffic* phase : known_phases()) {
      const LoadHistory& history = phase->traffic->history();
      sum += phase->recent_assignments *
             imbalance_beyond_noise(history.since_change(), history.dispersion());
      weights += phase->recent_assignments;
    }
    return weights > 0.0 ? sum / weights : 1.0;
  }

  double imbalance_beyond_noise(const ExpertLoad& load, double dispersion) const {
    const std::vector<double> per_layer =
        imbalance_per_layer(shape, served, load, config.limits.rank_speeds);
    double sum = 0.0;
    for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
      const std::int64_t tokens = total(load.layer(layer));
      sum += std::max(
          1.0, per_layer[static_cast<std::size_t>(layer)] -
                   noise_imbalance(shape.num_ranks(), static_cast<double>(tokens), dispersion));
    }
    return sum / shape.num_moe_layers();
  }

  // Traffic that has not changed moves no expert after its plan and the corrections of that
  // (Traffic::is_open), be they of shares alone, unless those plans turn out to be bad: more data
  // sharpens the shares only, which costs no transfer.
  int allowed_moves() const {
    const bool open = std::ranges::any_of(known_phases(), [](const PhaseTraffic* phase) {
      return phase->traffic->has_new_evidence() && phase->traffic->is_open();
    });
    if (open) return config.max_moves_per_layer;
    return imbalance_beyond_noise() <= config.imbalance_trigger ? 0 : config.max_moves_per_layer;
  }

  // A plan is committed unit by unit and counts once.
  void note_plan() noexcept {
    if (counted) return;
    for (PhaseTraffic& phase : phases) {
      if (phase.traffic) phase.traffic->note_plan();
    }
    counted = true;
  }

  void note_look() noexcept {
    for (PhaseTraffic& phase : phases) {
      if (phase.traffic) phase.traffic->note_look();
    }
    counted = false;
    wants = false;
  }

  // What is small enough to bear is still worth a look: better shares cost nothing, and a look is
  // taken rarely.
  void judge() {
    const double excess = kExcessWorthALook * (config.imbalance_trigger - 1.0);
    wants = !rebalancing && has_new_evidence() && imbalance_beyond_noise() > 1.0 + excess;
  }

  // What all known phases are expected to bring. Several, or one whose window is of two kinds, make
  // scenarios.
  PlanInput input(std::uint64_t seed) const {
    PlanInput input{
        shape, config, served, ExpertLoad(), 1.0, seed, static_cast<double>(LoadEstimate::kUnit)};
    std::int64_t evidence = 0;
    for (const PhaseTraffic* phase : known_phases()) {
      const LoadHistory& history = phase->traffic->history();
      input.dispersion = std::max(input.dispersion, history.dispersion());
      LoadEstimate estimate = phase->traffic->estimate();
      evidence += assignments_of(estimate.load);
      input.scenarios.push_back({std::move(estimate.load), phase->recent_assignments});
    }
    if (input.scenarios.empty()) {
      input.load = ExpertLoad(shape.num_moe_layers(), shape.num_logical_experts());
      return input;
    }
    if (input.scenarios.size() > 1) {
      input.load = blend(input.scenarios, evidence);
      return input;
    }
    input.load = std::move(input.scenarios.front().load);
    const LoadHistory& history = known_phases().front()->traffic->history();
    input.scenarios = scenarios_of(history.bins(), history.dispersion());
    return input;
  }

  // As their originals do, ungated policies follow the last window. Each phase has one of its own:
  // they count by what came of them of late.
  PlanInput input_of_last_window(std::uint64_t seed) const {
    PlanInput input{shape,  config,
                    served, ExpertLoad(shape.num_moe_layers(), shape.num_logical_experts()),
                    1.0,    seed};
    const std::vector<const PhaseTraffic*> known = known_phases();
    std::vector<ExpertLoad> windows;
    std::vector<double> weights;
    for (const PhaseTraffic* phase : known) {
      windows.push_back(phase->traffic->history().last_window());
      weights.push_back(phase->recent_assignments / static_cast<double>(std::max<std::int64_t>(
                                                        1, assignments_of(windows.back()))));
    }
    for (std::size_t i = 0; i < windows.size(); ++i) {
      const double weight = weights[i] / *std::ranges::max_element(weights);
      for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
        const auto to = input.load.layer(layer);
        for (std::size_t expert = 0; expert < to.size(); ++expert) {
          to[expert] += std::llround(weight * static_cast<double>(windows[i].layer(layer)[expert]));
        }
      }
    }
    return input;
  }

  ClusterShape shape;
  PlannerConfig config;
  PolicyCapabilities capabilities;
  std::array<PhaseTraffic, 3> phases;  // [Phase]
  ServedState served;
  bool rebalancing = false;
  bool wants = false;
  bool counted = false;  // whether the plan under way has changed anything
};

Planner::Planner(const ClusterShape& shape, const PlannerConfig& config)
    : impl_(std::make_unique<Impl>(shape, config)) {}
Planner::~Planner() = default;

void Planner::observe(const ExpertLoad& load, Phase phase) {
  require(load.num_moe_layers() == impl_->shape.num_moe_layers() &&
              load.num_logical_experts() == impl_->shape.num_logical_experts(),
          "load is [" + std::to_string(load.num_moe_layers()) + ", " +
              std::to_string(load.num_logical_experts()) + "]; the shape needs [" +
              std::to_string(impl_->shape.num_moe_layers()) + ", " +
              std::to_string(impl_->shape.num_logical_experts()) + "] (layers, logical experts)");
  for (Impl::PhaseTraffic& other : impl_->phases) other.recent_assignments *= kFade;
  Impl::PhaseTraffic& observed = impl_->of(phase);
  observed.recent_assignments += static_cast<double>(assignments_of(load));
  if (!observed.traffic) observed.traffic.emplace(impl_->shape, impl_->config.window_assignments);
  // Judging costs a pass over all layers.
  if (observed.traffic->add(load)) impl_->judge();
}

void Planner::on_served(const ServedState& served, bool rebalancing) {
  const ServedState& before = impl_->served;
  if (served.placement != before.placement || served.shares != before.shares) impl_->note_plan();
  impl_->served = served;
  on_rebalancing(rebalancing);
}

void Planner::on_committed(int moe_layer_id, std::span<const std::int32_t> placement,
                           std::span<const std::uint32_t> shares) {
  const auto placed = impl_->served.placement.layer(moe_layer_id);
  const std::span shared(impl_->served.shares[static_cast<std::size_t>(moe_layer_id)]);
  if (!std::ranges::equal(placed, placement) || !std::ranges::equal(shared, shares))
    impl_->note_plan();
  std::ranges::copy(placement, placed.begin());
  std::ranges::copy(shares, shared.begin());
  impl_->judge();
}

void Planner::on_rebalancing(bool rebalancing) {
  impl_->rebalancing = rebalancing;
  impl_->judge();
}

bool Planner::wants_rebalance() const { return impl_->wants; }

int Planner::num_changes() const noexcept {
  int changes = 0;
  for (const Impl::PhaseTraffic& phase : impl_->phases) {
    if (phase.traffic) changes += phase.traffic->history().num_changes();
  }
  return changes;
}

std::unique_ptr<PlanJob> Planner::begin_plan(std::uint64_t seed) {
  const bool due = impl_->has_new_evidence();
  const bool gated = impl_->capabilities.gated;
  const int allowed_moves = gated && due ? impl_->allowed_moves() : 0;
  PlanInput input = gated ? impl_->input(seed) : impl_->input_of_last_window(seed);
  if (gated) input.config.max_moves_per_layer = allowed_moves;
  auto job = (gated && !due) || assignments_of(input.load) == 0
                 ? make_empty_job(imbalance_per_layer(impl_->shape, impl_->served, input.load,
                                                      impl_->config.limits.rank_speeds))
                 : make_plan_job(std::move(input));
  impl_->note_look();
  return job;
}

}  // namespace swiftbalancer
