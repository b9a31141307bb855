// `swiftbalancer plan`: what a rebalance would do for given loads, without serving.

#include <algorithm>
#include <chrono>
#include <filesystem>

#include <fmt/format.h>

#include <swiftbalancer/error.hpp>
#include <swiftbalancer/load.hpp>
#include <swiftbalancer/placement.hpp>

#include "command.hpp"
#include "io/load_file.hpp"
#include "io/placement_file.hpp"
#include "io/text_file.hpp"
#include "observe/files.hpp"
#include "output_folder.hpp"
#include "planner/plan_job.hpp"

namespace swiftbalancer::tool {
namespace {

struct Timed {
  Plan plan;
  double milliseconds = 0.0;
};

Timed make_timed_plan(PlanInput input) {
  const auto start = std::chrono::steady_clock::now();
  const auto job = make_plan_job(std::move(input));
  while (!job->advance()) {
  }
  Timed timed{job->take(), 0.0};
  timed.milliseconds =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  return timed;
}

ServedState apply(ServedState state, const Plan& plan) {
  for (const LayerChange& change : plan.changes) {
    std::ranges::copy(change.plan.placement, state.placement.layer(change.moe_layer_id).begin());
    state.shares[static_cast<std::size_t>(change.moe_layer_id)] = change.plan.shares;
  }
  return state;
}

bool has_even_shares(const ServedState& state, const ClusterShape& shape) {
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    const auto even = even_shares(state.placement.layer(layer), shape.num_logical_experts());
    if (state.shares[static_cast<std::size_t>(layer)] != even) return false;
  }
  return true;
}

class PlanCommand final : public Command {
 public:
  std::string_view name() const override { return "plan"; }
  std::string_view summary() const override {
    return "Plan a placement for recorded loads and say what it would bring";
  }
  std::string_view examples() const override {
    return "  swiftbalancer plan loads.npy --num-ranks 8 --num-slots 80\n"
           "  swiftbalancer plan loads.npy --num-ranks 32 --num-slots 288 --num-nodes 4 --policy "
           "eplb --out placement.json\n"
           "  swiftbalancer plan loads.npy --window 3 --placement placement.json --out next.json";
  }
  std::string_view operand() const override { return "LOADS"; }
  std::string_view operand_help() const override {
    return "Loads, .npy or JSON: [layers, experts] or [windows, layers, experts] tokens";
  }

  void declare(Settings& settings) override {
    settings.integer("num_ranks", options_.num_ranks, 1, 1'000'000, "Ranks");
    settings.integer("num_slots", options_.num_slots, 1, 100'000'000,
                     "Slots per layer, over all ranks");
    settings.integer("num_nodes", options_.num_nodes, 1, 1'000'000,
                     "Nodes that the ranks are spread over");
    settings.integer("num_expert_groups", options_.num_expert_groups, 1, 1'000'000,
                     "Groups of group-limited routing; 1: none");
    settings.integer("window", window_, -1, 1'000'000'000,
                     "Window to plan for, from 0; -1: the sum of all");
    settings.text("policy", config_.policy, "Policy");
    settings.number("min_gain", config_.min_gain, 0.0, 1e9,
                    "Predicted fall of imbalance below which a plan is dropped");
    settings.integer("max_moves_per_layer", config_.max_moves_per_layer, -1, 1'000'000,
                     "Moves; -1: no limit");
    settings.text(
        "placement", placement_,
        "Placement file that is served now; without it: the initial placement of the shape");
    settings.text("out", out_, "Placement file to write");
  }

  void run(const Settings& settings, const std::string& loads_file, const std::string&) override {
    make_policy(config_.policy);
    const ExpertLoad load = chosen_load(loads_file);
    const ServedState served = served_state(settings, load, loads_file);
    const ClusterShape shape(options_);
    if (!out_.empty()) check_output_file(out_);

    const Timed timed =
        make_timed_plan({.shape = shape, .config = config_, .served = served, .load = load});
    print(shape, timed);
    if (out_.empty()) return;
    ServedState planned = apply(served, timed.plan);
    if (has_even_shares(planned, shape)) planned.shares.clear();
    const io::PlacementFile file{options_, std::move(planned.placement), std::move(planned.shares)};
    const auto folder = std::filesystem::path(out_).parent_path();
    if (!folder.empty()) create_folder(folder.string());
    observe::write_file_atomically(out_, io::format_placement(file));
    fmt::print("wrote {}\n", out_);
  }

 private:
  ExpertLoad chosen_load(const std::string& path) const {
    std::vector<ExpertLoad> windows = io::read_loads(path);
    if (window_ >= static_cast<std::int64_t>(windows.size())) {
      throw Error(ErrorCode::kInvalidArgument, fmt::format("--window is {}; {} has windows 0 to {}",
                                                           window_, path, windows.size() - 1));
    }
    if (window_ >= 0) return windows[static_cast<std::size_t>(window_)];
    ExpertLoad sum(windows.front().num_moe_layers(), windows.front().num_logical_experts());
    for (const ExpertLoad& load : windows) {
      for (int layer = 0; layer < sum.num_moe_layers(); ++layer) {
        for (std::size_t e = 0; e < sum.layer(layer).size(); ++e)
          sum.layer(layer)[e] += load.layer(layer)[e];
      }
    }
    return sum;
  }

  // Fills in the shape too: from the placement file, if there is one.
  ServedState served_state(const Settings& settings, const ExpertLoad& load,
                           const std::string& loads_file) {
    if (placement_.empty()) {
      if (!settings.given("num_ranks") || !settings.given("num_slots")) {
        throw Error(ErrorCode::kInvalidArgument,
                    "--num-ranks and --num-slots are needed, or a --placement that says them");
      }
      options_.num_moe_layers = load.num_moe_layers();
      options_.num_logical_experts = load.num_logical_experts();
      return ServedState::initial(ClusterShape(options_));
    }
    for (const char* key : {"num_ranks", "num_slots", "num_nodes", "num_expert_groups"}) {
      if (settings.given(key)) {
        throw Error(
            ErrorCode::kInvalidArgument,
            fmt::format("{} is given, and so is a placement, which says it; leave it out", key));
      }
    }
    io::PlacementFile file = io::parse_placement(placement_, io::read_text_file(placement_));
    options_ = file.shape;
    if (options_.num_moe_layers != load.num_moe_layers() ||
        options_.num_logical_experts != load.num_logical_experts()) {
      throw Error(
          ErrorCode::kInvalidArgument,
          fmt::format("{} has {} layers of {} experts, {} has {} of {}: they must be of one model",
                      loads_file, load.num_moe_layers(), load.num_logical_experts(), placement_,
                      options_.num_moe_layers, options_.num_logical_experts));
    }
    ServedState served{std::move(file.placement), std::move(file.shares)};
    for (int layer = static_cast<int>(served.shares.size()); layer < options_.num_moe_layers;
         ++layer) {
      served.shares.push_back(
          even_shares(served.placement.layer(layer), options_.num_logical_experts));
    }
    return served;
  }

  void print(const ClusterShape& shape, const Timed& timed) const {
    const Plan& plan = timed.plan;
    fmt::print("policy {}: {} layers of {} experts on {} slots, {} ranks, {} nodes\n\n",
               config_.policy, shape.num_moe_layers(), shape.num_logical_experts(),
               shape.num_slots(), shape.num_ranks(), shape.num_nodes());
    fmt::print("{:<34}{:>8}{:>8}\n", "imbalance (max / mean rank load)", "before", "after");
    fmt::print("{:<34}{:>8.4f}{:>8.4f}\n", "  mean over layers",
               plan.imbalance_before.mean_over_layers, plan.imbalance_after.mean_over_layers);
    fmt::print("{:<34}{:>8.4f}{:>8.4f}\n\n", "  worst layer", plan.imbalance_before.worst_layer,
               plan.imbalance_after.worst_layer);
    fmt::print(
        "moves: {} in {} of {} layers, {:.1f} % of all slots\n", plan.moves, plan.changes.size(),
        shape.num_moe_layers(),
        100.0 * plan.moves / (static_cast<double>(shape.num_slots()) * shape.num_moe_layers()));
    fmt::print("planning time: {:.2f} ms\n", timed.milliseconds);
    if (plan.changes.empty()) fmt::print("nothing is worth moving\n");
  }

  ShapeOptions options_;
  PlannerConfig config_;
  int window_ = -1;
  std::string placement_;
  std::string out_;
};

}  // namespace

std::unique_ptr<Command> make_plan_command() { return std::make_unique<PlanCommand>(); }

}  // namespace swiftbalancer::tool
