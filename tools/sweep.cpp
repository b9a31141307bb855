#include "sweep.hpp"

#include <charconv>
#include <cstdlib>
#include <optional>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include <swiftbalancer/error.hpp>

#include "engine/step_model.hpp"
#include "engine/timed_device.hpp"
#include "refuse.hpp"

namespace swiftbalancer::tool {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kBytesPerGib = 1024.0 * 1024.0 * 1024.0;
constexpr int kMostRedundantExperts = 1'000'000;
constexpr std::size_t kMostCounts = 1000;

std::vector<int> numbers_between(const std::string& text, char separator) {
  std::vector<int> numbers;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (true) {
    int number = 0;
    const auto [stop, error] = std::from_chars(at, end, number);
    if (error != std::errc() || number < 0 || number > kMostRedundantExperts) break;
    numbers.push_back(number);
    if (stop == end) return numbers;
    if (*stop != separator) break;
    at = stop + 1;
  }
  refuse(fmt::format(
      "--sweep is '{}'; allowed: counts of redundant experts from 0 to {}, as a list 0,16,32 or as "
      "FROM:TO:STEP",
      text, kMostRedundantExperts));
}

std::vector<int> parse_counts(const std::string& text) {
  if (text.find(':') == std::string::npos) return numbers_between(text, ',');
  const std::vector<int> range = numbers_between(text, ':');
  if (range.size() != 3 || range[2] < 1 || range[1] < range[0]) {
    refuse(
        fmt::format("--sweep is '{}'; a range is FROM:TO:STEP with FROM at most TO and STEP at "
                    "least 1",
                    text));
  }
  std::vector<int> counts;
  for (int count = range[0]; count <= range[1]; count += range[2]) {
    if (counts.size() == kMostCounts) {
      refuse(
          fmt::format("--sweep is '{}'; at most {} counts: take a larger step", text, kMostCounts));
    }
    counts.push_back(count);
  }
  return counts;
}

std::string gib(const std::optional<std::int64_t>& bytes) {
  return bytes ? fmt::format("{:.2f}", static_cast<double>(*bytes) / kBytesPerGib) : "-";
}
std::string milliseconds(const std::optional<double>& seconds) {
  return seconds ? fmt::format("{:.3f}", *seconds * 1e3) : "-";
}

void print_budget(const char* title, const SweepBudget& budget, const SweepRow& recommended) {
  fmt::print("\n{}: {} redundant experts over all layers, imbalance {:.4f}", title,
             budget.budget.total, budget.imbalance_mean);
  if (budget.next_imbalance_mean) fmt::print(", next {:.4f}", *budget.next_imbalance_mean);
  if (budget.step_seconds) fmt::print(", step {} ms", milliseconds(budget.step_seconds));
  if (budget.memory_bytes) {
    const std::int64_t saved = *recommended.memory_bytes - *budget.memory_bytes;
    fmt::print(", {} GiB on every rank ({} GiB {} than {} in every layer)",
               gib(budget.memory_bytes), gib(std::abs(saved)), saved < 0 ? "more" : "less",
               recommended.redundant_experts);
  }
  fmt::print("\n  by layer:");
  for (int count : budget.budget.redundant_experts) fmt::print(" {}", count);
  fmt::print("\n");
}

template <typename Value>
Json or_null(const std::optional<Value>& value) {
  return value ? Json(*value) : Json(nullptr);
}

Json mean_or_null(const std::optional<OverLayers>& value) {
  return value ? Json(value->mean_over_layers) : Json(nullptr);
}

Json budget_json(const std::optional<SweepBudget>& budget, const SweepRow& recommended) {
  if (!budget) return nullptr;
  Json json{{"redundant_experts_per_layer", budget->budget.redundant_experts},
            {"total_redundant_experts", budget->budget.total},
            {"imbalance_mean", budget->imbalance_mean},
            {"next_imbalance_mean", or_null(budget->next_imbalance_mean)},
            {"memory_per_rank_bytes", or_null(budget->memory_bytes)},
            {"memory_saved_per_rank_bytes", nullptr},
            {"step_seconds", or_null(budget->step_seconds)}};
  if (budget->memory_bytes)
    json["memory_saved_per_rank_bytes"] = *recommended.memory_bytes - *budget->memory_bytes;
  return json;
}

}  // namespace

void SweepSettings::declare(Settings& settings) {
  settings.text("sweep", counts_,
                "Counts of redundant experts to compare, 0,16,32 or FROM:TO:STEP, instead of one "
                "plan");
  settings.number(
      "expert_bytes", expert_bytes_, 1.0, 1e12,
      "For --sweep and budgets of bytes: bytes of one expert in one layer; --hardware says "
      "it too");
  settings.integer("tokens_per_step", tokens_per_step_, 1, 1'000'000'000,
                   "With --hardware: tokens of a step, over all ranks");
  settings.integer("top_k", top_k_, 1, 100'000,
                   "With --hardware: experts that a token visits in a layer");
  settings.integer("context_length", context_length_, 0, 100'000'000,
                   "For --sweep with --hardware: cached positions of a token's sequence");
  settings.integer("replica_budget", replica_budget_, -1, 1'000'000'000,
                   "For --sweep: redundant experts over all layers, shared out to where they win "
                   "most; -1: none");
}

SweepOptions SweepSettings::options(const Settings& settings, const ShapeOptions& shape,
                                    Dispatch dispatch, const std::string& hardware,
                                    const LayerProblem& limits) const {
  SweepOptions options;
  options.shape = shape;
  options.counts = parse_counts(counts_);
  options.dispatch = dispatch;
  options.rank_speed.assign(limits.rank_speed.begin(), limits.rank_speed.end());
  options.max_replicas = limits.max_replicas;
  options.max_cross_node_replicas = limits.max_cross_node_replicas;
  options.total_redundant_experts = replica_budget_;
  options.expert_bytes = expert_bytes_;
  if (hardware.empty()) {
    for (const char* key : {"tokens_per_step", "top_k", "context_length"}) {
      if (settings.given(key))
        refuse(fmt::format("{} is given, but step times need --hardware PROFILE", key));
    }
    return options;
  }
  if (settings.given("expert_bytes"))
    refuse("expert_bytes is given, and so is --hardware, which says it; leave one out");
  options.step = engine::step_model(engine::load_hardware_profile(hardware));
  options.step->tokens_per_step = static_cast<double>(tokens_per_step_);
  options.step->top_k = top_k_;
  options.step->context_length = context_length_;
  options.expert_bytes = options.step->expert_bytes;
  return options;
}

CostGate SweepSettings::gate(int num_ranks, int horizon_steps, const std::string& hardware) const {
  return engine::cost_gate_of(engine::load_hardware_profile(hardware),
                              {.tokens_per_step = static_cast<double>(tokens_per_step_),
                               .top_k = top_k_,
                               .num_ranks = num_ranks,
                               .horizon_steps = horizon_steps});
}

std::int64_t SweepSettings::expert_bytes(const std::string& hardware) const {
  if (expert_bytes_ > 0.0) return static_cast<std::int64_t>(expert_bytes_);
  if (hardware.empty())
    refuse("budgets of bytes need --expert-bytes, or --hardware PROFILE, which says it");
  return static_cast<std::int64_t>(engine::load_hardware_profile(hardware).value("expert_bytes"));
}

void print_sweep(const SweepOptions& options, const SweepResult& result) {
  const bool groups_bound = options.max_cross_node_replicas >= 0 &&
                            options.shape.num_expert_groups > 1 && options.shape.num_nodes > 1;
  const bool scored = result.rows.front().next_imbalance_even.has_value();
  fmt::print("{:>9}{:>7}{:>22}{:>22}{}{:>13}{:>10}{}\n", "redundant", "slots", "imbalance, even",
             "imbalance, split", scored ? fmt::format("{:>22}", "next, even and split") : "",
             "GiB a rank", "step, ms", groups_bound ? "  cross-node tokens, %" : "");
  fmt::print("{:>9}{:>7}{:>11}{:>11}{:>11}{:>11}{}\n", "experts", "", "mean", "worst", "mean",
             "worst", scored ? fmt::format("{:>11}{:>11}", "mean", "mean") : "");
  for (std::size_t i = 0; i < result.rows.size(); ++i) {
    const SweepRow& row = result.rows[i];
    fmt::print("{:>9}{:>7}{:>11.4f}{:>11.4f}{:>11.4f}{:>11.4f}{}{:>13}{:>10}{}{}\n",
               row.redundant_experts, row.num_slots, row.imbalance_even.mean_over_layers,
               row.imbalance_even.worst_layer, row.imbalance_split.mean_over_layers,
               row.imbalance_split.worst_layer,
               scored ? fmt::format("{:>11.4f}{:>11.4f}", row.next_imbalance_even->mean_over_layers,
                                    row.next_imbalance_split->mean_over_layers)
                      : "",
               gib(row.memory_bytes), milliseconds(row.step_seconds),
               groups_bound ? fmt::format("{:>22.2f}", 100.0 * row.cross_node_share) : "",
               i == result.recommended ? "  <- recommended" : "");
  }
  if (options.step) {
    fmt::print("step: {} tokens, {} experts each in every layer, context {}; tokens are split {}\n",
               options.step->tokens_per_step, options.step->top_k, options.step->context_length,
               options.dispatch == Dispatch::kSplit ? "by shares" : "evenly");
  }
  fmt::print("\nrecommended: {}\n", result.reason);
  const SweepRow& recommended = result.rows[result.recommended];
  if (result.cheaper)
    print_budget("the same with a number for each layer", *result.cheaper, recommended);
  if (result.shared_out) print_budget("budget shared out", *result.shared_out, recommended);
}

Json sweep_json(const SweepOptions& options, const SweepResult& result) {
  Json rows = Json::array();
  for (const SweepRow& row : result.rows) {
    rows.push_back({{"num_redundant_experts", row.redundant_experts},
                    {"num_slots", row.num_slots},
                    {"imbalance_even_mean", row.imbalance_even.mean_over_layers},
                    {"imbalance_even_worst", row.imbalance_even.worst_layer},
                    {"imbalance_split_mean", row.imbalance_split.mean_over_layers},
                    {"imbalance_split_worst", row.imbalance_split.worst_layer},
                    {"next_imbalance_even", mean_or_null(row.next_imbalance_even)},
                    {"next_imbalance_split", mean_or_null(row.next_imbalance_split)},
                    {"cross_node_share", row.cross_node_share},
                    {"memory_per_rank_bytes", or_null(row.memory_bytes)},
                    {"step_seconds", or_null(row.step_seconds)}});
  }
  const SweepRow& recommended = result.rows[result.recommended];
  return {{"sweep", std::move(rows)},
          {"dispatch", options.dispatch == Dispatch::kSplit ? "split" : "even"},
          {"recommended_redundant_experts", recommended.redundant_experts},
          {"reason", result.reason},
          {"cheaper_budget", budget_json(result.cheaper, recommended)},
          {"shared_budget", budget_json(result.shared_out, recommended)}};
}

}  // namespace swiftbalancer::tool
