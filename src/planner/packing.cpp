#include "planner/packing.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <utility>

#include <swiftbalancer/placement.hpp>

#include "planner/packing_scans.hpp"

namespace swiftbalancer {
namespace {

constexpr std::size_t kLaneWidth = scan::kWidth;
constexpr int kRadix = 256;
constexpr int kPackingBisections = 14;
// Up to so many ranks, counting the lighter ones is faster than sorting.
constexpr std::size_t kCountedRanks = 128;
constexpr float kNoSlot = std::numeric_limits<float>::infinity();
constexpr float kNoRank = 1e30F;  // Finite: infinite loads and pieces would meet in a NaN.

std::size_t lanes_for(int num_ranks) {
  return (static_cast<std::size_t>(num_ranks) + kLaneWidth - 1) / kLaneWidth * kLaneWidth;
}

}  // namespace

Packing::Packing(const ClusterShape& shape)
    : shape_(shape),
      lanes_(lanes_for(shape.num_ranks())),
      words_((at(shape.num_ranks()) + 63) / 64),
      load_(at(shape.num_logical_experts())),
      count_(load_.size(), 1),
      piece_(load_.size()),
      order_(load_.size()),
      priority_(load_.size()),
      part_(load_.size()),
      half_sorted_(load_.size()),
      value_(at(shape.max_slots_per_rank()) * lanes_, kNoSlot),
      expert_(value_.size(), kEmptySlot),
      rank_load_(lanes_, kNoRank),
      holders_(load_.size() * words_),
      has_duplicate_(at(shape.num_ranks())),
      key_(lanes_),
      position_(lanes_),
      sorted_(at(shape.num_ranks())),
      exact_(load_.size()),
      exact_piece_(load_.size()),
      exact_load_(sorted_.size()),
      room_(sorted_.size()),
      next_cell_(sorted_.size()),
      listed_(at(shape.num_slots())) {
  further_.reserve(listed_.size());
}

// ---- Loads and replicas ----

void Packing::set_load(std::span<const std::int64_t> load) {
  double total = 0.0;
  for (std::size_t expert = 0; expert < load.size(); ++expert) {
    exact_[expert] = static_cast<double>(load[expert]);
    load_[expert] = static_cast<float>(exact_[expert]);
    total += exact_[expert];
  }
  mean_ = static_cast<float>(total / shape_.num_ranks());
}

// Adams' counts are those of the smallest threshold that the slots suffice for: pieces at most that
// large. Bisection finds nearly all of them; the rest goes one by one.
void Packing::choose_replicas() {
  const int redundant = shape_.num_redundant_experts();
  const float hottest = scan::largest(load_.data(), load_.size());
  const auto most = static_cast<float>(max_replicas() - 1);
  int left = redundant;
  if (redundant == 0 || hottest <= 0.0F) {
    std::ranges::fill(count_, 1);
  } else {
    // A hair below ceil(load / threshold) - 1 where that is a whole number.
    constexpr float kBelow = 0.9999999F;
    float low = 0.5F * mean_ * static_cast<float>(shape_.num_ranks()) /
                static_cast<float>(shape_.num_slots());
    float high = hottest;
    for (int i = 0; i < kPackingBisections && low < high; ++i) {
      const float middle = std::sqrt(low * high);
      const auto needed = scan::sum_of_floors(load_.data(), load_.size(), kBelow / middle, most);
      (needed <= redundant ? high : low) = middle;
      if (needed == redundant) break;
    }
    for (std::size_t expert = 0; expert < load_.size(); ++expert) {
      const auto extra = static_cast<std::int32_t>(std::min(load_[expert] * (kBelow / high), most));
      count_[expert] = 1 + extra;
      left -= extra;
    }
  }
  const auto priority_of = [this](std::size_t expert) {
    return count_[expert] < max_replicas() ? load_[expert] / static_cast<float>(count_[expert])
                                           : -1.0F;
  };
  if (left > 0)
    for (std::size_t expert = 0; expert < load_.size(); ++expert)
      priority_[expert] = priority_of(expert);
  for (; left > 0; --left) {
    const auto best =
        static_cast<std::size_t>(std::ranges::max_element(priority_) - priority_.begin());
    ++count_[best];
    priority_[best] = priority_of(best);
  }
}

void Packing::choose_replicas_by_divisor(float theta) {
  std::ranges::fill(count_, 1);
  const auto priority_of = [&](std::size_t expert) {
    return count_[expert] < max_replicas()
               ? load_[expert] / (static_cast<float>(count_[expert] - 1) + theta)
               : -1.0F;
  };
  for (std::size_t expert = 0; expert < load_.size(); ++expert)
    priority_[expert] = priority_of(expert);
  for (int left = shape_.num_redundant_experts(); left > 0; --left) {
    const auto best =
        static_cast<std::size_t>(std::ranges::max_element(priority_) - priority_.begin());
    ++count_[best];
    priority_[best] = priority_of(best);
  }
}

// ---- Placing ----

void Packing::set_pieces() noexcept {
  for (std::size_t expert = 0; expert < load_.size(); ++expert)
    piece_[expert] = load_[expert] / static_cast<float>(count_[expert]);
  largest_piece_ = scan::largest(piece_.data(), piece_.size());
}

// Radix sort by the part of the largest piece, 16 bits in two passes: what refines the packing does
// not mind a rough order.
void Packing::sort_experts() noexcept {
  std::int32_t fine[kRadix + 1] = {}, coarse[kRadix + 1] = {};
  const float scale = largest_piece_ > 0.0F ? 65535.0F / largest_piece_ : 0.0F;
  for (std::size_t expert = 0; expert < load_.size(); ++expert) {
    const int part = 65535 - std::min(65535, static_cast<int>(piece_[expert] * scale));
    part_[expert] = static_cast<std::uint16_t>(part);
  }
  for (const std::uint16_t part : part_) {
    ++fine[part % kRadix + 1];
    ++coarse[part / kRadix + 1];
  }
  for (int digit = 0; digit < kRadix; ++digit) {
    fine[digit + 1] += fine[digit];
    coarse[digit + 1] += coarse[digit];
  }
  for (std::size_t expert = 0; expert < load_.size(); ++expert)
    half_sorted_[at(fine[part_[expert] % kRadix]++)] = static_cast<std::int32_t>(expert);
  for (const std::int32_t expert : half_sorted_)
    order_[at(coarse[part_[at(expert)] / kRadix]++)] = expert;
}

int Packing::slot_of_round(int rank, int round, SmallRanks sit_out) const noexcept {
  const int slots = shape_.slots_per_rank(rank);
  if (sit_out == SmallRanks::kLastRounds) return round < slots ? round : -1;
  return round - (shape_.max_slots_per_rank() - slots);
}

void Packing::sort_keys(std::size_t size) noexcept {
  const std::int32_t mask = rank_bits();
  sorted_.resize(size);
  if (size > kCountedRanks) {
    std::sort(key_.begin(), key_.begin() + static_cast<std::ptrdiff_t>(size));
    for (std::size_t i = 0; i < size; ++i) sorted_[i] = key_[i] & mask;
    return;
  }
  const std::size_t padded = lanes_for(static_cast<int>(size));
  std::fill(key_.begin() + static_cast<std::ptrdiff_t>(size),
            key_.begin() + static_cast<std::ptrdiff_t>(padded),
            std::numeric_limits<std::int32_t>::max());
  scan::count_below_each(key_.data(), padded, position_.data());
  for (std::size_t i = 0; i < size; ++i) sorted_[at(position_[i])] = key_[i] & mask;
}

void Packing::clear() noexcept {
  std::ranges::fill(holders_, 0);
  std::fill_n(rank_load_.begin(), shape_.num_ranks(), 0.0F);
  has_duplicates_ = false;
  std::ranges::fill(has_duplicate_, 0);
}

void Packing::pack(SmallRanks sit_out) {
  set_pieces();
  sort_experts();
  clear();
  std::size_t next = 0;
  int given = 0;
  for (int round = 0; round < shape_.max_slots_per_rank(); ++round) {
    order_ranks([&](int rank) { return slot_of_round(rank, round, sit_out) >= 0; });
    for (std::size_t i = 0; i < sorted_.size(); ++i) {
      const int expert = order_[next];
      // A replica of the expert may have come in the round before: a rank behind takes this one.
      for (std::size_t j = i + 1; given > 0 && j < sorted_.size() && holds(sorted_[i], expert);
           ++j) {
        if (!holds(sorted_[j], expert)) std::swap(sorted_[i], sorted_[j]);
      }
      put(sorted_[i], slot_of_round(sorted_[i], round, sit_out), expert);
      if (++given < count_[at(expert)]) continue;
      ++next;
      given = 0;
    }
  }
}

int Packing::hottest_rank() const noexcept {
  const auto ranks = rank_loads();
  const float most = scan::largest(ranks.data(), ranks.size());
  return static_cast<int>(std::ranges::find(ranks, most) - ranks.begin());
}

float Packing::lightest_load() const noexcept {
  return scan::smallest(rank_load_.data(), rank_load_.size());
}

Packing::Place Packing::find_fitting(Place hot, float target) const noexcept {
  const int expert = expert_at(hot);
  const float piece = value_[cell(hot)];
  const float high = piece - (rank_load(hot.rank) - target), base = piece - target;
  const int depths = shape_.max_slots_per_rank();
  for (int depth = 0; depth < depths; ++depth) {
    const float* row = value_.data() + at(depth) * lanes_;
    const std::size_t skipped =
        scan::rows_without(row, at(depths - depth), rank_load_.data(), lanes_, base, high);
    depth += static_cast<int>(skipped);
    row += skipped * lanes_;
    if (depth == depths) break;
    for (int rank = 0; rank < shape_.num_ranks(); ++rank) {
      const float value = row[at(rank)];
      if (value > high || value < base + rank_load_[at(rank)] || holds(rank, expert)) continue;
      if (!holds(hot.rank, expert_at({rank, depth}))) return {rank, depth};
    }
  }
  return {};
}

Packing::Place Packing::find_fitting_pair(Place hot, int second, float target,
                                          int& second_depth) const noexcept {
  const Place other{hot.rank, second};
  const int one = expert_at(hot), two = expert_at(other);
  const float sum = value_[cell(hot)] + value_[cell(other)];
  const float high = sum - (rank_load(hot.rank) - target), base = sum - target;
  for (int first = 0; first + 1 < shape_.max_slots_per_rank(); ++first) {
    const float* row = value_.data() + at(first) * lanes_;
    for (int depth = first + 1; depth < shape_.max_slots_per_rank(); ++depth) {
      const float* next = value_.data() + at(depth) * lanes_;
      if (!scan::any_sum_within(row, next, rank_load_.data(), lanes_, base, high)) continue;
      for (int rank = 0; rank < shape_.num_ranks(); ++rank) {
        const float both = row[at(rank)] + next[at(rank)];
        if (both > high || both < base + rank_load_[at(rank)]) continue;
        if (holds(rank, one) || holds(rank, two)) continue;
        if (holds(hot.rank, expert_at({rank, first})) || holds(hot.rank, expert_at({rank, depth})))
          continue;
        second_depth = depth;
        return {rank, first};
      }
    }
  }
  return {};
}

Packing::Place Packing::find_best(Place hot, float& best) const noexcept {
  const int expert = expert_at(hot);
  const float piece = value_[cell(hot)];
  const float rest = rank_load(hot.rank) - piece;
  Place found;
  for (int depth = 0; depth < shape_.max_slots_per_rank(); ++depth) {
    const float* row = value_.data() + at(depth) * lanes_;
    if (scan::smallest_heavier(row, rank_load_.data(), lanes_, rest, piece) >= best) continue;
    for (int rank = 0; rank < shape_.num_ranks(); ++rank) {
      const float value = row[at(rank)];
      const float heavier = std::max(rest + value, piece + rank_load_[at(rank)] - value);
      if (heavier >= best || rank == hot.rank || holds(rank, expert)) continue;
      if (holds(hot.rank, expert_at({rank, depth}))) continue;
      best = heavier;
      found = {rank, depth};
    }
  }
  return found;
}

void Packing::let_go(int rank, int expert) noexcept {
  for (int depth = 0; has_duplicates_ && depth < shape_.slots_per_rank(rank); ++depth)
    if (expert_at({rank, depth}) == expert) return;
  holders_[at(expert) * words_ + at(rank) / 64] &= ~(std::uint64_t{1} << (rank % 64));
}

void Packing::swap(Place a, Place b) noexcept {
  const int first = expert_at(a), second = expert_at(b);
  const float change = value_[cell(b)] - value_[cell(a)];
  std::swap(expert_[cell(a)], expert_[cell(b)]);
  std::swap(value_[cell(a)], value_[cell(b)]);
  rank_load_[at(a.rank)] += change;
  rank_load_[at(b.rank)] -= change;
  let_go(a.rank, first);
  let_go(b.rank, second);
  hold(a.rank, second);
  hold(b.rank, first);
}

void Packing::sum_rank(int rank) noexcept {
  float sum = 0.0F;
  for (int depth = 0; depth < shape_.slots_per_rank(rank); ++depth)
    sum += value_[cell({rank, depth})];
  rank_load_[at(rank)] = sum;
}

void Packing::set_piece(int expert) noexcept {
  piece_[at(expert)] = load_[at(expert)] / static_cast<float>(count_[at(expert)]);
  for_each_holder(expert, [&](int rank) {
    for (int depth = 0; depth < shape_.slots_per_rank(rank); ++depth)
      if (expert_at({rank, depth}) == expert) value_[cell({rank, depth})] = piece_[at(expert)];
    sum_rank(rank);
  });
}

void Packing::replace(Place place, int expert) noexcept {
  const int old = expert_at(place);
  expert_[cell(place)] = expert;
  let_go(place.rank, old);
  hold(place.rank, expert);
  --count_[at(old)];
  ++count_[at(expert)];
  set_piece(old);
  set_piece(expert);
}

void Packing::write(std::span<std::int32_t> slots) const noexcept {
  for (int rank = 0; rank < shape_.num_ranks(); ++rank) {
    const int first = shape_.first_slot(rank);
    for (int depth = 0; depth < shape_.slots_per_rank(rank); ++depth)
      slots[at(first + depth)] = expert_at({rank, depth});
  }
}

void Packing::read(std::span<const std::int32_t> slots) noexcept {
  std::ranges::fill(count_, 0);
  for (std::int32_t expert : slots) ++count_[at(expert)];
  set_pieces();
  clear();
  for (int rank = 0; rank < shape_.num_ranks(); ++rank) {
    const int first = shape_.first_slot(rank);
    for (int depth = 0; depth < shape_.slots_per_rank(rank); ++depth)
      put(rank, depth, slots[at(first + depth)]);
  }
}

}  // namespace swiftbalancer
