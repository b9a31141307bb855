#include "planner/swift_state.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

namespace swiftbalancer {

SwiftState::SwiftState(const LayerProblem& problem)
    : shape_(problem.shape),
      num_ranks_(index(shape_->num_ranks())),
      // A rank holds an expert once; the rest is spare.
      max_replicas_(std::min(num_ranks_, index(shape_->num_redundant_experts() + 1))),
      load_(problem.load.begin(), problem.load.end()),
      by_load_(problem.load.size()),
      slots_(problem.placement.begin(), problem.placement.end()),
      amount_(slots_.size(), 0.0),
      spare_(slots_.size(), 0),
      held_(load_.size() * num_ranks_, 0),
      count_(load_.size(), 0),
      replicas_(load_.size() * max_replicas_, -1),
      rank_load_(num_ranks_, 0.0),
      received_(num_ranks_, 0),
      levels_(max_replicas_),
      trial_(max_replicas_),
      trial_slots_(max_replicas_),
      is_touched_(num_ranks_, 0) {
  touched_.reserve(num_ranks_);
  touched_load_.reserve(num_ranks_);
  std::iota(by_load_.begin(), by_load_.end(), 0);
  std::stable_sort(by_load_.begin(), by_load_.end(), [&](std::int32_t a, std::int32_t b) {
    return load_[index(a)] > load_[index(b)];
  });
  for (double load : load_) mean_ += load;
  mean_ /= static_cast<double>(num_ranks_);
  for (int slot = 0; slot < shape_->num_slots(); ++slot) attach(slot, slots_[index(slot)]);
  held_first_ = held_;
  moves_ = 0;
  // Start from an even split.
  for (std::size_t expert = 0; expert < load_.size(); ++expert) {
    for (std::int32_t slot : replica_slots(static_cast<int>(expert))) {
      amount_[index(slot)] = load_[expert] / count_[expert];
      rank_load_[index(shape_->rank_of_slot(slot))] += amount_[index(slot)];
    }
  }
}

int SwiftState::hottest_rank() const noexcept {
  return static_cast<int>(std::max_element(rank_load_.begin(), rank_load_.end()) -
                          rank_load_.begin());
}

double SwiftState::lower_bound() const {
  // Smallest T with sum(max(1, ceil(load / T))) <= slots, by bisection; the replicas of an expert
  // are on different ranks.
  const auto fits = [&](double piece) {
    std::int64_t slots = 0;
    for (double load : load_) {
      const auto whole = static_cast<std::int64_t>(load / piece);
      slots +=
          std::max<std::int64_t>(1, whole + (static_cast<double>(whole) * piece < load ? 1 : 0));
    }
    return slots <= shape_->num_slots();
  };
  const double heaviest = load_[index(by_load_[0])];
  double low = std::max(mean_, heaviest / static_cast<double>(max_replicas_)),
         high = std::max(low, heaviest);
  if (low <= 0.0 || fits(low)) return low;
  for (int i = 0; i < 12; ++i) {
    const double middle = 0.5 * (low + high);
    (fits(middle) ? high : low) = middle;
  }
  return low;
}

void SwiftState::count_move(int rank, int expert, int change) noexcept {
  if (held_first_.empty() || held_first_[index(expert) * num_ranks_ + index(rank)] != 0) return;
  moves_ += change;
  received_[index(rank)] += change;
}

void SwiftState::attach(int slot, int expert) {
  const int rank = shape_->rank_of_slot(slot);
  slots_[index(slot)] = expert;
  amount_[index(slot)] = 0.0;
  std::uint8_t& held = held_[index(expert) * num_ranks_ + index(rank)];
  spare_[index(slot)] = held;
  if (held != 0) return;
  held = 1;
  replicas_[index(expert) * max_replicas_ + index(count_[index(expert)]++)] = slot;
  count_move(rank, expert, 1);
}

void SwiftState::detach(int slot) {
  if (is_spare(slot)) return;
  const int expert = slots_[index(slot)], rank = shape_->rank_of_slot(slot);
  rank_load_[index(rank)] -= amount_[index(slot)];
  amount_[index(slot)] = 0.0;
  std::int32_t* first = replicas_.data() + index(expert) * max_replicas_;
  std::int32_t* last = first + count_[index(expert)]--;
  std::copy(std::find(first, last, slot) + 1, last, std::find(first, last, slot));
  held_[index(expert) * num_ranks_ + index(rank)] = 0;
  count_move(rank, expert, -1);
  // A spare of the same expert on this rank, if any, takes its place.
  for (int other = shape_->first_slot(rank); other < shape_->first_slot(rank + 1); ++other) {
    if (other == slot || slots_[index(other)] != expert) continue;
    attach(other, expert);
    break;
  }
}

// Fills the expert's load into the ranks of these slots, lowest first, until they are level. The
// ranks' loads must not contain it yet. @returns the largest change of an amount.
double SwiftState::refill(int expert, std::span<const std::int32_t> slots,
                          double* amounts) noexcept {
  const auto n = static_cast<int>(slots.size());
  for (int i = 0; i < n; ++i) {
    const Level level{rank_load_[index(shape_->rank_of_slot(slots[index(i)]))], i};
    int at = i;
    for (; at > 0 && levels_[index(at - 1)].load > level.load; --at)
      levels_[index(at)] = levels_[index(at - 1)];
    levels_[index(at)] = level;
  }
  double rest = load_[index(expert)], height = levels_[0].load;
  int filled = 1;
  for (; filled < n; ++filled) {
    const double needed = (levels_[index(filled)].load - height) * filled;
    if (needed >= rest) break;
    rest -= needed;
    height = levels_[index(filled)].load;
  }
  height += rest / filled;
  double change = 0.0;
  for (int i = 0; i < n; ++i) {
    const Level& level = levels_[index(i)];
    const double amount = i < filled ? height - level.load : 0.0;
    change = std::max(change,
                      std::max(amount - amounts[level.position], amounts[level.position] - amount));
    amounts[level.position] = amount;
    rank_load_[index(shape_->rank_of_slot(slots[index(level.position)]))] = level.load + amount;
  }
  return change;
}

void SwiftState::level(int sweeps) {
  for (int sweep = 0; sweep < sweeps; ++sweep) {
    double change = 0.0;
    for (std::int32_t expert : by_load_) {
      if (count_[index(expert)] < 2) continue;
      const auto slots = replica_slots(expert);
      for (std::size_t i = 0; i < slots.size(); ++i) {
        trial_[i] = amount_[index(slots[i])];
        rank_load_[index(shape_->rank_of_slot(slots[i]))] -= trial_[i];
      }
      change = std::max(change, refill(expert, slots, trial_.data()));
      for (std::size_t i = 0; i < slots.size(); ++i) amount_[index(slots[i])] = trial_[i];
    }
    if (change < 1e-4 * mean_) break;
  }
}

void SwiftState::replace(int slot, int expert) {
  const int old = slots_[index(slot)];
  const bool was_spare = is_spare(slot);
  detach(slot);
  for (int changed : {old, expert}) {
    if (changed == old && was_spare) continue;
    if (changed == expert) attach(slot, expert);
    const auto slots = replica_slots(changed);
    for (std::size_t i = 0; i < slots.size(); ++i) {
      trial_[i] = amount_[index(slots[i])];
      rank_load_[index(shape_->rank_of_slot(slots[i]))] -= trial_[i];
    }
    refill(changed, slots, trial_.data());
    for (std::size_t i = 0; i < slots.size(); ++i) amount_[index(slots[i])] = trial_[i];
  }
}

void SwiftState::swap(int slot, int other) {
  const int expert = slots_[index(slot)], other_expert = slots_[index(other)];
  const double amount = amount_[index(slot)], other_amount = amount_[index(other)];
  detach(slot);
  detach(other);
  attach(slot, other_expert);
  attach(other, expert);
  amount_[index(slot)] = other_amount;
  amount_[index(other)] = amount;
  rank_load_[index(shape_->rank_of_slot(slot))] += other_amount;
  rank_load_[index(shape_->rank_of_slot(other))] += amount;
}

void SwiftState::touch(int rank) noexcept {
  if (is_touched_[index(rank)] != 0) return;
  is_touched_[index(rank)] = 1;
  touched_.push_back(rank);
  touched_load_.push_back(rank_load_[index(rank)]);
}

double SwiftState::gain_of_replace(int slot, int expert, double target) noexcept {
  const int old = slots_[index(slot)];
  if (!is_spare(slot)) {
    std::size_t kept = 0;
    for (std::int32_t replica : replica_slots(old)) {
      touch(shape_->rank_of_slot(replica));
      rank_load_[index(shape_->rank_of_slot(replica))] -= amount_[index(replica)];
      if (replica != slot) trial_slots_[kept++] = replica;
    }
    refill(old, {trial_slots_.data(), kept}, trial_.data());
  }
  if (expert >= 0) {
    std::size_t kept = 0;
    for (std::int32_t replica : replica_slots(expert)) {
      touch(shape_->rank_of_slot(replica));
      rank_load_[index(shape_->rank_of_slot(replica))] -= amount_[index(replica)];
      trial_slots_[kept++] = replica;
    }
    touch(shape_->rank_of_slot(slot));
    trial_slots_[kept++] = slot;
    refill(expert, {trial_slots_.data(), kept}, trial_.data());
  }
  double gain = 0.0;
  for (std::size_t i = 0; i < touched_.size(); ++i) {
    const int rank = touched_[i];
    const double before = std::max(0.0, touched_load_[i] - target),
                 after = std::max(0.0, rank_load(rank) - target);
    gain += before * before - after * after;
    rank_load_[index(rank)] = touched_load_[i];
    is_touched_[index(rank)] = 0;
  }
  touched_.clear();
  touched_load_.clear();
  return gain;
}

}  // namespace swiftbalancer
