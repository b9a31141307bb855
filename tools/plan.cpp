// `swiftbalancer plan`: a placement for recorded loads, from nothing or from one that is served.

#include <filesystem>
#include <numeric>
#include <optional>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <swiftbalancer/error.hpp>
#include <swiftbalancer/load.hpp>
#include <swiftbalancer/placement.hpp>

#include "command.hpp"
#include "formats/placement_format.hpp"
#include "limit_settings.hpp"
#include "load_settings.hpp"
#include "observe/files.hpp"
#include "offline_plan.hpp"
#include "output_folder.hpp"
#include "placement_figures.hpp"
#include "planner/survivors.hpp"
#include "shape_settings.hpp"
#include "sweep.hpp"

namespace swiftbalancer::tool {
namespace {

using Json = nlohmann::ordered_json;

// What a plan is worth.
struct Outcome {
  PlacementFigures figures;
  int same_rank_duplicates = 0;
  std::optional<double> moves_per_layer;  // of an incremental plan
  // Mean over layers on the window to score on: tokens split evenly, and by the shares that level
  // the window that was planned for.
  std::optional<double> next_imbalance_even;
  std::optional<double> next_imbalance_split;
};

class PlanCommand final : public Command {
 public:
  std::string_view name() const override { return "plan"; }
  std::string_view summary() const override {
    return "Plan a placement for recorded loads and say what it brings";
  }
  std::string_view examples() const override {
    return "  swiftbalancer plan --loads loads.npy --num-ranks 8 --num-redundant-experts 16\n"
           "  swiftbalancer plan --loads loads.npy --num-ranks 32 --num-redundant-experts 32 "
           "--policy eplb -o expert_map.json --format vllm-ascend\n"
           "  swiftbalancer plan --loads loads.npy --window 3 --score-window 4 --from "
           "placement.json --max-moves-per-layer 4 -o next.json --json\n"
           "  swiftbalancer plan --loads loads.npy --num-ranks 32 --sweep 0:64:16 --expert-bytes "
           "44040192";
  }

  void declare(Settings& settings) override {
    loads_.declare(settings);
    settings.integer("score_window", score_window_, -1, 1'000'000'000,
                     "A window to score the plan on beside, from 0; -1: none");
    shape_.declare(settings);
    settings.text(
        "from", from_,
        "Placement that is served now, of any known format: plans from it with few moves; "
        "without it the plan is a full one");
    settings.text("policy", config_.policy, "Policy: swift, eplb, static");
    settings.integer("max_moves_per_layer", config_.max_moves_per_layer, -1, 1'000'000,
                     "Moves; -1: no limit; goes with --from");
    settings.choice(
        "dispatch", {"even", "split"}, [this](std::size_t i) { split_ = i == 1; },
        [this] { return split_ ? std::size_t{1} : std::size_t{0}; },
        "Tokens of a replicated expert: the same to each replica, or by planned shares");
    limits_.declare_budgets(settings);
    limits_.declare(settings);
    limits_.declare_offline(settings);
    sweep_.declare(settings);
    settings.text(
        "hardware", hardware_,
        "Hardware profile; gives a --sweep step times, and moves of --horizon their cost");
    settings.integer("horizon", horizon_, 0, 1'000'000'000,
                     "Steps over which moves must pay for their bytes; goes with --from and "
                     "--hardware; 0: only sampling noise speaks against moves");
    settings.text("out", out_, "Placement file to write");
    settings.short_flag("-o");
    settings.text("format", format_,
                  "Format of that file, where its extension does not say it: swiftbalancer, "
                  "vllm-ascend, sglang, tensorrt-llm, npy; without -o: that of --from");
    settings.flag("json", json_, "One line of JSON in place of the table");
  }

  void run(const Settings& settings, const std::string&, const std::string&) override {
    make_policy(config_.policy);
    config_.min_gain = 0.0;  // Only sampling noise speaks against moves.
    check_combinations(settings);
    loads_.read();
    if (score_window_ >= 0) loads_.window(score_window_, "--score-window");
    const ExpertLoad load = loads_.chosen();
    if (sweep_.given()) return sweep(settings, load);
    io::PlacementFile file = start(settings, load);
    if (from_.empty() && config_.policy == "swift") limits_.bind_groups(settings, file.shape);
    const std::optional<Recovered> recovered = bury_dead_ranks(load, file);
    const ClusterShape shape(file.shape);
    const formats::PlacementFormat* format = nullptr;
    if (!out_.empty()) {
      format = &formats::format_of_output(out_, format_);
      check_output_file(out_);
    }
    OfflineProblem problem{shape, config_, load, dispatch(), std::nullopt, &limits_};
    const ServedState before =
        from_.empty() ? ServedState::initial(shape) : served_state(file, shape);
    if (!from_.empty()) problem.from = before;
    limits_.prepare(shape, from_.empty() ? nullptr : &before.placement);
    if (!is_full(problem)) problem.config = incremental_config(shape);
    OfflinePlan plan = make_offline_plan(problem);
    if (recovered) count_moves_from(recovered->held, shape, plan);
    const Outcome outcome = judge(shape, problem, plan);
    if (format != nullptr) write(*format, shape, plan, file);
    if (json_) {
      print_json(plan, outcome);
    } else {
      print_table(shape, problem, before, plan, outcome);
      if (recovered) print_lost(recovered->lost_experts);
      if (format != nullptr) print_written(*format, shape, plan);
    }
  }

 private:
  Dispatch dispatch() const { return split_ ? Dispatch::kSplit : Dispatch::kEven; }

  [[noreturn]] static void refuse(const std::string& message) {
    throw Error(ErrorCode::kInvalidArgument, message);
  }

  // Options that do nothing beside others are refused.
  void check_combinations(const Settings& settings) const {
    if (!loads_.given()) refuse("--loads is needed: recorded loads, .npy or JSON");
    bool budget = false;
    for (const char* key : {"max_moves_per_layer", "max_moves_per_rebalance",
                            "max_bytes_per_rebalance", "max_bytes_per_rank", "max_rank_moves"}) {
      if (!settings.given(key)) continue;
      budget = true;
      if (from_.empty())
        refuse(fmt::format("{} goes with --from: a full plan starts from nothing", key));
    }
    if (from_.empty() && settings.given("dead_ranks"))
      refuse("--dead-ranks goes with --from: it says what the dead ranks held");
    if (limits_.given() && config_.policy != "swift")
      refuse(
          "rank_speeds, pinned_experts, max_replicas and max_cross_node_replicas are kept by plans "
          "of policy swift");
    if (limits_.binds_groups() && (budget || horizon_ > 0))
      refuse(
          "max_cross_node_replicas makes full plans, which go without budgets of moves and "
          "--horizon");
    if (horizon_ > 0) {
      if (from_.empty() || hardware_.empty() || sweep_.given())
        refuse("--horizon goes with --from and --hardware, without --sweep");
    }
    if (settings.given("max_moves_per_layer") &&
        !make_policy(config_.policy)->capabilities().incremental)
      refuse("--max-moves-per-layer is kept by policy swift; other policies do not count moves");
    if (!sweep_.given()) {
      check_output_settings(settings);
      return check_step_settings(settings);
    }
    for (const char* key : {"from", "out", "format", "model", "model_layers", "policy",
                            "num_redundant_experts", "slots_per_rank", "pinned_experts"}) {
      if (settings.given(key)) {
        throw Error(ErrorCode::kInvalidArgument,
                    fmt::format("{} is given, which does not go with --sweep: it makes full plans "
                                "of policy swift for several counts and writes none",
                                key));
      }
    }
  }

  // What says how a file is written goes with a file.
  void check_output_settings(const Settings& settings) const {
    for (const char* key : {"format", "model", "model_layers"}) {
      if (settings.given(key) && out_.empty() && from_.empty())
        refuse(fmt::format("{} is given, which goes with -o or --from", key));
    }
  }

  void check_step_settings(const Settings& settings) const {
    const bool bytes = limits_.limits_bytes();
    const auto refuse_unless = [&](const char* key, bool allowed) {
      if (!settings.given(key) || allowed) return;
      refuse(
          fmt::format("{} is given, which goes with --sweep, or with --horizon or a budget of "
                      "bytes where that needs it",
                      key));
    };
    refuse_unless("hardware", horizon_ > 0 || bytes);
    refuse_unless("expert_bytes", bytes);
    refuse_unless("tokens_per_step", horizon_ > 0);
    refuse_unless("top_k", horizon_ > 0);
    refuse_unless("context_length", false);
    refuse_unless("replica_budget", false);
  }

  PlannerConfig incremental_config(const ClusterShape& shape) const {
    PlannerConfig config = config_;
    config.limits = limits_.limits();
    if (horizon_ > 0) config.limits.gate = sweep_.gate(shape.num_ranks(), horizon_, hardware_);
    if (limits_.limits_bytes()) {
      config.expert_bytes.assign(static_cast<std::size_t>(shape.num_moe_layers()),
                                 sweep_.expert_bytes(hardware_));
    }
    return checked(config, shape);
  }

  void sweep(const Settings& settings, const ExpertLoad& load) {
    ShapeOptions shape = shape_.shape(settings, load.num_moe_layers(), load.num_logical_experts());
    limits_.bind_groups(settings, shape);
    limits_.prepare(ClusterShape(shape), nullptr);
    LayerProblem limits;
    limits_.fill(0, limits);
    const SweepOptions options = sweep_.options(settings, shape, dispatch(), hardware_, limits);
    const ExpertLoad* score =
        score_window_ < 0 ? nullptr : &loads_.window(score_window_, "--score-window");
    const SweepResult result = run_sweep(options, load, score);
    if (json_) {
      fmt::print("{}\n", sweep_json(options, result).dump());
    } else {
      print_sweep(options, result);
    }
  }

  // Leaves the ranks that are alive in `file`, where every expert has a slot then.
  std::optional<Recovered> bury_dead_ranks(const ExpertLoad& load, io::PlacementFile& file) const {
    const std::vector<int> dead = limits_.dead_ranks();
    if (dead.empty()) return std::nullopt;
    const ClusterShape shape(file.shape);
    const PlanLimits limits = limits_.limits();
    Recovered recovered = recover(shape, file.placement, load, dead,
                                  {.pinned_experts = limits.pinned_experts,
                                   .rank_speed = limits.rank_speeds,
                                   .keep_groups = limits_.binds_groups(shape)});
    file.shape = recovered.survivors.options;
    file.placement = recovered.placement;
    file.shares.clear();  // Those of lost replicas are gone.
    return recovered;
  }

  // A lost expert that the plan puts elsewhere than the recovery did moves once.
  static void count_moves_from(const Placement& held, const ClusterShape& shape,
                               OfflinePlan& plan) {
    plan.moves = 0;
    plan.changed_layers = 0;
    for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
      const int moves = count_moves(held.layer(layer), plan.planned.placement.layer(layer), shape);
      plan.moves += moves;
      plan.changed_layers += moves > 0 ? 1 : 0;
    }
  }

  // The placement to start from, or its shape alone.
  io::PlacementFile start(const Settings& settings, const ExpertLoad& load) const {
    const formats::PlacementFacts facts = shape_.facts(settings, load.num_logical_experts());
    io::PlacementFile file;
    if (from_.empty()) {
      file.shape = shape_.shape(settings, load.num_moe_layers(), load.num_logical_experts());
      file.model = facts.model;
      file.model_layer_ids = facts.model_layer_ids;
      if (!file.model_layer_ids.empty())
        io::check_model_layer_ids(file.model_layer_ids, load.num_moe_layers());
      return file;
    }
    const formats::PlacementFormat* format = nullptr;
    file = formats::read_placement(from_, facts, &format);
    if (out_.empty() && !format_.empty() && &formats::placement_format(format_) != format) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("{}: is of format {}, not {}", from_, format->name, format_));
    }
    if (file.shape.num_moe_layers != load.num_moe_layers()) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("{} has {} layers, {} has {}: they must be of one model", from_,
                              file.shape.num_moe_layers, loads_.file(), load.num_moe_layers()));
    }
    return file;
  }

  void write(const formats::PlacementFormat& format, const ClusterShape& shape,
             const OfflinePlan& plan, const io::PlacementFile& start) const {
    io::PlacementFile file{
        start.shape, plan.planned.placement, {}, start.model, start.model_layer_ids};
    if (!has_even_shares(plan.planned, shape)) file.shares = plan.planned.shares;
    const std::string text = format.format(file);
    const auto folder = std::filesystem::path(out_).parent_path();
    if (!folder.empty()) create_folder(folder.string());
    observe::write_file_atomically(out_, text);
  }

  void print_written(const formats::PlacementFormat& format, const ClusterShape& shape,
                     const OfflinePlan& plan) const {
    const bool loses_shares = !format.holds_shares && !has_even_shares(plan.planned, shape);
    fmt::print("wrote {} ({}{})\n", out_, format.name,
               loses_shares ? ": it has no place for the planned shares" : "");
  }

  Outcome judge(const ClusterShape& shape, const OfflineProblem& problem,
                const OfflinePlan& plan) const {
    const Placement& placement = plan.planned.placement;
    Outcome outcome;
    outcome.figures = figures_of(shape, plan.planned, problem.load, rank_speed_of(problem));
    outcome.same_rank_duplicates = same_rank_duplicates(shape, placement);
    if (problem.from)
      outcome.moves_per_layer = static_cast<double>(plan.moves) / shape.num_moe_layers();
    if (score_window_ < 0) return outcome;
    const ExpertLoad& next = loads_.window(score_window_, "--score-window");
    const auto mean = [&](const ServedState& state) {
      return figures_of(shape, state, next, rank_speed_of(problem)).imbalance.mean_over_layers;
    };
    outcome.next_imbalance_even = mean(ServedState::even(placement, shape));
    outcome.next_imbalance_split =
        mean(level_shares(shape, placement, problem.load, rank_speed_of(problem)));
    return outcome;
  }

  void print_json(const OfflinePlan& plan, const Outcome& outcome) const {
    Json json{{"plan_ms", plan.milliseconds},
              {"imbalance_mean", outcome.figures.imbalance.mean_over_layers},
              {"imbalance_worst", outcome.figures.imbalance.worst_layer},
              {"balancedness_mean", outcome.figures.balancedness.mean_over_layers},
              {"moves_per_layer", nullptr},
              {"lower_bound_gap_mean", outcome.figures.lower_bound_gap_mean},
              {"same_rank_duplicates", outcome.same_rank_duplicates}};
    if (outcome.moves_per_layer) json["moves_per_layer"] = *outcome.moves_per_layer;
    if (outcome.next_imbalance_even) {
      json["next_imbalance_even"] = *outcome.next_imbalance_even;
      json["next_imbalance_split"] = *outcome.next_imbalance_split;
    }
    fmt::print("{}\n", json.dump());
  }

  static void print_lost(std::span<const int> lost_experts) {
    const int lost = std::accumulate(lost_experts.begin(), lost_experts.end(), 0);
    if (lost > 0) fmt::print("of the moves, {} bring back lost experts\n", lost);
  }

  void print_table(const ClusterShape& shape, const OfflineProblem& problem,
                   const ServedState& before_state, const OfflinePlan& plan,
                   const Outcome& outcome) const {
    const PlacementFigures before =
        figures_of(shape, before_state, problem.load, rank_speed_of(problem));
    const PlacementFigures& after = outcome.figures;
    fmt::print("policy {}, {} plan for the {} of {}\n", config_.policy,
               is_full(problem) ? "full" : "incremental", loads_.description(), loads_.file());
    fmt::print("{} layers of {} experts on {} slots, {} ranks, {} nodes; tokens are split {}\n\n",
               shape.num_moe_layers(), shape.num_logical_experts(), shape.num_slots(),
               shape.num_ranks(), shape.num_nodes(), split_ ? "by shares" : "evenly");
    fmt::print("{:<36}{:>9}{:>9}\n", "max / mean rank load", problem.from ? "before" : "initial",
               "planned");
    const auto row = [](const char* name, double old_value, double new_value) {
      fmt::print("{:<36}{:>9.4f}{:>9.4f}\n", name, old_value, new_value);
    };
    row("  imbalance, mean over layers", before.imbalance.mean_over_layers,
        after.imbalance.mean_over_layers);
    row("  imbalance, worst layer", before.imbalance.worst_layer, after.imbalance.worst_layer);
    row("  balancedness, mean over layers", before.balancedness.mean_over_layers,
        after.balancedness.mean_over_layers);
    row("  above the lower bound, mean, %", 100.0 * before.lower_bound_gap_mean,
        100.0 * after.lower_bound_gap_mean);
    if (outcome.next_imbalance_even) {
      fmt::print("  imbalance on window {}: {:.4f} even, {:.4f} by shares\n", score_window_,
                 *outcome.next_imbalance_even, *outcome.next_imbalance_split);
    }
    fmt::print("\n");
    if (problem.from) {
      fmt::print("moves: {} in {} of {} layers, {:.2f} a layer\n", plan.moves, plan.changed_layers,
                 shape.num_moe_layers(), *outcome.moves_per_layer);
    }
    fmt::print("same-rank duplicates: {}\n", outcome.same_rank_duplicates);
    fmt::print("planning time: {:.3f} ms\n", plan.milliseconds);
    if (problem.from && plan.changed_layers == 0) fmt::print("nothing is worth moving\n");
  }

  LoadSettings loads_;
  ShapeSettings shape_;
  LimitSettings limits_;
  SweepSettings sweep_;
  std::string hardware_;
  int horizon_ = 0;
  PlannerConfig config_;
  bool split_ = false;
  int score_window_ = -1;
  std::string from_;
  std::string out_;
  std::string format_;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_plan_command() { return std::make_unique<PlanCommand>(); }

}  // namespace swiftbalancer::tool
