#pragma once
// A rank whose memberships change: a real Balancer with its worker thread over the thread
// transport, and experts whose bytes name them.

#include <algorithm>
#include <barrier>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include <swiftbalancer/balancer.hpp>

#include "runtime/threads_cluster.hpp"
#include "wait_limit.hpp"

namespace swiftbalancer::testing_support {

inline constexpr std::size_t kBytes = 64;

// The bytes of an expert name it.
inline void fill(std::byte* expert, int layer, int logical_id) {
  for (std::size_t i = 0; i < kBytes; ++i)
    expert[i] =
        static_cast<std::byte>((layer * 131 + logical_id * 31 + static_cast<int>(i) * 7) & 0xFF);
}

/// Where threads wait for each other, several times. One that has failed and returned is waited for
/// no more.
using Meeting = std::barrier<>;
class Attendance {
 public:
  explicit Attendance(Meeting& meeting) : meeting_(meeting) {}
  ~Attendance() { meeting_.arrive_and_drop(); }
  Attendance(const Attendance&) = delete;
  Attendance& operator=(const Attendance&) = delete;
  void wait() { meeting_.arrive_and_wait(); }

 private:
  Meeting& meeting_;
};

class MemberRank {
 public:
  /// @param joins the live ranks to join, whose reconfiguration is under way; empty: starts.
  MemberRank(const ClusterShape& shape, BalancerConfig config, int rank,
             std::unique_ptr<Transport> transport, std::span<const int> joins = {})
      : first_slots_(shape.slots_per_rank(rank)),
        layers_(shape.num_moe_layers()),
        memory_(static_cast<std::size_t>(layers_ * first_slots_) * kBytes) {
    config = with_small_pool(config, kBytes);
    config.load_expert = [this](int layer, int expert, std::span<std::byte* const> parts) {
      fill(parts[0], layer, expert);
      ++loaded;
    };
    const auto register_all = [this](Balancer& made) { register_with(made); };
    if (!joins.empty()) {
      balancer = Balancer::join(shape, config, std::move(transport), joins, register_all, joined);
      return;
    }
    const Placement initial = Placement::initial(shape);
    for (int layer = 0; layer < layers_; ++layer) {
      for (int slot = 0; slot < first_slots_; ++slot)
        fill(memory_of(layer, slot), layer,
             initial.layer(layer)[static_cast<std::size_t>(shape.first_slot(rank) + slot)]);
    }
    balancer = std::make_unique<Balancer>(shape, config, std::move(transport));
    register_all(*balancer);
    balancer->start(initial);
  }

  Status step() {
    Status begun = balancer->begin_step({balancer->steps_begun() + 1});
    if (!begun.ok()) return begun;
    std::vector<std::uint32_t> counts(static_cast<std::size_t>(first_slots_));
    for (int layer = 0; layer < layers_; ++layer) {
      for (std::size_t slot = 0; slot < counts.size(); ++slot)
        counts[slot] = held(layer, slot) == kEmptySlot
                           ? 0
                           : static_cast<std::uint32_t>(2000 / (1 + held(layer, slot)));
      balancer->record(layer, counts);
    }
    return balancer->end_step();
  }
  bool slots_hold_their_experts() const {
    std::byte expected[kBytes];
    for (int layer = 0; layer < layers_; ++layer) {
      for (std::size_t slot = 0; slot < static_cast<std::size_t>(first_slots_); ++slot) {
        if (held(layer, slot) == kEmptySlot) continue;
        fill(expected, layer, held(layer, slot));
        const auto parts = balancer->slot_parts(layer, static_cast<int>(slot));
        if (std::memcmp(parts[0], expected, kBytes) != 0) return false;
      }
    }
    return true;
  }
  /// Experts, over all layers, that have slots on this rank and on no other.
  int num_only_here() const {
    const ClusterShape& shape = balancer->shape();
    int count = 0;
    for (int layer = 0; layer < layers_; ++layer) {
      std::vector<char> here(static_cast<std::size_t>(shape.num_logical_experts()), 0);
      std::vector<char> elsewhere = here;
      const auto row = balancer->placement().layer(layer);
      for (int slot = 0; slot < shape.num_slots(); ++slot) {
        auto& seen = shape.rank_of_slot(slot) == balancer->rank() ? here : elsewhere;
        seen[static_cast<std::size_t>(row[static_cast<std::size_t>(slot)])] = 1;
      }
      for (std::size_t expert = 0; expert < here.size(); ++expert)
        count += here[expert] > elsewhere[expert] ? 1 : 0;
    }
    return count;
  }
  int num_empty() const {
    int empty = 0;
    for (int layer = 0; layer < layers_; ++layer)
      empty += static_cast<int>(std::ranges::count(balancer->placement().layer(layer), kEmptySlot));
    return empty;
  }

 private:
  std::int32_t held(int layer, std::size_t slot) const {
    return balancer->placement().layer(
        layer)[static_cast<std::size_t>(balancer->shape().first_slot(balancer->rank())) + slot];
  }

  std::byte* memory_of(int layer, int slot) {
    return memory_.data() + static_cast<std::size_t>(layer * first_slots_ + slot) * kBytes;
  }
  void register_with(Balancer& made) {
    for (int layer = 0; layer < layers_; ++layer) {
      for (int slot = 0; slot < first_slots_; ++slot) {
        const WeightPart part{memory_of(layer, slot), kBytes};
        made.register_weights(layer, slot, {&part, 1});
      }
    }
  }

  int first_slots_, layers_;
  std::vector<std::byte> memory_;

 public:
  int loaded = 0;
  Status joined;
  std::unique_ptr<Balancer> balancer;  // after the memory that it borrows
};

inline BalancerConfig moving_config(ControlMode mode) {
  BalancerConfig config;
  config.policy = "stress";
  config.rebalance_interval = 4;
  config.window_assignments = 500;
  config.deadline = kWaitLimit;
  config.control_mode = mode;
  return config;
}

}  // namespace swiftbalancer::testing_support
