// `swiftbalancer serve`: serves the same requests once per policy and reports on it.

#include "engine/serve.hpp"

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <limits>

#include <fmt/format.h>

#include "command.hpp"
#include "engine/figures.hpp"
#include "engine/run_json.hpp"
#include "limit_settings.hpp"
#include "observe/files.hpp"
#include "observe/report.hpp"
#include "operations.hpp"
#include "output_folder.hpp"
#include "planner/planner.hpp"
#include "progress.hpp"
#include "runtime/planner_process/child.hpp"

namespace swiftbalancer::tool {
namespace {

constexpr int kMostSteps = 1'000'000;
constexpr double kLargest = 1e9;

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

class ServeCommand final : public Command {
 public:
  std::string_view name() const override { return "serve"; }
  std::string_view summary() const override {
    return "Serve a checkpoint once per policy, with live balancing, and report on it";
  }
  std::string_view examples() const override {
    return "  swiftbalancer serve --model data/models/tiny_qwen3_moe --policy static,swift\n"
           "  swiftbalancer serve --config scripts/demo.yaml --num-ranks 16 --out out16\n"
           "  swiftbalancer serve --model data/models/tiny_qwen3_moe --stress --verify-slots "
           "--transport thread";
  }

  void declare(Settings& settings) override {
    settings.text("model", options_.model, "Hugging Face checkpoint folder");
    settings.text("out", out_, "Folder for run.json and report.html");
    settings.list("policy", policies_, "Policies, one run each");
    settings.flag("stress", stress_, "Run the policy stress too (or alone), at every opportunity");
    settings.flag("quiet", quiet_, "No progress, only the table and what was cleaned up");
    declare_ranks(settings);
    declare_traffic(settings);
    declare_balancer(settings);
    declare_operations(settings);
    settings.text("inject", inject_,
                  "Faults, KIND:RANK@STEP,...: kill, stop, cont, corrupt, join (a rank), "
                  "kill-planner");
  }

  void run(const Settings& settings, const std::string&, const std::string& command_line) override {
    complete_options();
    const std::vector<BalancerConfig> runs = plan_runs();
    check_output_folder(out_, {"run.json", "report.html"});
    check_placement_file(runs);

    Progress progress(quiet_);
    operations_.mode = static_cast<BalancingMode>(mode_);
    Operations operations(operations_);
    if (!operations.metrics_address().empty()) say("metrics: " + operations.metrics_address());
    std::vector<engine::RunRecord> records;
    for (const BalancerConfig& balancer : runs) {
      engine::ServeOptions options = options_;
      options.balancer = balancer;
      options.progress = [&](std::uint64_t step, std::uint64_t total_steps,
                             const std::string& line) {
        progress.report(balancer.policy, step, total_steps, line);
      };
      options.notice = say;
      options.mode = operations.mode();
      options.control = &operations;
      records.push_back(serve_and_save(options, operations));
      progress.finish();
    }
    const engine::Comparison comparison =
        engine::compare(records, options_.balancer.window_assignments);
    write_results(engine::run_json(
        records, comparison, {SWIFTBALANCER_VERSION, utc_now(), command_line, settings.to_json()}));
    if (!comparison.outputs_identical) {
      throw Error(ErrorCode::kInternal,
                  "the runs gave different outputs: balancing must not change them; see " + out_ +
                      "/run.json");
    }
  }

 private:
  // At once: others read it while the run goes on.
  static void say(const std::string& line) {
    fmt::print("{}\n", line);
    std::fflush(stdout);
  }

  // However the run ends, the next one can start from what was served last.
  static engine::RunRecord serve_and_save(const engine::ServeOptions& options,
                                          const Operations& operations) {
    try {
      engine::RunRecord run = engine::serve(options);
      operations.save_placement();
      return run;
    } catch (const Error&) {
      operations.save_placement();
      throw;
    }
  }

  void check_placement_file(const std::vector<BalancerConfig>& runs) {
    if (options_.placement_file.empty()) return;
    check_output_file(options_.placement_file);
    if (runs.size() == 1) return;
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("--placement goes with one policy, there are {}: each would start from "
                            "what the one before has left; serve once for each",
                            runs.size()));
  }

  void declare_operations(Settings& settings) {
    settings.integer("metrics", operations_.metrics_port, -1, 65'535,
                     "Port of 127.0.0.1 for Prometheus metrics; 0: any that is free, -1: none");
    settings.text("control", operations_.control_path,
                  "Path for a socket by which `swiftbalancer control` steers the run");
    settings.choice(
        "mode", mode_words(), [this](std::size_t i) { mode_ = i; }, [this] { return mode_; },
        "Balancing at the start; plan-only: says what it would do and moves nothing");
    settings.text("placement", options_.placement_file,
                  "Placement file: served from the start if it exists, written at the end");
  }

  void declare_ranks(Settings& settings) {
    settings.integer("num_ranks", options_.num_ranks, 1, 256, "Ranks");
    settings.integer("num_redundant_experts", options_.num_redundant_experts, 0, 1'000'000,
                     "Redundant experts per layer, over all ranks");
    settings.integer("num_nodes", options_.num_nodes, 1, 1024,
                     "Nodes that the ranks are spread over");
    settings.choice(
        "transport", {"thread", "shm"},
        [this](std::size_t i) {
          options_.transport =
              i == 0 ? engine::TransportKind::kThread : engine::TransportKind::kShm;
        },
        [this] { return options_.transport == engine::TransportKind::kThread ? 0 : 1; },
        "Ranks as threads, or as processes over shared memory");
    settings.choice(
        "device", {"none", "timed"},
        [this](std::size_t i) {
          options_.device = i == 0 ? engine::DeviceKind::kNone : engine::DeviceKind::kTimed;
        },
        [this] { return options_.device == engine::DeviceKind::kNone ? 0 : 1; },
        "timed: virtual time of a large model on the hardware profile");
    settings.text("hardware", options_.hardware,
                  "Hardware profile, for --device timed and --horizon");
    settings.integer("token_scale", options_.token_scale, 1, 1'000'000,
                     "Tokens of the large model that a token stands for");
    settings.integer("max_batch_tokens", options_.max_batch_tokens, 1, 65'536,
                     "Tokens that a rank runs per step");
    settings.flag("verify_slots", options_.verify_slots,
                  "After each commit compare the changed slots with the checkpoint");
  }

  void declare_traffic(Settings& settings) {
    engine::TrafficOptions& traffic = options_.traffic;
    settings.text(
        "prompts_file", traffic.prompts_file,
        "JSON file of prompts by domain; without it: prompts.json beside the model's folder");
    settings.list("domains", traffic.domains, "Domains of the requests, a segment each, in order");
    settings.integer("steps_per_segment", traffic.steps_per_segment, 1, kMostSteps,
                     "Steps in which a domain's requests arrive");
    settings.number("arrivals_per_step", traffic.arrivals_per_step, 1e-6, 1e6,
                    "Requests that arrive per step");
    settings.integer("num_requests", traffic.num_requests, 0, 100'000'000,
                     "Requests; 0: as many as arrive in the segments");
    settings.integer("min_prompt_tokens", traffic.min_prompt_tokens, 1, 1'000'000,
                     "Shortest prompt");
    settings.integer("max_prompt_tokens", traffic.max_prompt_tokens, 1, 1'000'000,
                     "Longest prompt");
    settings.integer("min_output_tokens", traffic.min_output_tokens, 1, 1'000'000,
                     "Shortest output");
    settings.integer("max_output_tokens", traffic.max_output_tokens, 1, 1'000'000,
                     "Longest output");
    settings.integer("seed", traffic.seed, 0, std::numeric_limits<std::int64_t>::max(),
                     "Seed of the requests and of sampling");
    settings.choice(
        "sampling", {"greedy", "temperature"},
        [&traffic](std::size_t i) {
          traffic.sampling = i == 0 ? engine::Sampling::kGreedy : engine::Sampling::kTemperature;
        },
        [&traffic] { return traffic.sampling == engine::Sampling::kGreedy ? 0 : 1; },
        "How outputs are drawn");
    settings.number("temperature", traffic.temperature, 1e-6, 1e6, "For --sampling temperature");
  }

  void declare_balancer(Settings& settings) {
    BalancerConfig& balancer = options_.balancer;
    settings.integer("rebalance_interval", balancer.rebalance_interval, 1, kMostSteps,
                     "Steps between rebalances; a drift is answered earlier");
    settings.number("imbalance_trigger", balancer.imbalance_trigger, 1.0, kLargest,
                    "Imbalance (max / mean) that calls for a rebalance at once");
    settings.number(
        "min_gain", balancer.min_gain, 0.0, kLargest,
        "Predicted fall of imbalance below which a plan is dropped; down to a quarter of it "
        "where loads are known well");
    settings.integer("max_moves_per_layer", balancer.max_moves_per_layer, -1, 1'000'000,
                     "Moves per rebalance; -1: no limit");
    limits_.declare_budgets(settings);
    settings.integer("horizon", options_.horizon, 0, 1'000'000'000,
                     "Steps over which moves must pay for their bytes on --hardware; 0: no cost "
                     "gate");
    limits_.declare(settings);
    settings.integer("window_assignments", balancer.window_assignments, 1, 1'000'000'000,
                     "Token-expert assignments per layer that make a window");
    settings.choice(
        "install_mode", {"swap", "copy"},
        [&balancer](std::size_t i) {
          balancer.install_mode = i == 0 ? InstallMode::kSwap : InstallMode::kCopy;
        },
        [&balancer] { return balancer.install_mode == InstallMode::kSwap ? 0 : 1; },
        "How received experts get into their slots");
    settings.choice(
        "control_mode", {"replicated", "leader"},
        [&balancer](std::size_t i) {
          balancer.control_mode = i == 0 ? ControlMode::kReplicated : ControlMode::kLeader;
        },
        [&balancer] { return balancer.control_mode == ControlMode::kReplicated ? 0 : 1; },
        "Who plans: every rank, or the first, which sends its plan");
    settings.flag("locality_first", balancer.locality_first,
                  "Prefer replicas of a token's own rank, then of its node, within the shares");
    settings.choice(
        "decode_dispatch", {"tokens", "activated-experts"},
        [&balancer](std::size_t i) {
          balancer.decode_dispatch =
              i == 0 ? DispatchObjective::kTokens : DispatchObjective::kActivatedExperts;
        },
        [&balancer] { return balancer.decode_dispatch == DispatchObjective::kTokens ? 0 : 1; },
        "What the choice of replicas keeps low on the worst rank in steps of decoding alone");
    settings.choice(
        "table_kind", {"fixed", "draw"},
        [&balancer](std::size_t i) {
          balancer.table_kind = i == 0 ? TableKind::kFixed : TableKind::kDraw;
        },
        [&balancer] { return balancer.table_kind == TableKind::kFixed ? 0 : 1; },
        "Replica choice by a table of fixed width or by one draw a token among the shares");
    settings.integer("staging_bytes", staging_bytes_, 1, std::int64_t{1} << 40,
                     "Memory of a rank for arriving experts");
    settings.integer("packet_interval", balancer.packet_interval, 1, kMostSteps,
                     "Steps between packets");
    settings.integer("packet_lag", balancer.packet_lag, 1, 1000,
                     "Steps after which a packet set is used");
    settings.integer("max_open_sets", balancer.max_open_sets, 1, kMostSteps,
                     "Packet sets after which a plan that is not ready is given up");
    settings.integer("max_active_sets", balancer.max_active_sets, 1, kMostSteps,
                     "Packet sets without a commit after which moves under way are given up");
    settings.integer("copy_bytes_per_step", copy_bytes_per_step_, 1, std::int64_t{1} << 40,
                     "Bytes that a rank copies into its slots in a step, with --install-mode copy");
    settings.integer("deadline_ms", deadline_ms_, 1, 86'400'000,
                     "Longest wait for other ranks, milliseconds");
    declare_worker(settings);
  }

  void declare_worker(Settings& settings) {
    BalancerConfig& balancer = options_.balancer;
    settings.choice(
        "worker", {"thread", "process"},
        [&balancer](std::size_t i) {
          balancer.worker = i == 0 ? WorkerKind::kThread : WorkerKind::kProcess;
        },
        [&balancer] { return balancer.worker == WorkerKind::kThread ? 0 : 1; },
        "Where plans are made: in the rank's worker thread, or in a process per rank");
    settings.text("planner_program", balancer.planner_program,
                  "Program of --worker process; without it: swiftbalancer-planner beside this one");
    settings.integer("planner_restarts", balancer.planner_restarts, 0, 1'000'000,
                     "How often a lost planner is started again before balancing is off");
    settings.integer("planner_deadline_ms", planner_deadline_ms_, 1, 86'400'000,
                     "Silence after which a planner process is ended as stuck, milliseconds");
  }

  void complete_options() {
    if (options_.model.empty()) {
      throw Error(ErrorCode::kInvalidArgument,
                  "--model is missing: give a Hugging Face checkpoint folder");
    }
    if (options_.traffic.prompts_file.empty()) {
      const auto folder = std::filesystem::absolute(options_.model).lexically_normal();
      options_.traffic.prompts_file =
          ((folder.has_filename() ? folder : folder.parent_path()).parent_path() / "prompts.json")
              .string();
    }
    operations_.placement_file = options_.placement_file;
    options_.faults = engine::parse_faults(inject_);
    options_.balancer.limits = limits_.limits();
    options_.balancer.staging_bytes = static_cast<std::size_t>(staging_bytes_);
    options_.balancer.copy_bytes_per_step = static_cast<std::size_t>(copy_bytes_per_step_);
    options_.balancer.deadline = std::chrono::milliseconds(deadline_ms_);
    options_.balancer.planner_deadline = std::chrono::milliseconds(planner_deadline_ms_);
    if (options_.balancer.worker == WorkerKind::kProcess)
      find_planner_program(options_.balancer.planner_program);
  }

  // One configuration per run. Finds policies that are unknown, or do not go by what is asked for,
  // before anything is served.
  std::vector<BalancerConfig> plan_runs() const {
    std::vector<BalancerConfig> runs;
    const std::vector<std::string> only_swift = {"swift"};
    PlanLimits limits = options_.balancer.limits;
    if (options_.horizon > 0) limits.gate.emplace();
    for (const std::string& policy : policies_.empty() && !stress_ ? only_swift : policies_) {
      check_policy_keeps(limits, policy);
      runs.push_back(options_.balancer);
      runs.back().policy = policy;
    }
    if (stress_) {
      check_policy_keeps(limits, "stress");
      runs.push_back(options_.balancer);
      runs.back().policy = "stress";
      runs.back().rebalance_interval = 1;
    }
    return runs;
  }

  void write_results(const std::string& run_json) const {
    const std::string report = observe::render_report(run_json);
    create_folder(out_);
    observe::write_file_atomically(out_ + "/run.json", run_json);
    observe::write_file_atomically(out_ + "/report.html", report);
    fmt::print("{}\n", observe::render_table(run_json));
    fmt::print("figures: {}/run.json\n", out_);
    fmt::print("open in a browser: {}/report.html\n", out_);
  }

  engine::ServeOptions options_;
  LimitSettings limits_;
  Operations::Options operations_;
  std::size_t mode_ = 0;
  std::string out_ = "out";
  std::vector<std::string> policies_;
  std::string inject_;
  bool stress_ = false;
  bool quiet_ = false;
  std::int64_t staging_bytes_ = static_cast<std::int64_t>(BalancerConfig().staging_bytes);
  std::int64_t copy_bytes_per_step_ =
      static_cast<std::int64_t>(BalancerConfig().copy_bytes_per_step);
  std::int64_t deadline_ms_ = BalancerConfig().deadline.count();
  std::int64_t planner_deadline_ms_ = BalancerConfig().planner_deadline.count();
};

}  // namespace

std::unique_ptr<Command> make_serve_command() { return std::make_unique<ServeCommand>(); }

}  // namespace swiftbalancer::tool
