#include "engine/run_json.hpp"

#include <algorithm>
#include <fstream>
#include <thread>

#include <nlohmann/json.hpp>

#include <swiftbalancer/error.hpp>

namespace swiftbalancer::engine {
namespace {

using Json = nlohmann::ordered_json;

std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const auto colon = line.find(": ");
    if (line.rfind("model name", 0) == 0 && colon != std::string::npos)
      return line.substr(colon + 2);
  }
  return "unknown";
}

Json step_or_null(std::uint64_t step) { return step == 0 ? Json(nullptr) : Json(step); }

Json model_json(const RunRecord& run) {
  return {{"folder", run.model_folder},
          {"checkpoint", run.checkpoint},
          {"family", run.model.family},
          {"num_moe_layers", run.model.num_moe_layers},
          {"num_logical_experts", run.model.num_logical_experts},
          {"top_k", run.model.top_k},
          {"hidden_size", run.model.hidden_size},
          {"expert_bytes", run.expert_bytes}};
}

Json shape_json(const ClusterShape& shape) {
  Json slots = Json::array();
  for (int rank = 0; rank < shape.num_ranks(); ++rank) slots.push_back(shape.slots_per_rank(rank));
  return {{"num_ranks", shape.num_ranks()},
          {"num_slots", shape.num_slots()},
          {"num_redundant_experts", shape.num_redundant_experts()},
          {"num_nodes", shape.num_nodes()},
          {"slots_per_rank", slots}};
}

Json traffic_json(const RunRecord& run) {
  Json segments = Json::array();
  for (const Segment& segment : run.traffic.segments) {
    segments.push_back({{"domain", segment.domain}, {"first_step", segment.first_step}});
  }
  return {{"num_requests", run.traffic.requests.size()},
          {"segments", segments},
          {"prompt_tokens", run.traffic.prompt_tokens},
          {"output_tokens", run.output_tokens}};
}

Json hardware_json(const RunRecord& run) {
  if (!run.timed) return nullptr;
  Json constants = Json::object();
  for (const auto& [name, constant] : run.hardware.constants) {
    constants[name] = {
        {"value", constant.value}, {"unit", constant.unit}, {"source", constant.source}};
  }
  return {{"name", run.hardware.name},
          {"model", run.hardware.model},
          {"token_scale", run.token_scale},
          {"constants", constants}};
}

Json means_json(const std::vector<OverLayers>& values) {
  Json json = Json::array();
  for (const OverLayers& value : values) json.push_back(value.mean_over_layers);
  return json;
}

Json worst_json(const std::vector<OverLayers>& values) {
  Json json = Json::array();
  for (const OverLayers& value : values) json.push_back(value.worst_layer);
  return json;
}

Json commits_json(const RunRecord& run) {
  Json json = Json::array();
  for (const CommitRecord& c : run.commits) {
    json.push_back({{"step", c.step},
                    {"generation", c.generation},
                    {"unit", c.unit},
                    {"moe_layer_id", c.moe_layer_id},
                    {"moves", c.moves},
                    {"bytes", c.bytes}});
  }
  return json;
}

Json generations_json(const RunRecord& run, const RunFigures& figures) {
  Json json = Json::array();
  for (std::size_t i = 0; i < run.generations.size(); ++i) {
    const GenerationRecord& g = run.generations[i];
    json.push_back({{"opened_step", g.opened_step},
                    {"adopted_step", step_or_null(g.adopted_step)},
                    {"finished_step", step_or_null(g.finished_step)},
                    {"result", g.result},
                    {"moves", g.moves},
                    {"bytes", g.bytes},
                    {"imbalance_before", g.imbalance_before},
                    {"imbalance_after", g.imbalance_after},
                    {"imbalance_achieved", figures.achieved[i]},
                    {"imbalance_by_shares", figures.planned[i]},
                    {"seconds", g.seconds}});
  }
  return json;
}

Json rebalances_json(const RunRecord& run) {
  Json json = Json::object();
  for (const GenerationRecord& g : run.generations) {
    Json& count = json[g.finished_step == 0 ? "under_way" : g.result];
    count = count.is_null() ? 1 : count.get<int>() + 1;
  }
  return json;
}

Json health_json(const RunRecord& run) {
  static constexpr const char* kModes[] = {"on", "paused", "plan-only"};
  const BalancingRecord& balancing = run.balancing;
  const Json age = balancing.plan_step == 0 ? Json(nullptr) : Json(run.steps - balancing.plan_step);
  return {{"ok", run.healthy},
          {"reason", run.health_reason},
          {"failures", balancing.failures},
          {"mode", kModes[static_cast<std::size_t>(balancing.mode)]},
          {"membership", balancing.membership},
          {"planner_running", balancing.planner_running},
          {"planner_restarts", balancing.planner_restarts},
          {"planner_resets", balancing.planner_resets},
          {"dropped_samples", balancing.dropped_samples},
          {"experts_loaded", balancing.experts_loaded},
          {"plan_age_steps", age}};
}

Json losses_json(const RunRecord& run) {
  Json json = Json::array();
  for (const LossRecord& loss : run.losses) {
    json.push_back({{"rank", loss.rank},
                    {"step", loss.step},
                    {"how", loss.how},
                    {"lost_requests", loss.lost_requests}});
  }
  return json;
}

Json memberships_json(const RunRecord& run) {
  Json json = Json::array();
  for (const MembershipRecord& membership : run.memberships)
    json.push_back({{"first_step", membership.first_step}, {"live_ranks", membership.live_ranks}});
  return json;
}

void add_virtual(const RunRecord& run, const RunFigures& figures, Json& json) {
  for (const char* key :
       {"step_time_us", "virtual_seconds", "virtual_mean_step_us_after_switch",
        "tokens_per_virtual_second", "virtual_terms_us", "migrated_bytes_at_scale"}) {
    json[key] = nullptr;
  }
  if (!run.timed) return;
  json["step_time_us"] = Json::array();
  for (const std::int64_t ns : run.step_time_ns)
    json["step_time_us"].push_back(static_cast<double>(ns) * 1e-3);
  json["virtual_seconds"] = figures.virtual_seconds;
  json["virtual_mean_step_us_after_switch"] = figures.virtual_mean_step_us_after_switch;
  json["tokens_per_virtual_second"] = figures.tokens_per_virtual_second;
  json["virtual_terms_us"] = Json::object();
  for (const auto& [term, ns] : run.critical_ns)
    json["virtual_terms_us"][term] = static_cast<double>(ns) * 1e-3;
  json["migrated_bytes_at_scale"] =
      figures.moves * static_cast<std::int64_t>(run.hardware.value("expert_bytes"));
}

Json stall_json(const RunRecord& run) {
  const auto stall = run.critical_ns.find("packet_stall");
  const Json virtual_stall =
      run.timed
          ? Json(stall == run.critical_ns.end() ? 0.0 : static_cast<double>(stall->second) * 1e-3)
          : Json(nullptr);
  return {{"waits_for_packets", run.waits.for_packets},
          {"waits_for_plans", run.waits.for_plans},
          {"waits_for_copies", run.waits.for_copies},
          {"packet_wait_ms", static_cast<double>(run.waits.wait_ns) * 1e-6},
          {"virtual_stall_us", virtual_stall},
          {"timed_device_ms", static_cast<double>(run.waits.held_ns) * 1e-6}};
}

Json run_entry(const RunRecord& run, const RunFigures& figures) {
  Json json = {{"policy", run.policy},
               {"gated", run.gated},
               {"warm_start", run.warm_start},
               {"output_digest", run.output_digest},
               {"wall_seconds", run.wall_seconds},
               {"steps", run.steps},
               {"tokens", run.tokens}};
  json["imbalance"] = {{"per_step", figures.imbalance_per_step},
                       {"per_window", means_json(figures.imbalance_per_window)},
                       {"per_window_worst_layer", worst_json(figures.imbalance_per_window)},
                       {"mean_over_windows", figures.mean_over_windows},
                       {"mean_after_switch", figures.mean_after_switch}};
  json["imbalance_by_shares"] = {{"per_window", means_json(figures.planned_per_window)},
                                 {"mean_over_windows", figures.planned_mean_over_windows},
                                 {"mean_after_switch", figures.planned_mean_after_switch}};
  add_virtual(run, figures, json);
  json["commits"] = commits_json(run);
  json["generations"] = generations_json(run, figures);
  json["rebalances"] = rebalances_json(run);
  json["moves"] = figures.moves;
  json["migrated_bytes"] = figures.migrated_bytes;
  json["stall"] = stall_json(run);
  const double rows = static_cast<double>(std::max<std::int64_t>(1, run.locality.rows));
  json["locality"] = {{"rows", run.locality.rows},
                      {"own_rank", static_cast<double>(run.locality.own_rank) / rows},
                      {"own_node", static_cast<double>(run.locality.own_node) / rows}};
  json["rank_load"] = {{"first_window", figures.first_window},
                       {"last_window", figures.last_window},
                       {"before", figures.before},
                       {"after", figures.after}};
  json["health"] = health_json(run);
  json["losses"] = losses_json(run);
  json["memberships"] = memberships_json(run);
  json["request_digests"] = run.request_digests;
  json["faults"] = run.faults;
  return json;
}

}  // namespace

std::string run_json(std::span<const RunRecord> runs, const Comparison& comparison,
                     const RunJsonInfo& info) {
  const RunRecord& first = runs.front();
  const Json config = Json::parse(info.config_json, nullptr, false);
  if (!config.is_object())
    throw Error(ErrorCode::kInvalidArgument, "run.json: the configuration is not a JSON object");
  Json json = {{"format", "swiftbalancer.run"},
               {"format_version", 1},
               {"version", info.version},
               {"created", info.created},
               {"command", info.command}};
  json["machine"] = {{"cpu", cpu_name()}, {"cores", std::thread::hardware_concurrency()}};
  json["model"] = model_json(first);
  json["shape"] = shape_json(ClusterShape(first.shape));
  json["config"] = config;
  json["traffic"] = traffic_json(first);
  json["hardware"] = hardware_json(first);
  Json steps = Json::array();
  for (const Window& window : comparison.windows)
    steps.push_back({window.first_step, window.last_step});
  json["windows"] = {{"assignments", comparison.window_assignments}, {"steps", steps}};
  json["hindsight"] = {{"imbalance", means_json(comparison.hindsight)},
                       {"imbalance_worst_layer", worst_json(comparison.hindsight)},
                       {"mean_over_windows", comparison.hindsight_mean_over_windows},
                       {"mean_after_switch", comparison.hindsight_mean_after_switch}};
  json["runs"] = Json::array();
  std::uint64_t verified = 0;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    json["runs"].push_back(run_entry(runs[i], comparison.runs[i]));
    verified += runs[i].verified_commits;
  }
  json["checks"] = {{"outputs_identical", comparison.outputs_identical},
                    {"slot_bytes_verified", verified}};
  // Paths and arguments may be in another encoding; JSON is UTF-8.
  return json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace swiftbalancer::engine
