#include "migration/commit_units.hpp"

#include <algorithm>
#include <string>
#include <tuple>

#include <swiftbalancer/dispatch_table.hpp>
#include <swiftbalancer/error.hpp>
#include <swiftbalancer/placement.hpp>

#include "migration/unit_split.hpp"

namespace swiftbalancer {
namespace {

std::size_t index(int value) { return static_cast<std::size_t>(value); }

std::vector<int> changed_slots(std::span<const std::int32_t> before,
                               std::span<const std::int32_t> after) {
  std::vector<int> slots;
  for (std::size_t slot = 0; slot < after.size(); ++slot) {
    if (before[slot] != after[slot]) slots.push_back(static_cast<int>(slot));
  }
  return slots;
}

bool exceeds_pool(const std::vector<int>& changed, const ClusterShape& shape, int capacity) {
  std::vector<int> arrivals(index(shape.num_ranks()), 0);
  return std::any_of(changed.begin(), changed.end(), [&](int slot) {
    return ++arrivals[index(shape.rank_of_slot(slot))] > capacity;
  });
}

// Sources for one layer's changed slots: near ones first, the ranks' sends kept even, slots that
// stay as they are before slots that this layer overwrites. The last matters only to a split layer,
// and little: split_into_units() orders reads before writes and breaks cycles that are too large.
class SourceChoice {
 public:
  SourceChoice(const ClusterShape& shape, std::span<const std::int32_t> before,
               std::span<const std::int32_t> after, std::span<const int> sends)
      : shape_(shape),
        before_(before),
        after_(after),
        sends_(sends.begin(), sends.end()),
        holders_(index(shape.num_logical_experts())) {
    for (int slot = 0; slot < shape.num_slots(); ++slot) {
      if (before[index(slot)] != kEmptySlot) holders_[index(before[index(slot)])].push_back(slot);
    }
  }

  std::vector<ExpertCopy> choose(const std::vector<int>& changed) {
    std::vector<ExpertCopy> copies;
    copies.reserve(changed.size());
    for (int destination : changed) {
      copies.push_back({after_[index(destination)], kNone, destination});
      choose_again(copies.back());
    }
    // Early choices did not know the later ones. Each pass evens the sends out further; the bound
    // limits the time.
    for (int pass = 0; pass < kPasses; ++pass) {
      bool any = false;
      for (ExpertCopy& copy : copies) any |= choose_again(copy);
      if (!any) break;
    }
    return copies;
  }

 private:
  static constexpr std::int32_t kNone = -1;
  static constexpr int kPasses = 8;

  void count_send(const ExpertCopy& copy, int by) {
    const int sender = shape_.rank_of_slot(copy.source_slot);
    if (sender != shape_.rank_of_slot(copy.destination_slot)) sends_[index(sender)] += by;
  }

  bool choose_again(ExpertCopy& copy) {
    const std::int32_t old = copy.source_slot;
    if (old != kNone) count_send(copy, -1);
    const int rank = shape_.rank_of_slot(copy.destination_slot);
    const auto cost = [&](int slot) {
      const int owner = shape_.rank_of_slot(slot);
      const bool overwritten = before_[index(slot)] != after_[index(slot)];
      const bool other_node = shape_.node_of_rank(owner) != shape_.node_of_rank(rank);
      return std::tuple{owner != rank, other_node, sends_[index(owner)], overwritten, slot};
    };
    const std::vector<int>& from = holders_[index(copy.logical_id)];
    copy.source_slot = *std::min_element(from.begin(), from.end(),
                                         [&](int a, int b) { return cost(a) < cost(b); });
    count_send(copy, 1);
    return copy.source_slot != old;
  }

  const ClusterShape& shape_;
  std::span<const std::int32_t> before_;
  std::span<const std::int32_t> after_;
  std::vector<int> sends_;                 // [num_ranks] with what is chosen so far
  std::vector<std::vector<int>> holders_;  // [num_logical_experts] slots
};

}  // namespace

CommitUnitBuilder::CommitUnitBuilder(const ClusterShape& shape, int staging_capacity)
    : shape_(shape),
      staging_capacity_(staging_capacity),
      sends_per_rank_(index(shape.num_ranks()), 0) {
  if (staging_capacity < 1) {
    throw Error(ErrorCode::kInvalidArgument, "staging_capacity is " +
                                                 std::to_string(staging_capacity) +
                                                 " buffers; every rank needs at least 1");
  }
}

std::vector<CommitUnit> CommitUnitBuilder::add_layer(int moe_layer_id,
                                                     std::span<const std::int32_t> before,
                                                     std::span<const std::uint32_t> shares_before,
                                                     std::span<const std::int32_t> after,
                                                     std::span<const std::uint32_t> shares_after) {
  const std::vector<int> changed = changed_slots(before, after);
  if (changed.empty() && std::ranges::equal(shares_before, shares_after)) return {};

  const bool split = exceeds_pool(changed, shape_, staging_capacity_);
  std::vector<ExpertCopy> copies =
      SourceChoice(shape_, before, after, sends_per_rank_).choose(changed);
  std::vector<std::vector<ExpertCopy>> parts;
  if (split) {
    auto units = split_into_units(std::move(copies), before, shape_, staging_capacity_);
    if (!units) {
      ++num_layers_given_up_;
      return {};
    }
    parts = std::move(*units);
  } else {
    parts.push_back(std::move(copies));
  }

  std::vector<CommitUnit> units;
  units.reserve(parts.size());
  std::vector<std::int32_t> row(before.begin(), before.end());
  for (std::vector<ExpertCopy>& part : parts) {
    for (const ExpertCopy& copy : part) {
      row[index(copy.destination_slot)] = copy.logical_id;
      const int sender = shape_.rank_of_slot(copy.source_slot);
      if (sender != shape_.rank_of_slot(copy.destination_slot)) ++sends_per_rank_[index(sender)];
    }
    units.push_back(
        {moe_layer_id, std::move(part), row, even_shares(row, shape_.num_logical_experts())});
  }
  units.back().shares.assign(shares_after.begin(), shares_after.end());
  return units;
}

}  // namespace swiftbalancer
