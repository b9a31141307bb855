#include "planner/full_plan.hpp"

#include <algorithm>
#include <array>
#include <numeric>

#include <swiftbalancer/load.hpp>
#include <swiftbalancer/placement.hpp>

#include "planner/align.hpp"
#include "planner/bounds.hpp"
#include "planner/eplb.hpp"
#include "planner/refine.hpp"

namespace swiftbalancer {
namespace {

constexpr int kMaxFullPlanSteps = 256;
constexpr int kPackings = 5;
// Small layers have few good replica counts and cost little.
constexpr int kSmallLayer = 32;  // slots
constexpr int kPackingsOfSmall = 1600;
// And steep hills between them: how much worse, in slots' parts of the load, the search goes first.
constexpr float kSmallLayerHeat = 4.0F;
// Exchanges before a packing of theirs is refined again: the same counts, another hill.
constexpr int kRandomSwaps = 3;
// Less is within the error of single precision, and may as well be a loss.
constexpr float kClearlyBetter = 1.0F - 1e-5F;
constexpr int kQuickSteps = 24;  // per packing of the search over replica counts
constexpr std::array kDivisors = {1.15F, 1.3F, 1.5F, 1.75F, 2.0F, 2.5F};
constexpr std::uint64_t kSeed = 0x5377696674U;

}  // namespace

FullPlanner::FullPlanner(const ClusterShape& shape, const FullPlanOptions& options)
    : shape_(shape),
      groups_on_nodes_(eplb_is_hierarchical(shape)),
      tolerated_(1.0F + static_cast<float>(options.tolerance)),
      is_small_(shape.num_slots() <= kSmallLayer),
      max_packings_(options.max_packings > 0 ? options.max_packings
                    : is_small_              ? kPackingsOfSmall
                                             : kPackings),
      packing_(shape),
      scratch_(static_cast<std::size_t>(shape.num_slots())),
      first_(static_cast<std::size_t>(shape.num_logical_experts())),
      now_(first_.size()),
      by_load_(first_.size()) {}

void FullPlanner::plan_layer(std::span<const std::int64_t> load, std::span<std::int32_t> slots) {
  given_ = load;
  // More slots than there are experts for: eplb's duplicates, which nothing can avoid.
  if (shape_.num_slots() / shape_.num_ranks() >= shape_.num_logical_experts() ||
      shape_.max_slots_per_rank() > shape_.num_logical_experts()) {
    std::ranges::copy(repaired_eplb(), slots.begin());
    return;
  }
  packing_.set_load(load);
  start_from_eplb();
  best_ = packing_.rank_load(packing_.hottest_rank());
  if (best_ > target_ && !improve_start()) start_from_eplb();
  packing_.write(slots);
  if (best_ > target_) search_replicas(slots);
  if (groups_on_nodes_) compare_with_groups_on_nodes(slots);
}

void FullPlanner::start_from_eplb() {
  packings_ = 1;
  packing_.choose_replicas();
  const bool packed = packing_.pack_as_eplb();
  const auto alone = static_cast<float>(hottest_expert_bound(shape_, given_));
  target_ = std::max({packing_.mean(), packing_.largest_piece(), alone}) * tolerated_;
  if (packed && (!packing_.may_have_duplicates() || packing_.part_duplicates_as_eplb())) return;
  packing_.read(repaired_eplb());
}

bool FullPlanner::improve_start() {
  refine(packing_, {.target = target_, .max_steps = kMaxFullPlanSteps}, scratch_);
  const float load = packing_.rank_load(packing_.hottest_rank());
  if (load > best_ * kClearlyBetter) return false;
  best_ = load;
  return true;
}

float FullPlanner::pack_and_refine(Mixer* random) {
  ++packings_;
  packing_.pack(packings_ % 2 == 0 ? Packing::SmallRanks::kLastRounds
                                   : Packing::SmallRanks::kFirstRounds);
  for (int i = 0; random != nullptr && i < kRandomSwaps; ++i) swap_at_random(*random);
  const float target = std::max(target_, packing_.largest_piece() * tolerated_);
  refine(packing_, {.target = target, .max_steps = kQuickSteps, .change_replicas = false},
         scratch_);
  // What a duplicate wins is not to be had: the search must see the layer without it.
  if (packing_.may_have_duplicates()) {
    packing_.write(scratch_);
    repair_same_rank_duplicates(shape_, given_, false, scratch_);
    packing_.read(scratch_);
  }
  return packing_.rank_load(packing_.hottest_rank());
}

void FullPlanner::swap_at_random(Mixer& random) {
  const auto any_place = [&] {
    const int slot = static_cast<int>(random.below(static_cast<std::size_t>(shape_.num_slots())));
    const int rank = shape_.rank_of_slot(slot);
    return Packing::Place{rank, slot - shape_.first_slot(rank)};
  };
  const Packing::Place a = any_place(), b = any_place();
  if (a.rank == b.rank || packing_.holds(a.rank, packing_.expert_at(b)) ||
      packing_.holds(b.rank, packing_.expert_at(a)))
    return;
  packing_.swap(a, b);
}

// Few slots per rank or much skew: which replica counts pack well can only be found by packing.
// First counts between Adams' and Jefferson's, then transfers of single replicas from the best of
// those, accepting a little worse at first (threshold accepting; Dueck and Scheuer, J. Comput.
// Phys. 90, 1990).
void FullPlanner::search_replicas(std::span<std::int32_t> slots) {
  if (shape_.max_slots_per_rank() < 2) return;
  if (shape_.num_redundant_experts() == 0 && !is_small_) return;
  std::ranges::fill(first_, 0);
  for (std::int32_t expert : slots) ++first_[static_cast<std::size_t>(expert)];
  const auto counts = packing_.replicas();
  float best_value = objective();
  now_ = first_;
  for (float theta : kDivisors) {
    if (packings_ >= max_packings_) break;
    packing_.choose_replicas_by_divisor(theta);
    std::vector<std::int32_t>& chosen = first_;
    std::ranges::copy(counts, chosen.begin());
    try_replicas(slots, nullptr);
    if (best_ <= target_) break;
    if (objective() >= best_value) continue;
    best_value = objective();
    now_ = chosen;
  }
  transfer_replicas(best_value, slots);
}

void FullPlanner::transfer_replicas(float value, std::span<std::int32_t> slots) {
  std::iota(by_load_.begin(), by_load_.end(), 0);
  std::ranges::stable_sort(by_load_, [this](std::int32_t a, std::int32_t b) {
    return packing_.load()[static_cast<std::size_t>(a)] >
           packing_.load()[static_cast<std::size_t>(b)];
  });
  const std::size_t reach =
      std::min(by_load_.size(), 2 * static_cast<std::size_t>(shape_.num_redundant_experts()) + 16);
  Mixer random(kSeed);
  const float heat = is_small_ ? kSmallLayerHeat : 1.0F;
  const int left = max_packings_ - packings_;
  for (int i = 0; i < left && best_ > target_; ++i) {
    const auto giver = static_cast<std::size_t>(by_load_[random.below(reach)]);
    const auto taker = static_cast<std::size_t>(by_load_[random.below(reach)]);
    const bool transfers =
        giver != taker && now_[giver] > 1 && now_[taker] < packing_.max_replicas();
    if (!transfers && !is_small_) continue;
    if (transfers) --now_[giver], ++now_[taker];
    std::ranges::copy(now_, packing_.replicas().begin());
    try_replicas(slots, transfers ? nullptr : &random);
    const float allowed =
        value + heat * static_cast<float>(left - i) / static_cast<float>(left * shape_.num_slots());
    if (objective() < allowed) {
      value = objective();
    } else if (transfers) {
      ++now_[giver], --now_[taker];
    }
  }
}

void FullPlanner::try_replicas(std::span<std::int32_t> slots, Mixer* random) {
  const float load = pack_and_refine(random);
  if (load > best_ * kClearlyBetter) return;
  best_ = load;
  packing_.write(slots);
}

// The imbalance, and a little of how many ranks are hot: a slope for the search to follow.
float FullPlanner::objective() const noexcept {
  float sum = 0.0F, most = 0.0F;
  for (float load : packing_.rank_loads()) {
    most = std::max(most, load);
    const float above = std::max(0.0F, load / packing_.mean() - 1.0F);
    sum += above * above * above * above;
  }
  return most / packing_.mean() + 0.05F * sum;
}

void FullPlanner::compare_with_groups_on_nodes(std::span<std::int32_t> slots) {
  const std::vector<std::int32_t> other = repaired_eplb();
  packing_.read(other);
  if (best_ > packing_.rank_load(packing_.hottest_rank()) * kClearlyBetter)
    std::ranges::copy(other, slots.begin());
}

std::vector<std::int32_t> FullPlanner::repaired_eplb() const {
  std::vector<std::int32_t> slots = eplb_rebalance(shape_, given_);
  if (groups_on_nodes_) repair_same_rank_duplicates(shape_, given_, true, slots);
  repair_same_rank_duplicates(shape_, given_, false, slots);
  return slots;
}

std::vector<std::int32_t> plan_full(const ClusterShape& shape, std::span<const std::int64_t> load,
                                    const FullPlanOptions& options) {
  std::vector<std::int32_t> slots(static_cast<std::size_t>(shape.num_slots()));
  FullPlanner(shape, options).plan_layer(load, slots);
  return slots;
}

}  // namespace swiftbalancer
