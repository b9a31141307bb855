#include "observe/run_file.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <swiftbalancer/error.hpp>

#include "io/json_depth.hpp"

namespace swiftbalancer::observe {
namespace {

using Json = nlohmann::ordered_json;

[[noreturn]] void fail(const std::string& message) {
  throw Error(ErrorCode::kInvalidArgument, "run.json: " + message);
}

std::string as_text(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

/// A value of the file together with the path that a message names.
class Node {
 public:
  Node(const Json& json, std::string path) : json_(&json), path_(std::move(path)) {}

  Node operator[](const char* key) const {
    if (!json_->is_object()) wrong("an object");
    const auto found = json_->find(key);
    const std::string path = path_.empty() ? key : path_ + "." + key;
    if (found == json_->end())
      fail(path + " is missing; write the file with this version of `swiftbalancer serve`");
    return {*found, path};
  }
  std::vector<Node> list() const {
    if (!json_->is_array()) wrong("a list");
    std::vector<Node> items;
    for (std::size_t i = 0; i < json_->size(); ++i) {
      items.emplace_back((*json_)[i], path_ + "[" + std::to_string(i) + "]");
    }
    return items;
  }
  bool is_null() const { return json_->is_null(); }
  bool is_empty() const { return json_->empty(); }  ///< null, [] or {}
  std::string text() const {
    if (!json_->is_string()) wrong("a string");
    return json_->get<std::string>();
  }
  bool boolean() const {
    if (!json_->is_boolean()) wrong("true or false");
    return json_->get<bool>();
  }
  double number() const {
    if (!json_->is_number()) wrong("a number");
    return json_->get<double>();
  }
  std::int64_t count() const {
    const bool is_count =
        json_->is_number_integer() && json_->get<double>() >= 0 && json_->get<double>() < 9e18;
    if (!is_count) wrong("an integer >= 0");
    return json_->get<std::int64_t>();
  }
  std::optional<double> number_or_null() const {
    return is_null() ? std::nullopt : std::optional(number());
  }
  std::optional<std::int64_t> count_or_null() const {
    return is_null() ? std::nullopt : std::optional(count());
  }
  Series numbers() const {
    if (!json_->is_array()) wrong("a list of numbers");
    Series values;
    values.reserve(json_->size());
    for (std::size_t i = 0; i < json_->size(); ++i) {
      const Json& value = (*json_)[i];
      if (!value.is_number()) Node(value, path_ + "[" + std::to_string(i) + "]").wrong("a number");
      values.push_back(value.get<double>());
    }
    return values;
  }
  Series numbers(std::size_t length, const char* one_per) const {
    Series values = numbers();
    if (values.size() != length) {
      fail(path_ + " has " + std::to_string(values.size()) + " numbers, expected " +
           std::to_string(length) + " (one per " + one_per + ")");
    }
    return values;
  }
  std::vector<std::pair<std::string, std::string>> entries() const {
    if (!json_->is_object()) wrong("an object");
    std::vector<std::pair<std::string, std::string>> result;
    for (const auto& [key, value] : json_->items()) result.emplace_back(key, as_text(value));
    return result;
  }
  std::vector<std::pair<std::string, Node>> members() const {
    if (!json_->is_object()) wrong("an object");
    std::vector<std::pair<std::string, Node>> result;
    for (const auto& [key, value] : json_->items())
      result.emplace_back(key, Node(value, path_ + "." + key));
    return result;
  }
  [[noreturn]] void wrong(const char* expected) const {
    std::string shown = as_text(*json_);
    std::replace_if(shown.begin(), shown.end(), [](unsigned char c) { return c < ' '; }, ' ');
    if (shown.size() > 40) shown = shown.substr(0, 40) + "...";
    fail((path_.empty() ? "the file" : path_) + " is a " + json_->type_name() + " (" + shown +
         "), expected " + expected);
  }

 private:
  const Json* json_;
  std::string path_;
};

Matrix read_matrix(const Node& node, std::int64_t num_layers, std::int64_t num_ranks) {
  Matrix matrix;
  for (const Node& row : node.list()) {
    matrix.push_back(row.numbers(static_cast<std::size_t>(num_ranks), "rank"));
  }
  if (!matrix.empty() && std::ssize(matrix) != num_layers) node.wrong("one list per MoE layer");
  return matrix;
}

Hardware read_hardware(const Node& node) {
  Hardware hardware;
  hardware.name = node["name"].text();
  hardware.model = node["model"].text();
  hardware.token_scale = node["token_scale"].number();
  for (const auto& [name, constant] : node["constants"].members()) {
    hardware.constants.push_back(
        {name, constant["value"].number(), constant["unit"].text(), constant["source"].text()});
  }
  return hardware;
}

void read_imbalance(const Node& node, std::size_t num_windows, Run& run) {
  run.imbalance_per_step = node["per_step"].numbers(static_cast<std::size_t>(run.steps), "step");
  run.imbalance_per_window = node["per_window"].numbers(num_windows, "window");
  run.worst_layer_per_window = node["per_window_worst_layer"].numbers(num_windows, "window");
  run.mean_over_windows = node["mean_over_windows"].number_or_null();
  run.mean_after_switch = node["mean_after_switch"].number_or_null();
}

void read_virtual_time(const Node& node, Run& run) {
  run.step_time_us = node["step_time_us"].numbers(static_cast<std::size_t>(run.steps), "step");
  run.virtual_seconds = node["virtual_seconds"].number();
  run.mean_step_us_after_switch = node["virtual_mean_step_us_after_switch"].number_or_null();
  run.tokens_per_virtual_second = node["tokens_per_virtual_second"].number_or_null();
  for (const auto& [term, total] : node["virtual_terms_us"].members()) {
    run.virtual_terms_us.emplace_back(term, total.number());
  }
}

void read_events(const Node& node, Run& run) {
  for (const Node& item : node["commits"].list()) {
    run.commits.push_back({item["step"].count(), item["generation"].count(),
                           item["moe_layer_id"].count(), item["moves"].count(),
                           item["bytes"].number()});
  }
  for (const Node& item : node["generations"].list()) {
    run.generations.push_back(
        {item["opened_step"].count(), item["adopted_step"].count_or_null(),
         item["finished_step"].count_or_null(), item["result"].text(), item["moves"].count(),
         item["bytes"].number(), item["imbalance_before"].number(),
         item["imbalance_after"].number(), item["imbalance_achieved"].number_or_null(),
         item["imbalance_by_shares"].number_or_null(), item["seconds"].number()});
  }
  for (const auto& [result, number] : node["rebalances"].members())
    run.rebalances.emplace_back(result, number.count());
}

void read_health(const Node& node, Run& run) {
  run.healthy = node["ok"].boolean();
  run.health_reason = node["reason"].text();
  run.failures = node["failures"].count();
  run.mode = node["mode"].text();
  run.membership = node["membership"].count();
  run.planner_running = node["planner_running"].boolean();
  run.planner_restarts = node["planner_restarts"].count();
  run.dropped_samples = node["dropped_samples"].count();
  run.plan_age_steps = node["plan_age_steps"].count_or_null();
}

void read_stall(const Node& node, bool timed, Run& run) {
  run.waits_for_packets = node["waits_for_packets"].count();
  run.waits_for_plans = node["waits_for_plans"].count();
  run.waits_for_copies = node["waits_for_copies"].count();
  run.packet_wait_ms = node["packet_wait_ms"].number();
  if (timed) {
    run.virtual_stall_us = node["virtual_stall_us"].number();
    run.timed_device_ms = node["timed_device_ms"].number_or_null();
  }
}

Run read_run(const Node& node, const RunFile& file) {
  Run run;
  run.policy = run.label = node["policy"].text();
  run.gated = node["gated"].boolean();
  run.output_digest = node["output_digest"].text();
  run.wall_seconds = node["wall_seconds"].number();
  run.steps = node["steps"].count();
  run.tokens = node["tokens"].number();
  read_imbalance(node["imbalance"], file.windows.size(), run);
  run.mean_over_windows_by_shares =
      node["imbalance_by_shares"]["mean_over_windows"].number_or_null();
  run.mean_after_switch_by_shares =
      node["imbalance_by_shares"]["mean_after_switch"].number_or_null();
  run.own_rank = node["locality"]["own_rank"].number();
  run.own_node = node["locality"]["own_node"].number();
  if (file.hardware) read_virtual_time(node, run);
  read_events(node, run);
  run.moves = node["moves"].count();
  run.migrated_bytes = node["migrated_bytes"].number();
  run.migrated_bytes_at_scale = node["migrated_bytes_at_scale"].number_or_null();
  read_stall(node["stall"], file.hardware.has_value(), run);
  const Node load = node["rank_load"];
  const auto matrix = [&](const char* key, const char* otherwise) {
    return read_matrix(load[key].is_empty() ? load[otherwise] : load[key], file.num_layers,
                       file.num_ranks);
  };
  run.load_before = matrix("before", "first_window");
  run.load_after = matrix("after", "last_window");
  read_health(node["health"], run);
  for (const Node& loss : node["losses"].list()) {
    run.losses.emplace_back(loss["rank"].count(),
                            static_cast<std::int64_t>(loss["lost_requests"].list().size()));
  }
  run.warm_start = node["warm_start"].boolean();
  return run;
}

void read_windows(const Node& root, RunFile& file) {
  file.window_assignments = root["windows"]["assignments"].count();
  for (const Node& window : root["windows"]["steps"].list()) {
    const auto bounds = window.list();
    if (bounds.size() != 2 || bounds[0].count() > bounds[1].count())
      window.wrong("[first_step, last_step]");
    file.windows.emplace_back(bounds[0].count(), bounds[1].count());
  }
  file.hindsight = root["hindsight"]["imbalance"].numbers(file.windows.size(), "window");
  file.hindsight_worst_layer =
      root["hindsight"]["imbalance_worst_layer"].numbers(file.windows.size(), "window");
  file.hindsight_mean_over_windows = root["hindsight"]["mean_over_windows"].number_or_null();
  file.hindsight_mean_after_switch = root["hindsight"]["mean_after_switch"].number_or_null();
}

void read_set_up(const Node& root, RunFile& file) {
  file.version = root["version"].text();
  file.created = root["created"].text();
  file.command = root["command"].text();
  file.machine = root["machine"].entries();
  file.model = root["model"].entries();
  file.shape = root["shape"].entries();
  file.config = root["config"].entries();
  file.num_layers = root["model"]["num_moe_layers"].count();
  file.num_ranks = root["shape"]["num_ranks"].count();
  const Node traffic = root["traffic"];
  for (const Node& segment : traffic["segments"].list()) {
    file.segments.push_back({segment["domain"].text(), segment["first_step"].count()});
  }
  file.traffic = traffic.entries();
  std::erase_if(file.traffic, [](const auto& entry) { return entry.first == "segments"; });
  if (!root["hardware"].is_null()) file.hardware = read_hardware(root["hardware"]);
}

void label_runs(std::vector<Run>& runs) {
  std::map<std::string, int> seen;
  for (Run& run : runs) {
    const int number = ++seen[run.policy];
    if (number > 1) run.label += " #" + std::to_string(number);
  }
}

Json parse(const std::string& text) {
  if (io::is_too_deep(text))
    fail("lists or objects are nested deeper than " + std::to_string(io::kMaxJsonDepth));
  try {
    return Json::parse(text);
  } catch (const Json::parse_error& error) {
    fail("not valid JSON, see byte " + std::to_string(error.byte) + " of " +
         std::to_string(text.size()));
  } catch (const Json::exception&) {
    fail("not valid JSON: a number is too large to be read");
  }
}

}  // namespace

RunFile parse_run_file(const std::string& run_json) {
  const Json json = parse(run_json);
  const Node root(json, "");
  if (root["format"].text() != "swiftbalancer.run") root["format"].wrong("\"swiftbalancer.run\"");
  if (root["format_version"].count() != 1)
    root["format_version"].wrong("1, the version this tool reads");
  RunFile file;
  read_set_up(root, file);
  read_windows(root, file);
  for (const Node& run : root["runs"].list()) file.runs.push_back(read_run(run, file));
  if (file.runs.empty()) root["runs"].wrong("at least one run");
  label_runs(file.runs);
  file.outputs_identical = root["checks"]["outputs_identical"].boolean();
  file.slot_bytes_verified = root["checks"]["slot_bytes_verified"].count();
  return file;
}

}  // namespace swiftbalancer::observe
