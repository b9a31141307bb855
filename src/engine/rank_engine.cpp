#include "engine/rank_engine.hpp"

#include <sched.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <optional>

#include "engine/balancer_log.hpp"
#include "engine/exchange.hpp"
#include "engine/slot_memory.hpp"
#include "engine/snapshot_maker.hpp"
#include "engine/virtual_clock.hpp"

namespace swiftbalancer::engine {
namespace {

constexpr std::uint64_t kCapacityTag = 1;

void pin_to(int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<std::size_t>(core), &set);
  // A core that is gone by now is no reason to stop: the thread then runs anywhere.
  static_cast<void>(sched_setaffinity(0, sizeof set, &set));
}

BalancerConfig balancer_config(const RunPlan& plan, const RankContext& context) {
  BalancerConfig config = plan.options.balancer;
  config.log = context.log;
  if (context.next_membership) {
    config.load_expert = [&model = *plan.model](int moe_layer_id, int logical_id,
                                                std::span<std::byte* const> parts) {
      const ExpertParts bytes = model.expert_parts(moe_layer_id, logical_id);
      for (std::size_t i = 0; i < bytes.size(); ++i)
        std::memcpy(parts[i], bytes[i].data(), bytes[i].size());
    };
  }
  if (!plan.cores.empty()) {
    const int core = plan.cores[static_cast<std::size_t>(2 * context.rank + 1)];
    config.thread_init = [core] { pin_to(core); };
  }
  return config;
}

class RankEngine {
 public:
  RankEngine(const RunPlan& plan, RankContext context)
      : plan_(plan),
        model_(*plan.model),
        context_(std::move(context)),
        memory_(model_, *plan.shape, context_.joins ? nullptr : &plan.initial, context_.rank),
        owned_balancer_(context_.joins ? join() : start()),
        balancer_(*owned_balancer_),
        shape_(balancer_.shape()),
        scheduler_(model_, plan.traffic, plan.options.max_batch_tokens),
        log_(shape_, balancer_.expert_bytes(0)),
        exchange_(std::in_place, shape_, model_.info(), *context_.exchange,
                  plan.options.balancer.deadline),
        clock_(make_device(), context_.rank) {}

  void run() {
    record_.rank = context_.rank;
    if (context_.joins) {
      resume();
      record_.first_step = step_;
    } else {
      scheduler_.share(0, context_.rank, shape_.num_ranks());
    }
    while (true) {
      serve();
      if (finish(step_ - 1)) return;
      recover();
    }
  }

 private:
  void serve();
  bool serve_steps();
  void recover();
  void resume();
  void keep_rows(std::uint64_t steps);
  std::unique_ptr<Balancer> start();
  std::unique_ptr<Balancer> join();
  std::unique_ptr<TimedDevice> make_device();
  bool begin_step(std::uint64_t step);
  void after_commits(std::uint64_t step);
  void say_shadowed(std::uint64_t step, const GenerationRecord& generation) const;
  void forward();
  void run_layer(int layer);
  void keep_counts(std::span<const std::uint32_t> tokens_per_slot);
  void report(std::uint64_t step);
  void receive();
  void tell(std::uint64_t step);
  bool finish(std::uint64_t steps);

  const RunPlan& plan_;
  const Model& model_;
  RankContext context_;
  SlotMemory memory_;  // outlives the balancer
  const std::unique_ptr<Balancer> owned_balancer_;
  Balancer& balancer_;
  const ClusterShape& shape_;  // of the live ranks
  Scheduler scheduler_;
  BalancerLog log_;
  std::optional<ExpertExchange> exchange_;
  VirtualClock clock_;
  const Batch* batch_ = nullptr;
  Routing routing_;
  std::vector<float> hidden_;
  std::vector<std::int64_t> clocks_;
  std::uint64_t step_ = 1;  // the next one, or the one under way
  std::size_t answers_told_ = 0;
  std::int64_t tokens_so_far_ = 0;
  std::size_t segment_ = 0;
  RankRecord record_;
  SnapshotMaker snapshots_;
};

void RankEngine::serve() {
  while (true) {
    try {
      if (serve_steps()) return;
    } catch (const Error& error) {
      if (!lost_others(error.code()) || !context_.next_membership) throw;
    }
    recover();
  }
}

// @returns false when the run goes on with other ranks.
bool RankEngine::serve_steps() {
  for (; begin_step(step_); ++step_) {
    forward();
    clock_.head(batch_->num_yields);
    clock_.end_step(balancer_, shape_.num_moe_layers()).throw_if_failed();
    balancer_.end_step().throw_if_failed();
    report(step_);
    receive();
    tell(step_);
    if (context_.membership_changes && context_.membership_changes()) {
      ++step_;
      return false;
    }
  }
  return true;
}

// The step under way is given up: what it has appended to caches and counts is taken back, and its
// tokens are run anew in the next one.
void RankEngine::recover() {
  keep_rows(step_ - 1);
  scheduler_.abandon();
  // Closed, so that nobody waits for this rank in a step that it does not make.
  exchange_.reset();
  context_.exchange.reset();
  while (true) {
    Membership membership = context_.next_membership();
    const Status status =
        balancer_.reconfigure(membership.live_ranks, std::move(membership.balancer));
    if (try_others(status)) continue;
    log_.add(balancer_.steps_begun(), balancer_.events());
    log_.renumber(shape_);
    context_.exchange = std::move(membership.exchange);
    exchange_.emplace(shape_, model_.info(), *context_.exchange, plan_.options.balancer.deadline);
    break;
  }
  resume();
}

// All live ranks go on from the same step, with the requests shared anew.
void RankEngine::resume() {
  step_ = balancer_.steps_begun() + 1;
  scheduler_.share(step_ - 1, balancer_.rank(), shape_.num_ranks());
  if (context_.resumed && balancer_.rank() == 0) context_.resumed(step_);
  keep_rows(step_ - 1);
  record_.resumed_step = step_;
  record_.resumed_placement.clear();
  for (int layer = 0; layer < shape_.num_moe_layers(); ++layer) {
    const auto row = balancer_.placement().layer(layer);
    record_.resumed_placement.insert(record_.resumed_placement.end(), row.begin(), row.end());
  }
}

// Rows of steps that were given up are zero.
void RankEngine::keep_rows(std::uint64_t steps) {
  const std::size_t rows = steps * static_cast<std::size_t>(shape_.num_moe_layers());
  record_.tokens.resize(steps);
  record_.decode_steps.resize(steps);
  record_.slot_tokens.resize(rows *
                             static_cast<std::size_t>(shape_.slots_per_rank(balancer_.rank())));
  record_.routed_tokens.resize(rows * static_cast<std::size_t>(shape_.num_logical_experts()));
}

std::unique_ptr<Balancer> RankEngine::start() {
  auto balancer = std::make_unique<Balancer>(*plan_.shape, balancer_config(plan_, context_),
                                             std::move(context_.balancer));
  memory_.register_with(*balancer);
  balancer->start(plan_.initial);
  balancer->set_mode(plan_.options.mode);
  return balancer;
}

std::unique_ptr<Balancer> RankEngine::join() {
  while (true) {
    Membership membership = context_.next_membership();
    Status status;
    auto balancer = Balancer::join(
        *plan_.shape, balancer_config(plan_, context_), std::move(membership.balancer),
        membership.live_ranks, [this](Balancer& joins) { memory_.register_with(joins); }, status);
    if (lost_others(status.code())) continue;
    status.throw_if_failed();
    context_.exchange = std::move(membership.exchange);
    return balancer;
  }
}

std::unique_ptr<TimedDevice> RankEngine::make_device() {
  if (plan_.options.device == DeviceKind::kNone) return nullptr;
  std::vector<std::int64_t> capacity(static_cast<std::size_t>(shape_.num_ranks()));
  exchange_->gather(kCapacityTag, balancer_.staging_capacity(), capacity).throw_if_failed();
  TimedDeviceOptions options;
  options.token_scale = plan_.options.token_scale;
  options.install_mode = plan_.options.balancer.install_mode;
  options.policy = plan_.options.balancer.policy;
  options.packet_interval = plan_.options.balancer.packet_interval;
  options.packet_lag = plan_.options.balancer.packet_lag;
  for (const std::int64_t buffers : capacity)
    options.staging_capacity_per_rank.push_back(static_cast<int>(buffers));
  options.packet_bytes = balancer_.packet_bytes();
  return std::make_unique<TimedDevice>(plan_.hardware, shape_, context_.rank, options);
}

// All ranks see the same headers and so leave the loop together.
bool RankEngine::begin_step(std::uint64_t step) {
  batch_ = &scheduler_.plan(step);
  const int num_tokens = batch_->num_tokens();
  exchange_
      ->open_step(step, {clock_.now_ns(), static_cast<std::uint32_t>(num_tokens),
                         static_cast<std::uint32_t>(batch_->prefill_tokens),
                         scheduler_.has_work() ? 1U : 0U})
      .throw_if_failed();
  const auto headers = exchange_->headers();
  clocks_.clear();
  for (const StepHeader& header : headers) {
    clocks_.push_back(header.clock_ns);
  }
  if (clock_.timed())
    record_.step_start_ns.push_back(*std::max_element(clocks_.begin(), clocks_.end()));
  if (std::none_of(headers.begin(), headers.end(),
                   [](const StepHeader& header) { return header.has_work != 0; })) {
    clock_.finish(clocks_);
    return false;
  }
  clock_.begin_step(step, clocks_);
  const Phase phase = phase_of(headers);
  balancer_.begin_step({step, phase, num_tokens == 0}).throw_if_failed();
  after_commits(step);
  record_.tokens.push_back(static_cast<std::uint32_t>(num_tokens));
  record_.decode_steps.push_back(phase == Phase::kDecode ? 1 : 0);
  return true;
}

void RankEngine::after_commits(std::uint64_t step) {
  const auto events = balancer_.events();
  clock_.on_events(step, events);
  const std::size_t ended = log_.ended().size();
  log_.add(step, events);
  if (context_.progress) {
    for (std::size_t i = ended; i < log_.ended().size(); ++i)
      say_shadowed(step, log_.generations()[log_.ended()[i]]);
  }
  if (!plan_.options.verify_slots) return;
  for (const BalancerEvent& event : events) {
    if (event.kind != BalancerEventKind::kCommitted) continue;
    const int layer = event.plan->units[event.unit].moe_layer_id;
    verify_slots(model_, shape_, balancer_, balancer_.rank(), layer).throw_if_failed();
    ++record_.verified_commits;
  }
}

void RankEngine::say_shadowed(std::uint64_t step, const GenerationRecord& generation) const {
  if (generation.result != to_string(Reason::kPlanOnly)) return;
  char line[160];
  std::snprintf(line, sizeof line,
                "plan-only: would move %d experts (%.1f MB), imbalance %.3f -> %.3f",
                generation.moves, static_cast<double>(generation.bytes) * 1e-6,
                generation.imbalance_before, generation.imbalance_after);
  context_.progress(step, line);
}

void RankEngine::forward() {
  hidden_.resize(static_cast<std::size_t>(batch_->num_tokens()) *
                 static_cast<std::size_t>(model_.info().hidden_size));
  model_.embed(batch_->tokens, hidden_);
  for (int layer = 0; layer < shape_.num_moe_layers(); ++layer) run_layer(layer);
  scheduler_.finish(hidden_);
}

void RankEngine::run_layer(int layer) {
  model_.attend_and_route(layer, batch_->sequences, hidden_, routing_);
  clock_.attention(batch_->num_tokens(), batch_->context);
  const DispatchView table = balancer_.dispatch_table(layer);
  exchange_->dispatch(layer, routing_, table, clock_.now_ns(), balancer_.draw_table(layer))
      .throw_if_failed();
  exchange_->count_locality(record_.locality);
  clock_.dispatch(exchange_->clocks(), exchange_->rows_to(), exchange_->rows_from());
  exchange_->run_slots(
      [&](int slot, std::span<const float> input, int num_rows, std::span<float> output) {
        const auto parts = balancer_.slot_parts(layer, slot);
        model_.run_expert({parts.data(), parts.size()}, input, num_rows, output);
      });
  const auto tokens_per_slot = exchange_->tokens_per_slot();
  balancer_.record(layer, tokens_per_slot);
  keep_counts(tokens_per_slot);
  clock_.experts(tokens_per_slot);
  clock_.combine(exchange_->rows_from(), exchange_->rows_to());
  exchange_->combine(clock_.now_ns()).throw_if_failed();
  clock_.arrive(exchange_->clocks());
  model_.combine(routing_, exchange_->expert_output(), hidden_);
}

void RankEngine::keep_counts(std::span<const std::uint32_t> tokens_per_slot) {
  record_.slot_tokens.insert(record_.slot_tokens.end(), tokens_per_slot.begin(),
                             tokens_per_slot.end());
  const std::size_t first = record_.routed_tokens.size();
  record_.routed_tokens.resize(first + static_cast<std::size_t>(shape_.num_logical_experts()));
  for (const std::int32_t expert : routing_.topk_ids)
    ++record_.routed_tokens[first + static_cast<std::size_t>(expert)];
}

void RankEngine::report(std::uint64_t step) {
  for (const StepHeader& header : exchange_->headers()) tokens_so_far_ += header.num_tokens;
  if (!context_.progress) return;
  const auto& segments = plan_.traffic.segments;
  const std::uint64_t every = std::max<std::uint64_t>(1, plan_.traffic.last_arrival_step / 20);
  const bool switched = segment_ < segments.size() && segments[segment_].first_step <= step;
  if (switched)
    context_.progress(step, "requests are " + segments[segment_++].domain + " from here on");
  if (step % every != 0) return;
  std::int64_t moves = 0;
  for (const CommitRecord& commit : log_.commits()) moves += commit.moves;
  context_.progress(step, std::to_string(tokens_so_far_) + " tokens, " +
                              std::to_string(log_.commits().size()) + " commits, " +
                              std::to_string(moves) + " moves");
}

void RankEngine::receive() {
  if (!context_.receive) return;
  context_.receive([&](const FrameHeader& header, std::span<const std::byte> content) {
    if (header.kind == FrameKind::kMode && content.size() == 1)
      balancer_.set_mode(static_cast<BalancingMode>(content[0]));
  });
}

void RankEngine::tell(std::uint64_t step) {
  if (context_.stepped && balancer_.rank() == 0) context_.stepped(step);
  const std::span<const Output> outputs = scheduler_.outputs();
  if (context_.answered && answers_told_ < outputs.size())
    context_.answered(outputs.subspan(answers_told_));
  answers_told_ = outputs.size();
  if (context_.snapshot && snapshots_.due(step, balancer_))
    context_.snapshot(snapshots_.make(step, record_, log_, balancer_));
}

bool RankEngine::finish(std::uint64_t steps) {
  record_.steps = steps;
  record_.output_requests.clear();
  record_.outputs.clear();
  record_.critical_ns = clock_.critical_ns();
  for (const Output& output : scheduler_.outputs()) {
    record_.output_requests.push_back(output.request);
    record_.outputs.push_back(output.tokens);
  }
  record_.commits = log_.commits();
  record_.generations = log_.generations();
  const RankSnapshot last = snapshots_.make(steps, record_, log_, balancer_);
  record_.waits = last.waits;
  record_.balancing = last.balancing;
  record_.healthy = last.healthy;
  record_.health_reason = last.health_reason;
  if (context_.snapshot) context_.snapshot(last);
  return context_.deliver(record_);
}

}  // namespace

void run_rank(const RunPlan& plan, RankContext context) {
  if (!plan.cores.empty()) pin_to(plan.cores[static_cast<std::size_t>(2 * context.rank)]);
  RankEngine(plan, std::move(context)).run();
}

}  // namespace swiftbalancer::engine
