#include "migration/unit_split.hpp"

#include <algorithm>
#include <numeric>
#include <tuple>

#include "migration/copy_rules.hpp"
#include "migration/index.hpp"

namespace swiftbalancer {
namespace {

constexpr int kNone = -1;

}  // namespace

// A copy reads one slot, and one copy at most overwrites that slot. So each copy must come no later
// than at most one other, its successor, and the copies form chains that join and end, or end in a
// cycle.
class UnitSplit::Search {
 public:
  Search(std::vector<ExpertCopy> copies, std::span<const std::int32_t> before,
         const ClusterShape& shape, int capacity)
      : copies_(std::move(copies)),
        before_(before),
        shape_(shape),
        capacity_(capacity),
        overwriter_(index(shape.num_slots()), kNone) {
    for (int k = 0; k < num_copies(); ++k) overwriter_[index(copy(k).destination_slot)] = k;
  }

  bool settle_cycles() {
    group_of_.assign(copies_.size(), kNone);
    for (const std::vector<int>& cycle : find_cycles()) {
      if (fits_one_unit(cycle)) {
        for (int k : cycle) group_of_[index(k)] = static_cast<int>(groups_.size());
        groups_.push_back(cycle);
      } else if (!break_cycle(cycle)) {
        return false;
      }
    }
    for (int k = 0; k < num_copies(); ++k) {
      if (group_of_[index(k)] != kNone) continue;
      group_of_[index(k)] = static_cast<int>(groups_.size());
      groups_.push_back({k});
    }
    return true;
  }

  void order_groups() {
    readers_left_.assign(groups_.size(), 0);
    for (int k = 0; k < num_copies(); ++k) {
      if (const int next = successor_group(k); next != kNone) ++readers_left_[index(next)];
    }
    todo_ = longest_chain_first();
  }

  // One pass in the order of todo_ finds everything that fits, because readers stand before what
  // they hold back.
  bool fill_unit() {
    if (todo_.empty()) return true;
    std::vector<ExpertCopy>& unit = units_.emplace_back();
    std::vector<int> room(index(shape_.num_ranks()), capacity_);
    std::erase_if(todo_, [&](int group) {
      if (!CopyRules{}.may_overwrite(readers_left_[index(group)]) || !take_room(group, room))
        return false;
      for (int k : groups_[index(group)]) {
        unit.push_back(copy(k));
        if (const int next = successor_group(k); next != kNone) --readers_left_[index(next)];
      }
      return true;
    });
    std::sort(unit.begin(), unit.end(), [](const ExpertCopy& a, const ExpertCopy& b) {
      return a.destination_slot < b.destination_slot;
    });
    return todo_.empty();
  }

  std::vector<std::vector<ExpertCopy>> take_units() noexcept { return std::move(units_); }

 private:
  int num_copies() const { return static_cast<int>(copies_.size()); }
  const ExpertCopy& copy(int k) const { return copies_[index(k)]; }
  int destination_rank(int k) const { return shape_.rank_of_slot(copy(k).destination_slot); }
  int successor(int k) const { return overwriter_[index(copy(k).source_slot)]; }
  int successor_group(int k) const {
    const int next = successor(k);
    if (next == kNone || group_of_[index(next)] == group_of_[index(k)]) return kNone;
    return group_of_[index(next)];
  }

  std::vector<std::vector<int>> find_cycles() const {
    std::vector<std::vector<int>> cycles;
    std::vector<int> seen_by(copies_.size(), kNone);  // the walk that came here first
    for (int start = 0; start < num_copies(); ++start) {
      int k = start;
      while (k != kNone && seen_by[index(k)] == kNone) {
        seen_by[index(k)] = start;
        k = successor(k);
      }
      if (k == kNone || seen_by[index(k)] != start) continue;
      std::vector<int>& cycle = cycles.emplace_back();
      for (int member = k; cycle.empty() || member != k; member = successor(member)) {
        cycle.push_back(member);
      }
    }
    return cycles;
  }

  bool fits_one_unit(const std::vector<int>& cycle) const {
    std::vector<int> arrivals(index(shape_.num_ranks()), 0);
    return std::all_of(cycle.begin(), cycle.end(),
                       [&](int k) { return ++arrivals[index(destination_rank(k))] <= capacity_; });
  }

  bool break_cycle(const std::vector<int>& cycle) {
    for (int k : cycle) {
      const int source = nearest_source_outside(k);
      if (source == kNone) continue;
      copies_[index(k)].source_slot = source;
      return true;
    }
    return false;
  }

  // A holder that copy k may read without ending in a cycle; one that stays as it is before one
  // that is overwritten.
  int nearest_source_outside(int k) const {
    const int rank = destination_rank(k);
    int best = kNone;
    std::tuple<bool, bool, bool> best_cost;
    for (int slot = 0; slot < shape_.num_slots(); ++slot) {
      if (before_[index(slot)] != copy(k).logical_id || leads_to(overwriter_[index(slot)], k))
        continue;
      const int owner = shape_.rank_of_slot(slot);
      const std::tuple cost{overwriter_[index(slot)] != kNone, owner != rank,
                            shape_.node_of_rank(owner) != shape_.node_of_rank(rank)};
      if (best == kNone || cost < best_cost) {
        best = slot;
        best_cost = cost;
      }
    }
    return best;
  }

  bool leads_to(int from, int k) const {
    for (int steps = 0; from != kNone && steps <= num_copies(); ++steps) {
      if (from == k) return true;
      from = successor(from);
    }
    return false;
  }

  bool take_room(int group, std::vector<int>& room) const {
    const std::vector<int>& members = groups_[index(group)];
    std::size_t taken = 0;
    while (taken < members.size() && room[index(destination_rank(members[taken]))] > 0) {
      --room[index(destination_rank(members[taken++]))];
    }
    if (taken == members.size()) return true;
    while (taken > 0) ++room[index(destination_rank(members[--taken]))];
    return false;
  }

  std::vector<int> longest_chain_first() const {
    std::vector<int> chain(groups_.size(),
                           kNone);  // groups that wait, one behind the other, for this one
    for (int group = 0; group < static_cast<int>(groups_.size()); ++group) {
      std::vector<int> path;
      for (int g = group; g != kNone && chain[index(g)] == kNone;
           g = successor_group(groups_[index(g)].front())) {
        path.push_back(g);
      }
      for (auto g = path.rbegin(); g != path.rend(); ++g) {
        const int next = successor_group(groups_[index(*g)].front());
        chain[index(*g)] = next == kNone ? 0 : chain[index(next)] + 1;
      }
    }
    std::vector<int> order(groups_.size());
    std::iota(order.begin(), order.end(), 0);
    const auto first_slot = [&](int g) { return copy(groups_[index(g)].front()).destination_slot; };
    std::sort(order.begin(), order.end(), [&](int a, int b) {
      return std::tuple{-chain[index(a)], first_slot(a)} <
             std::tuple{-chain[index(b)], first_slot(b)};
    });
    return order;
  }

  std::vector<ExpertCopy> copies_;
  std::span<const std::int32_t> before_;
  const ClusterShape& shape_;
  int capacity_;
  std::vector<int> overwriter_;           // [num_slots] the copy that overwrites a slot
  std::vector<std::vector<int>> groups_;  // copies that share a unit
  std::vector<int> group_of_;             // [copies]
  std::vector<int> todo_;                 // groups that no unit has yet, longest chain first
  std::vector<int> readers_left_;         // [groups] copies of todo_ that must not come later
  std::vector<std::vector<ExpertCopy>> units_;
};

UnitSplit::UnitSplit(std::vector<ExpertCopy> copies, std::span<const std::int32_t> before,
                     const ClusterShape& shape, int capacity)
    : search_(std::make_unique<Search>(std::move(copies), before, shape, capacity)),
      is_possible_(search_->settle_cycles()) {
  if (is_possible_) search_->order_groups();
}

UnitSplit::~UnitSplit() = default;

bool UnitSplit::is_possible() const noexcept { return is_possible_; }

bool UnitSplit::advance() { return search_->fill_unit(); }

std::vector<std::vector<ExpertCopy>> UnitSplit::take() {
  auto units = search_->take_units();
  return units;
}

}  // namespace swiftbalancer
