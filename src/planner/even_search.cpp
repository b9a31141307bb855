#include "planner/even_search.hpp"

#include <algorithm>
#include <limits>

#include "planner/even_scan.hpp"
#include "planner/even_state.hpp"

namespace swiftbalancer {
namespace {

constexpr float kFreeWeight = 2.0F;   // Of a gain that costs no move; 1 for one move, 1/2 for two.
constexpr float kShedWeight = 0.25F;  // It wastes redundancy.
constexpr float kLighter = 0.95F;     // What a kick gives up must be so much lighter.
constexpr int kKicks = 6;
constexpr int kMaxSteps = 400;
constexpr std::int64_t kDefaultWork = 1'000'000;
constexpr int kDip = 2;  // Moves above the budget that the path may take back.

float weight_of(int cost) { return cost <= 0 ? kFreeWeight : cost == 1 ? 1.0F : 0.5F; }

enum class Kind { kNone, kReplace, kSwap };

struct Change {
  Kind kind = Kind::kNone;
  float gain = 0.0F;  // weighted
  int rank = -1, expert = -1;
  int other_rank = -1, other_expert = -1;  // kReplace: the expert that comes
};

class Search {
 public:
  explicit Search(const LayerProblem& problem)
      : problem_(problem),
        state_(problem),
        target_(state_.lower_bound() * tolerance(*problem.shape)),
        max_work_(problem.max_work < 0 ? kDefaultWork : problem.max_work),
        max_replicas_(problem.max_replicas > 0 ? problem.max_replicas
                                               : std::numeric_limits<int>::max()),
        tabu_(problem.load.size(), 0) {
    const auto slots = static_cast<std::size_t>(problem.shape->num_slots());
    victims_.resize(slots);
    gains_.resize(victims_.given.size());
    weights_.assign(
        static_cast<std::size_t>(state_.places()) * static_cast<std::size_t>(state_.num_ranks()),
        0.5F);
    for (int rank = 0; rank < state_.num_ranks(); ++rank) refresh_weights(rank);
  }

  EvenPath run() {
    const int budget =
        problem_.max_moves < 0 ? std::numeric_limits<int>::max() / 2 : problem_.max_moves;
    limit_ = budget;
    repair_duplicates();
    limit_ = std::numeric_limits<int>::max() / 2;
    follow(budget);
    if (most_ > budget && !path_.points.empty() && path_.points.back().moves < budget) {
      limit_ = budget;
      std::fill(tabu_.begin(), tabu_.end(), 0);
      state_.restore(best_raw_);
      for (int rank = 0; rank < state_.num_ranks(); ++rank) refresh_weights(rank);
      follow(budget);
    }
    path_.work = work_;
    return std::move(path_);
  }

 private:
  // Where EPLB gets closer to the bound, with many slots a rank, so must this.
  static float tolerance(const ClusterShape& shape) {
    const float slots =
        static_cast<float>(shape.num_slots()) / static_cast<float>(shape.num_ranks());
    return 1.0F + std::clamp(0.015F / slots, 0.0005F, 0.005F);
  }

  bool fits(int cost) const { return state_.moves() + cost <= limit_; }

  void follow(int budget) {
    int kicks = 0;
    for (int step = 0; step < kMaxSteps && work_ < max_work_; ++step) {
      const int hottest = state_.hottest_rank();
      keep_if_better(budget, state_.level(hottest));
      most_ = std::max(most_, state_.moves());
      if (state_.level(hottest) <= target_ || state_.moves() > budget + kDip) break;
      if (state_.moves() >= limit_) break;

      const Change change = best_change(hottest);
      if (change.kind != Kind::kNone) {
        apply(change);
      } else if (kicks++ == kKicks || !kick(hottest)) {
        break;
      }
    }
  }

  void keep_if_better(int budget, float level) {
    if (state_.moves() > budget) return;
    if (!path_.points.empty() && level >= path_.points.back().imbalance - 1e-6) return;
    path_.points.push_back({state_.moves(), level, state_.slots()});
    best_raw_ = state_.raw();
  }

  void apply(const Change& change) {
    const int place = state_.place_of(change.rank, change.expert);
    if (change.kind == Kind::kReplace) {
      state_.replace(change.rank, place, change.other_expert);
    } else {
      state_.swap(change.rank, place, change.other_rank,
                  state_.place_of(change.other_rank, change.other_expert));
      refresh_weights(change.other_rank);
    }
    refresh_weights(change.rank);
  }

  void refresh_weights(int rank) {
    for (int place = 0; place < state_.num_slots(rank); ++place) {
      weights_[static_cast<std::size_t>(rank * state_.places() + place)] =
          state_.is_home(rank, state_.expert_at(rank, place)) ? 0.5F : 1.0F;
    }
  }

  // Moves that the rank's change of an expert costs.
  int cost_of(int rank, int leaving, int coming) const {
    return (state_.is_home(rank, coming) ? 0 : 1) - (state_.is_home(rank, leaving) ? 0 : 1);
  }

  bool may_receive(int rank, int cost) const {
    return problem_.max_rank_moves < 0 || cost <= 0 ||
           state_.received(rank) + cost <= problem_.max_rank_moves;
  }

  bool is_pinned(int rank, int expert) const {
    return !problem_.pinned.empty() && state_.is_pinned(rank, state_.place_of(rank, expert));
  }

  void repair_duplicates() {
    for (int rank = 0; rank < state_.num_ranks(); ++rank) {
      for (int place = 1; place < state_.num_slots(rank); ++place) {
        const int expert = state_.expert_at(rank, place);
        if (state_.place_of(rank, expert) == place || !fits(1) || !may_receive(rank, 1) ||
            state_.is_pinned(rank, place))
          continue;
        int best = -1;
        for (int other = 0; other < state_.num_experts(); ++other) {
          if (state_.holds(rank, other) || state_.count(other) >= max_replicas_) continue;
          if (best < 0 || state_.piece(other) > state_.piece(best)) best = other;
        }
        if (best < 0) continue;
        state_.replace(rank, place, best);
      }
      refresh_weights(rank);
    }
    most_ = state_.moves();
  }

  Change best_change(int hottest) {
    Change best;
    best.gain = 1e-8F;
    try_replacements(hottest, best);
    try_swaps(hottest, best);
    if (best.kind == Kind::kNone) try_shedding(hottest, best);
    return best;
  }

  // Sums over the ranks that hold an expert.
  struct Holders {
    float level = 0.0F;
    float slow = 0.0F;
  };
  Holders holders_of(int expert) const {
    return {state_.holder_level(expert), state_.holder_slowness(expert)};
  }

  // What a change of every holder's piece wins: each rank's load^2 / speed changes by
  // 2 * level * change + change^2 / speed.
  static float gain_of_change(const Holders& holders, float change) {
    return -change * (2.0F * holders.level + change * holders.slow);
  }

  void collect_victims(int hottest) {
    victims_.size = 0;
    for (const std::int32_t expert : state_.replicated()) {
      if (tabu_[static_cast<std::size_t>(expert)] != 0) continue;
      const float piece = state_.piece(expert);
      const float rise = state_.piece_with(expert, state_.count(expert) - 1) - piece;
      const Holders all = holders_of(expert);
      state_.for_holders(expert, [&](int rank) {
        if (rank == hottest) return;
        const float level = state_.level(rank), slow = state_.slowness(rank);
        const std::size_t v = victims_.size++;
        victims_.rank[v] = rank;
        victims_.expert[v] = expert;
        victims_.given[v] = gain_of_change({all.level - level, all.slow - slow}, rise) +
                            piece * (2.0F * level - piece * slow);
        victims_.taken[v] = 2.0F * (level - piece * slow);
        victims_.slow[v] = slow;
        victims_.weight[v] = state_.is_home(rank, expert) ? 1.0F : kFreeWeight;
      });
    }
    victims_.pad();
  }

  void try_replacements(int hottest, Change& best) {
    collect_victims(hottest);
    if (victims_.size == 0) return;
    const float* pieces = state_.pieces(hottest);
    const int heaviest =
        static_cast<int>(std::max_element(pieces, pieces + state_.num_slots(hottest)) - pieces);
    try_replacements_by(state_.expert_at(hottest, heaviest), best);
    for (int place = 0; place < state_.num_slots(hottest); ++place) {
      if (place != heaviest) try_replacements_by(state_.expert_at(hottest, place), best);
    }
  }

  void try_replacements_by(int expert, Change& best) {
    const int count = state_.count(expert);
    if (count >= max_replicas_ || count >= state_.num_ranks()) return;
    const float piece = state_.piece_with(expert, count + 1);
    const float bonus = gain_of_change(holders_of(expert), piece - state_.piece(expert));
    work_ += static_cast<std::int64_t>(victims_.size);
    float most = score_victims(victims_, piece, bonus, gains_.data());
    const auto last = gains_.begin() + static_cast<std::ptrdiff_t>(victims_.size);
    while (most > best.gain) {
      const auto v = std::find(gains_.begin(), last, most);
      consider_replacement(static_cast<std::size_t>(v - gains_.begin()), expert, best);
      *v = -std::numeric_limits<float>::infinity();
      if (most <= best.gain) break;
      most = *std::max_element(gains_.begin(), last);
    }
  }

  void consider_replacement(std::size_t v, int expert, Change& best) {
    const int rank = victims_.rank[v], leaving = victims_.expert[v];
    if (state_.holds(rank, expert)) return;
    const int cost = cost_of(rank, leaving, expert);
    if (!fits(cost) || !may_receive(rank, cost) || is_pinned(rank, leaving)) return;
    const float gain = gain_of_replacement(rank, leaving, expert) * weight_of(cost);
    if (gain > best.gain) best = {Kind::kReplace, gain, rank, leaving, -1, expert};
  }

  float gain_of_replacement(int rank, int leaving, int coming) const {
    const float piece = state_.piece_with(coming, state_.count(coming) + 1);
    const float rise =
        state_.piece_with(leaving, state_.count(leaving) - 1) - state_.piece(leaving);
    const float fall = state_.piece(coming) - piece;
    const float change = piece - state_.piece(leaving);
    const float level = state_.level(rank), slow = state_.slowness(rank);
    const Holders left = holders_of(leaving);
    float gain = gain_of_change({left.level - level, left.slow - slow}, rise) +
                 gain_of_change(holders_of(coming), -fall) + gain_of_change({level, slow}, change);
    // A rank that holds both gains less and loses less than the two on their own.
    state_.for_holders(leaving, [&](int holder) {
      if (state_.holds(holder, coming)) gain += 2.0F * rise * fall * state_.slowness(holder);
    });
    return gain;
  }

  void try_swaps(int hottest, Change& best) {
    int coldest = 0;
    for (int rank = 1; rank < state_.num_ranks(); ++rank) {
      if (state_.level(rank) < state_.level(coldest)) coldest = rank;
    }
    try_swaps_with(hottest, coldest, best);
    for (int rank = 0; rank < state_.num_ranks(); ++rank) {
      if (rank != coldest) try_swaps_with(hottest, rank, best);
    }
  }

  void try_swaps_with(int hottest, int rank, Change& best) {
    const SwapRanks ranks{2.0F * (state_.level(hottest) - state_.level(rank)),
                          state_.slowness(hottest) + state_.slowness(rank)};
    const float factor = 0.5F * (state_.received(hottest) > 0 ? 2.0F : 1.0F) *
                         (state_.received(rank) > 0 ? 2.0F : 1.0F);
    if (ranks.drop <= 0.0F || factor * ranks.drop * ranks.drop <= best.gain * 4.0F * ranks.slowness)
      return;
    work_ += static_cast<std::int64_t>(state_.num_slots(hottest)) * state_.num_slots(rank);
    if (best_swap(ranks, places_of(hottest), places_of(rank), state_.places()) <= best.gain) return;
    for (int place = 0; place < state_.num_slots(hottest); ++place)
      consider_swaps(hottest, place, rank, ranks, best);
  }

  SwapPlaces places_of(int rank) const {
    return {state_.pieces(rank), weights_.data() + rank * state_.places(), state_.num_slots(rank)};
  }

  void consider_swaps(int hottest, int place, int rank, const SwapRanks& ranks, Change& best) {
    const int expert = state_.expert_at(hottest, place);
    if (state_.holds(rank, expert) || state_.is_pinned(hottest, place)) return;
    const float piece = state_.pieces(hottest)[place];
    for (int other = 0; other < state_.num_slots(rank); ++other) {
      const float shift = piece - state_.pieces(rank)[other];
      const float gain = shift * (ranks.drop - shift * ranks.slowness);
      if (gain * kFreeWeight <= best.gain) continue;
      const int other_expert = state_.expert_at(rank, other);
      if (state_.holds(hottest, other_expert) || state_.is_pinned(rank, other)) continue;
      const int cost = cost_of(hottest, expert, other_expert),
                other_cost = cost_of(rank, other_expert, expert);
      if (!fits(cost + other_cost) || !may_receive(hottest, cost) || !may_receive(rank, other_cost))
        continue;
      const float weighted = gain * weight_of(cost + other_cost);
      if (weighted > best.gain) best = {Kind::kSwap, weighted, hottest, expert, rank, other_expert};
    }
  }

  // The hottest rank gives up a redundant replica for an extra one of a lighter expert.
  void try_shedding(int hottest, Change& best) {
    for (int place = 0; place < state_.num_slots(hottest); ++place) {
      const int leaving = state_.expert_at(hottest, place);
      if (state_.count(leaving) < 2 || state_.is_pinned(hottest, place)) continue;
      for (int coming = 0; coming < state_.num_experts(); ++coming) {
        const int count = state_.count(coming);
        if (state_.holds(hottest, coming) || count >= max_replicas_) continue;
        if (state_.piece_with(coming, count + 1) >= state_.piece(leaving)) continue;
        ++work_;
        const int cost = cost_of(hottest, leaving, coming);
        if (!fits(cost) || !may_receive(hottest, cost)) continue;
        const float gain = kShedWeight * gain_of_replacement(hottest, leaving, coming);
        if (gain > best.gain) best = {Kind::kReplace, gain, hottest, leaving, -1, coming};
      }
    }
  }

  // Stuck: the heaviest piece of the hottest rank gets the redundant slot that is cheapest to give
  // away, even at a loss; later steps repair the rest. Each expert at most once.
  bool kick(int hottest) {
    int expert = -1;
    for (int place = 0; place < state_.num_slots(hottest); ++place) {
      const int candidate = state_.expert_at(hottest, place);
      if (tabu_[static_cast<std::size_t>(candidate)] != 0 ||
          state_.count(candidate) >= max_replicas_)
        continue;
      if (expert < 0 || state_.piece(candidate) > state_.piece(expert)) expert = candidate;
    }
    if (expert < 0) return false;
    tabu_[static_cast<std::size_t>(expert)] = 1;
    int best_rank = -1, leaving = -1;
    float lowest = kLighter * state_.piece(expert);
    for (const std::int32_t held : state_.replicated()) {
      if (held == expert || tabu_[static_cast<std::size_t>(held)] != 0) continue;
      const float rest = state_.piece_with(held, state_.count(held) - 1);
      state_.for_holders(held, [&](int rank) {
        if (rank == hottest || state_.holds(rank, expert)) return;
        ++work_;
        const float piece = state_.piece(held) * state_.slowness(rank);
        const float cost = rest + 0.5F * (state_.level(rank) - piece - 1.0F);
        const int moves = cost_of(rank, held, expert);
        if (rest >= kLighter * state_.piece(expert) || cost >= lowest || !fits(moves) ||
            !may_receive(rank, moves) || is_pinned(rank, held))
          return;
        lowest = cost;
        best_rank = rank;
        leaving = held;
      });
    }
    if (best_rank < 0) return true;  // Tabu now: the next kick tries another expert.
    apply({Kind::kReplace, 0.0F, best_rank, leaving, -1, expert});
    return true;
  }

  const LayerProblem& problem_;
  EvenState state_;
  float target_;
  std::int64_t max_work_;
  int max_replicas_;
  int limit_ = 0;  // moves that a change may reach
  int most_ = 0;   // moves so far
  std::int64_t work_ = 0;
  std::vector<std::uint8_t> tabu_;  // experts kicked
  Victims victims_;
  std::vector<float> gains_;    // of the victims
  std::vector<float> weights_;  // [R][places]: 1 / moves of taking the piece away, with another
  std::vector<std::int32_t> best_raw_;
  EvenPath path_;
};

}  // namespace

EvenPath search_even(const LayerProblem& problem) { return Search(problem).run(); }

}  // namespace swiftbalancer
