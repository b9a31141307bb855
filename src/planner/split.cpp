#include "planner/split.hpp"

#include <algorithm>

#include <swiftbalancer/dispatch_table.hpp>
#include <swiftbalancer/placement.hpp>

namespace swiftbalancer {
namespace {

constexpr std::int32_t kNone = -1;
// Searches for chains from one rank. Seldom more than a few are needed; the bound guards against
// endless moves of rounding errors.
constexpr int kMaxSearches = 64;

std::size_t index(std::int32_t value) { return static_cast<std::size_t>(value); }

}  // namespace

ReplicaSplit::ReplicaSplit(const ClusterShape& shape, std::span<const double> rank_speed)
    : first_slot_(index(shape.num_ranks()) + 1),
      speed_(index(shape.num_ranks()), 1.0),
      slowness_(speed_),
      amount_(index(shape.num_slots()), 0.0),
      rank_load_(speed_.size(), 0.0),
      count_(index(shape.num_logical_experts()), 0),
      last_rank_(count_.size(), kNone),
      group_of_(count_.size(), kNone),
      alone_(amount_.size(), 0),
      groups_(count_.size()),
      replicas_(amount_.size()),
      shared_(amount_.size()),
      first_shared_(speed_.size() + 1),
      rest_(speed_.size()),
      left_out_(speed_.size(), 0),
      queue_(speed_.size()),
      arrival_(speed_.size()),
      seen_(speed_.size()) {
  for (std::size_t rank = 0; rank < rank_speed.size(); ++rank) {
    speed_[rank] = rank_speed[rank];
    slowness_[rank] = 1.0 / rank_speed[rank];
  }
  for (int rank = 0; rank <= shape.num_ranks(); ++rank)
    first_slot_[index(rank)] = shape.first_slot(rank);
  for (double speed : speed_) total_speed_ += speed;
}

double ReplicaSplit::level(std::span<const std::int32_t> slots, std::span<const double> load) {
  collect(slots, load);
  if (highest() <= limit_) return highest();
  for (const Group& group : std::span(groups_).first(num_groups_)) fill(group);
  for (std::size_t rank = 0; rank < rank_load_.size(); ++rank)
    relieve(static_cast<std::int32_t>(rank));
  return highest();
}

// Experts on one rank are settled at once; the others become groups, split evenly at first.
void ReplicaSplit::collect(std::span<const std::int32_t> slots, std::span<const double> load) {
  count_ranks(slots);
  const auto seen = static_cast<std::int32_t>(rank_load_.size());  // Unlike what counting left.
  double total = 0.0, fixed = 0.0;
  std::int32_t num_groups = 0, num_replicas = 0, num_shared = 0, slot = 0;
  for (std::int32_t rank = 0; rank < static_cast<std::int32_t>(rank_load_.size()); ++rank) {
    double alone = 0.0, rank_load = 0.0;
    first_shared_[index(rank)] = num_shared;
    for (; slot < first_slot_[index(rank + 1)]; ++slot) {
      const std::int32_t expert = slots[index(slot)];
      alone_[index(slot)] = 0;
      if (expert == kEmptySlot || last_rank_[index(expert)] == seen + rank) {
        amount_[index(slot)] = 0.0;
        continue;
      }
      last_rank_[index(expert)] = seen + rank;
      if (count_[index(expert)] == 1) {
        alone_[index(slot)] = 1;
        amount_[index(slot)] = load[index(expert)];
        alone += load[index(expert)];
        continue;
      }
      std::int32_t& at = group_of_[index(expert)];
      if (at == kNone) {
        at = num_groups++;
        groups_[index(at)] = {load[index(expert)], num_replicas, 0};
        num_replicas += count_[index(expert)];
      }
      Group& group = groups_[index(at)];
      replicas_[index(group.first + group.count++)] = {slot, rank};
      shared_[index(num_shared++)] = {slot, at};
      amount_[index(slot)] = load[index(expert)] / count_[index(expert)];
      rank_load += amount_[index(slot)];
    }
    rank_load += alone;
    rank_load_[index(rank)] = rank_load;
    total += rank_load;
    fixed = std::max(fixed, alone * slowness_[index(rank)]);
  }
  first_shared_.back() = num_shared;
  num_groups_ = index(num_groups);
  set_bound(std::max(fixed, total / total_speed_));
}

void ReplicaSplit::count_ranks(std::span<const std::int32_t> slots) {
  std::ranges::fill(count_, 0);
  std::ranges::fill(last_rank_, kNone);
  std::ranges::fill(group_of_, kNone);
  std::int32_t slot = 0;
  for (std::int32_t rank = 0; rank < static_cast<std::int32_t>(rank_load_.size()); ++rank) {
    for (; slot < first_slot_[index(rank + 1)]; ++slot) {
      const std::int32_t expert = slots[index(slot)];
      if (expert == kEmptySlot) continue;
      count_[index(expert)] += last_rank_[index(expert)] != rank ? 1 : 0;
      last_rank_[index(expert)] = rank;
    }
  }
}

// Fills the expert's tokens into its ranks until those that get any are level: supposes all do, and
// as long as some rank stands above the level without them, leaves it out (Michelot 1986).
void ReplicaSplit::fill(const Group& group) {
  const std::span<const Replica> replicas =
      std::span(replicas_).subspan(index(group.first), index(group.count));
  double tokens = group.load, speed = 0.0;
  for (std::size_t i = 0; i < replicas.size(); ++i) {
    rest_[i] = rank_load_[index(replicas[i].rank)] - amount_[index(replicas[i].slot)];
    tokens += rest_[i];
    speed += speed_[index(replicas[i].rank)];
  }
  double height = tokens / speed;
  for (bool out = true; out;) {
    out = false;
    for (std::size_t i = 0; i < replicas.size(); ++i) {
      const double rank_speed = speed_[index(replicas[i].rank)];
      if (rest_[i] <= height * rank_speed || left_out_[i] != 0) continue;
      left_out_[i] = 1;
      tokens -= rest_[i];
      speed -= rank_speed;
      out = true;
    }
    if (out) height = tokens / speed;
  }
  for (std::size_t i = 0; i < replicas.size(); ++i) {
    const double level = height * speed_[index(replicas[i].rank)];
    const bool fills = left_out_[i] == 0;
    left_out_[i] = 0;
    amount_[index(replicas[i].slot)] = fills ? level - rest_[i] : 0.0;
    rank_load_[index(replicas[i].rank)] = fills ? level : rest_[i];
  }
}

double ReplicaSplit::highest() const noexcept {
  double highest = 0.0;
  for (std::size_t rank = 0; rank < rank_load_.size(); ++rank)
    highest = std::max(highest, rank_load_[rank] * slowness_[rank]);
  return highest;
}

// Brings one rank down to the limit: searches, breadth first, for chains of replicas that lead to
// ranks below it. Where there are none, whatever the ranks reached carry has no replica elsewhere,
// and their mean is the new bound.
void ReplicaSplit::relieve(std::int32_t hot) {
  const auto is_hot = [&] { return rank_load_[index(hot)] > limit_ * speed_[index(hot)]; };
  for (int i = 0; i < kMaxSearches && is_hot(); ++i) {
    ++search_;
    seen_[index(hot)] = search_;
    arrival_[index(hot)] = {kNone, kNone, kNone};
    queue_[0] = hot;
    std::size_t reached = 1;
    bool moved = false;
    for (std::size_t next = 0; next < reached; ++next) {
      const std::int32_t rank = queue_[next];
      for (std::int32_t at = first_shared_[index(rank)]; at < first_shared_[index(rank + 1)];
           ++at) {
        const Shared& shared = shared_[index(at)];
        if (amount_[index(shared.slot)] <= 0.0) continue;
        const Group& group = groups_[index(shared.group)];
        for (std::int32_t k = group.first; k < group.first + group.count; ++k) {
          const Replica& replica = replicas_[index(k)];
          if (seen_[index(replica.rank)] == search_) continue;
          seen_[index(replica.rank)] = search_;
          arrival_[index(replica.rank)] = {rank, shared.slot, replica.slot};
          queue_[reached++] = replica.rank;
          if (!move_along_chain(replica.rank)) continue;
          if (!is_hot()) return;
          moved = true;
        }
      }
    }
    if (!moved && !raise_bound(reached)) return;
  }
}

bool ReplicaSplit::raise_bound(std::size_t reached) {
  double load = 0.0, speed = 0.0;
  for (const std::int32_t rank : std::span(queue_).first(reached)) {
    load += rank_load_[index(rank)];
    speed += speed_[index(rank)];
  }
  if (load <= bound_ * speed) return false;  // Rounding: as level as it gets.
  set_bound(load / speed);
  return true;
}

void ReplicaSplit::set_bound(double bound) {
  bound_ = bound;
  limit_ = bound * (1.0 + kTolerance);
}

// Fills `to` up to the limit from the rank where its chain starts. @returns whether tokens moved.
bool ReplicaSplit::move_along_chain(std::int32_t to) {
  double tokens = limit_ * speed_[index(to)] - rank_load_[index(to)];
  if (tokens <= 0.0) return false;
  std::int32_t start = to;
  for (; arrival_[index(start)].from != kNone; start = arrival_[index(start)].from)
    tokens = std::min(tokens, amount_[index(arrival_[index(start)].out)]);
  tokens = std::min(tokens, rank_load_[index(start)] - limit_ * speed_[index(start)]);
  if (tokens <= 0.0) return false;
  for (std::int32_t rank = to; arrival_[index(rank)].from != kNone;
       rank = arrival_[index(rank)].from) {
    amount_[index(arrival_[index(rank)].out)] -= tokens;
    amount_[index(arrival_[index(rank)].in)] += tokens;
  }
  rank_load_[index(start)] -= tokens;
  rank_load_[index(to)] += tokens;
  return true;
}

void ReplicaSplit::shares(std::span<std::uint32_t> out) const {
  for (std::size_t slot = 0; slot < out.size(); ++slot)
    out[slot] = alone_[slot] != 0 ? kShareUnit : 0;
  for (const Group& group : std::span(groups_).first(num_groups_)) {
    const std::span<const Replica> replicas =
        std::span(replicas_).subspan(index(group.first), index(group.count));
    double total = 0.0;
    for (const Replica& replica : replicas) total += amount_[index(replica.slot)];
    const auto even = kShareUnit / static_cast<std::uint32_t>(group.count);
    const double scale = total > 0.0 ? kShareUnit / total : 0.0;
    std::uint32_t left = kShareUnit;
    std::int32_t largest = replicas[0].slot;
    for (const Replica& replica : replicas) {
      const double amount = amount_[index(replica.slot)];
      // Rounded down, so that the sum cannot exceed the unit but by rounding of the product.
      const std::uint32_t share =
          total > 0.0 ? std::min(left, static_cast<std::uint32_t>(amount * scale)) : even;
      out[index(replica.slot)] = share;
      left -= share;
      if (amount > amount_[index(largest)]) largest = replica.slot;
    }
    out[index(largest)] += left;
  }
}

}  // namespace swiftbalancer
