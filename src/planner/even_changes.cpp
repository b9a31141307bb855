#include "planner/even_changes.hpp"

#include <algorithm>
#include <limits>
#include <numeric>

namespace swiftbalancer {
namespace {

constexpr float kFreeWeight = 2.0F;  // Of a gain that costs no move; 1 for one move, 1/2 for two.
// Of a place: a swap has the product of both, 1/2 at home, twice that for each that moved before.
constexpr float kHomeWeight = 0.70710678F;
constexpr float kReplaceWeight = 1.0F / kHomeWeight;
constexpr float kNearlyAsHot = 0.7F;  // Part of the hottest rank's cost.

// What no change of a rank is above, by whether it received anything.
float most_weight(int received) { return received > 0 ? kFreeWeight : 1.0F; }

float even_weight_of(int cost) { return cost <= 0 ? kFreeWeight : cost == 1 ? 1.0F : 0.5F; }

// Its square above 0. Times the level itself, which the compiler does not turn into a branch: that
// would be mispredicted every other time.
float cost_above(float level) {
  const float above = level > 0.0F ? level : 0.0F;
  return above * level;
}

}  // namespace

EvenChanges::EvenChanges(const LayerProblem& problem)
    : state_(problem),
      bound_(state_.lower_bound()),
      max_moves_(problem.max_moves < 0 ? std::numeric_limits<int>::max() / 2 : problem.max_moves),
      max_rank_moves_(problem.max_rank_moves),
      max_replicas_(problem.max_replicas > 0 ? problem.max_replicas
                                             : std::numeric_limits<int>::max()) {
  arena_.make([this](Arena& arena) { lay_out(arena); });
  std::fill_n(weights_, state_.num_places(), kHomeWeight);
  std::fill_n(tabu_, state_.num_experts(), 0);
  std::iota(order_, order_ + state_.num_ranks(), 0);
}

void EvenChanges::lay_out(Arena& arena) {
  const auto places = static_cast<std::size_t>(state_.num_places());
  const auto stride = static_cast<std::size_t>(state_.stride());
  const auto ranks = static_cast<std::size_t>(state_.num_ranks());
  victims_.lay_out(arena, places);
  comers_.lay_out(arena, places);
  arena.take(gains_, std::max(places, stride * stride));
  arena.take(weights_, places);
  arena.take(bonus_, stride);
  for (float** array : {&excess_, &cost_}) arena.take(*array, ranks);
  arena.take(order_, ranks);
  arena.take(tabu_, static_cast<std::size_t>(state_.num_experts()));
}

// By insertion: few ranks change places from one step to the next.
int EvenChanges::sort_ranks() noexcept {
  const auto before = [this](int a, int b) {
    return state_.level(a) < state_.level(b) || (state_.level(a) == state_.level(b) && a > b);
  };
  for (int i = 1; i < state_.num_ranks(); ++i) {
    const std::int32_t rank = order_[i];
    int at = i;
    for (; at > 0 && before(rank, order_[at - 1]); --at) order_[at] = order_[at - 1];
    order_[at] = rank;
  }
  return order_[state_.num_ranks() - 1];
}

EvenChange EvenChanges::best_change(int hottest) {
  for (int rank = 0; rank < state_.num_ranks(); ++rank) {
    excess_[rank] = state_.level(rank) - bound_;
    cost_[rank] = cost_above(excess_[rank]);
  }
  EvenChange best;
  best.gain = 1e-8F;
  try_replacements(hottest, best);
  try_shedding(hottest, best);
  try_swaps(hottest, best);
  return best;
}

void EvenChanges::apply(const EvenChange& change) {
  if (change.kind == EvenChangeKind::kReplace) {
    state_.replace(change.place, change.other);
  } else {
    state_.swap(change.place, change.other);
    refresh_weight(change.other);
  }
  refresh_weight(change.place);
}

int EvenChanges::cost_of(int rank, int leaving, int coming) const noexcept {
  return (state_.is_home(rank, coming) ? 0 : 1) - (state_.is_home(rank, leaving) ? 0 : 1);
}

bool EvenChanges::may_receive(int rank, int cost) const noexcept {
  return max_rank_moves_ < 0 || cost <= 0 || state_.received(rank) + cost <= max_rank_moves_;
}

void EvenChanges::refresh_weight(int place) noexcept {
  weights_[place] = state_.is_home(state_.rank_of(place), state_.expert_at(place))
                        ? kHomeWeight
                        : 2.0F * kHomeWeight;
}

// At the limit only what was moved may move on.
bool EvenChanges::may_change(int place) const noexcept {
  return fits(1) || weights_[place] > kHomeWeight;
}

bool EvenChanges::may_have_more(int expert) const noexcept {
  return state_.count(expert) < max_replicas_ && state_.count(expert) < state_.num_ranks();
}

// How an expert's pieces change with one replica more.
float EvenChanges::fall_of(int expert) const noexcept {
  return state_.piece_with(expert, state_.count(expert) + 1) - state_.piece(expert);
}

float EvenChanges::rise_of(int expert) const noexcept {
  return state_.piece_with(expert, state_.count(expert) - 1) - state_.piece(expert);
}

// What a rank wins when its load changes.
float EvenChanges::gain_at(int rank, float change) const noexcept {
  return cost_[rank] - cost_above(excess_[rank] + change * state_.slowness(rank));
}

// What the ranks that hold an expert win when its pieces change.
float EvenChanges::gain_of_change(int expert, float change) const noexcept {
  float gain = 0.0F;
  for (int place = state_.first_holder(expert); place >= 0; place = state_.next_holder(place)) {
    const int rank = state_.rank_of(place);
    gain += cost_[rank] - cost_above(excess_[rank] + change * state_.slowness(rank));
  }
  return gain;
}

float EvenChanges::excess_without(int place) const noexcept {
  const int rank = state_.rank_of(place);
  return excess_[rank] - state_.pieces()[place] * state_.slowness(rank);
}

// Another rank gives a redundant slot to an expert of the hottest.
void EvenChanges::try_replacements(int hottest, EvenChange& best) {
  const int first = state_.first_place(hottest), last = state_.end_place(hottest);
  int most = first;
  for (int place = first; place < last; ++place) {
    const int expert = state_.expert_at(place);
    bonus_[place - first] = may_have_more(expert) ? gain_of_change(expert, fall_of(expert)) : 0.0F;
    if (bonus_[place - first] > bonus_[most - first]) most = place;
  }
  collect_victims(hottest, bonus_[most - first], best.gain);
  if (victims_.size == 0) return;
  try_replacements_by(state_.expert_at(most), bonus_[most - first], best);
  for (int place = first; place < last; ++place) {
    if (place != most) try_replacements_by(state_.expert_at(place), bonus_[place - first], best);
  }
}

// Those that may win more than `least`.
void EvenChanges::collect_victims(int hottest, float most_bonus, float least) {
  const bool free_only = !fits(1);
  const float *const excess = excess_, *const cost = cost_;
  int size = 0;
  for (const std::int32_t expert : state_.replicated()) {
    if (tabu_[expert] != 0) continue;
    const float piece = state_.piece(expert), rise = rise_of(expert);
    float all = 0.0F, most = 0.0F;  // Of what the others lose when one gives it up.
    for (int place = state_.first_holder(expert); place >= 0; place = state_.next_holder(place)) {
      const int rank = state_.rank_of(place);
      const float after = cost_above(excess[rank] + rise * state_.slowness(rank));
      all += cost[rank] - after;
      most = std::max(most, after);
    }
    if (kFreeWeight * (all + most + most_bonus) <= least) continue;
    for (int place = state_.first_holder(expert); place >= 0; place = state_.next_holder(place)) {
      const int rank = state_.rank_of(place);
      const float weight = weights_[place] * kReplaceWeight;
      if (rank == hottest || (free_only && weights_[place] <= kHomeWeight)) continue;
      const float slow = state_.slowness(rank), level = excess[rank];
      const float given = all + cost_above(level + rise * slow);
      if (weight * (given + most_bonus) <= least) continue;
      victims_.place[size] = place;
      victims_.given[size] = given;
      victims_.level[size] = level - piece * slow;
      victims_.slow[size] = slow;
      victims_.weight[size] = weight;
      ++size;
    }
  }
  victims_.size = size;
  victims_.pad();
}

void EvenChanges::try_replacements_by(int expert, float bonus, EvenChange& best) {
  if (kFreeWeight * bonus <= best.gain) return;
  const float piece = state_.piece_with(expert, state_.count(expert) + 1);
  work_ += victims_.size;
  if (score_victims(victims_, piece, bonus, gains_) <= best.gain) return;
  for (int v = 0; v < victims_.size; ++v) {
    if (gains_[v] > best.gain) consider_replacement(victims_.place[v], expert, best);
  }
}

void EvenChanges::consider_replacement(int place, int expert, EvenChange& best) const {
  const int rank = state_.rank_of(place);
  if (state_.holds(rank, expert)) return;
  const int cost = cost_of(rank, state_.expert_at(place), expert);
  if (!fits(cost) || !may_receive(rank, cost) || state_.is_pinned(place)) return;
  const float gain = gain_of_replacement(place, expert) * even_weight_of(cost);
  if (gain > best.gain) best = {EvenChangeKind::kReplace, gain, place, expert};
}

float EvenChanges::gain_of_replacement(int place, int coming) const {
  const int leaving = state_.expert_at(place), own = state_.rank_of(place);
  const float piece = state_.piece_with(coming, state_.count(coming) + 1);
  const float rise = state_.piece_with(leaving, state_.count(leaving) - 1) - state_.piece(leaving);
  const float fall = piece - state_.piece(coming);
  float gain = gain_at(own, piece - state_.piece(leaving));
  for (int at = state_.first_holder(coming); at >= 0; at = state_.next_holder(at)) {
    const int rank = state_.rank_of(at);
    gain += gain_at(rank, state_.holds(rank, leaving) ? fall + rise : fall);
  }
  for (int at = state_.first_holder(leaving); at >= 0; at = state_.next_holder(at)) {
    const int rank = state_.rank_of(at);
    if (rank != own && !state_.holds(rank, coming)) gain += gain_at(rank, rise);
  }
  return gain;
}

// The hottest rank gives up a redundant replica for one more of an expert of another hot rank, or
// of one that shares a rank with the replica given up.
void EvenChanges::try_shedding(int hottest, EvenChange& best) {
  comers_.size = -1;
  const int second = order_[state_.num_ranks() - 2];
  const float weight = most_weight(state_.received(hottest));
  for (int place = state_.first_place(hottest); place < state_.end_place(hottest); ++place) {
    const int leaving = state_.expert_at(place);
    if (state_.count(leaving) < 2 || state_.is_pinned(place) || !may_change(place)) continue;
    const float rise = rise_of(leaving);
    // What it wins at most, for itself, and what others lose.
    const float most = cost_[hottest] + gain_of_change(leaving, rise) - gain_at(hottest, rise);
    for (int at = state_.first_holder(leaving); at >= 0; at = state_.next_holder(at)) {
      const int rank = state_.rank_of(at);
      if (rank != hottest && weight * (most - gain_at(rank, rise) + cost_[rank]) > best.gain)
        shed_for_sharer(place, rank, most, best);
    }
    // Replicas of one expert on several hot ranks are rare.
    if (weight * (most + 2.0F * cost_[second]) > best.gain) shed_for_comers(place, most, best);
  }
}

void EvenChanges::shed_for_sharer(int place, int rank, float most, EvenChange& best) {
  const int own = state_.rank_of(place), leaving = state_.expert_at(place);
  const float rise = rise_of(leaving), kept = most - gain_at(rank, rise),
              left = excess_without(place);
  for (int from = state_.first_place(rank); from < state_.end_place(rank); ++from) {
    const int coming = state_.expert_at(from);
    if (!may_have_more(coming)) continue;
    ++work_;
    const float fall = fall_of(coming);
    const float gain = kept + gain_at(rank, rise + fall) -
                       cost_above(left + (state_.piece(coming) + fall) * state_.slowness(own));
    if (kFreeWeight * gain > best.gain) consider_replacement(place, coming, best);
  }
}

void EvenChanges::shed_for_comers(int place, float most, EvenChange& best) {
  const int own = state_.rank_of(place);
  if (comers_.size < 0) collect_comers(own);
  work_ += comers_.size;
  const float weight = weights_[place] * kReplaceWeight;
  if (weight * score_comers(comers_, most, excess_without(place), state_.slowness(own), gains_) <=
      best.gain)
    return;
  for (int i = 0; i < comers_.size; ++i) {
    if (weight * gains_[i] > best.gain) consider_replacement(place, comers_.expert[i], best);
  }
}

// From ranks that are nearly as hot.
void EvenChanges::collect_comers(int hottest) {
  int size = 0;
  for (int i = state_.num_ranks() - 2; i >= 0 && cost_[order_[i]] > kNearlyAsHot * cost_[hottest];
       --i) {
    const int rank = order_[i];
    for (int place = state_.first_place(rank); place < state_.end_place(rank); ++place) {
      const int expert = state_.expert_at(place);
      if (state_.holds(hottest, expert) || !may_have_more(expert)) continue;
      comers_.expert[size] = expert;
      comers_.relief[size] = gain_of_change(expert, fall_of(expert));
      comers_.piece[size] = state_.piece_with(expert, state_.count(expert) + 1);
      ++size;
    }
  }
  comers_.size = size;
  comers_.pad();
}

void EvenChanges::try_swaps(int hottest, EvenChange& best) {
  const float own = cost_[hottest], factor = 0.5F * most_weight(state_.received(hottest));
  const bool free_only = !fits(1);
  if (free_only && state_.received(hottest) == 0) return;
  for (int i = 0; i + 1 < state_.num_ranks(); ++i) {
    const int rank = order_[i], received = state_.received(rank);
    if (factor * most_weight(received) * (own + cost_[rank]) <= best.gain) continue;
    if (free_only && received == 0) continue;
    try_swaps_with(hottest, rank, best);
  }
}

void EvenChanges::try_swaps_with(int hottest, int rank, EvenChange& best) {
  if (state_.level(rank) >= state_.level(hottest)) return;
  const SwapRanks ranks{excess_[hottest], excess_[rank], state_.slowness(hottest),
                        state_.slowness(rank), cost_[hottest] + cost_[rank]};
  const float factor =
      0.5F * most_weight(state_.received(hottest)) * most_weight(state_.received(rank));
  // Level, the two would keep this much.
  const float rest = std::max(0.0F, ranks.high * ranks.low_slow + ranks.low * ranks.high_slow);
  const float slow2 = ranks.high_slow * ranks.high_slow + ranks.low_slow * ranks.low_slow;
  if (factor * (ranks.cost * slow2 - rest * rest) <= best.gain * slow2) return;
  work_ += static_cast<std::int64_t>(state_.num_slots(hottest)) * state_.num_slots(rank);
  if (score_swaps(ranks, places_of(hottest), places_of(rank), state_.stride(), gains_) <= best.gain)
    return;
  const float* gain = gains_;
  for (int place = state_.first_place(hottest); place < state_.end_place(hottest); ++place) {
    const int first = state_.first_place(rank);
    for (int i = 0; i < state_.num_slots(rank); ++i) {
      if (gain[i] > best.gain) consider_swap(place, first + i, gain[i], best);
    }
    gain += state_.stride();
  }
}

SwapPlaces EvenChanges::places_of(int rank) const noexcept {
  const int first = state_.first_place(rank);
  return {state_.pieces() + first, weights_ + first, state_.num_slots(rank)};
}

void EvenChanges::consider_swap(int place, int other, float weighted, EvenChange& best) const {
  const int hottest = state_.rank_of(place), expert = state_.expert_at(place);
  const int rank = state_.rank_of(other), other_expert = state_.expert_at(other);
  if (state_.holds(rank, expert) || state_.holds(hottest, other_expert) ||
      state_.is_pinned(place) || state_.is_pinned(other))
    return;
  const int cost = cost_of(hottest, expert, other_expert),
            other_cost = cost_of(rank, other_expert, expert);
  if (!fits(cost + other_cost) || !may_receive(hottest, cost) || !may_receive(rank, other_cost))
    return;
  // Coming home makes it cheaper than the scan can see.
  const float gain =
      weighted / (weights_[place] * weights_[other]) * even_weight_of(cost + other_cost);
  if (gain > best.gain) best = {EvenChangeKind::kSwap, gain, place, other};
}

}  // namespace swiftbalancer
