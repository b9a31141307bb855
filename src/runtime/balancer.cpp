#include <swiftbalancer/balancer.hpp>

#include "runtime/balancer_core.hpp"

namespace swiftbalancer {

struct Balancer::Impl : BalancerCore {
  using BalancerCore::BalancerCore;
  std::vector<int> ranks_to_join;
};

namespace {

int rank_among(std::span<const int> live_ranks, const Transport& transport) {
  const auto at = static_cast<std::size_t>(transport.rank());
  if (at < live_ranks.size()) return live_ranks[at];
  throw Error(ErrorCode::kInvalidArgument, "live_ranks names " + std::to_string(live_ranks.size()) +
                                               " ranks, the transport makes this one number " +
                                               std::to_string(at));
}

}  // namespace

std::string_view to_string(BalancerEventKind kind) {
  switch (kind) {
    case BalancerEventKind::kOpened:
      return "opened";
    case BalancerEventKind::kAdopted:
      return "adopted";
    case BalancerEventKind::kClosed:
      return "closed";
    case BalancerEventKind::kCommitted:
      return "committed";
    case BalancerEventKind::kDropped:
      return "dropped";
    case BalancerEventKind::kRetired:
      return "retired";
  }
  return "unknown";
}

std::string_view to_string(Reason reason) {
  switch (reason) {
    case Reason::kNone:
      return "none";
    case Reason::kNothingToGain:
      return "nothing_to_gain";
    case Reason::kPlannerFailed:
      return "planner_failed";
    case Reason::kDifferentPlans:
      return "different_plans";
    case Reason::kTooLate:
      return "too_late";
    case Reason::kCopyFailed:
      return "copy_failed";
    case Reason::kSuperseded:
      return "superseded";
    case Reason::kBaseChanged:
      return "base_changed";
    case Reason::kPaused:
      return "paused";
    case Reason::kPlanOnly:
      return "plan_only";
    case Reason::kReconfigured:
      return "reconfigured";
    case Reason::kPlannersReset:
      return "planners_reset";
    case Reason::kTooOld:
      return "too_old";
  }
  return "unknown";
}

Balancer::Balancer(const ClusterShape& shape, const BalancerConfig& config,
                   std::unique_ptr<Transport> transport)
    : impl_(std::make_unique<Impl>(shape, config, transport->rank(), std::move(transport))) {}

Balancer::Balancer(const ClusterShape& shape, const BalancerConfig& config,
                   std::unique_ptr<Transport> transport, std::span<const int> live_ranks)
    : impl_(std::make_unique<Impl>(shape, config, rank_among(live_ranks, *transport),
                                   std::move(transport))) {
  impl_->ranks_to_join.assign(live_ranks.begin(), live_ranks.end());
}

Balancer::~Balancer() = default;

void Balancer::register_weights(int moe_layer_id, int local_slot,
                                std::span<const WeightPart> parts) {
  impl_->register_weights(moe_layer_id, local_slot, parts);
}

void Balancer::start(const Placement& served) {
  impl_->serve(served);
  impl_->agree_on_configuration();
  impl_->begin_serving();
  impl_->worker->launch();
}

Status Balancer::join() {
  impl_->serve_nothing();
  const Status joined = impl_->reconfigure(impl_->ranks_to_join, std::move(impl_->transport), true);
  impl_->started = joined.ok();
  return joined;
}

Status Balancer::reconfigure(std::span<const int> live_ranks,
                             std::unique_ptr<Transport> transport) {
  if (!impl_->started)
    throw Error(ErrorCode::kInvalidState, "reconfigure() before start(); start or join first");
  return impl_->reconfigure(live_ranks, std::move(transport), false);
}

std::span<const int> Balancer::live_ranks() const noexcept { return impl_->ranks; }

std::uint64_t Balancer::steps_begun() const noexcept { return impl_->step; }

void Balancer::set_mode(BalancingMode mode) noexcept {
  if (impl_->agreement) {
    impl_->agreement->ask_mode(mode);
  } else {
    impl_->asked_mode = mode;
  }
}

const ClusterShape& Balancer::shape() const noexcept { return impl_->shape; }

int Balancer::rank() const noexcept { return impl_->rank; }

Status Balancer::begin_step(const StepInfo& info) noexcept { return impl_->begin_step(info); }

DispatchView Balancer::dispatch_table(int moe_layer_id) const noexcept {
  const auto row = static_cast<std::size_t>(impl_->shape.num_logical_experts()) * kDispatchEntries;
  return DispatchView(impl_->tables_of_phase().data() +
                      static_cast<std::size_t>(moe_layer_id) * row);
}

const DrawTable* Balancer::draw_table(int moe_layer_id) const noexcept {
  if (impl_->draw_tables.empty()) return nullptr;
  return &impl_->draw_tables[static_cast<std::size_t>(moe_layer_id)];
}

void Balancer::record(int moe_layer_id,
                      std::span<const std::uint32_t> expert_token_counts) noexcept {
  impl_->record(moe_layer_id, expert_token_counts);
}

Status Balancer::end_step() noexcept { return impl_->end_step(); }

const Placement& Balancer::placement() const noexcept { return impl_->placement; }

std::span<const std::uint64_t> Balancer::epochs() const noexcept {
  return impl_->agreement->epochs();
}

std::span<std::byte* const> Balancer::slot_parts(int moe_layer_id, int local_slot) const noexcept {
  return impl_->slot_parts[impl_->index(moe_layer_id, local_slot)];
}

void Balancer::received_tokens(int moe_layer_id, std::span<std::int64_t> out) const {
  impl_->received_tokens(moe_layer_id, out);
}

std::span<const BalancerEvent> Balancer::events() const noexcept { return impl_->events; }

const BalancerStats& Balancer::stats() const noexcept { return impl_->stats; }

Health Balancer::health() const {
  Health health = impl_->health;
  if (impl_->agreement) health.mode = impl_->agreement->mode();
  return health;
}

std::size_t Balancer::expert_bytes(int moe_layer_id) const noexcept {
  return impl_->expert_bytes[static_cast<std::size_t>(moe_layer_id)];
}

int Balancer::staging_capacity() const noexcept { return impl_->staging_capacity; }

std::size_t Balancer::packet_bytes() const noexcept { return impl_->layout.bytes(); }

Status Balancer::hold_progress_at(const WorkerProgress& target) {
  return impl_->hold_progress_at(target);
}

std::chrono::nanoseconds Balancer::held_time() const noexcept { return impl_->held_time; }

}  // namespace swiftbalancer
