#include "operations.hpp"

#include <algorithm>
#include <filesystem>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "io/placement_file.hpp"
#include "observe/files.hpp"

namespace swiftbalancer::tool {
namespace {

std::optional<BalancingMode> asked_mode(const std::string& line) {
  if (line == "resume") return BalancingMode::kOn;
  if (line == "pause") return BalancingMode::kPaused;
  if (line == "plan-only") return BalancingMode::kPlanOnly;
  return std::nullopt;
}

const std::string& word(BalancingMode mode) { return mode_words()[static_cast<std::size_t>(mode)]; }

std::string refusal(const std::string& line) {
  return nlohmann::json{{"error", fmt::format("'{}' is not known; allowed: pause, resume, "
                                              "plan-only, health",
                                              line)}}
      .dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

observe::MetricsSnapshot to_metrics(const engine::RunSnapshot& run) {
  const engine::BalancingRecord& balancing = run.balancing;
  observe::MetricsSnapshot s;
  s.steps = run.step;
  s.tokens = static_cast<double>(run.tokens);
  s.layer_tokens.assign(run.layer_tokens.begin(), run.layer_tokens.end());
  s.layer_imbalance = run.layer_imbalance;
  s.moves = static_cast<double>(balancing.moves);
  s.migrated_bytes = static_cast<double>(balancing.migrated_bytes);
  s.experts_loaded = static_cast<double>(balancing.experts_loaded);
  s.waits = {{"packets", static_cast<double>(run.waits.for_packets)},
             {"plans", static_cast<double>(run.waits.for_plans)},
             {"copies", static_cast<double>(run.waits.for_copies)}};
  s.wait_seconds = static_cast<double>(run.waits.wait_ns) * 1e-9;
  s.dropped_samples = static_cast<double>(balancing.dropped_samples);
  s.failures = static_cast<double>(balancing.failures);
  s.planner_restarts = balancing.planner_restarts;
  s.reconfigurations = balancing.membership;
  s.mode = word(balancing.mode);
  s.healthy = run.healthy;
  s.planner_running = balancing.planner_running;
  s.live_ranks = run.num_ranks;
  s.plan_step = balancing.plan_step;
  s.plan_imbalance_before = balancing.plan_imbalance_before;
  s.plan_imbalance_after = balancing.plan_imbalance_after;
  for (const engine::GenerationRecord& generation : run.generations)
    s.rebalances.push_back({generation.result, generation.seconds});
  return s;
}

}  // namespace

const std::vector<std::string>& mode_words() {
  static const std::vector<std::string> words = {"on", "paused", "plan-only"};
  return words;
}

Operations::Operations(const Options& options)
    : placement_file_(options.placement_file), mode_(options.mode) {
  if (options.metrics_port >= 0)
    metrics_ = std::make_unique<observe::MetricsEndpoint>(options.metrics_port, mode_words());
  if (!options.control_path.empty())
    socket_ = std::make_unique<ControlSocket>(options.control_path);
}

std::string Operations::metrics_address() const { return metrics_ ? metrics_->address() : ""; }

void Operations::save_placement() const {
  if (placement_file_.empty() || !served_) return;
  observe::write_file_atomically(placement_file_, io::format_placement({shape_, *served_, {}}));
}

void Operations::on_start(const engine::RunRecord& run) {
  policy_ = run.policy;
  shape_ = run.shape;
  served_ = run.initial;
  last_ = {};
  if (!metrics_) return;
  const auto folder = std::filesystem::absolute(run.model_folder).lexically_normal();
  metrics_->begin_run(run.policy,
                      (folder.has_filename() ? folder : folder.parent_path()).filename().string(),
                      run.transport);
}

void Operations::on_snapshot(const engine::RunSnapshot& snapshot) {
  last_ = snapshot;
  // With other ranks the slots are numbered otherwise; kept is what the whole cluster served last.
  if (snapshot.balancing.membership == 0)
    served_ = engine::placement_after(std::move(*served_), snapshot.commits);
  if (metrics_) metrics_->update(to_metrics(snapshot));
  answer_agreed();
}

std::vector<BalancingMode> Operations::take_modes() {
  std::vector<BalancingMode> modes;
  for (const ControlSocket::Request& request : socket_->take()) {
    if (const auto mode = asked_mode(request.line)) {
      mode_ = *mode;
      modes.push_back(*mode);
      waiting_[request.client] = *mode;
    } else {
      socket_->answer(request.client,
                      request.line == "health" ? health_json() : refusal(request.line));
    }
  }
  return modes;
}

void Operations::answer_agreed() {
  for (auto it = waiting_.begin(); it != waiting_.end();) {
    const auto& [client, mode] = *it;
    if (mode != last_.balancing.mode) {
      ++it;
      continue;
    }
    socket_->answer(client,
                    nlohmann::ordered_json{
                        {"mode", word(mode)}, {"step", last_.step}, {"ranks", last_.num_ranks}}
                        .dump());
    it = waiting_.erase(it);
  }
}

std::string Operations::health_json() const {
  const engine::BalancingRecord& balancing = last_.balancing;
  nlohmann::ordered_json json = {{"ok", last_.healthy},
                                 {"reason", last_.health_reason},
                                 {"failures", balancing.failures},
                                 {"mode", word(balancing.mode)},
                                 {"policy", policy_},
                                 {"step", last_.step},
                                 {"ranks", last_.num_ranks},
                                 {"membership", balancing.membership},
                                 {"planner_running", balancing.planner_running},
                                 {"planner_restarts", balancing.planner_restarts},
                                 {"dropped_samples", balancing.dropped_samples},
                                 {"moves", balancing.moves},
                                 {"migrated_bytes", balancing.migrated_bytes},
                                 {"plan_step", balancing.plan_step}};
  return json.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

}  // namespace swiftbalancer::tool
