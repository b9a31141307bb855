#pragma once
// Ranks with expert weights of known bytes, their pools and executors, for the tests of this
// folder. Plays the engine's and the agreement's part: installs units on all ranks and drops them
// on all ranks.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include <swiftbalancer/dispatch_table.hpp>
#include <swiftbalancer/placement.hpp>

#include "layer_units.hpp"
#include "migration/commit_units.hpp"
#include "migration/copy_executor.hpp"

namespace swiftbalancer::testing {

using PartBytes = std::vector<std::size_t>;

inline std::byte expert_byte(int layer, std::int32_t expert, std::size_t part, std::size_t i) {
  return static_cast<std::byte>((static_cast<std::size_t>(layer) * 31 +
                                 static_cast<std::size_t>(expert) * 7 + part * 101 + i * 13 +
                                 i / 16) &
                                0xFF);
}

/// One rank: memory of its slots, pool and executor.
struct ExpertRank {
  ExpertRank(const ClusterShape& cluster, Transport& transport,
             const std::vector<PartBytes>& part_bytes, const PartBytes& largest, int buffers,
             const Placement& served)
      : shape(cluster), rank(transport.rank()), pool(largest, pool_bytes(largest, buffers)) {
    slots.part_bytes = part_bytes;
    for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
      auto& parts = slots.parts.emplace_back();
      for (int slot = 0; slot < shape.slots_per_rank(rank); ++slot) {
        PartPointers& pointers = parts.emplace_back();
        const std::int32_t expert =
            served.layer(layer)[static_cast<std::size_t>(shape.first_slot(rank) + slot)];
        for (std::size_t part = 0; part < part_bytes[static_cast<std::size_t>(layer)].size();
             ++part) {
          auto& block = memory.emplace_back(part_bytes[static_cast<std::size_t>(layer)][part]);
          for (std::size_t i = 0; i < block.size(); ++i)
            block[i] = expert_byte(layer, expert, part, i);
          pointers.push_back(block.data());
        }
      }
    }
    executor = std::make_unique<CopyExecutor>(shape, transport, pool, slots);
  }

  static std::size_t pool_bytes(const PartBytes& largest, int buffers) {
    std::size_t expert = 0;
    for (std::size_t bytes : largest) expert += bytes;
    return expert * static_cast<std::size_t>(buffers);
  }

  /// What the engine does at a commit (copy installs: the bytes; swap installs: the executor
  /// exchanges the pointers).
  void install(const CommitUnit& unit, std::uint32_t index, bool swap) {
    const auto layer = static_cast<std::size_t>(unit.moe_layer_id);
    for (const StagedExpert& expert : executor->staged(index)) {
      if (swap) break;
      const PartPointers& to = slots.parts[layer][static_cast<std::size_t>(expert.local_slot)];
      for (std::size_t part = 0; part < to.size(); ++part) {
        std::memcpy(to[part], pool.parts(expert.buffer)[part], slots.part_bytes[layer][part]);
      }
    }
    executor->committed(index, swap);
  }

  bool holds(int layer, int local_slot, std::int32_t expert) const {
    const auto l = static_cast<std::size_t>(layer);
    const PartPointers& parts = slots.parts[l][static_cast<std::size_t>(local_slot)];
    for (std::size_t part = 0; part < parts.size(); ++part) {
      for (std::size_t i = 0; i < slots.part_bytes[l][part]; ++i) {
        if (parts[part][i] != expert_byte(layer, expert, part, i)) return false;
      }
    }
    return true;
  }

  void expect_placement(const Placement& served) const {
    for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
      for (int slot = 0; slot < shape.slots_per_rank(rank); ++slot) {
        const std::int32_t expert =
            served.layer(layer)[static_cast<std::size_t>(shape.first_slot(rank) + slot)];
        EXPECT_TRUE(holds(layer, slot, expert))
            << "rank " << rank << " layer " << layer << " slot " << slot;
      }
    }
  }

  const ClusterShape& shape;
  int rank;
  StagingPool pool;
  LocalSlots slots;
  std::vector<std::vector<std::byte>> memory;
  std::unique_ptr<CopyExecutor> executor;
};

/// Units that turn `from` into `to`, layer by layer, for pools of `buffers`.
inline MigrationPlan make_plan(const ClusterShape& shape, const Placement& from,
                               const Placement& to, int buffers, std::uint64_t step) {
  MigrationPlan plan;
  plan.generation = {0, step};
  CommitUnitBuilder builder(shape, buffers);
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    auto units =
        add_layer(builder, layer, from.layer(layer),
                  even_shares(from.layer(layer), shape.num_logical_experts()), to.layer(layer),
                  even_shares(to.layer(layer), shape.num_logical_experts()));
    for (CommitUnit& unit : units) plan.units.push_back(std::move(unit));
  }
  return plan;
}

}  // namespace swiftbalancer::testing
