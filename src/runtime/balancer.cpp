#include <swiftbalancer/balancer.hpp>

#include <string>

#include "runtime/balancer_core.hpp"

namespace swiftbalancer {

struct Balancer::Impl : BalancerCore {
  using BalancerCore::BalancerCore;
  Status reconfigure(std::span<const int> live_ranks, std::unique_ptr<Transport> joining) {
    const Status status = BalancerCore::reconfigure(live_ranks, std::move(joining));
    return status.ok() ? launch() : status;
  }
  std::unique_ptr<Transport> transport;  // until start() takes it
};

namespace {

int rank_among(std::span<const int> live_ranks, const Transport& transport) {
  const auto at = static_cast<std::size_t>(transport.rank());
  if (at < live_ranks.size()) return live_ranks[at];
  throw Error(ErrorCode::kInvalidArgument, "live_ranks names " + std::to_string(live_ranks.size()) +
                                               " ranks, the transport makes this one number " +
                                               std::to_string(at));
}

void require_transport(const std::unique_ptr<Transport>& transport) {
  if (transport == nullptr) {
    throw Error(ErrorCode::kInvalidArgument,
                "no transport was given; open one that joins all ranks, for the worker alone");
  }
}

}  // namespace

Balancer::Balancer(const ClusterShape& shape, const BalancerConfig& config,
                   std::unique_ptr<Transport> transport) {
  require_transport(transport);
  impl_ = std::make_unique<Impl>(shape, config, transport->rank());
  impl_->transport = std::move(transport);
}

Balancer::Balancer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Balancer::~Balancer() = default;

std::unique_ptr<Balancer> Balancer::join(const ClusterShape& shape, const BalancerConfig& config,
                                         std::unique_ptr<Transport> transport,
                                         std::span<const int> live_ranks,
                                         const std::function<void(Balancer&)>& register_weights,
                                         Status& status) {
  require_transport(transport);
  auto impl = std::make_unique<Impl>(shape, config, rank_among(live_ranks, *transport));
  std::unique_ptr<Balancer> joined(new Balancer(std::move(impl)));
  register_weights(*joined);
  joined->impl_->start_empty();
  status = joined->impl_->reconfigure(live_ranks, std::move(transport));
  if (!status.ok()) joined.reset();
  return joined;
}

void Balancer::register_weights(int moe_layer_id, int local_slot,
                                std::span<const WeightPart> parts) {
  impl_->register_weights(moe_layer_id, local_slot, parts);
}

void Balancer::start(const Placement& served) {
  if (impl_->transport == nullptr)
    throw Error(ErrorCode::kInvalidState, "start() called twice, or after join()");
  impl_->start(served, std::move(impl_->transport));
  impl_->launch().throw_if_failed();
}

Status Balancer::reconfigure(std::span<const int> live_ranks,
                             std::unique_ptr<Transport> transport) {
  if (!impl_->has_served())
    return {ErrorCode::kInvalidState, "reconfigure() before start(); start or join first"};
  if (transport == nullptr)
    return {ErrorCode::kInvalidArgument, "reconfigure() without a transport"};
  return impl_->reconfigure(live_ranks, std::move(transport));
}

std::span<const int> Balancer::live_ranks() const noexcept { return impl_->ranks(); }

std::uint64_t Balancer::steps_begun() const noexcept { return impl_->step(); }

void Balancer::set_mode(BalancingMode mode) noexcept { impl_->set_mode(mode); }

const ClusterShape& Balancer::shape() const noexcept { return impl_->shape(); }

int Balancer::rank() const noexcept { return impl_->rank(); }

Status Balancer::begin_step(const StepInfo& info) noexcept { return impl_->begin_step(info); }

DispatchView Balancer::dispatch_table(int moe_layer_id) const noexcept {
  return impl_->dispatch_table(moe_layer_id);
}

const DrawTable* Balancer::draw_table(int moe_layer_id) const noexcept {
  return impl_->experts().draw_table(moe_layer_id);
}

void Balancer::record(int moe_layer_id,
                      std::span<const std::uint32_t> expert_token_counts) noexcept {
  impl_->record(moe_layer_id, expert_token_counts);
}

Status Balancer::end_step() noexcept { return impl_->end_step(); }

const Placement& Balancer::placement() const noexcept { return impl_->experts().placement(); }

std::span<const std::uint64_t> Balancer::epochs() const noexcept { return impl_->epochs(); }

std::span<std::byte* const> Balancer::slot_parts(int moe_layer_id, int local_slot) const noexcept {
  return impl_->experts().parts(moe_layer_id, local_slot);
}

void Balancer::received_tokens(int moe_layer_id, std::span<std::int64_t> out) const {
  impl_->received_tokens(moe_layer_id, out);
}

std::span<const BalancerEvent> Balancer::events() const noexcept { return impl_->events(); }

const BalancerStats& Balancer::stats() const noexcept { return impl_->stats(); }

Health Balancer::health() const { return impl_->health(); }

std::size_t Balancer::expert_bytes(int moe_layer_id) const noexcept {
  return impl_->experts().expert_bytes()[static_cast<std::size_t>(moe_layer_id)];
}

int Balancer::staging_capacity() const noexcept { return impl_->staging_capacity(); }

std::size_t Balancer::packet_bytes() const noexcept { return impl_->packet_bytes(); }

Status SimulatedProgress::hold_at(Balancer& balancer, const WorkerProgress& target) {
  return balancer.impl_->hold_progress_at(target);
}

std::chrono::nanoseconds SimulatedProgress::held_time(const Balancer& balancer) noexcept {
  return balancer.impl_->held_time();
}

}  // namespace swiftbalancer
