#include "engine/serve.hpp"

#include <sched.h>

#include <chrono>
#include <filesystem>

#include <swiftbalancer/policy.hpp>

#include "engine/launch.hpp"
#include "engine/step_model.hpp"
#include "io/checkpoint_digest.hpp"
#include "io/placement_file.hpp"
#include "io/text_file.hpp"
#include "planner/planner.hpp"

namespace swiftbalancer::engine {
namespace {

void check_at_least(const char* name, int value, int least) {
  if (value >= least) return;
  throw Error(ErrorCode::kInvalidArgument, std::string(name) + " is " + std::to_string(value) +
                                               ": must be at least " + std::to_string(least));
}

void check_fault(const ServeOptions& options, const Fault& fault) {
  const auto refuse = [&](const std::string& why) {
    throw Error(ErrorCode::kInvalidArgument, "inject: " + to_string(fault) + ": " + why);
  };
  if (options.transport != TransportKind::kShm)
    refuse("faults are for rank processes; serve with transport shm");
  if (fault.rank >= options.num_ranks)
    refuse("there are ranks 0 to " + std::to_string(options.num_ranks - 1));
  const bool recovers = fault.kind == FaultKind::kJoin || fault.kind == FaultKind::kCorrupt;
  if (recovers && options.device != DeviceKind::kNone)
    refuse("a run on a timed device ends when a rank is lost; serve with device none");
  if (fault.kind == FaultKind::kKillPlanner && options.balancer.worker != WorkerKind::kProcess)
    refuse("there are no planner processes; serve with worker process");
}

void check_options(const ServeOptions& options) {
  check_at_least("num_ranks", options.num_ranks, 1);
  check_at_least("num_redundant_experts", options.num_redundant_experts, 0);
  check_at_least("num_nodes", options.num_nodes, 1);
  check_at_least("token_scale", options.token_scale, 1);
  check_at_least("max_batch_tokens", options.max_batch_tokens, 1);
  if (options.device == DeviceKind::kTimed && options.hardware.empty()) {
    throw Error(ErrorCode::kInvalidArgument,
                "device timed needs a hardware profile: name one, e.g. of data/hardware");
  }
  check_at_least("horizon", options.horizon, 0);
  if (options.horizon > 0 && options.hardware.empty()) {
    throw Error(ErrorCode::kInvalidArgument,
                "horizon needs a hardware profile: name one, e.g. of data/hardware");
  }
  for (const Fault& fault : options.faults) check_fault(options, fault);
}

std::vector<int> allowed_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cores;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return cores;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(static_cast<std::size_t>(core), &set)) cores.push_back(core);
  }
  return cores;
}

void check_same(const std::string& path, const char* what, const std::string& in_file,
                const std::string& in_run) {
  if (in_file == in_run) return;
  throw Error(ErrorCode::kInvalidArgument,
              path + ": is a placement for " + what + " " + in_file + ", this run has " + in_run +
                  "; serve with the same, or remove the file to start without it");
}

std::string slots_of(const ClusterShape& shape) {
  std::string text;
  for (int rank = 0; rank < shape.num_ranks(); ++rank)
    text += (rank == 0 ? "" : ",") + std::to_string(shape.slots_per_rank(rank));
  return text;
}

// Its shares are not used: a placement starts with even ones.
Placement load_placement(const std::string& path, const ClusterShape& shape) {
  io::PlacementFile file = io::parse_placement(path, io::read_text_file(path));
  const ClusterShape in_file(file.shape);
  const auto same = [&](const char* what, int a, int b) {
    check_same(path, what, std::to_string(a), std::to_string(b));
  };
  same("num_moe_layers", in_file.num_moe_layers(), shape.num_moe_layers());
  same("num_logical_experts", in_file.num_logical_experts(), shape.num_logical_experts());
  same("num_ranks", in_file.num_ranks(), shape.num_ranks());
  same("num_slots", in_file.num_slots(), shape.num_slots());
  check_same(path, "slots_per_rank", slots_of(in_file), slots_of(shape));
  return std::move(file.placement);
}

// With the gate, whose figures depend on model and ranks.
void complete_limits(RunPlan& plan) {
  const ServeOptions& options = plan.options;
  PlanLimits& limits = plan.options.balancer.limits;
  if (options.horizon > 0) {
    limits.gate = cost_gate_of(load_hardware_profile(options.hardware),
                               {.tokens_per_step = 1.0 * options.num_ranks *
                                                   options.max_batch_tokens * options.token_scale,
                                .top_k = plan.model->info().top_k,
                                .num_ranks = options.num_ranks,
                                .horizon_steps = options.horizon});
  }
  check_plan_limits(limits, options.balancer.policy, *plan.shape);
}

RunPlan make_plan(const ServeOptions& options) {
  check_options(options);
  RunPlan plan;
  plan.options = options;
  plan.model = load_model(options.model);
  const ModelInfo& model = plan.model->info();
  if (plan.options.balancer.checkpoint.empty()) {
    plan.options.balancer.checkpoint = io::checkpoint_digest(io::Checkpoint::open(options.model));
  }
  plan.shape_options.num_moe_layers = model.num_moe_layers;
  plan.shape_options.num_logical_experts = model.num_logical_experts;
  plan.shape_options.num_ranks = options.num_ranks;
  plan.shape_options.num_slots = model.num_logical_experts + options.num_redundant_experts;
  plan.shape_options.num_nodes = options.num_nodes;
  plan.shape = std::make_unique<ClusterShape>(plan.shape_options);
  complete_limits(plan);
  plan.warm_start = std::filesystem::exists(options.placement_file);
  plan.initial = plan.warm_start ? load_placement(options.placement_file, *plan.shape)
                                 : Placement::initial(*plan.shape);
  plan.traffic = make_traffic(options.traffic, model);
  if (options.device == DeviceKind::kTimed) plan.hardware = load_hardware_profile(options.hardware);
  plan.cores = allowed_cores();
  if (plan.cores.size() < 2 * static_cast<std::size_t>(options.num_ranks)) plan.cores.clear();
  return plan;
}

std::string balancing(const RunPlan& plan) {
  const std::string& policy = plan.options.balancer.policy;
  if (!make_policy(policy)->capabilities().moves)
    return "balancing off: policy " + policy + " moves nothing";
  return plan.options.num_ranks == 1 ? "balancing off: one rank" : "balancing on";
}

std::string start_line(const RunPlan& plan) {
  const ServeOptions& options = plan.options;
  return "policy " + options.balancer.policy + ": " + std::to_string(options.num_ranks) +
         (options.transport == TransportKind::kShm ? " processes over shared memory" : " threads") +
         ", " + std::to_string(plan.shape->num_slots()) + " slots, " +
         std::to_string(plan.traffic.requests.size()) + " requests, " +
         (plan.cores.empty() ? "not pinned: fewer than two cores a rank"
                             : "engines and workers pinned to cores of their own") +
         "; " + balancing(plan) +
         (plan.warm_start ? "; placement from " + options.placement_file : "");
}

RunRecord describe(const RunPlan& plan, bool gated) {
  RunRecord run;
  run.model_folder = plan.options.model;
  run.model = plan.model->info();
  run.checkpoint = plan.options.balancer.checkpoint;
  for (const auto& part : plan.model->expert_parts(0, 0)) run.expert_bytes += part.size();
  run.shape = plan.shape_options;
  run.initial = plan.initial;
  run.memberships.emplace_back();
  for (int rank = 0; rank < plan.options.num_ranks; ++rank)
    run.memberships.front().live_ranks.push_back(rank);
  run.warm_start = plan.warm_start;
  run.transport = plan.options.transport == TransportKind::kShm ? "shm" : "thread";
  run.traffic = plan.traffic;
  run.policy = plan.options.balancer.policy;
  run.gated = gated;
  run.decode_dispatch = plan.options.balancer.decode_dispatch;
  run.timed = plan.options.device == DeviceKind::kTimed;
  run.hardware = plan.hardware;
  run.token_scale = plan.options.token_scale;
  return run;
}

}  // namespace

RunRecord serve(const ServeOptions& options) {
  const bool gated = make_policy(options.balancer.policy)->capabilities().gated;
  const RunPlan plan = make_plan(options);
  ProgressLine progress;
  if (options.progress) {
    const std::uint64_t total = plan.traffic.last_arrival_step;
    progress = [&options, total](std::uint64_t step, const std::string& line) {
      options.progress(step, total, line);
    };
  }
  const auto say = [&](const std::string& line) {
    if (progress) progress(0, line);
  };
  if (options.transport == TransportKind::kShm) {
    for (const std::string& name : remove_stale_shm_groups()) {
      if (options.notice)
        options.notice("removed shared memory \"" + name + "\" of a run that was killed");
    }
  }
  say(start_line(plan));
  RunRecord run = describe(plan, gated);
  if (options.control != nullptr) options.control->on_start(run);
  const auto start = std::chrono::steady_clock::now();
  auto ranks = options.transport == TransportKind::kShm ? run_processes(plan, progress)
                                                        : run_threads(plan, progress);
  run.wall_seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  for (MembershipRecord& membership : ranks.memberships)
    run.memberships.push_back(std::move(membership));
  run.losses = std::move(ranks.losses);
  run.faults = std::move(ranks.faults);
  merge(ranks.records, *plan.shape, run);
  if (options.notice) {
    for (const LossRecord& loss : run.losses) {
      options.notice("rank " + std::to_string(loss.rank) + " " + loss.how + " at step " +
                     std::to_string(loss.step) + ": " + std::to_string(loss.lost_requests.size()) +
                     " requests lost");
    }
    for (const std::string& line : run.faults) options.notice(line);
  }
  return run;
}

}  // namespace swiftbalancer::engine
