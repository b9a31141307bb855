#pragma once
// One layer under incremental search with even shares: which rank holds what, how loaded it is, and
// how far it is from where it started. Loads are in units of the mean rank load. Used by the even
// search only; fixed order of all arithmetic, no thread.

#include <bit>
#include <cstdint>
#include <span>
#include <vector>

#include <swiftbalancer/policy.hpp>

namespace swiftbalancer {

class EvenState {
 public:
  /// Places of a rank are padded to this many, so that scans need no remainder.
  static constexpr int kLanes = 8;

  explicit EvenState(const LayerProblem& problem);

  int num_ranks() const noexcept { return num_ranks_; }
  int num_experts() const noexcept { return static_cast<int>(load_.size()); }
  int places() const noexcept { return stride_; }  ///< Of a rank, padding included.
  int num_slots(int rank) const noexcept { return shape_->slots_per_rank(rank); }
  int expert_at(int rank, int place) const noexcept { return experts_[at(rank, place)]; }
  /// Pieces of a rank's places; infinite where padded.
  const float* pieces(int rank) const noexcept { return piece_.data() + at(rank, 0); }
  float piece(int expert) const noexcept { return load_of(expert) * reciprocal(count(expert)); }
  float piece_with(int expert, int replicas) const noexcept {
    return load_of(expert) * reciprocal(replicas);
  }
  float load_of(int expert) const noexcept { return load_[index(expert)]; }
  int count(int expert) const noexcept { return count_[index(expert)]; }
  /// Load over speed; the mean is 1.
  float level(int rank) const noexcept { return level_[index(rank)]; }
  float slowness(int rank) const noexcept { return slowness_[index(rank)]; }
  /// Sums over the ranks that hold the expert.
  float holder_level(int expert) const noexcept { return holder_level_[index(expert)]; }
  float holder_slowness(int expert) const noexcept { return holder_slowness_[index(expert)]; }
  bool holds(int rank, int expert) const noexcept { return bit(holders_, rank, expert); }
  /// Whether the rank held the expert at the start: coming home is no move.
  bool is_home(int rank, int expert) const noexcept { return bit(homes_, rank, expert); }
  bool is_pinned(int rank, int place) const noexcept {
    return !pinned_.empty() && pinned_[index(shape_->first_slot(rank) + place)] != 0;
  }
  int place_of(int rank, int expert) const noexcept;
  int hottest_rank() const noexcept;
  /// The level that no placement of these loads on so many slots goes below: the mean, or the
  /// smallest largest piece.
  float lower_bound() const;
  int moves() const noexcept { return moves_; }
  int received(int rank) const noexcept { return received_[index(rank)]; }
  std::span<const std::int32_t> replicated() const noexcept { return replicated_; }
  std::vector<std::int32_t> slots() const;
  const std::vector<std::int32_t>& raw() const noexcept { return experts_; }

  /// Calls visit(rank) for every rank that holds the expert, in order.
  template <typename Visit>
  void for_holders(int expert, Visit&& visit) const {
    const std::uint64_t* words = holders_.data() + index(expert) * words_;
    for (std::size_t word = 0; word < words_; ++word) {
      for (std::uint64_t bits = words[word]; bits != 0; bits &= bits - 1) {
        visit(static_cast<int>(word * 64) + std::countr_zero(bits));
      }
    }
  }

  void replace(int rank, int place, int expert);
  void swap(int rank, int place, int other_rank, int other_place);
  /// Back to a state that raw() gave.
  void restore(const std::vector<std::int32_t>& raw);

 private:
  static std::size_t index(int value) noexcept { return static_cast<std::size_t>(value); }
  std::size_t at(int rank, int place) const noexcept {
    return index(rank) * index(stride_) + index(place);
  }
  float reciprocal(int replicas) const noexcept { return reciprocal_[index(replicas)]; }
  bool bit(const std::vector<std::uint64_t>& words, int rank, int expert) const noexcept {
    return (words[index(expert) * words_ + index(rank) / 64] >> (index(rank) % 64) & 1U) != 0;
  }
  void fill();
  void attach(int rank, int expert) noexcept;
  void detach(int rank, int expert) noexcept;
  void refresh_holders(int expert) noexcept;
  float summed_level(int rank) const noexcept;
  void refresh_level(int rank) noexcept;
  void refresh_sums(int expert) noexcept;
  void note_count(int expert);

  const ClusterShape* shape_;
  std::span<const std::uint8_t> pinned_;
  int num_ranks_;
  int stride_;
  std::size_t words_;                     // of 64 ranks, per expert
  std::vector<float> load_;               // [E]
  std::vector<float> slowness_;           // [R]
  std::vector<float> reciprocal_;         // [most replicas + 2]
  std::vector<std::int32_t> experts_;     // [R][stride], -1 padded
  std::vector<float> piece_;              // [R][stride]
  std::vector<float> level_;              // [R]
  std::vector<float> holder_level_;       // [E]
  std::vector<float> holder_slowness_;    // [E]
  std::vector<std::int32_t> count_;       // [E]
  std::vector<std::uint64_t> holders_;    // [E][words]
  std::vector<std::uint64_t> homes_;      // [E][words]
  std::vector<std::int32_t> received_;    // [R]
  std::vector<std::int32_t> replicated_;  // experts with several slots, in order
  int moves_ = 0;
};

}  // namespace swiftbalancer
