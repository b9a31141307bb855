#pragma once
// The changes of one placement that the even search can make, what each wins and what each costs,
// and which wins most per move. Used by the even search only, on the balancer worker; pure.
// Scores whole columns of candidates first, then works out exactly those that may be best.

#include <cstdint>

#include <swiftbalancer/policy.hpp>

#include "planner/even_scan.hpp"
#include "planner/even_state.hpp"

namespace swiftbalancer {

enum class EvenChangeKind { kNone, kReplace, kSwap };

struct EvenChange {
  EvenChangeKind kind = EvenChangeKind::kNone;
  float gain = 0.0F;  ///< Weighted: per move.
  int place = -1;
  int other = -1;  ///< kReplace: the expert that comes; kSwap: the other place.
};

class EvenChanges {
 public:
  /// The shape and the spans of the problem must outlive it.
  explicit EvenChanges(const LayerProblem& problem);

  const EvenState& state() const noexcept { return state_; }
  float lower_bound() const noexcept { return bound_; }
  /// Candidates evaluated so far.
  std::int64_t work() const noexcept { return work_; }
  void add_work(std::int64_t candidates) noexcept { work_ += candidates; }

  /// Sorts the ranks by level. @returns the hottest.
  int sort_ranks() noexcept;
  /// The change of the hottest rank with most gain per move; kNone: all lose. After sort_ranks().
  EvenChange best_change(int hottest);
  void apply(const EvenChange& change);

  /// Takes an expert's replicas out of those that may be given up.
  void forbid(int expert) noexcept { tabu_[expert] = 1; }
  bool is_forbidden(int expert) const noexcept { return tabu_[expert] != 0; }

  /// Moves that the rank's change of an expert costs; < 0: it gives some back.
  int cost_of(int rank, int leaving, int coming) const noexcept;
  bool fits(int cost) const noexcept { return cost <= 0 || state_.moves() + cost <= max_moves_; }
  bool may_receive(int rank, int cost) const noexcept;
  bool has_most_replicas(int expert) const noexcept {
    return state_.count(expert) >= max_replicas_;
  }

 private:
  void lay_out(Arena& arena);
  void refresh_weight(int place) noexcept;
  bool may_change(int place) const noexcept;
  bool may_have_more(int expert) const noexcept;
  float fall_of(int expert) const noexcept;
  float rise_of(int expert) const noexcept;
  float gain_at(int rank, float change) const noexcept;
  float gain_of_change(int expert, float change) const noexcept;
  float excess_without(int place) const noexcept;

  void try_replacements(int hottest, EvenChange& best);
  void collect_victims(int hottest, float most_bonus, float least);
  void try_replacements_by(int expert, float bonus, EvenChange& best);
  void consider_replacement(int place, int expert, EvenChange& best) const;
  float gain_of_replacement(int place, int coming) const;

  void try_shedding(int hottest, EvenChange& best);
  void shed_for_sharer(int place, int rank, float most, EvenChange& best);
  void shed_for_comers(int place, float most, EvenChange& best);
  void collect_comers(int hottest);

  void try_swaps(int hottest, EvenChange& best);
  void try_swaps_with(int hottest, int rank, EvenChange& best);
  SwapPlaces places_of(int rank) const noexcept;
  void consider_swap(int place, int other, float weighted, EvenChange& best) const;

  EvenState state_;
  float bound_;  // where what a rank costs begins
  int max_moves_;
  int max_rank_moves_;  // < 0: any
  int max_replicas_;
  std::int64_t work_ = 0;
  Arena arena_;
  Victims victims_;
  Comers comers_;
  float* gains_;         // of the candidates of one scan
  float* weights_;       // [R][stride]: 1 / moves of taking the piece away, with another
  float* bonus_;         // [stride] of the hottest rank: what a further replica wins its holders
  float* excess_;        // [R] level above the bound
  float* cost_;          // [R] of that
  std::int32_t* order_;  // [R] by level
  std::uint8_t* tabu_;   // [E]
};

}  // namespace swiftbalancer
