#include "runtime/prepared_plan.hpp"

#include <array>
#include <span>
#include <utility>

#include <swiftbalancer/placement.hpp>

#include "core/test_fault.hpp"
#include "migration/commit_units.hpp"
#include "planner/metro.hpp"
#include "protocol/packet.hpp"

namespace swiftbalancer {
namespace {

// In lanes: each mix waits for the one before.
template <typename Word>
std::uint64_t mix_all(std::uint64_t digest, std::size_t count, const Word& word) {
  std::array<std::uint64_t, 4> lanes{digest, mix(digest, 1), mix(digest, 2), mix(digest, 3)};
  std::size_t i = 0;
  for (; i + lanes.size() <= count; i += lanes.size()) {
    for (std::size_t lane = 0; lane < lanes.size(); ++lane)
      lanes[lane] = mix(lanes[lane], word(i + lane));
  }
  for (std::size_t lane = 0; i < count; ++i, ++lane) lanes[lane] = mix(lanes[lane], word(i));
  digest = mix(digest, count);
  for (const std::uint64_t lane : lanes) digest = mix(digest, lane);
  return digest;
}

// 64-bit words, or 32-bit ones two at a time; their number tells a last one alone from a pair.
template <typename T>
std::uint64_t mix_all(std::uint64_t digest, const std::vector<T>& words) {
  if constexpr (sizeof(T) == sizeof(std::uint64_t)) {
    return mix_all(digest, words.size(), [&](std::size_t i) { return words[i]; });
  } else {
    const auto half = [&](std::size_t i) {
      return std::uint64_t{i < words.size() ? static_cast<std::uint32_t>(words[i]) : 0U};
    };
    return mix_all(mix(digest, words.size()), (words.size() + 1) / 2,
                   [&](std::size_t i) { return half(2 * i + 1) << 32 | half(2 * i); });
  }
}

// Rule 3: the hash covers generation, base epochs, order, placement, shares, copies with their
// sources.
std::uint64_t hash_of(const MigrationPlan& plan) {
  std::uint64_t digest = mix(plan.generation.membership, plan.generation.step);
  if (faulty(Fault::kWeakHash)) return digest;
  digest = mix_all(digest, plan.base_epochs);
  for (const CommitUnit& unit : plan.units) {
    digest = mix(digest, static_cast<std::uint64_t>(unit.moe_layer_id));
    digest = mix_all(digest, unit.placement);
    digest = mix_all(digest, unit.shares);
    digest = mix_all(digest, unit.copies.size(), [&](std::size_t i) {
      const ExpertCopy& copy = unit.copies[i];
      return (static_cast<std::uint64_t>(copy.source_slot) << 32 |
              static_cast<std::uint64_t>(copy.destination_slot)) ^
             mix(0, static_cast<std::uint64_t>(copy.logical_id));
    });
  }
  return digest != 0 ? digest : 1;  // 0 means "not ready" in packets.
}

// What a layer serves when one of its units is committed.
struct Served {
  std::span<const std::int32_t> placement;
  std::span<const std::uint32_t> shares;
  std::vector<std::uint32_t> decode_shares{};  // empty without tables of their own
};

PreparedUnit prepare_unit(const CommitUnit& unit, const Served& before, const ClusterShape& shape,
                          int rank, DispatchTableBuilder& tables) {
  PreparedUnit prepared;
  prepared.dispatch_rows =
      tables.changed_rows(before.placement, before.shares, unit.placement, unit.shares, rank);
  prepared.moves = count_moves(before.placement, unit.placement, shape);
  for (const ExpertCopy& copy : unit.copies) {
    if (shape.rank_of_slot(copy.destination_slot) == rank) {
      prepared.installs.push_back({copy.destination_slot - shape.first_slot(rank), {}});
    }
  }
  return prepared;
}

}  // namespace

PreparedPlan prepare_plan(const GenerationId& generation, const Plan& plan,
                          const ServedState& served, const std::vector<std::uint64_t>& epochs,
                          const ClusterShape& shape, int rank, int staging_capacity,
                          bool decode_tables, bool locality_first) {
  PreparedPlan prepared;
  MigrationPlan& migration = prepared.migration;
  migration.generation = generation;
  migration.base_epochs = epochs;
  migration.imbalance_before = plan.imbalance_before.mean_over_layers;
  migration.imbalance_after = plan.imbalance_after.mean_over_layers;

  CommitUnitBuilder builder(shape, staging_capacity);
  for (const LayerChange& change : plan.changes) {
    const auto before = served.placement.layer(change.moe_layer_id);
    const auto& shares = served.shares[static_cast<std::size_t>(change.moe_layer_id)];
    auto units = builder.add_layer(change.moe_layer_id, before, shares, change.plan.placement,
                                   change.plan.shares);
    for (CommitUnit& unit : units) migration.units.push_back(std::move(unit));
  }

  prepared.layers_given_up = builder.num_layers_given_up();

  std::vector<Served> now;
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer)
    now.push_back({served.placement.layer(layer), served.shares[static_cast<std::size_t>(layer)]});
  DispatchTableBuilder tables(shape, locality_first);
  prepared.units.reserve(migration.units.size());
  for (const CommitUnit& unit : migration.units) {
    Served& before = now[static_cast<std::size_t>(unit.moe_layer_id)];
    PreparedUnit& ready =
        prepared.units.emplace_back(prepare_unit(unit, before, shape, rank, tables));
    migration.moves += ready.moves;
    std::vector<std::uint32_t> decode_shares;
    if (decode_tables) {
      if (before.decode_shares.empty())
        before.decode_shares = one_slot_shares(shape, before.placement);
      decode_shares = one_slot_shares(shape, unit.placement);
      ready.decode_rows = tables.changed_rows(before.placement, before.decode_shares,
                                              unit.placement, decode_shares, rank);
    }
    before = {unit.placement, unit.shares, std::move(decode_shares)};
  }
  migration.hash = hash_of(migration);
  return prepared;
}

}  // namespace swiftbalancer
