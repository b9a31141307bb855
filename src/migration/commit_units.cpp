#include "migration/commit_units.hpp"
#include "migration/index.hpp"

#include <algorithm>
#include <string>
#include <tuple>

#include <swiftbalancer/dispatch_table.hpp>
#include <swiftbalancer/error.hpp>
#include <swiftbalancer/placement.hpp>

namespace swiftbalancer {
namespace {

void find_changed_slots(std::span<const std::int32_t> before, std::span<const std::int32_t> after,
                        std::vector<int>& changed) {
  changed.clear();
  for (std::size_t slot = 0; slot < after.size(); ++slot) {
    if (before[slot] != after[slot]) changed.push_back(static_cast<int>(slot));
  }
}

bool exceeds_pool(const std::vector<int>& changed, const ClusterShape& shape, int capacity) {
  std::vector<int> arrivals(index(shape.num_ranks()), 0);
  return std::any_of(changed.begin(), changed.end(), [&](int slot) {
    return ++arrivals[index(shape.rank_of_slot(slot))] > capacity;
  });
}

}  // namespace

// Sources for one layer's changed slots: near ones first, the ranks' sends kept even, slots that
// stay as they are before slots that this layer overwrites. The last matters only to a split layer,
// and little: split_into_units() orders reads before writes and breaks cycles that are too large.
class CommitUnitBuilder::SourceChoice {
 public:
  explicit SourceChoice(const ClusterShape& shape)
      : shape_(shape),
        sends_(index(shape.num_ranks())),
        first_holder_(index(shape.num_logical_experts()) + 1),
        holders_(index(shape.num_slots())) {}

  std::vector<ExpertCopy> choose(std::span<const std::int32_t> before,
                                 std::span<const std::int32_t> after, std::span<const int> sends,
                                 std::span<const int> changed) {
    before_ = before;
    after_ = after;
    std::ranges::copy(sends, sends_.begin());
    find_holders();
    std::vector<ExpertCopy> copies;
    copies.reserve(changed.size());
    contested_.clear();
    for (int destination : changed) {
      const std::int32_t expert = after_[index(destination)];
      const std::span<const int> holders = holders_of(expert);
      if (holders.size() == 1) {  // As for most experts.
        copies.push_back({expert, holders[0], destination});
        count_send(copies.back(), 1);
        continue;
      }
      copies.push_back({expert, kNone, destination});
      if (choose_again(copies.back())) contested_.push_back(static_cast<int>(copies.size()) - 1);
    }
    // Early choices did not know the later ones. Each pass evens the sends out further; the bound
    // limits the time.
    for (int pass = 0; pass < kPasses; ++pass) {
      bool any = false;
      for (const int k : contested_) {
        const std::int32_t old = copies[index(k)].source_slot;
        choose_again(copies[index(k)]);
        any |= copies[index(k)].source_slot != old;
      }
      if (!any) break;
    }
    return copies;
  }

 private:
  static constexpr std::int32_t kNone = -1;
  static constexpr int kPasses = 8;

  void find_holders() {
    std::ranges::fill(first_holder_, 0);
    for (const std::int32_t expert : before_) {
      if (expert != kEmptySlot) ++first_holder_[index(expert)];
    }
    int sum = 0;  // Ends first; filled from the back, they come down to the beginnings.
    for (int& first : first_holder_) first = sum += first;
    for (int slot = shape_.num_slots(); slot-- > 0;) {
      if (before_[index(slot)] != kEmptySlot)
        holders_[index(--first_holder_[index(before_[index(slot)])])] = slot;
    }
  }
  std::span<const int> holders_of(int expert) const {
    const int first = first_holder_[index(expert)];
    return std::span(holders_).subspan(index(first),
                                       index(first_holder_[index(expert + 1)] - first));
  }

  void count_send(const ExpertCopy& copy, int by) {
    const int sender = shape_.rank_of_slot(copy.source_slot);
    if (sender != shape_.rank_of_slot(copy.destination_slot)) sends_[index(sender)] += by;
  }

  // @returns whether there are several nearest holders, so that the choice depends on the sends.
  bool choose_again(ExpertCopy& copy) {
    if (copy.source_slot != kNone) count_send(copy, -1);
    const int rank = shape_.rank_of_slot(copy.destination_slot);
    const int node = shape_.node_of_rank(rank);
    int nearest = 0, num_nearest = 0;
    std::tuple<int, bool> best_cost;
    for (const int slot : holders_of(copy.logical_id)) {
      const int owner = shape_.rank_of_slot(slot);
      const int distance = owner == rank ? 0 : (shape_.node_of_rank(owner) == node ? 1 : 2);
      if (num_nearest > 0 && distance > nearest) continue;
      const std::tuple cost{sends_[index(owner)], before_[index(slot)] != after_[index(slot)]};
      if (num_nearest == 0 || distance < nearest) {
        nearest = distance;
        num_nearest = 1;
      } else {
        ++num_nearest;
        if (cost >= best_cost) continue;
      }
      copy.source_slot = slot;
      best_cost = cost;
    }
    count_send(copy, 1);
    return num_nearest > 1;
  }

  const ClusterShape& shape_;
  std::span<const std::int32_t> before_;
  std::span<const std::int32_t> after_;
  std::vector<int> sends_;         // [num_ranks] with what is chosen so far
  std::vector<int> first_holder_;  // [num_logical_experts + 1] into holders_
  std::vector<int> holders_;       // slots by expert
  std::vector<int> contested_;     // copies whose source depends on the sends
};

CommitUnitBuilder::CommitUnitBuilder(const ClusterShape& shape, int staging_capacity)
    : shape_(shape),
      staging_capacity_(staging_capacity),
      sends_per_rank_(index(shape.num_ranks()), 0),
      sources_(std::make_unique<SourceChoice>(shape)) {
  if (staging_capacity < 1) {
    throw Error(ErrorCode::kInvalidArgument, "staging_capacity is " +
                                                 std::to_string(staging_capacity) +
                                                 " buffers; every rank needs at least 1");
  }
}

CommitUnitBuilder::~CommitUnitBuilder() = default;

// Let a layer of S slots be split for pools of c buffers, into U units.
// - U <= S - 1. Every unit holds a copy, and there is one copy per changed slot: if a slot stays as
//   it is, that is all. If all S slots change, each copy reads a slot that some copy overwrites, so
//   following these from copy to copy never ends: it runs into a cycle, of two copies at least,
//   which share a unit.
// - U <= 2 * floor(S / (c + 1)) + 1. What a unit that is not the last leaves first in order, it
//   leaves because some rank has no room (all that it waits for stands before it). A copy alone is
//   left when c others have arrived there. A cycle that needs n <= c buffers there is left when
//   more than c - n have, and is the first of the next unit. Either way two units in a row have c +
//   1 copies or more between them.
std::size_t CommitUnitBuilder::max_units(const ClusterShape& shape, int staging_capacity) noexcept {
  const int slots = shape.num_slots();
  int per_layer = 1;
  if (staging_capacity < shape.max_slots_per_rank())
    per_layer = std::max(1, std::min(slots - 1, slots / (staging_capacity + 1) * 2 + 1));
  return index(shape.num_moe_layers()) * index(per_layer);
}

void CommitUnitBuilder::begin_layer(int moe_layer_id, std::span<const std::int32_t> before,
                                    std::span<const std::uint32_t> shares_before,
                                    std::span<const std::int32_t> after,
                                    std::span<const std::uint32_t> shares_after) {
  moe_layer_id_ = moe_layer_id;
  row_.assign(before.begin(), before.end());
  shares_ = shares_after;
  split_.reset();
  parts_.clear();
  num_given_ = 0;
  find_changed_slots(before, after, changed_);
  if (changed_.empty() && std::ranges::equal(shares_before, shares_after)) return;

  const bool split = exceeds_pool(changed_, shape_, staging_capacity_);
  std::vector<ExpertCopy> copies = sources_->choose(before, after, sends_per_rank_, changed_);
  if (!split) {
    parts_.push_back(std::move(copies));
    return;
  }
  split_ = std::make_unique<UnitSplit>(std::move(copies), before, shape_, staging_capacity_);
  if (split_->is_possible()) return;
  split_.reset();
  ++num_layers_given_up_;
}

bool CommitUnitBuilder::advance() {
  if (split_ == nullptr) return true;
  if (!split_->advance()) return false;
  parts_ = split_->take();
  split_.reset();
  return true;
}

std::optional<CommitUnit> CommitUnitBuilder::next_unit() {
  if (num_given_ == parts_.size()) return std::nullopt;
  std::vector<ExpertCopy>& part = parts_[num_given_++];
  installs_.assign(index(shape_.num_ranks()), 0U);
  for (const ExpertCopy& copy : part) {
    row_[index(copy.destination_slot)] = copy.logical_id;
    const int sender = shape_.rank_of_slot(copy.source_slot);
    const int receiver = shape_.rank_of_slot(copy.destination_slot);
    if (sender != receiver) ++sends_per_rank_[index(sender)];
    ++installs_[index(receiver)];
  }
  // Planned shares hold for the layer as a whole; on the way there the split is even.
  const bool last = num_given_ == parts_.size();
  return CommitUnit{moe_layer_id_, std::move(part), row_,
                    last ? std::vector<std::uint32_t>(shares_.begin(), shares_.end())
                         : even_shares(row_, shape_.num_logical_experts()),
                    *std::ranges::max_element(installs_)};
}

}  // namespace swiftbalancer
