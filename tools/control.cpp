// `swiftbalancer control`: pauses or resumes the balancing of a `serve` at work, or asks how it is.

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <swiftbalancer/error.hpp>

#include "command.hpp"
#include "control_socket.hpp"

namespace swiftbalancer::tool {
namespace {

using Json = nlohmann::ordered_json;

void show_health(const Json& health) {
  const auto line = [](const char* what, const std::string& value) {
    fmt::print("{:<18}{}\n", what, value);
  };
  const auto reason = health.at("reason").get<std::string>();
  line("balancing", !health.at("ok").get<bool>() ? "not ok: " + reason
                    : reason.empty()             ? "ok"
                                                 : "ok, recovered from: " + reason);
  for (const char* key : {"mode", "policy"}) line(key, health.at(key).get<std::string>());
  for (const char* key : {"step", "ranks", "membership"}) line(key, health.at(key).dump());
  line("planner", health.at("planner_running").get<bool>() ? "running" : "down");
  line("planner restarts", health.at("planner_restarts").dump());
  line("dropped samples", health.at("dropped_samples").dump());
  line("moves",
       fmt::format("{}, {} bytes", health.at("moves").dump(), health.at("migrated_bytes").dump()));
  const auto plan_step = health.at("plan_step").get<std::uint64_t>();
  line("last plan",
       plan_step == 0
           ? "none yet"
           : fmt::format("{} steps ago", health.at("step").get<std::uint64_t>() - plan_step));
}

class ControlCommand final : public Command {
 public:
  std::string_view name() const override { return "control"; }
  std::string_view summary() const override {
    return "Pause, resume or watch the balancing of a serve at work";
  }
  std::string_view examples() const override {
    return "  swiftbalancer serve --model data/models/tiny_qwen3_moe --control /tmp/moe.sock &\n"
           "  swiftbalancer control /tmp/moe.sock pause\n"
           "  swiftbalancer control /tmp/moe.sock health --json";
  }
  std::string_view operand() const override { return "PATH"; }
  std::string_view operand_help() const override { return "The path that serve has as --control"; }
  void declare(Settings& settings) override {
    settings.operand_choice(
        "request", {"pause", "resume", "plan-only", "health"},
        [this](std::size_t i) { request_ = i; }, [this] { return request_; },
        "pause: no new rebalance; plan-only: plan and say what it would win, move nothing");
    settings.flag("json", json_, "The answer as it comes, one line of JSON");
  }

  void run(const Settings& settings, const std::string& path, const std::string&) override {
    const std::string text = ask(path, settings.text_of("request"));
    const Json answer = Json::parse(text);
    if (answer.contains("error"))
      throw Error(ErrorCode::kUnavailable, answer.at("error").get<std::string>());
    if (json_) {
      fmt::print("{}\n", text);
    } else if (answer.contains("ok")) {
      show_health(answer);
    } else {
      fmt::print("balancing is {}: agreed by {} ranks, as of step {}\n",
                 answer.at("mode").get<std::string>(), answer.at("ranks").dump(),
                 answer.at("step").dump());
    }
  }

 private:
  std::size_t request_ = 3;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_control_command() { return std::make_unique<ControlCommand>(); }

}  // namespace swiftbalancer::tool
