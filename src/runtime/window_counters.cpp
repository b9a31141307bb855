#include "runtime/window_counters.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "runtime/runtime_rules.hpp"

namespace swiftbalancer {
namespace {

// A counter that has this bit is carried over at once: the tokens of a step fit into what is left.
constexpr std::uint32_t kNearlyFull = 1U << 31;

}  // namespace

WindowCounters::WindowCounters(const ClusterShape& shape, int num_local_slots)
    : num_local_slots_(static_cast<std::size_t>(num_local_slots)),
      num_moe_layers_(shape.num_moe_layers()),
      layout_(shape),
      counters_(layout_.num_counters(), 0),
      carried_(layout_.num_counters(), 0) {}

void WindowCounters::enter(const ClusterShape& shape) {
  std::vector<std::uint32_t> counters(PacketLayout(shape).num_counters(), 0);
  std::vector<std::uint64_t> carried(counters.size(), 0);
  close();
  layout_ = PacketLayout(shape);
  counters_ = std::move(counters);
  carried_ = std::move(carried);
}

void WindowCounters::begin_step(Phase phase, bool idle) noexcept {
  if (idle) return;
  phase_ = idle_ || phase_ == phase ? phase : Phase::kMixed;
  idle_ = false;
}

void WindowCounters::record(int moe_layer_id, std::span<const std::uint32_t> counts) noexcept {
  if (static_cast<unsigned>(moe_layer_id) >= static_cast<unsigned>(num_moe_layers_)) return;
  std::uint32_t* now = counters_.data() + layout_.counter(moe_layer_id, 1, 0);
  const std::size_t slots = std::min(counts.size(), num_local_slots_);
  std::uint32_t all = 0;
  // Unrolled, so that the check costs no more than the loop did without it.
#pragma GCC unroll 4
  for (std::size_t slot = 0; slot < slots; ++slot) all |= now[slot] += counts[slot];
  if (all >= kNearlyFull) [[unlikely]]
    carry(moe_layer_id);
}

void WindowCounters::carry(int moe_layer_id) noexcept {
  const std::size_t begin = layer_begin(moe_layer_id), end = layer_begin(moe_layer_id + 1);
  for (std::size_t at = begin; at < end; ++at) carried_[at] += std::exchange(counters_[at], 0U);
  any_carried_ = true;
}

void WindowCounters::split(int moe_layer_id) noexcept {
  if (!rules::split_loads()) return;
  const std::size_t before = layout_.counter(moe_layer_id, 0, 0);
  const std::size_t now = layout_.counter(moe_layer_id, 1, 0);
  std::uint32_t all = 0;
  for (std::size_t slot = 0; slot < num_local_slots_; ++slot) {
    all |= counters_[before + slot] += std::exchange(counters_[now + slot], 0U);
    if (any_carried_) carried_[before + slot] += std::exchange(carried_[now + slot], 0U);
  }
  if (all >= kNearlyFull) carry(moe_layer_id);
}

void WindowCounters::end_window(PacketHeader& header, std::span<std::byte> body) noexcept {
  header.phase = static_cast<std::uint32_t>(phase_);
  header.flags |= idle_ ? kIdle : 0U;
  header.load_shift = 0;
  if (any_carried_) {
    write_shifted(header, body);
  } else {
    std::memcpy(body.data(), counters_.data(), counters_.size() * sizeof counters_[0]);
  }
  close();
}

// Loads that need more than 32 bits are told to the precision that fits.
void WindowCounters::write_shifted(PacketHeader& header, std::span<std::byte> body) const noexcept {
  std::uint64_t all = 0;
  for (std::size_t at = 0; at < counters_.size(); ++at) all |= carried_[at] + counters_[at];
  header.load_shift = all > UINT32_MAX ? static_cast<std::uint32_t>(std::bit_width(all) - 32) : 0;
  for (std::size_t at = 0; at < counters_.size(); ++at) {
    const auto shifted =
        static_cast<std::uint32_t>((carried_[at] + counters_[at]) >> header.load_shift);
    std::memcpy(body.data() + at * sizeof shifted, &shifted, sizeof shifted);
  }
}

// Here and not in record(): the pass over all slots is due once a packet, not once a layer and
// step.
void WindowCounters::close() noexcept {
  if (!received_.empty()) {
    for (int layer = 0; layer < num_moe_layers_; ++layer)
      add_to(layer, std::span(received_).subspan(static_cast<std::size_t>(layer) * num_local_slots_,
                                                 num_local_slots_));
  }
  std::ranges::fill(counters_, 0U);
  if (std::exchange(any_carried_, false)) std::ranges::fill(carried_, 0U);
  idle_ = true;
  phase_ = Phase::kMixed;
}

void WindowCounters::add_to(int moe_layer_id, std::span<std::int64_t> total) const noexcept {
  const std::size_t before = layout_.counter(moe_layer_id, 0, 0);
  const std::size_t now = layout_.counter(moe_layer_id, 1, 0);
  for (std::size_t slot = 0; slot < std::min(total.size(), num_local_slots_); ++slot) {
    const std::uint64_t tokens = carried_[before + slot] + counters_[before + slot] +
                                 carried_[now + slot] + counters_[now + slot];
    total[slot] += static_cast<std::int64_t>(tokens);
  }
}

void WindowCounters::received_tokens(int moe_layer_id, std::span<std::int64_t> out) {
  if (moe_layer_id < 0 || moe_layer_id >= num_moe_layers_) return;
  if (received_.empty())
    received_.assign(static_cast<std::size_t>(num_moe_layers_) * num_local_slots_, 0);
  const auto begin = static_cast<std::size_t>(moe_layer_id) * num_local_slots_;
  for (std::size_t slot = 0; slot < std::min(out.size(), num_local_slots_); ++slot)
    out[slot] = received_[begin + slot];
  add_to(moe_layer_id, out);
}

}  // namespace swiftbalancer
