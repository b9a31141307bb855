#include "planner/swift_search.hpp"

#include <algorithm>
#include <array>
#include <limits>

#include "core/index.hpp"
#include "planner/split.hpp"
#include "planner/swift_state.hpp"

namespace swiftbalancer {
namespace {

// Above the lower bound, as a part of it: so many prices of a move. A finer balance would be paid
// with moves that the plan then does without.
constexpr double kToleratedMoves = 2.5;
constexpr double kLeastTolerance = 0.002;
constexpr double kMostTolerance = 0.005;
constexpr int kShortlist = 8;  // Slots to give away that are tried exactly.
constexpr int kKicks = 6;      // Changes against the gain when stuck.
constexpr int kStartSweeps = 6;
constexpr int kStepSweeps = 1;
constexpr std::int64_t kDefaultWork = 400'000;
constexpr int kMaxSteps = 400;
constexpr double kLeastGain = 1e-9;  // Less is rounding.

double square_above(double load, double target) {
  const double above = load - target;
  return above > 0.0 ? above * above : 0.0;
}

enum class Kind { kNone, kReplace, kSwap };

struct Change {
  Kind kind = Kind::kNone;
  double gain = 0.0;  // weighted
  int slot = -1;      // replace: the slot given away; swap: on the hottest rank
  int other = -1;     // replace: the expert that comes; swap: the other slot
};

// Of a gain by the moves that it costs: one that only goes elsewhere than before costs none.
double weight_of(int cost) { return cost <= 0 ? 2.0 : cost == 1 ? 1.0 : 0.5; }

struct Victim {
  double score = 0.0;
  int slot = -1;
};

class Search {
 public:
  Search(const LayerProblem& problem, double served_imbalance)
      : problem_(problem),
        state_(problem),
        split_(*problem.shape),
        load_(problem.load.begin(), problem.load.end()),
        max_moves_(problem.max_moves < 0 ? std::numeric_limits<int>::max() : problem.max_moves),
        max_work_(problem.max_work < 0 ? kDefaultWork : problem.max_work),
        best_value_(served_imbalance),
        tabu_(problem.load.size(), 0) {}

  SearchResult run() {
    state_.level(kStartSweeps);
    repair_duplicates();
    keep_if_best(true);
    target_ = state_.lower_bound() * (1.0 + std::clamp(kToleratedMoves * problem_.min_gain,
                                                       kLeastTolerance, kMostTolerance));
    int kicks = 0;
    for (int step = 0; step < kMaxSteps && state_.mean() > 0.0 && work_ < max_work_; ++step) {
      const int hottest = state_.hottest_rank();
      if (imbalance_ * state_.mean() <= target_ || !can_improve()) break;
      const Change change = best_change(hottest);
      if (change.kind == Kind::kReplace) {
        state_.replace(change.slot, change.other);
      } else if (change.kind == Kind::kSwap) {
        state_.swap(change.slot, change.other);
      } else if (kicks++ == kKicks || !kick(hottest)) {
        break;
      }
      state_.level(kStepSweeps);
      keep_if_best(false);
    }
    result_.work = work_;
    return std::move(result_);
  }

 private:
  bool may_move(int moves) const { return moves <= max_moves_ - state_.moves(); }

  // Even the target, reached by one move more, would have to beat the best point.
  bool can_improve() const {
    return target_ / state_.mean() + problem_.min_gain * (state_.moves() + 1) < best_value_;
  }

  // A slot that repeats an expert of its rank is wasted: it takes the expert with the heaviest
  // pieces that the rank lacks.
  void repair_duplicates() {
    for (int slot = 0; slot < state_.shape().num_slots(); ++slot) {
      if (!state_.is_spare(slot) || !may_move(1)) continue;
      const int rank = state_.shape().rank_of_slot(slot);
      int best = -1;
      const auto piece = [&](int expert) {
        return state_.load_of(expert) / state_.replicas(expert);
      };
      for (int expert = 0; expert < state_.shape().num_logical_experts(); ++expert) {
        if (state_.holds(rank, expert)) continue;
        if (best < 0 || piece(expert) > piece(best)) best = expert;
      }
      if (best < 0) continue;
      state_.replace(slot, best);
      repaired_ = true;
    }
    if (repaired_) state_.level(kStartSweeps);
  }

  Change best_change(int hottest) {
    Change best{Kind::kNone, state_.mean() * state_.mean() * 1e-8, -1, -1};
    try_replacements(hottest, best);
    try_swaps(hottest, best);
    return best;
  }

  // The most that a change of the rank's slots weighs.
  double weight_at(int rank) const { return weight_of(state_.received(rank) > 0 ? 0 : 1); }

  // Gives a redundant slot of another rank to an expert of the hottest one. Levelled splits make
  // two published kinds of step one: a redundant replica on the hottest rank already carries as
  // little as its other replicas allow.
  void try_replacements(int hottest, Change& best) {
    const ClusterShape& shape = state_.shape();
    const double excess = state_.rank_load(hottest) - target_;
    double heaviest = 0.0;
    for (int slot = shape.first_slot(hottest); slot < shape.first_slot(hottest + 1); ++slot) {
      heaviest = std::max(heaviest, state_.amount_at(slot));
    }
    std::array<Victim, kShortlist> shortlist;
    for (int slot = 0; slot < shape.num_slots(); ++slot) {
      const int rank = shape.rank_of_slot(slot);
      if (rank == hottest ||
          (!state_.is_spare(slot) && state_.replicas(state_.expert_at(slot)) < 2))
        continue;
      const double room = target_ - (state_.rank_load(rank) - state_.amount_at(slot));
      const double taken = std::min({excess, std::max(room, 0.0), heaviest});
      const double bound = excess * excess - (excess - taken) * (excess - taken);
      if (bound <= shortlist.back().score || bound * weight_at(rank) <= best.gain) continue;
      Victim victim{bound + std::min(0.0, state_.gain_of_replace(slot, -1, target_)), slot};
      ++work_;
      for (Victim& listed : shortlist) {
        if (victim.score > listed.score) std::swap(victim, listed);
      }
    }
    for (const Victim& victim : shortlist) {
      if (victim.slot >= 0) try_experts_of(hottest, victim.slot, best);
    }
  }

  void try_experts_of(int hottest, int victim, Change& best) {
    const ClusterShape& shape = state_.shape();
    for (int slot = shape.first_slot(hottest); slot < shape.first_slot(hottest + 1); ++slot) {
      const int expert = state_.expert_at(slot);
      if (state_.amount_at(slot) <= 0.0 || state_.holds(shape.rank_of_slot(victim), expert))
        continue;
      const int cost = state_.cost_of(victim, expert);
      if (!may_move(cost)) continue;
      ++work_;
      const double gain = state_.gain_of_replace(victim, expert, target_) * weight_of(cost);
      if (gain > best.gain) best = {Kind::kReplace, gain, victim, expert};
    }
  }

  void try_swaps(int hottest, Change& best) {
    const ClusterShape& shape = state_.shape();
    const double hot = state_.rank_load(hottest);
    for (int rank = 0; rank < shape.num_ranks(); ++rank) {
      const double load = state_.rank_load(rank);
      const double before = square_above(hot, target_) + square_above(load, target_);
      const double most = 0.5 * weight_at(hottest) * weight_at(rank) *
                          (before - 2.0 * square_above(0.5 * (hot + load), target_));
      if (rank == hottest || most <= best.gain) continue;
      for (int slot = shape.first_slot(hottest); slot < shape.first_slot(hottest + 1); ++slot) {
        if (state_.is_spare(slot) || state_.holds(rank, state_.expert_at(slot))) continue;
        work_ += shape.slots_per_rank(rank);
        for (int other = shape.first_slot(rank); other < shape.first_slot(rank + 1); ++other) {
          const double shift = state_.amount_at(slot) - state_.amount_at(other);
          if (shift <= 0.0) continue;
          const double after =
              square_above(hot - shift, target_) + square_above(load + shift, target_);
          if (2.0 * (before - after) <= best.gain || state_.is_spare(other)) continue;
          const int expert = state_.expert_at(slot), other_expert = state_.expert_at(other);
          const int cost = state_.cost_of(slot, other_expert) + state_.cost_of(other, expert);
          const double gain = weight_of(cost) * (before - after);
          if (gain <= best.gain || !may_move(cost) || state_.holds(hottest, other_expert)) continue;
          best = {Kind::kSwap, gain, slot, other};
        }
      }
    }
  }

  // Stuck: the heaviest expert of the hottest rank gets the redundant slot that is cheapest to give
  // away, even at a loss; later steps repair the rest. Each expert at most once.
  bool kick(int hottest) {
    const ClusterShape& shape = state_.shape();
    if (!may_move(1)) return false;
    int expert = -1;
    for (int slot = shape.first_slot(hottest); slot < shape.first_slot(hottest + 1); ++slot) {
      const int candidate = state_.expert_at(slot);
      if (state_.is_spare(slot) || tabu_[index(candidate)] != 0) continue;
      if (expert < 0 || state_.load_of(candidate) * state_.replicas(expert) >
                            state_.load_of(expert) * state_.replicas(candidate)) {
        expert = candidate;
      }
    }
    if (expert < 0) return false;
    tabu_[index(expert)] = 1;
    int cheapest = -1;
    double lowest = std::numeric_limits<double>::infinity();
    for (int slot = 0; slot < shape.num_slots(); ++slot) {
      const int rank = shape.rank_of_slot(slot), held = state_.expert_at(slot);
      if (rank == hottest || state_.holds(rank, expert) || held == expert ||
          tabu_[index(held)] != 0)
        continue;
      if (!state_.is_spare(slot) && state_.replicas(held) < 2) continue;
      ++work_;
      const double left =
          state_.is_spare(slot) ? 0.0 : state_.load_of(held) / (state_.replicas(held) - 1);
      const double cost =
          left + 0.5 * (state_.rank_load(rank) - state_.amount_at(slot) - state_.mean());
      if (cost < lowest) {
        lowest = cost;
        cheapest = slot;
      }
    }
    if (cheapest < 0) return false;
    state_.replace(cheapest, expert);
    return true;
  }

  // Of the placement as it is now, under the best shares.
  double imbalance() {
    return state_.mean() > 0.0 ? split_.level(state_.slots(), load_) / state_.mean() : 1.0;
  }

  // The value of a point is its imbalance plus the price of its moves. The first point costs
  // nothing to reach except where it had to repair duplicates, which is not optional; better shares
  // alone must be worth as much as one move.
  void keep_if_best(bool first) {
    imbalance_ = imbalance();
    const TradeOff point{state_.moves(), imbalance_};
    std::vector<TradeOff>& curve = result_.trade_offs;
    if (curve.empty() || point.imbalance < curve.back().imbalance - kLeastGain) {
      while (!curve.empty() && curve.back().moves >= point.moves) curve.pop_back();
      curve.push_back(point);
    }
    const double value = point.imbalance + problem_.min_gain * point.moves;
    const bool no_moves = first && !repaired_;
    const double needed = no_moves ? std::max(problem_.min_gain, 1e-3) : kLeastGain;
    const bool forced = first && repaired_;
    if (!forced && value >= best_value_ - needed) return;
    best_value_ = value;
    result_.slots.assign(state_.slots().begin(), state_.slots().end());
  }

  const LayerProblem& problem_;
  SwiftState state_;
  ReplicaSplit split_;
  std::vector<double> load_;
  int max_moves_;
  std::int64_t max_work_;
  double best_value_;
  double target_ = 0.0;
  double imbalance_ = 1.0;  // of the last point
  std::int64_t work_ = 0;
  bool repaired_ = false;
  std::vector<std::uint8_t> tabu_;
  SearchResult result_;
};

}  // namespace

SearchResult search_placement(const LayerProblem& problem, double served_imbalance) {
  return Search(problem, served_imbalance).run();
}

}  // namespace swiftbalancer
