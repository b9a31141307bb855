#include "engine/virtual_clock.hpp"

#include <algorithm>

#include "runtime/simulated_progress.hpp"

namespace swiftbalancer::engine {

void VirtualClock::begin_step(std::uint64_t step, std::span<const std::int64_t> clocks) {
  if (!device_) return;
  close_segment(clocks);
  device_->begin_step(step, clocks);
}

void VirtualClock::on_events(std::uint64_t step, std::span<const BalancerEvent> events) {
  if (device_) device_->on_events(step, events);
}

void VirtualClock::attention(int num_tokens, std::int64_t context) {
  if (device_) device_->attention(num_tokens, context);
}

void VirtualClock::dispatch(std::span<const std::int64_t> clocks, std::span<const int> rows_to,
                            std::span<const int> rows_from) {
  arrive(clocks);
  if (device_) device_->dispatch(rows_to, rows_from);
}

void VirtualClock::experts(std::span<const std::uint32_t> tokens_per_slot) {
  if (device_) device_->experts(tokens_per_slot);
}

void VirtualClock::combine(std::span<const int> rows_to, std::span<const int> rows_from) {
  if (device_) device_->combine(rows_to, rows_from);
}

void VirtualClock::arrive(std::span<const std::int64_t> clocks) {
  if (!device_) return;
  close_segment(clocks);
  device_->arrive(clocks);
}

void VirtualClock::head(int num_tokens) {
  if (device_) device_->head(num_tokens);
}

Status VirtualClock::end_step(Balancer& balancer, int num_layers) {
  if (!device_) return {};
  device_->balancer_calls(num_layers);
  return SimulatedProgress::hold_at(balancer, device_->visible());
}

// Called before the barrier is charged, so that waiting for others is in no segment.
void VirtualClock::close_segment(std::span<const std::int64_t> clocks) {
  if (!device_) return;
  const bool last = std::max_element(clocks.begin(), clocks.end()) - clocks.begin() == rank_;
  for (const auto& [term, ns] : device_->terms()) {
    std::int64_t& before = at_barrier_[term];
    if (last && term != "barrier_wait" && ns != before) critical_ns_[term] += ns - before;
    before = ns;
  }
}

}  // namespace swiftbalancer::engine
