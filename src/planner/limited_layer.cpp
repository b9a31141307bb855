#include "planner/limited_layer.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include <swiftbalancer/placement.hpp>

#include "core/index.hpp"

namespace swiftbalancer {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

}  // namespace

LimitedLayer::LimitedLayer(const LayerProblem& problem, std::span<const int> home_of_expert)
    : problem_(problem),
      shape_(*problem.shape),
      home_(home_of_expert.begin(), home_of_expert.end()),
      slowness_(index(shape_.num_ranks()), 1.0),
      node_speed_(index(shape_.num_nodes()), 0.0),
      max_replicas_(problem.max_replicas > 0 ? problem.max_replicas
                                             : std::numeric_limits<int>::max()),
      slots_of_(index(shape_.num_logical_experts())),
      held_(index(shape_.num_ranks()) * index(shape_.num_logical_experts()), 0),
      time_(index(shape_.num_ranks()), 0.0),
      delta_(index(shape_.num_ranks()), 0.0) {
  ranks_in_domain_.resize(index(num_domains()), 0);
  for (int rank = 0; rank < shape_.num_ranks(); ++rank) {
    const double speed = problem.rank_speed.empty() ? 1.0 : problem.rank_speed[index(rank)];
    slowness_[index(rank)] = 1.0 / speed;
    node_speed_[index(shape_.node_of_rank(rank))] += speed;
    ++ranks_in_domain_[index(domain_of_rank(rank))];
  }
}

int LimitedLayer::num_domains() const { return home_.empty() ? 1 : shape_.num_nodes(); }
int LimitedLayer::domain_of_rank(int rank) const {
  return home_.empty() ? 0 : shape_.node_of_rank(rank);
}
double LimitedLayer::load_of(std::int32_t expert) const {
  return static_cast<double>(problem_.load[index(expert)]);
}
int LimitedLayer::count(std::int32_t expert) const {
  return static_cast<int>(slots_of_[index(expert)].size());
}
double LimitedLayer::piece(std::int32_t expert) const { return load_of(expert) / count(expert); }
int& LimitedLayer::held(int rank, std::int32_t expert) {
  return held_[index(rank) * problem_.load.size() + index(expert)];
}
int LimitedLayer::held(int rank, std::int32_t expert) const {
  return held_[index(rank) * problem_.load.size() + index(expert)];
}
bool LimitedLayer::is_pinned(int slot) const {
  return !problem_.pinned.empty() && problem_.pinned[index(slot)] != 0;
}
bool LimitedLayer::may_enter(int rank, std::int32_t expert) const {
  return held(rank, expert) == 0 &&
         (home_.empty() || home_[index(expert)] == shape_.node_of_rank(rank));
}
bool LimitedLayer::is_foreign(int slot) const {
  return !home_.empty() &&
         home_[index(slots_[index(slot)])] != shape_.node_of_rank(shape_.rank_of_slot(slot));
}
int LimitedLayer::slowest_rank() const {
  return static_cast<int>(std::ranges::max_element(time_) - time_.begin());
}
double LimitedLayer::highest_time() const { return *std::ranges::max_element(time_); }

double LimitedLayer::cross_node_share() const {
  double outside = 0.0;
  for (int slot = 0; slot < shape_.num_slots(); ++slot) {
    if (is_foreign(slot)) outside += piece(slots_[index(slot)]);
  }
  double all = 0.0;
  for (std::int64_t tokens : problem_.load) all += static_cast<double>(tokens);
  return all > 0.0 ? outside / all : 0.0;
}

// From scratch, so that a time depends on the placement alone and not on how it was reached.
void LimitedLayer::recompute(int rank) {
  double load = 0.0;
  for (int slot = shape_.first_slot(rank); slot < shape_.first_slot(rank + 1); ++slot) {
    const std::int32_t expert = slots_[index(slot)];
    if (expert != kEmptySlot) load += piece(expert);
  }
  time_[index(rank)] = load * slowness_[index(rank)];
}

void LimitedLayer::assign(std::span<const std::int32_t> slots) {
  slots_.assign(slots.begin(), slots.end());
  for (auto& of_expert : slots_of_) of_expert.clear();
  std::ranges::fill(held_, 0);
  for (int slot = 0; slot < shape_.num_slots(); ++slot) {
    const std::int32_t expert = slots_[index(slot)];
    if (expert == kEmptySlot) continue;
    slots_of_[index(expert)].push_back(slot);
    ++held(shape_.rank_of_slot(slot), expert);
  }
  for (int rank = 0; rank < shape_.num_ranks(); ++rank) recompute(rank);
}

void LimitedLayer::set(int slot, std::int32_t expert) {
  const int rank = shape_.rank_of_slot(slot);
  const std::int32_t before = slots_[index(slot)];
  if (before != kEmptySlot) {
    count_leaving(rank, before);
    std::erase(slots_of_[index(before)], slot);
    --held(rank, before);
  }
  auto& of_expert = slots_of_[index(expert)];
  of_expert.insert(std::ranges::lower_bound(of_expert, slot), slot);
  count_arrival(rank, expert);
  ++held(rank, expert);
  slots_[index(slot)] = expert;
  if (before != kEmptySlot) {
    for (int other : slots_of_[index(before)]) recompute(shape_.rank_of_slot(other));
  }
  for (int other : of_expert) recompute(shape_.rank_of_slot(other));
}

bool LimitedLayer::build() {
  std::vector<std::int32_t> start(index(shape_.num_slots()), kEmptySlot);
  for (int slot = 0; slot < shape_.num_slots(); ++slot) {
    if (is_pinned(slot)) start[index(slot)] = problem_.placement[index(slot)];
  }
  assign(start);
  std::vector<int> replicas;
  if (!count_replicas(replicas)) return false;
  place(replicas);
  repair_duplicates();
  return true;
}

// How many slots each expert gets: the pinned ones, one at least, and the rest of each domain to
// whoever has most load per replica.
bool LimitedLayer::count_replicas(std::vector<int>& replicas) const {
  std::vector<int> free_slots(index(num_domains()), 0);
  for (int slot = 0; slot < shape_.num_slots(); ++slot)
    free_slots[index(domain_of_rank(shape_.rank_of_slot(slot)))] += is_pinned(slot) ? 0 : 1;
  for (std::int32_t expert = 0; expert < shape_.num_logical_experts(); ++expert) {
    replicas.push_back(count(expert));
    if (replicas.back() > 0) continue;
    replicas.back() = 1;
    --free_slots[home_.empty() ? 0 : index(home_[index(expert)])];
  }
  for (int domain = 0; domain < num_domains(); ++domain) {
    if (!add_replicas(domain, free_slots[index(domain)], replicas)) return false;
  }
  return true;
}

bool LimitedLayer::add_replicas(int domain, int free_slots, std::vector<int>& replicas) const {
  if (free_slots < 0) return false;
  for (; free_slots > 0; --free_slots) {
    // A replica on a rank of its own is worth more than any other.
    std::pair<bool, double> most{false, -1.0};
    std::int32_t chosen = -1;
    for (std::int32_t expert = 0; expert < shape_.num_logical_experts(); ++expert) {
      const int now = replicas[index(expert)];
      if ((!home_.empty() && home_[index(expert)] != domain) || now >= max_replicas_) continue;
      const std::pair value{now < ranks_in_domain_[index(domain)], load_of(expert) / now};
      if (value > most || (value == most && now < replicas[index(chosen)])) {
        most = value;
        chosen = expert;
      }
    }
    if (chosen < 0) return false;
    ++replicas[index(chosen)];
  }
  return true;
}

// Heaviest first, each to the rank with room that would be done first with it; a rank that holds
// the expert already only if no other has room.
void LimitedLayer::place(const std::vector<int>& replicas) {
  struct Item {
    double load;
    std::int32_t expert;
  };
  std::vector<Item> items;
  for (std::int32_t expert = 0; expert < shape_.num_logical_experts(); ++expert) {
    for (int i = count(expert); i < replicas[index(expert)]; ++i)
      items.push_back({load_of(expert) / replicas[index(expert)], expert});
  }
  std::ranges::stable_sort(items, [](const Item& a, const Item& b) { return a.load > b.load; });

  std::vector<double> load(index(shape_.num_ranks()), 0.0);
  std::vector<int> room(index(shape_.num_ranks()), 0);
  for (int slot = 0; slot < shape_.num_slots(); ++slot) {
    const auto rank = index(shape_.rank_of_slot(slot));
    const std::int32_t expert = slots_[index(slot)];
    if (expert == kEmptySlot) {
      ++room[rank];
    } else {
      load[rank] += load_of(expert) / replicas[index(expert)];
    }
  }
  std::vector<std::int32_t> placed = slots_;
  for (const Item& item : items) {
    std::pair<bool, double> least{true, kNever};
    int chosen = -1;
    for (int rank = 0; rank < shape_.num_ranks(); ++rank) {
      const bool here = home_.empty() || home_[index(item.expert)] == shape_.node_of_rank(rank);
      if (!here || room[index(rank)] == 0) continue;
      const std::pair value{held(rank, item.expert) > 0,
                            (load[index(rank)] + item.load) * slowness_[index(rank)]};
      if (chosen >= 0 && value >= least) continue;
      least = value;
      chosen = rank;
    }
    int slot = shape_.first_slot(chosen);
    while (placed[index(slot)] != kEmptySlot) ++slot;
    placed[index(slot)] = item.expert;
    ++held(chosen, item.expert);
    load[index(chosen)] += item.load;
    --room[index(chosen)];
  }
  assign(placed);
}

void LimitedLayer::repair_duplicates() {
  for (int slot = 0; slot < shape_.num_slots(); ++slot) {
    if (is_pinned(slot) || held(shape_.rank_of_slot(slot), slots_[index(slot)]) < 2) continue;
    if (!swap_duplicate_away(slot)) replace_duplicate(slot);
  }
}

bool LimitedLayer::swap_duplicate_away(int slot) {
  const int rank = shape_.rank_of_slot(slot);
  const std::int32_t expert = slots_[index(slot)];
  int best = -1;
  double best_time = kNever;
  for (int other = 0; other < shape_.num_slots(); ++other) {
    const int other_rank = shape_.rank_of_slot(other);
    const std::int32_t other_expert = slots_[index(other)];
    if (is_pinned(other) || domain_of_rank(other_rank) != domain_of_rank(rank)) continue;
    if (held(other_rank, expert) > 0 || held(rank, other_expert) > 0) continue;
    const double change = piece(other_expert) - piece(expert);
    const double time = std::max(time_[index(rank)] + change * slowness_[index(rank)],
                                 time_[index(other_rank)] - change * slowness_[index(other_rank)]);
    if (time >= best_time) continue;
    best = other;
    best_time = time;
  }
  if (best < 0) return false;
  const std::int32_t other_expert = slots_[index(best)];
  set(slot, other_expert);
  set(best, expert);
  return true;
}

void LimitedLayer::replace_duplicate(int slot) {
  const int rank = shape_.rank_of_slot(slot);
  std::int32_t best = -1;
  for (std::int32_t expert = 0; expert < shape_.num_logical_experts(); ++expert) {
    if (!may_enter(rank, expert) || count(expert) >= max_replicas_) continue;
    if (best < 0 || piece(expert) > piece(best)) best = expert;
  }
  if (best >= 0) set(slot, best);
}

}  // namespace swiftbalancer
