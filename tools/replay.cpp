// `swiftbalancer replay`: how soon and how well a schedule of rebalances follows traffic that
// changes.

#include <algorithm>
#include <filesystem>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <swiftbalancer/error.hpp>
#include <swiftbalancer/policy.hpp>

#include "command.hpp"
#include "io/load_file.hpp"
#include "observe/files.hpp"
#include "output_folder.hpp"
#include "progress.hpp"
#include "replay_run.hpp"

namespace swiftbalancer::tool {
namespace {

using Json = nlohmann::ordered_json;

// Over the windows after the first: what follows a change of the traffic.
struct Summary {
  EvenAndSplit at_first{}, mean{};
  double excess = 0.0, sampled = 0.0, moves = 0.0, plans = 0.0;
  std::int64_t slowest_decided = 0, slowest_served = 0;  // -1: at least once never
  std::vector<EvenAndSplit> over_time{};
};

void raise(std::int64_t& slowest, std::int64_t steps) {
  slowest = slowest < 0 || steps < 0 ? -1 : std::max(slowest, steps);
}

Summary summarise(const ReplayResult& result) {
  const std::size_t first = result.answers.size() > 1 ? 1 : 0;
  const auto count = static_cast<double>(result.answers.size() - first);
  Summary sum;
  sum.over_time.resize(result.answers.front().over_time.size());
  for (std::size_t i = first; i < result.answers.size(); ++i) {
    const WindowAnswer& answer = result.answers[i];
    sum.at_first.even += answer.at_first.even / count;
    sum.at_first.split += answer.at_first.split / count;
    sum.mean.even += answer.mean.even / count;
    sum.mean.split += answer.mean.split / count;
    sum.excess += (answer.mean.split - answer.hindsight) / count;
    sum.sampled += answer.mean_sampled / count;
    sum.moves += static_cast<double>(answer.moves) / count;
    sum.plans += answer.plans / count;
    raise(sum.slowest_decided, answer.decided);
    raise(sum.slowest_served, answer.served);
    for (std::size_t bin = 0; bin < sum.over_time.size(); ++bin) {
      sum.over_time[bin].even += answer.over_time[bin].even / count;
      sum.over_time[bin].split += answer.over_time[bin].split / count;
    }
  }
  return sum;
}

std::string steps_or_never(std::int64_t steps) {
  return steps < 0 ? "never" : std::to_string(steps);
}

Json json_or_null(std::int64_t steps) { return steps < 0 ? Json(nullptr) : Json(steps); }

class ReplayCommand final : public Command {
 public:
  std::string_view name() const override { return "replay"; }
  std::string_view summary() const override {
    return "Replay recorded loads step by step under schedules of rebalances and compare them";
  }
  std::string_view examples() const override {
    return "  swiftbalancer replay --loads domains.npy --num-ranks 32 --num-redundant-experts 64\n"
           "  swiftbalancer replay --loads domains.npy --num-ranks 8 --num-redundant-experts 16 "
           "--schedule ours,every:3000:window:1000 --steps-per-window 3000\n"
           "  swiftbalancer replay --loads domains.npy --num-ranks 8 --num-redundant-experts 16 "
           "--windows 0,1,0,1 --json";
  }

  void declare(Settings& settings) override {
    settings.text("loads", loads_, "Loads, .npy or JSON: [windows, layers, experts] tokens");
    settings.integer("num_ranks", options_.shape.num_ranks, 1, 1'000'000, "Ranks");
    settings.integer("num_redundant_experts", redundant_, 0, 100'000'000,
                     "Slots per layer, over all ranks, beyond one per expert");
    settings.integer("tokens_per_step", tokens_per_step_, 1, 10'000'000,
                     "Tokens in a step, over all ranks");
    settings.integer("top_k", top_k_, 1, 1024, "Experts that a token goes to");
    settings.list("schedule", schedules_,
                  "When to plan: ours, every:K or every:K:window:W (each K steps, on the last W); "
                  "several with commas");
    settings.text("policy", policy_,
                  "Policy of all schedules; without it swift for ours, else eplb");
    settings.integer("steps_per_window", options_.steps_per_window, 1, 1'000'000,
                     "Steps that are sampled from a window before the next one");
    settings.integers("windows", order_, 0, 1'000'000,
                      "Which windows, in which order, from 0; without it each once");
    settings.integer("seed", options_.seed, 0, 1'000'000'000'000, "Seed of the sampled steps");
    settings.integer("window_assignments", options_.planner.window_assignments, 1,
                     1'000'000'000'000,
                     "Of ours: assignments per layer that make a window worth judging");
    settings.integer("max_moves_per_layer", options_.planner.max_moves_per_layer, -1, 1'000'000,
                     "Moves of one plan; -1: no limit");
    settings.integer("rebalance_interval", options_.rebalance_interval, 1, 1'000'000'000,
                     "Of ours: steps between looks at traffic that has not changed");
    settings.flag("json", json_, "One JSON object instead of tables");
    settings.text("out", out_, "File to write the JSON object to");
    settings.short_flag("-o");
  }

  void run(const Settings& settings, const std::string&, const std::string&) override {
    for (const char* key : {"loads", "num_ranks"}) {
      if (!settings.given(key))
        throw Error(ErrorCode::kInvalidArgument, fmt::format("--{} is needed", flag_text(key)));
    }
    if (!policy_.empty()) make_policy(policy_);
    std::vector<ReplaySchedule> schedules;
    for (const std::string& text : schedules_) schedules.push_back(parse_schedule(text, policy_));
    const std::vector<ExpertLoad> windows = io::read_loads(loads_);
    options_.shape.num_moe_layers = windows.front().num_moe_layers();
    options_.shape.num_logical_experts = windows.front().num_logical_experts();
    options_.shape.num_slots = options_.shape.num_logical_experts + redundant_;
    options_.assignments_per_step = tokens_per_step_ * top_k_;
    options_.order = order_of(windows.size());
    const ClusterShape shape(options_.shape);
    if (!out_.empty()) check_output_file(out_);

    Progress progress(json_);
    const std::vector<ReplayResult> results =
        replay(options_, windows, schedules, [&progress](std::int64_t step, std::int64_t all) {
          if (step > 0)
            progress.report("replay", static_cast<std::uint64_t>(step),
                            static_cast<std::uint64_t>(all),
                            fmt::format("step {} of {}", step, all));
        });
    progress.finish();
    const Json object = to_json(shape, results);
    if (json_) {
      fmt::print("{}\n", object.dump());
    } else {
      print(shape, results);
    }
    if (out_.empty()) return;
    const auto folder = std::filesystem::path(out_).parent_path();
    if (!folder.empty()) create_folder(folder.string());
    observe::write_file_atomically(out_, object.dump() + "\n");
    if (!json_) fmt::print("wrote {}\n", out_);
  }

 private:
  static std::string flag_text(std::string key) {
    std::ranges::replace(key, '_', '-');
    return key;
  }

  std::vector<std::size_t> order_of(std::size_t num_windows) const {
    std::vector<std::size_t> order;
    for (const int window : order_) {
      order.push_back(static_cast<std::size_t>(window));
      if (order.back() < num_windows) continue;
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("--windows names {}; {} has windows 0 to {}", window, loads_,
                              num_windows - 1));
    }
    for (std::size_t window = 0; order_.empty() && window < num_windows; ++window)
      order.push_back(window);
    return order;
  }

  void print(const ClusterShape& shape, const std::vector<ReplayResult>& results) const {
    const auto& first = results.front().answers;
    fmt::print(
        "{} layers of {} experts on {} slots, {} ranks; {} tokens a step, top-{}; {} windows of {} "
        "steps\n",
        shape.num_moe_layers(), shape.num_logical_experts(), shape.num_slots(), shape.num_ranks(),
        tokens_per_step_, top_k_, first.size(), options_.steps_per_window);
    fmt::print(
        "imbalance: max / mean rank load, mean over layers, on each window's loads; {}\n\n",
        first.size() > 1 ? "means over the windows after the first" : "one window: the start");
    fmt::print("{:<26}{:<8}{:>8}{:>8}{:>8}{:>9}{:>9}{:>9}{:>8}{:>9}\n", "schedule", "policy",
               "at first", "even", "split", "sampled", "excess", "decided", "served", "moves");
    for (const ReplayResult& result : results) {
      const Summary sum = summarise(result);
      fmt::print("{:<26}{:<8}{:>8.3f}{:>8.4f}{:>8.4f}{:>9.4f}{:>9.4f}{:>9}{:>8}{:>9.1f}\n",
                 result.schedule.name, result.schedule.policy, sum.at_first.split, sum.mean.even,
                 sum.mean.split, sum.sampled, sum.excess, steps_or_never(sum.slowest_decided),
                 steps_or_never(sum.slowest_served), sum.moves / shape.num_moe_layers());
    }
    double hindsight = 0.0;
    for (const WindowAnswer& answer : first)
      hindsight += answer.hindsight / static_cast<double>(first.size());
    fmt::print(
        "\nat first: the plan of the window before, scored on this one; excess: over the best plan "
        "in hindsight ({:.4f});\ndecided, served: steps until a plan within 0.05 of it, slowest "
        "window; moves: per layer and window\n\n",
        hindsight);
    print_over_time(results);
  }

  void print_over_time(const std::vector<ReplayResult>& results) const {
    fmt::print("imbalance over time, even / split\n{:<12}", "from step");
    for (const ReplayResult& result : results) fmt::print("{:>26}", result.schedule.name);
    fmt::print("\n");
    std::vector<Summary> sums;
    for (const ReplayResult& result : results) sums.push_back(summarise(result));
    const auto bins = bins_of_window(options_.steps_per_window);
    for (std::size_t bin = 0; bin < bins.size(); ++bin) {
      fmt::print("{:<12}", bins[bin]);
      for (const Summary& sum : sums)
        fmt::print("{:>26}", fmt::format("{:.3f} / {:.3f}", sum.over_time[bin].even,
                                         sum.over_time[bin].split));
      fmt::print("\n");
    }
  }

  Json to_json(const ClusterShape& shape, const std::vector<ReplayResult>& results) const {
    Json object{{"num_moe_layers", shape.num_moe_layers()},
                {"num_logical_experts", shape.num_logical_experts()},
                {"num_ranks", shape.num_ranks()},
                {"num_slots", shape.num_slots()},
                {"tokens_per_step", tokens_per_step_},
                {"top_k", top_k_},
                {"steps_per_window", options_.steps_per_window},
                {"seed", options_.seed},
                {"bins_from_step", bins_of_window(options_.steps_per_window)}};
    for (const ReplayResult& result : results) {
      const Summary sum = summarise(result);
      Json schedule{{"schedule", result.schedule.name},
                    {"policy", result.schedule.policy},
                    {"next_imbalance_even", sum.at_first.even},
                    {"next_imbalance_split", sum.at_first.split},
                    {"imbalance_even", sum.mean.even},
                    {"imbalance_split", sum.mean.split},
                    {"imbalance_sampled_steps", sum.sampled},
                    {"excess", sum.excess},
                    {"steps_until_decided", json_or_null(sum.slowest_decided)},
                    {"steps_until_served", json_or_null(sum.slowest_served)},
                    {"plans_per_window", sum.plans},
                    {"moves_per_layer", sum.moves / shape.num_moe_layers()}};
      for (const WindowAnswer& answer : result.answers)
        schedule["windows"].push_back(json_of(answer));
      object["schedules"].push_back(std::move(schedule));
    }
    return object;
  }

  static Json json_of(const WindowAnswer& answer) {
    Json window{{"window", answer.window},
                {"first_step", answer.first_step},
                {"hindsight", answer.hindsight},
                {"imbalance_at_first_even", answer.at_first.even},
                {"imbalance_at_first_split", answer.at_first.split},
                {"imbalance_even", answer.mean.even},
                {"imbalance_split", answer.mean.split},
                {"imbalance_sampled_steps", answer.mean_sampled},
                {"steps_until_decided", json_or_null(answer.decided)},
                {"steps_until_served", json_or_null(answer.served)},
                {"changes_seen", json_or_null(answer.changes)},
                {"plans", answer.plans},
                {"moves", answer.moves}};
    for (const EvenAndSplit& bin : answer.over_time) {
      window["over_time_even"].push_back(bin.even);
      window["over_time_split"].push_back(bin.split);
    }
    return window;
  }

  std::string loads_;
  ReplayOptions options_;
  int redundant_ = 0;
  std::int64_t tokens_per_step_ = 4096;
  int top_k_ = 8;
  std::vector<std::string> schedules_{"ours"};
  std::vector<int> order_;
  std::string policy_;
  bool json_ = false;
  std::string out_;
};

}  // namespace

std::unique_ptr<Command> make_replay_command() { return std::make_unique<ReplayCommand>(); }

}  // namespace swiftbalancer::tool
