#include "planner/even_search.hpp"

#include <algorithm>
#include <utility>

#include "planner/even_changes.hpp"
#include "planner/even_state.hpp"

namespace swiftbalancer {
namespace {

constexpr float kLighter = 0.95F;         // What a kick gives up must be so much lighter.
constexpr double kRounding = 1.0 + 1e-6;  // Of a level, a sum in single precision.
constexpr int kEvenKicks = 6;
constexpr int kMaxEvenSteps = 400;
constexpr std::int64_t kDefaultEvenWork = 1'000'000;

class EvenSearch {
 public:
  EvenSearch(const LayerProblem& problem, double reachable)
      : changes_(problem),
        state_(changes_.state()),
        target_(
            std::min(changes_.lower_bound() * tolerance(*problem.shape),
                     std::max(changes_.lower_bound(), static_cast<float>(reachable * kRounding)))),
        max_work_(problem.max_work < 0 ? kDefaultEvenWork : problem.max_work) {}

  EvenPath run() {
    repair_duplicates();
    int kicks = 0;
    for (int step = 0; step < kMaxEvenSteps && changes_.work() < max_work_; ++step) {
      const int hottest = changes_.sort_ranks();
      keep_if_better(state_.level(hottest));
      if (state_.num_ranks() < 2 || state_.level(hottest) <= target_ ||
          (state_.moves() == 0 && !changes_.fits(1)))
        break;
      const EvenChange change = changes_.best_change(hottest);
      if (change.kind != EvenChangeKind::kNone) {
        changes_.apply(change);
      } else if (!changes_.fits(1) || kicks++ == kEvenKicks || !kick(hottest)) {
        break;
      }
    }
    path_.work = changes_.work();
    if (!path_.points.empty()) path_.writes = state_.writes(path_.points.back().num_writes);
    return std::move(path_);
  }

 private:
  // Where EPLB gets closer to the bound, with many slots a rank, so must this.
  static float tolerance(const ClusterShape& shape) {
    const float slots =
        static_cast<float>(shape.num_slots()) / static_cast<float>(shape.num_ranks());
    return 1.0F + std::clamp(0.015F / slots, 0.0005F, 0.005F);
  }

  void keep_if_better(float level) {
    if (!path_.points.empty() && level >= path_.points.back().imbalance - 1e-6) return;
    path_.points.push_back({state_.moves(), level, state_.num_writes()});
  }

  void repair_duplicates() {
    for (int rank = 0; rank < state_.num_ranks(); ++rank) {
      for (int place = state_.first_place(rank); place < state_.end_place(rank); ++place) {
        const int expert = state_.expert_at(place);
        if (state_.count(expert) < 2 || state_.place_of(rank, expert) == place ||
            !changes_.fits(1) || !changes_.may_receive(rank, 1) || state_.is_pinned(place))
          continue;
        int best = -1;
        for (int other = 0; other < state_.num_experts(); ++other) {
          if (state_.holds(rank, other) || changes_.has_most_replicas(other)) continue;
          if (best < 0 || state_.piece(other) > state_.piece(best)) best = other;
        }
        if (best < 0) continue;
        changes_.apply({EvenChangeKind::kReplace, 0.0F, place, best});
      }
    }
  }

  // Stuck: the heaviest piece of the hottest rank gets the redundant slot that is cheapest to give
  // away, even at a loss; later steps repair the rest. Each expert at most once.
  bool kick(int hottest) {
    int expert = -1;
    for (int place = state_.first_place(hottest); place < state_.end_place(hottest); ++place) {
      const int candidate = state_.expert_at(place);
      if (changes_.is_forbidden(candidate) || changes_.has_most_replicas(candidate)) continue;
      if (expert < 0 || state_.piece(candidate) > state_.piece(expert)) expert = candidate;
    }
    if (expert < 0) return false;
    changes_.forbid(expert);
    int best_place = -1;
    float lowest = kLighter * state_.piece(expert);
    for (const std::int32_t held : state_.replicated()) {
      if (held == expert || changes_.is_forbidden(held)) continue;
      const float rest = state_.piece_with(held, state_.count(held) - 1);
      if (rest >= kLighter * state_.piece(expert)) continue;
      for (int place = state_.first_holder(held); place >= 0; place = state_.next_holder(place)) {
        const int rank = state_.rank_of(place);
        if (rank == hottest || state_.holds(rank, expert)) continue;
        changes_.add_work(1);
        const float piece = state_.piece(held) * state_.slowness(rank);
        const float cost = rest + 0.5F * (state_.level(rank) - piece - 1.0F);
        const int moves = changes_.cost_of(rank, held, expert);
        if (cost >= lowest || !changes_.fits(moves) || !changes_.may_receive(rank, moves) ||
            state_.is_pinned(place))
          continue;
        lowest = cost;
        best_place = place;
      }
    }
    if (best_place < 0) return true;  // Tabu now: the next kick tries another expert.
    changes_.apply({EvenChangeKind::kReplace, 0.0F, best_place, expert});
    return true;
  }

  EvenChanges changes_;
  const EvenState& state_;
  float target_;  // where the search ends
  std::int64_t max_work_;
  EvenPath path_;
};

}  // namespace

std::vector<std::int32_t> EvenPath::slots(const PathPoint& point,
                                          std::span<const std::int32_t> start) const {
  std::vector<std::int32_t> result(start.begin(), start.end());
  for (std::size_t i = 0; i < point.num_writes; ++i)
    result[static_cast<std::size_t>(writes[i].slot)] = writes[i].expert;
  return result;
}

EvenPath search_even(const LayerProblem& problem, double reachable) {
  return EvenSearch(problem, reachable).run();
}

}  // namespace swiftbalancer
