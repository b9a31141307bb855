#pragma once
// A cluster in one thread: the balancers of all ranks over the thread transport, their workers run
// by hand after each step. For what must be counted call by call.

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <vector>

#include <gtest/gtest.h>

#include "runtime/balancer_core.hpp"

namespace swiftbalancer::testing_support {

class HandCluster {
 public:
  static constexpr std::size_t kExpertBytes = 64;

  HandCluster(const ClusterShape& shape, BalancerConfig config, std::uint64_t first_step = 0,
              const WorkerSide::MakePlanning& make_planning = {})
      : shape_(shape), step_(first_step) {
    // A pool of the default size would have a million buffers for these experts.
    config.staging_bytes = std::min(config.staging_bytes, 256 * kExpertBytes);
    auto transports = make_thread_transports(shape.num_ranks());
    const Placement initial = Placement::initial(shape);
    for (int rank = 0; rank < shape.num_ranks(); ++rank) {
      const int slots = shape.slots_per_rank(rank);
      memory_.emplace_back(static_cast<std::size_t>(shape.num_moe_layers() * slots) * kExpertBytes);
      cores_.push_back(std::make_unique<BalancerCore>(shape, config, rank, make_planning));
      for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
        for (int slot = 0; slot < slots; ++slot) {
          std::byte* expert =
              memory_.back().data() + static_cast<std::size_t>(layer * slots + slot) * kExpertBytes;
          fill(expert, layer,
               initial.layer(layer)[static_cast<std::size_t>(shape.first_slot(rank) + slot)]);
          const WeightPart part{expert, kExpertBytes};
          core(rank).register_weights(layer, slot, {&part, 1});
        }
      }
      core(rank).start_empty();
      // As if so many steps had been made before.
      AgreedState begin;
      begin.step = begin.last_open_step = first_step;
      core(rank).serve(initial, std::move(transports[static_cast<std::size_t>(rank)]), begin);
    }
  }

  /// The bytes of an expert name it.
  static void fill(std::byte* expert, int layer, int logical_id) {
    for (std::size_t i = 0; i < kExpertBytes; ++i)
      expert[i] = static_cast<std::byte>(layer * 131 + logical_id * 31 + static_cast<int>(i) * 7);
  }

  BalancerCore& core(int rank) { return *cores_[static_cast<std::size_t>(rank)]; }
  int num_ranks() const { return shape_.num_ranks(); }
  std::uint64_t step() const { return step_; }

  /// Called with true before a rank's four calls and before each round of a worker, with false
  /// after them.
  std::function<void(bool begins)> on_calls, on_rounds;

  /// One step on all ranks. @returns the last failure.
  Status make_step() {
    ++step_;
    Status failure;
    for (int rank = 0; rank < num_ranks(); ++rank) {
      counts_.assign(static_cast<std::size_t>(shape_.slots_per_rank(rank)), 0);
      for (std::size_t slot = 0; slot < counts_.size(); ++slot)
        counts_[slot] =
            static_cast<std::uint32_t>(20 + slot * 3) + static_cast<std::uint32_t>(rank * 7);
      if (on_calls) on_calls(true);
      const Status begun = core(rank).begin_step({step_});
      for (int layer = 0; layer < shape_.num_moe_layers(); ++layer)
        core(rank).record(layer, counts_);
      const Status ended = core(rank).end_step();
      if (on_calls) on_calls(false);
      if (!begun.ok()) failure = begun;
      if (begun.ok() && !ended.ok()) failure = ended;
    }
    run_workers();
    return failure;
  }

  /// Packets, plans and copies, until nothing is left to do. A worker that lacks memory tries
  /// again, as its thread does.
  void run_workers() {
    for (bool busy = true; busy;) {
      busy = false;
      for (auto& each : cores_) {
        if (on_rounds) on_rounds(true);
        try {
          busy |= each->worker()->run_once();
        } catch (const std::bad_alloc&) {
          busy = true;
        }
        if (on_rounds) on_rounds(false);
      }
    }
  }

  /// Every slot's bytes are those of the expert that the placement names, on all ranks alike.
  bool slots_hold_their_experts() {
    std::byte expected[kExpertBytes];
    for (int rank = 0; rank < num_ranks(); ++rank) {
      const InstalledExperts& experts = core(rank).experts();
      if (!(experts.placement() == core(0).experts().placement())) return false;
      for (int layer = 0; layer < shape_.num_moe_layers(); ++layer) {
        for (int slot = 0; slot < shape_.slots_per_rank(rank); ++slot) {
          fill(expected, layer,
               experts.placement().layer(
                   layer)[static_cast<std::size_t>(shape_.first_slot(rank) + slot)]);
          if (std::memcmp(experts.parts(layer, slot)[0], expected, kExpertBytes) != 0) return false;
        }
      }
    }
    return true;
  }

 private:
  const ClusterShape shape_;
  std::uint64_t step_;
  std::vector<std::uint32_t> counts_;
  std::vector<std::vector<std::byte>> memory_;
  std::vector<std::unique_ptr<BalancerCore>> cores_;  // after the memory that they borrow
};

}  // namespace swiftbalancer::testing_support
