#include "planner/even_state.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace swiftbalancer {

EvenState::EvenState(const LayerProblem& problem)
    : shape_(problem.shape),
      pinned_(problem.pinned),
      num_ranks_(shape_->num_ranks()),
      stride_((shape_->max_slots_per_rank() + kLanes - 1) / kLanes * kLanes),
      words_((index(num_ranks_) + 63) / 64),
      load_(problem.load.size()),
      slowness_(index(num_ranks_), 1.0F),
      reciprocal_(index(shape_->num_redundant_experts()) + 3),
      experts_(index(num_ranks_) * index(stride_), -1),
      piece_(experts_.size(), std::numeric_limits<float>::infinity()),
      level_(index(num_ranks_)),
      holder_level_(load_.size()),
      holder_slowness_(load_.size()),
      count_(load_.size()),
      holders_(load_.size() * words_),
      homes_(),
      received_(index(num_ranks_)) {
  double total = 0.0, speed = static_cast<double>(num_ranks_);
  for (std::int64_t tokens : problem.load) total += static_cast<double>(tokens);
  if (!problem.rank_speed.empty()) {
    speed = 0.0;
    for (double value : problem.rank_speed) speed += value;
    for (std::size_t rank = 0; rank < slowness_.size(); ++rank)
      slowness_[rank] = static_cast<float>(1.0 / problem.rank_speed[rank]);
  }
  const double unit = total > 0.0 ? speed / total : 0.0;
  for (std::size_t expert = 0; expert < load_.size(); ++expert)
    load_[expert] = static_cast<float>(static_cast<double>(problem.load[expert]) * unit);
  for (std::size_t n = 1; n < reciprocal_.size(); ++n)
    reciprocal_[n] = 1.0F / static_cast<float>(n);
  replicated_.reserve(index(shape_->num_redundant_experts()));
  for (int rank = 0; rank < num_ranks_; ++rank) {
    std::copy_n(problem.placement.begin() + shape_->first_slot(rank), num_slots(rank),
                experts_.begin() + static_cast<std::ptrdiff_t>(at(rank, 0)));
  }
  fill();
  homes_ = holders_;
}

void EvenState::fill() {
  std::fill(count_.begin(), count_.end(), 0);
  std::fill(holders_.begin(), holders_.end(), 0);
  for (int rank = 0; rank < num_ranks_; ++rank) {
    for (int place = 0; place < num_slots(rank); ++place) {
      const auto expert = index(expert_at(rank, place));
      ++count_[expert];
      holders_[expert * words_ + index(rank) / 64] |= std::uint64_t{1} << (index(rank) % 64);
    }
  }
  replicated_.clear();
  for (int expert = 0; expert < num_experts(); ++expert) {
    if (count(expert) > 1) replicated_.push_back(expert);
  }
  for (int rank = 0; rank < num_ranks_; ++rank) {
    for (int place = 0; place < num_slots(rank); ++place)
      piece_[at(rank, place)] = piece(expert_at(rank, place));
    level_[index(rank)] = summed_level(rank);
  }
  for (int expert = 0; expert < num_experts(); ++expert) refresh_sums(expert);
}

void EvenState::restore(const std::vector<std::int32_t>& raw) {
  experts_ = raw;
  fill();
  moves_ = 0;
  for (int rank = 0; rank < num_ranks_; ++rank) {
    int& received = received_[index(rank)] = 0;
    for (int place = 0; place < num_slots(rank); ++place)
      received += is_home(rank, expert_at(rank, place)) ? 0 : 1;
    moves_ += received;
  }
}

std::vector<std::int32_t> EvenState::slots() const {
  std::vector<std::int32_t> result;
  result.reserve(index(shape_->num_slots()));
  for (int rank = 0; rank < num_ranks_; ++rank) {
    const auto first = experts_.begin() + static_cast<std::ptrdiff_t>(at(rank, 0));
    result.insert(result.end(), first, first + num_slots(rank));
  }
  return result;
}

int EvenState::place_of(int rank, int expert) const noexcept {
  const auto first = experts_.begin() + static_cast<std::ptrdiff_t>(at(rank, 0));
  return static_cast<int>(std::find(first, first + num_slots(rank), expert) - first);
}

int EvenState::hottest_rank() const noexcept {
  return static_cast<int>(std::max_element(level_.begin(), level_.end()) - level_.begin());
}

float EvenState::lower_bound() const {
  const float fastest = *std::min_element(slowness_.begin(), slowness_.end());
  const auto fits = [&](float level) {
    const float piece = level / fastest;
    int extra = 0;
    for (float load : load_) {
      if (load > piece) extra += static_cast<int>(std::ceil(load / piece)) - 1;
    }
    return extra <= shape_->num_redundant_experts();
  };
  const float heaviest = *std::max_element(load_.begin(), load_.end()) * fastest;
  float low = std::max(1.0F, heaviest / static_cast<float>(num_ranks_)), high = heaviest;
  if (high <= low || fits(low)) return low;
  for (int i = 0; i < 12; ++i) {
    const float middle = 0.5F * (low + high);
    (fits(middle) ? high : low) = middle;
  }
  return low;
}

float EvenState::summed_level(int rank) const noexcept {
  const float* const pieces_of = pieces(rank);
  float sum = 0.0F;
  for (int place = 0; place < num_slots(rank); ++place) sum += pieces_of[place];
  return sum * slowness(rank);
}

void EvenState::refresh_level(int rank) noexcept {
  const float level_now = summed_level(rank);
  const float change = level_now - level(rank);
  level_[index(rank)] = level_now;
  for (int place = 0; place < num_slots(rank); ++place)
    holder_level_[index(expert_at(rank, place))] += change;
}

void EvenState::refresh_sums(int expert) noexcept {
  float sum = 0.0F, slow = 0.0F;
  for_holders(expert, [&](int rank) {
    sum += level(rank);
    slow += slowness(rank);
  });
  holder_level_[index(expert)] = sum;
  holder_slowness_[index(expert)] = slow;
}

void EvenState::refresh_holders(int expert) noexcept {
  const float value = piece(expert);
  for_holders(expert, [&](int rank) {
    for (int place = 0; place < num_slots(rank); ++place) {
      if (expert_at(rank, place) == expert) piece_[at(rank, place)] = value;
    }
    refresh_level(rank);
  });
}

void EvenState::attach(int rank, int expert) noexcept {
  const std::uint64_t mask = std::uint64_t{1} << (index(rank) % 64);
  std::uint64_t& word = holders_[index(expert) * words_ + index(rank) / 64];
  if ((word & mask) != 0) return;
  word |= mask;
  if (is_home(rank, expert)) return;
  ++moves_;
  ++received_[index(rank)];
}

// To be called when the place holds another expert already.
void EvenState::detach(int rank, int expert) noexcept {
  if (place_of(rank, expert) < num_slots(rank)) return;  // A duplicate stays.
  const std::uint64_t mask = std::uint64_t{1} << (index(rank) % 64);
  holders_[index(expert) * words_ + index(rank) / 64] &= ~mask;
  if (is_home(rank, expert)) return;
  --moves_;
  --received_[index(rank)];
}

void EvenState::note_count(int expert) {
  const auto found = std::lower_bound(replicated_.begin(), replicated_.end(), expert);
  const bool listed = found != replicated_.end() && *found == expert;
  if (listed == (count(expert) > 1)) return;
  if (listed) {
    replicated_.erase(found);
  } else {
    replicated_.insert(found, expert);
  }
}

void EvenState::replace(int rank, int place, int expert) {
  const int old = expert_at(rank, place);
  experts_[at(rank, place)] = expert;
  --count_[index(old)];
  ++count_[index(expert)];
  detach(rank, old);
  attach(rank, expert);
  note_count(old);
  note_count(expert);
  refresh_holders(old);
  refresh_holders(expert);
  refresh_sums(old);
  refresh_sums(expert);
}

void EvenState::swap(int rank, int place, int other_rank, int other_place) {
  std::int32_t& expert = experts_[at(rank, place)];
  std::int32_t& other = experts_[at(other_rank, other_place)];
  std::swap(expert, other);
  std::swap(piece_[at(rank, place)], piece_[at(other_rank, other_place)]);
  detach(rank, other);
  detach(other_rank, expert);
  attach(rank, expert);
  attach(other_rank, other);
  refresh_level(rank);
  refresh_level(other_rank);
  refresh_sums(expert);
  refresh_sums(other);
}

}  // namespace swiftbalancer
