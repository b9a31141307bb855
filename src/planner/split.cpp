#include "planner/split.hpp"

#include <algorithm>

#include <swiftbalancer/dispatch_table.hpp>
#include <swiftbalancer/placement.hpp>

#include "core/index.hpp"

namespace swiftbalancer {
namespace {

constexpr std::int32_t kNone = -1;
// Seldom more than a few are needed; the bound guards against endless moves of rounding errors.
constexpr int kMaxSearches = 256;
// Of a sweep: a pair of ranks goes so far past being level, since the experts after it take some of
// that back. Of 320 slots on 32 ranks gone stale it leaves an eighth less to the searches.
constexpr double kOverRelaxation = 1.6;

}  // namespace

ReplicaSplit::ReplicaSplit(const ClusterShape& shape, std::span<const double> rank_speed)
    : first_slot_(index(shape.num_ranks()) + 1),
      speed_(index(shape.num_ranks()), 1.0),
      slowness_(speed_),
      inverse_(speed_.size() + 1, 0.0),
      amount_(index(shape.num_slots()), 0.0),
      rank_load_(speed_.size(), 0.0),
      experts_(index(shape.num_logical_experts())),
      place_(amount_.size()),
      replicas_(amount_.size()),
      groups_(experts_.size() + 1),
      shared_(amount_.size() + 1),
      first_shared_(speed_.size() + 1),
      rest_(speed_.size()),
      left_out_(speed_.size(), 0),
      queue_(speed_.size()),
      arrival_(speed_.size(), {0, kNone, kNone, kNone}),
      part_of_node_(index(shape.num_nodes()), 0.0),
      on_node_(part_of_node_.size()),
      near_(amount_.size()),
      floor_(amount_.size()) {
  for (std::size_t rank = 0; rank < rank_speed.size(); ++rank) {
    speed_[rank] = rank_speed[rank];
    slowness_[rank] = 1.0 / rank_speed[rank];
    is_uniform_ = is_uniform_ && rank_speed[rank] == 1.0;
  }
  for (int rank = 0; rank <= shape.num_ranks(); ++rank)
    first_slot_[index(rank)] = shape.first_slot(rank);
  for (std::size_t count = 1; count < inverse_.size(); ++count)
    inverse_[count] = 1.0 / static_cast<double>(count);
  for (double speed : speed_) total_speed_ += speed;
  for (int rank = 0; rank < shape.num_ranks(); ++rank) {
    node_of_rank_.push_back(shape.node_of_rank(rank));
    part_of_node_[index(shape.node_of_rank(rank))] += 1.0 / shape.num_ranks();
  }
}

double ReplicaSplit::level(std::span<const std::int32_t> slots, std::span<const double> load) {
  collect(slots, load);
  if (highest() <= limit_) return highest();
  for (const Group& group : std::span(groups_).first(num_groups_)) {
    if (group.count == 2 && is_uniform_) {
      fill_pair(group);
    } else {
      fill(group);
    }
  }
  for (std::int32_t rank = 0; rank < static_cast<std::int32_t>(rank_load_.size()); ++rank) {
    while (!relieve(rank) && raise_bound()) {
    }
  }
  return highest();
}

// Every expert is split evenly at first. Written without branches on what an expert is: no
// processor foresees which slots of a placement hold replicas.
void ReplicaSplit::collect(std::span<const std::int32_t> slots, std::span<const double> load) {
  count_ranks(slots);
  group_experts(load);
  double total = 0.0, fixed = 0.0;
  std::int32_t num_shared = 0, slot = 0;
  for (std::int32_t rank = 0; rank < static_cast<std::int32_t>(rank_load_.size()); ++rank) {
    double alone = 0.0, rank_load = 0.0;  // alone: of experts that no other rank holds
    first_shared_[index(rank)] = num_shared;
    for (; slot < first_slot_[index(rank + 1)]; ++slot) {
      const std::int32_t place = place_[index(slot)];
      if (place < 0) {
        amount_[index(slot)] = 0.0;
        continue;
      }
      const Expert& expert = experts_[index(slots[index(slot)])];
      amount_[index(slot)] = expert.piece;
      replicas_[index(expert.first + place)] = {slot, rank};
      // Of two replicas it is the other one that tokens may go to. Overwritten if it is not shared.
      const std::int32_t others = expert.first + (expert.count == 2 ? 1 - place : 0);
      shared_[index(num_shared)] = {slot, others, others + (expert.count == 2 ? 1 : expert.count)};
      num_shared += expert.count > 1 ? 1 : 0;
      rank_load += expert.piece;
      alone += expert.count > 1 ? 0.0 : expert.piece;
    }
    rank_load_[index(rank)] = rank_load;
    total += rank_load;
    fixed = std::max(fixed, alone * slowness_[index(rank)]);
  }
  first_shared_.back() = num_shared;
  set_bound(std::max(fixed, total / total_speed_));
}

void ReplicaSplit::count_ranks(std::span<const std::int32_t> slots) {
  for (Expert& expert : experts_) {
    expert.count = 0;
    expert.last_rank = kNone;
  }
  std::int32_t slot = 0;
  for (std::int32_t rank = 0; rank < static_cast<std::int32_t>(rank_load_.size()); ++rank) {
    for (; slot < first_slot_[index(rank + 1)]; ++slot) {
      const std::int32_t logical_id = slots[index(slot)];
      place_[index(slot)] = kNone;
      if (logical_id == kEmptySlot) continue;
      Expert& expert = experts_[index(logical_id)];
      if (expert.last_rank == rank) continue;
      expert.last_rank = rank;
      place_[index(slot)] = expert.count++;
    }
  }
}

void ReplicaSplit::group_experts(std::span<const double> load) {
  std::int32_t num_groups = 0, num_replicas = 0;
  for (std::size_t e = 0; e < experts_.size(); ++e) {
    Expert& expert = experts_[e];
    expert.piece = load[e] * inverse_[index(expert.count)];
    expert.first = num_replicas;
    groups_[index(num_groups)] = {load[e], num_replicas, expert.count};
    num_replicas += expert.count;
    num_groups += expert.count > 1 ? 1 : 0;
  }
  num_groups_ = index(num_groups);
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

// The same for two ranks of one speed, over-relaxed.
void ReplicaSplit::fill_pair(const Group& group) {
  const Replica &one = replicas_[index(group.first)], &other = replicas_[index(group.first) + 1];
  double &one_amount = amount_[index(one.slot)], &other_amount = amount_[index(other.slot)];
  double &one_load = rank_load_[index(one.rank)], &other_load = rank_load_[index(other.rank)];
  const double one_rest = one_load - one_amount, other_rest = other_load - other_amount;
  const double level = 0.5 * (group.load + other_rest - one_rest);
  one_amount = std::clamp(one_amount + kOverRelaxation * (level - one_amount), 0.0, group.load);
  other_amount = group.load - one_amount;
  one_load = one_rest + one_amount;
  other_load = other_rest + other_amount;
}

double ReplicaSplit::highest() const noexcept {
  double highest = 0.0;
  for (std::size_t rank = 0; rank < rank_load_.size(); ++rank)
    highest = std::max(highest, rank_load_[rank] * slowness_[rank]);
  return highest;
}

// Brings one rank down to the limit: searches, breadth first, for chains of replicas that lead to
// ranks below it. @returns false where there are none: whatever the ranks reached carry has no
// replica elsewhere.
bool ReplicaSplit::relieve(std::int32_t hot) {
  for (int i = 0; i < kMaxSearches && is_hot(hot); ++i) {
    arrival_[index(hot)] = {++search_, kNone, kNone, kNone};
    queue_[0] = hot;
    reached_ = 1;
    bool moved = false;
    for (std::size_t next = 0; next < reached_ && is_hot(hot); ++next)
      moved = search_from(queue_[next]) || moved;
    if (!moved) return false;
  }
  return true;
}

// Enqueues the ranks that its tokens could go to. @returns whether any moved.
bool ReplicaSplit::search_from(std::int32_t rank) {
  bool moved = false;
  for (std::int32_t at = first_shared_[index(rank)]; at < first_shared_[index(rank + 1)]; ++at) {
    const Shared& shared = shared_[index(at)];
    if (amount_[index(shared.slot)] <= 0.0) continue;
    for (std::int32_t other = shared.first_other; other < shared.end_other; ++other) {
      const Replica& replica = replicas_[index(other)];
      Arrival& arrival = arrival_[index(replica.rank)];
      if (arrival.search == search_) continue;
      arrival = {search_, rank, shared.slot, replica.slot};
      queue_[reached_++] = replica.rank;
      moved = move_along_chain(replica.rank) || moved;
    }
  }
  return moved;
}

// The mean of the ranks that the last search has reached is a bound.
bool ReplicaSplit::raise_bound() {
  double load = 0.0, speed = 0.0;
  for (const std::int32_t rank : std::span(queue_).first(reached_)) {
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
  std::ranges::fill(out, 0U);
  for (const Expert& expert : experts_) {
    const std::span<const Replica> replicas =
        std::span(replicas_).subspan(index(expert.first), index(expert.count));
    if (replicas.empty()) continue;
    double total = 0.0;
    for (const Replica& replica : replicas) total += amount_[index(replica.slot)];
    const auto even = kShareUnit / static_cast<std::uint32_t>(expert.count);
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
