#include "observe/sample_run.hpp"

#include <algorithm>
#include <cmath>
#include <random>

namespace swiftbalancer::observe {
namespace {

using Json = nlohmann::ordered_json;

/// The bits of std::mt19937 are the same everywhere; those of the standard distributions are not.
class Noise {
 public:
  explicit Noise(unsigned seed) : engine_(seed) {}
  double uniform() { return static_cast<double>(engine_()) / 4294967296.0; }

 private:
  std::mt19937 engine_;
};

int segment_of(const SampleOptions& options, int step) {
  const int num_domains = static_cast<int>(options.domains.size());
  return std::min(num_domains - 1, (step - 1) * num_domains / options.num_steps);
}

int first_step_of(const SampleOptions& options, int segment) {
  int step = 1;
  while (segment_of(options, step) < segment) ++step;
  return step;
}

/// What the policy leaves of the skew, some windows after a switch.
double true_imbalance(const std::string& policy, int windows_since_switch, int segment) {
  const double skew = 1.75 + 0.12 * segment;
  if (policy == "hindsight") return 1.06;
  if (policy == "static" || windows_since_switch < 1) return skew;
  return policy == "eplb" ? 1.13 : 1.11;
}

class RunMaker {
 public:
  RunMaker(const SampleOptions& options, std::size_t index)
      : options_(options),
        policy_(options.policies[index]),
        noise_(static_cast<unsigned>(7 + index)) {}

  Json make() {
    Json run = {
        {"policy", policy_},   {"gated", policy_ == "swift"}, {"output_digest", "8f3c21d0aa4b55e7"},
        {"wall_seconds", 9.1}, {"steps", options_.num_steps}, {"tokens", options_.num_steps * 250}};
    add_events(run);
    add_imbalance(run);
    add_virtual_time(run);
    const bool moves = policy_ != "static";
    run["stall"] = {{"waits_for_packets", moves ? 17 : 12},
                    {"waits_for_plans", 0},
                    {"waits_for_copies", 0},
                    {"packet_wait_ms", 3.25}};
    run["stall"]["virtual_stall_us"] = options_.timed ? Json(moves ? 41.5 : 0.0) : Json(nullptr);
    run["stall"]["timed_device_ms"] = options_.timed ? Json(moves ? 120.5 : 0.0) : Json(nullptr);
    const double after = true_imbalance(policy_, 3, 1);
    run["rank_load"] = {{"first_window", load(1.75)},
                        {"last_window", load(after)},
                        {"before", load(true_imbalance(policy_, 3, 0))},
                        {"after", load(after)}};
    run["health"] = {{"ok", true},
                     {"reason", ""},
                     {"failures", 0},
                     {"mode", "on"},
                     {"membership", 0},
                     {"planner_running", true},
                     {"planner_restarts", 0},
                     {"planner_resets", 0},
                     {"dropped_samples", 0},
                     {"experts_loaded", 0},
                     {"plan_age_steps", moves ? Json(120) : Json(nullptr)}};
    run["losses"] = Json::array();
    run["warm_start"] = false;
    return run;
  }

 private:
  Json load(double imbalance) {
    Json matrix = Json::array();
    for (int layer = 0; layer < options_.num_layers; ++layer) {
      Json row = Json::array();
      const int hot = (layer * 5 + 2) % options_.num_ranks;
      for (int rank = 0; rank < options_.num_ranks; ++rank) {
        const double mean =
            rank == hot ? imbalance : 1.0 - (imbalance - 1.0) / std::max(1, options_.num_ranks - 1);
        row.push_back(std::round(512 * (mean + 0.08 * (noise_.uniform() - 0.5))));
      }
      matrix.push_back(row);
    }
    return matrix;
  }

  void add_events(Json& run) {
    run["commits"] = Json::array();
    run["generations"] = Json::array();
    long total = 0;
    const long bytes_per_move = 36864;
    const int per_layer = policy_ == "static" ? 0 : policy_ == "eplb" ? 14 : 4;
    for (std::size_t segment = 0; per_layer > 0 && segment < options_.domains.size(); ++segment) {
      const int opened = first_step_of(options_, static_cast<int>(segment)) + 3;
      long moves = 0;
      for (int layer = 0; layer < options_.num_layers; ++layer) {
        const long n = per_layer + static_cast<long>(noise_.uniform() * 3);
        run["commits"].push_back({{"step", std::min(opened + 3 + layer / 2, options_.num_steps)},
                                  {"generation", opened},
                                  {"unit", layer},
                                  {"moe_layer_id", layer},
                                  {"moves", n},
                                  {"bytes", n * bytes_per_move}});
        moves += n;
      }
      const bool open = segment + 1 == options_.domains.size() && policy_ == "eplb";
      run["generations"].push_back({{"opened_step", opened},
                                    {"adopted_step", opened + 2},
                                    {"finished_step", open ? Json(nullptr) : Json(opened + 8)},
                                    {"result", open ? "" : "committed"},
                                    {"moves", moves},
                                    {"bytes", moves * bytes_per_move},
                                    {"imbalance_before", 1.75},
                                    {"imbalance_after", 1.09},
                                    {"imbalance_achieved", open ? Json(nullptr) : Json(1.12)},
                                    {"imbalance_by_shares", open ? Json(nullptr) : Json(1.105)},
                                    {"seconds", open ? 0.0 : 0.25}});
      total += moves;
    }
    if (per_layer > 0) {
      run["generations"].push_back({{"opened_step", options_.num_steps / 2},
                                    {"adopted_step", nullptr},
                                    {"finished_step", options_.num_steps / 2 + 2},
                                    {"result", "nothing_to_gain"},
                                    {"moves", 0},
                                    {"bytes", 0},
                                    {"imbalance_before", 1.1},
                                    {"imbalance_after", 1.1},
                                    {"imbalance_achieved", nullptr},
                                    {"imbalance_by_shares", nullptr},
                                    {"seconds", 0.01}});
    }
    run["rebalances"] = Json::object();
    for (const Json& generation : run["generations"]) {
      const std::string result = generation["result"].get<std::string>();
      Json& number = run["rebalances"][result.empty() ? "under_way" : result];
      number = number.is_null() ? 1 : number.get<int>() + 1;
    }
    run["moves"] = total;
    run["migrated_bytes"] = total * bytes_per_move;
    run["migrated_bytes_at_scale"] = options_.timed ? Json(total * 44040192L) : Json(nullptr);
  }

  void add_imbalance(Json& run) {
    Json steps = Json::array(), windows = Json::array(), worst = Json::array();
    double sum = 0, sum_after = 0;
    int after = 0, since = 0;
    for (int first = 1; first <= options_.num_steps; first += options_.steps_per_window) {
      const int last = std::min(first + options_.steps_per_window - 1, options_.num_steps);
      const int segment = segment_of(options_, last);
      since = first == 1 || segment_of(options_, first - 1) != segment ? 0 : since + 1;
      const double value =
          true_imbalance(policy_, since, segment) + 0.03 * (noise_.uniform() - 0.5);
      for (int step = first; step <= last; ++step)
        steps.push_back(value + 0.25 * noise_.uniform() + (step % 37 == 0 ? 0.6 : 0.0));
      windows.push_back(value);
      worst.push_back(value + 0.1 + 0.05 * noise_.uniform());
      sum += value;
      if (since > 1) {
        sum_after += value;
        ++after;
      }
    }
    run["imbalance"] = {
        {"per_step", steps}, {"per_window", windows}, {"per_window_worst_layer", worst}};
    run["imbalance"]["mean_over_windows"] =
        windows.empty() ? Json(nullptr) : Json(sum / static_cast<double>(windows.size()));
    run["imbalance"]["mean_after_switch"] = after == 0 ? Json(nullptr) : Json(sum_after / after);
    // Counted loads are a little above those that the shares say.
    run["locality"] = {{"rows", 1000}, {"own_rank", 0.125}, {"own_node", 0.375}};
    run["imbalance_by_shares"] = run["imbalance"];
    for (const char* key : {"mean_over_windows", "mean_after_switch"}) {
      Json& mean = run["imbalance_by_shares"][key];
      if (!mean.is_null()) mean = mean.get<double>() - 0.0125;
    }
  }

  void add_virtual_time(Json& run) {
    for (const char* key : {"step_time_us", "virtual_seconds", "virtual_mean_step_us_after_switch",
                            "tokens_per_virtual_second", "virtual_terms_us"})
      run[key] = nullptr;
    if (!options_.timed) return;
    Json times = Json::array();
    double total = 0;
    for (const auto& value : run["imbalance"]["per_step"]) {
      times.push_back(2100 + 2400 * value.get<double>());
      total += times.back().get<double>();
    }
    run["step_time_us"] = times;
    run["virtual_seconds"] = total / 1e6;
    run["virtual_mean_step_us_after_switch"] = total / options_.num_steps;
    run["tokens_per_virtual_second"] = options_.num_steps * 250 * 64 / (total / 1e6);
    const bool moves = policy_ != "static";
    run["virtual_terms_us"] = {
        {"attention", 0.2 * total},        {"barrier_wait", 0.0},
        {"combine", 0.1 * total},          {"dispatch", 0.1 * total},
        {"expert_tokens", 0.5 * total},    {"expert_weights", 0.08 * total},
        {"head", 0.018 * total},           {"install", moves ? 0.001 * total : 0.0},
        {"balancer_calls", 0.001 * total}, {"packet_stall", 0.0}};
  }

  const SampleOptions& options_;
  std::string policy_;
  Noise noise_;
};

Json windows_of(const SampleOptions& options) {
  Json windows = Json::array();
  for (int first = 1; first <= options.num_steps; first += options.steps_per_window) {
    windows.push_back({first, std::min(first + options.steps_per_window - 1, options.num_steps)});
  }
  return windows;
}

}  // namespace

Json sample_run(const SampleOptions& options) {
  Json file = {
      {"format", "swiftbalancer.run"},
      {"format_version", 1},
      {"version", "0.1.0"},
      {"created", "2026-11-24T03:00:00Z"},
      {"command",
       "swiftbalancer serve --model data/models/tiny_qwen3_moe --policy static,eplb,swift --device "
       "timed"},
      {"machine", {{"cpu", "Example CPU @ 2.50GHz"}, {"cores", 2}}},
      {"model",
       {{"folder", "data/models/tiny_qwen3_moe"},
        {"family", "qwen3_moe"},
        {"num_moe_layers", options.num_layers},
        {"num_logical_experts", 64},
        {"top_k", 4},
        {"hidden_size", 128},
        {"expert_bytes", 36864}}},
      {"shape",
       {{"num_ranks", options.num_ranks},
        {"num_slots", 10 * options.num_ranks},
        {"num_redundant_experts", 16},
        {"num_nodes", 1},
        {"slots_per_rank", std::vector<int>(static_cast<std::size_t>(options.num_ranks), 10)}}},
      {"config",
       {{"transport", "shm"},
        {"device", options.timed ? "timed" : "none"},
        {"install_mode", "swap"},
        {"seed", 1},
        {"packet_interval", 1}}},
      {"traffic",
       {{"num_requests", 512},
        {"segments", Json::array()},
        {"prompt_tokens", 81234},
        {"output_tokens", 20480}}},
      {"hardware", nullptr}};
  for (std::size_t i = 0; i < options.domains.size(); ++i) {
    file["traffic"]["segments"].push_back(
        {{"domain", options.domains[i]},
         {"first_step", first_step_of(options, static_cast<int>(i))}});
  }
  if (options.timed) {
    file["hardware"] = {{"name", "example-accelerator"},
                        {"model", "DeepSeek-V3"},
                        {"token_scale", 64},
                        {"constants", Json::object()}};
    file["hardware"]["constants"]["expert_bytes"] = {
        {"value", 44040192}, {"unit", "B"}, {"source", "3 x 7168 x 2048 weights of one byte each"}};
    file["hardware"]["constants"]["link_bandwidth"] = {
        {"value", 1.6e11},
        {"unit", "B/s"},
        {"source", "vendor's data sheet, one direction, four fifths of the peak reached"}};
    file["hardware"]["constants"]["planning_us_swift"] = {
        {"value", 1850.5}, {"unit", "us"}, {"source", "benchmark of this repository"}};
  }
  Json hindsight = Json::array(), worst = Json::array();
  Noise noise(99);
  const Json windows = windows_of(options);
  for (std::size_t i = 0; i < windows.size(); ++i) {
    hindsight.push_back(true_imbalance("hindsight", 0, 0) + 0.02 * (noise.uniform() - 0.5));
    worst.push_back(hindsight.back().get<double>() + 0.04);
  }
  file["windows"] = {{"assignments", 4096}, {"steps", windows}};
  file["hindsight"] = {{"imbalance", hindsight},
                       {"imbalance_worst_layer", worst},
                       {"mean_over_windows", 1.0604},
                       {"mean_after_switch", 1.0592}};
  file["runs"] = Json::array();
  for (std::size_t i = 0; i < options.policies.size(); ++i)
    file["runs"].push_back(RunMaker(options, i).make());
  file["checks"] = {{"outputs_identical", true}, {"slot_bytes_verified", 288}};
  return file;
}

}  // namespace swiftbalancer::observe
