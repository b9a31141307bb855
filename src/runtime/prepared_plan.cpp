#include "runtime/prepared_plan.hpp"

#include <array>
#include <span>
#include <utility>

#include <swiftbalancer/placement.hpp>

#include "planner/metro.hpp"
#include "protocol/packet.hpp"
#include "runtime/runtime_rules.hpp"

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

}  // namespace

PlanPreparation::PlanPreparation(const GenerationId& generation, Plan plan, ServedState served,
                                 std::vector<std::uint64_t> epochs, const ClusterShape& shape,
                                 const PreparationOptions& options)
    : plan_(std::move(plan)),
      served_(std::move(served)),
      shape_(shape),
      options_(options),
      builder_(shape, options.staging_capacity),
      tables_(shape, options.locality_first),
      digest_(mix(generation.membership, generation.step)) {
  MigrationPlan& migration = prepared_.migration;
  migration.generation = generation;
  migration.base_epochs = std::move(epochs);
  migration.imbalance_before = plan_.imbalance_before.mean_over_layers;
  migration.imbalance_after = plan_.imbalance_after.mean_over_layers;
  if (rules::hash_whole_plan()) digest_ = mix_all(digest_, migration.base_epochs);
}

bool PlanPreparation::advance() {
  if (num_changes_done_ == plan_.changes.size()) return true;
  if (!is_in_layer_) {
    begin_layer(plan_.changes[num_changes_done_]);
  } else if (is_splitting_) {
    is_splitting_ = !builder_.advance();
  } else if (auto unit = builder_.next_unit()) {
    add_unit(std::move(*unit));
  }
  if (builder_.layer_is_done()) {
    is_in_layer_ = false;
    ++num_changes_done_;
  }
  return num_changes_done_ == plan_.changes.size();
}

void PlanPreparation::begin_layer(const LayerChange& change) {
  const auto before = served_.placement.layer(change.moe_layer_id);
  const auto& shares = served_.shares[static_cast<std::size_t>(change.moe_layer_id)];
  now_ = {before, shares};
  builder_.begin_layer(change.moe_layer_id, before, shares, change.plan.placement,
                       change.plan.shares);
  is_in_layer_ = true;
  is_splitting_ = !builder_.advance();
}

void PlanPreparation::add_unit(CommitUnit added) {
  const CommitUnit& unit = prepared_.migration.units.emplace_back(std::move(added));
  PreparedUnit& ready = prepared_.units.emplace_back();
  const std::vector<std::uint32_t> even =
      rules::rows_follow_shares() ? std::vector<std::uint32_t>()
                                  : even_shares(unit.placement, shape_.num_logical_experts());
  ready.dispatch_rows = tables_.changed_rows(now_.placement, now_.shares, unit.placement,
                                             even.empty() ? unit.shares : even, options_.rank);
  ready.moves = count_moves(now_.placement, unit.placement, shape_);
  for (const ExpertCopy& copy : unit.copies) {
    if (shape_.rank_of_slot(copy.destination_slot) == options_.rank) {
      ready.installs.push_back({copy.destination_slot - shape_.first_slot(options_.rank), {}});
    }
  }
  prepared_.migration.moves += ready.moves;
  std::vector<std::uint32_t> decode_shares;
  if (options_.decode_tables) {
    if (now_.decode_shares.empty()) now_.decode_shares = one_slot_shares(shape_, now_.placement);
    decode_shares = one_slot_shares(shape_, unit.placement);
    ready.decode_rows = tables_.changed_rows(now_.placement, now_.decode_shares, unit.placement,
                                             decode_shares, options_.rank);
  }
  hash(unit);
  // The rows stay where they are when the units around them move.
  now_ = {unit.placement, unit.shares, std::move(decode_shares)};
}

// Rule 3: the hash covers generation, base epochs, order, placement, shares, copies with their
// sources.
void PlanPreparation::hash(const CommitUnit& unit) {
  if (!rules::hash_whole_plan()) return;
  digest_ = mix(digest_, static_cast<std::uint64_t>(unit.moe_layer_id));
  digest_ = mix_all(digest_, unit.placement);
  digest_ = mix_all(digest_, unit.shares);
  digest_ = mix_all(digest_, unit.copies.size(), [&](std::size_t i) {
    const ExpertCopy& copy = unit.copies[i];
    return (static_cast<std::uint64_t>(copy.source_slot) << 32 |
            static_cast<std::uint64_t>(copy.destination_slot)) ^
           mix(0, static_cast<std::uint64_t>(copy.logical_id));
  });
}

PreparedPlan PlanPreparation::take() {
  prepared_.layers_given_up = builder_.num_layers_given_up();
  prepared_.migration.hash = digest_ != 0 ? digest_ : 1;  // 0 means "not ready" in packets.
  return std::move(prepared_);
}

PreparedPlan prepare_plan(const GenerationId& generation, const Plan& plan,
                          const ServedState& served, const std::vector<std::uint64_t>& epochs,
                          const ClusterShape& shape, const PreparationOptions& options) {
  PlanPreparation preparation(generation, plan, served, epochs, shape, options);
  while (!preparation.advance()) {
  }
  return preparation.take();
}

}  // namespace swiftbalancer
