#include "planner/even_state.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace swiftbalancer {

EvenState::EvenState(const LayerProblem& problem)
    : shape_(problem.shape),
      pinned_(problem.pinned),
      num_ranks_(shape_->num_ranks()),
      num_experts_(shape_->num_logical_experts()),
      stride_((shape_->max_slots_per_rank() + kLanes - 1) / kLanes * kLanes),
      words_((num_ranks_ + 63) / 64) {
  arena_.make([this](Arena& arena) { lay_out(arena); });
  set_loads(problem);
  for (int rank = 0; rank < num_ranks_; ++rank) {
    num_slots_[rank] = shape_->slots_per_rank(rank);
    std::fill_n(rank_of_ + first_place(rank), stride_, rank);
  }
  std::fill_n(piece_, num_places(), std::numeric_limits<float>::infinity());
  std::fill_n(experts_, num_places(), -1);
  std::fill_n(replicated_at_, num_experts_, 0);
  const std::int32_t* from = problem.placement.data();
  for (int rank = 0; rank < num_ranks_; ++rank) {
    std::copy_n(from, num_slots(rank), experts_ + first_place(rank));
    from += num_slots(rank);
  }
  fill();
  std::copy_n(holders_, num_experts_ * words_, homes_);
  std::fill_n(received_, num_ranks_, 0);
}

void EvenState::lay_out(Arena& arena) {
  const auto experts = static_cast<std::size_t>(num_experts_);
  const auto ranks = static_cast<std::size_t>(num_ranks_);
  const std::size_t places = ranks * static_cast<std::size_t>(stride_);
  const auto redundant = static_cast<std::size_t>(shape_->num_redundant_experts());
  for (float** array : {&load_}) arena.take(*array, experts);
  for (float** array : {&slowness_, &level_}) arena.take(*array, ranks);
  arena.take(reciprocal_, redundant + 3);
  arena.take(piece_, places);
  for (std::int32_t** array : {&experts_, &rank_of_, &next_holder_}) arena.take(*array, places);
  for (std::int32_t** array : {&first_holder_, &count_, &replicated_at_})
    arena.take(*array, experts);
  for (std::int32_t** array : {&num_slots_, &received_}) arena.take(*array, ranks);
  arena.take(replicated_, redundant + 2);
  for (std::uint64_t** array : {&holders_, &homes_})
    arena.take(*array, experts * static_cast<std::size_t>(words_));
}

void EvenState::set_loads(const LayerProblem& problem) {
  double total = 0.0, speed = static_cast<double>(num_ranks_);
  for (std::int64_t tokens : problem.load) total += static_cast<double>(tokens);
  std::fill_n(slowness_, num_ranks_, 1.0F);
  if (!problem.rank_speed.empty()) {
    speed = 0.0;
    for (double value : problem.rank_speed) speed += value;
    float* slowness = slowness_;
    for (double value : problem.rank_speed) *slowness++ = static_cast<float>(1.0 / value);
  }
  const double unit = total > 0.0 ? speed / total : 0.0;
  float* load = load_;
  for (std::int64_t tokens : problem.load)
    *load++ = static_cast<float>(static_cast<double>(tokens) * unit);
  const int most = shape_->num_redundant_experts() + 3;
  for (int n = 1; n < most; ++n) reciprocal_[n] = 1.0F / static_cast<float>(n);
}

void EvenState::fill() {
  std::fill_n(count_, num_experts_, 0);
  std::fill_n(first_holder_, num_experts_, -1);
  std::fill_n(holders_, num_experts_ * words_, 0);
  for (int rank = 0; rank < num_ranks_; ++rank) {
    for (int place = first_place(rank); place < end_place(rank); ++place) {
      const int expert = expert_at(place);
      ++count_[expert];
      link(place, expert);
      holders_[expert * words_ + (rank >> 6)] |= std::uint64_t{1} << (rank & 63);
    }
  }
  num_replicated_ = 0;
  for (int expert = 0; expert < num_experts_; ++expert) {
    if (count(expert) < 2) continue;
    replicated_at_[expert] = num_replicated_;
    replicated_[num_replicated_++] = expert;
  }
  for (int rank = 0; rank < num_ranks_; ++rank) {
    for (int place = first_place(rank); place < end_place(rank); ++place)
      piece_[place] = piece(expert_at(place));
    refresh_level(rank);
  }
}

int EvenState::slot_of(int place) const noexcept {
  const int rank = rank_of(place);
  return shape_->first_slot(rank) + place - first_place(rank);
}

std::vector<SlotWrite> EvenState::writes(std::size_t num_writes) const {
  std::vector<SlotWrite> result(log_.begin(),
                                log_.begin() + static_cast<std::ptrdiff_t>(num_writes));
  for (SlotWrite& write : result) write.slot = slot_of(write.slot);
  return result;
}

bool EvenState::is_pinned(int place) const noexcept {
  return !pinned_.empty() && pinned_[static_cast<std::size_t>(slot_of(place))] != 0;
}

int EvenState::place_of(int rank, int expert) const noexcept {
  int place = first_place(rank);
  while (place < end_place(rank) && expert_at(place) != expert) ++place;
  return place;
}

float EvenState::lower_bound() const {
  const float fastest = *std::min_element(slowness_, slowness_ + num_ranks_);
  const auto fits = [&](float level) {
    const float piece = level / fastest;
    int extra = 0;
    for (int expert = 0; expert < num_experts_; ++expert) {
      if (load_[expert] > piece) extra += static_cast<int>(std::ceil(load_[expert] / piece)) - 1;
    }
    return extra <= shape_->num_redundant_experts();
  };
  const float heaviest = *std::max_element(load_, load_ + num_experts_) * fastest;
  float low = std::max(1.0F, heaviest / static_cast<float>(num_ranks_)), high = heaviest;
  if (high <= low || fits(low)) return low;
  for (int i = 0; i < 12; ++i) {
    const float middle = 0.5F * (low + high);
    (fits(middle) ? high : low) = middle;
  }
  return low;
}

void EvenState::refresh_level(int rank) noexcept {
  float sum = 0.0F;
  for (int place = first_place(rank); place < end_place(rank); ++place) sum += piece_[place];
  level_[rank] = sum * slowness_[rank];
}

void EvenState::link(int place, int expert) noexcept {
  next_holder_[place] = first_holder_[expert];
  first_holder_[expert] = place;
}

void EvenState::unlink(int place) noexcept {
  std::int32_t* at = first_holder_ + expert_at(place);
  while (*at != place) at = next_holder_ + *at;
  *at = next_holder_[place];
}

void EvenState::attach(int rank, int expert) noexcept {
  std::uint64_t& word = holders_[expert * words_ + (rank >> 6)];
  const std::uint64_t mask = std::uint64_t{1} << (rank & 63);
  if ((word & mask) != 0) return;
  word |= mask;
  if (is_home(rank, expert)) return;
  ++moves_;
  ++received_[rank];
}

// To be called when the place is linked to the expert no more.
void EvenState::detach(int rank, int expert) noexcept {
  for (int place = first_holder(expert); place >= 0; place = next_holder(place)) {
    if (rank_of(place) == rank) return;  // A duplicate stays.
  }
  holders_[expert * words_ + (rank >> 6)] &= ~(std::uint64_t{1} << (rank & 63));
  if (is_home(rank, expert)) return;
  --moves_;
  --received_[rank];
}

void EvenState::note_count(int expert) noexcept {
  const int at = replicated_at_[expert];
  const bool listed = at >= 0 && at < num_replicated_ && replicated_[at] == expert;
  if (listed == (count(expert) > 1)) return;
  if (listed) {
    const std::int32_t last = replicated_[--num_replicated_];
    replicated_[at] = last;
    replicated_at_[last] = at;
  } else {
    replicated_at_[expert] = num_replicated_;
    replicated_[num_replicated_++] = expert;
  }
}

void EvenState::write(int place, int expert) {
  const int old = expert_at(place), rank = rank_of(place);
  unlink(place);
  detach(rank, old);
  experts_[place] = expert;
  link(place, expert);
  attach(rank, expert);
  log_.push_back({place, expert});
}

void EvenState::spread_piece(int expert) noexcept {
  const float value = piece(expert);
  for (int place = first_holder(expert); place >= 0; place = next_holder(place)) {
    piece_[place] = value;
    refresh_level(rank_of(place));
  }
}

void EvenState::replace(int place, int expert) {
  const int old = expert_at(place);
  --count_[old];
  ++count_[expert];
  write(place, expert);
  note_count(old);
  note_count(expert);
  spread_piece(old);
  spread_piece(expert);
}

void EvenState::swap(int place, int other_place) {
  const int expert = expert_at(place), other = expert_at(other_place);
  write(place, other);
  write(other_place, expert);
  std::swap(piece_[place], piece_[other_place]);
  refresh_level(rank_of(place));
  refresh_level(rank_of(other_place));
}

}  // namespace swiftbalancer
