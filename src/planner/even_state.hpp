#pragma once
// One layer under incremental search with even shares: which rank holds what, how loaded it is, and
// how far it is from where it started. A place is a slot in rows of equal length, one row a rank;
// loads are in units of the mean rank load. Used by the even search only; fixed order of all
// arithmetic, no thread.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include <swiftbalancer/policy.hpp>

#include "planner/even_search.hpp"

namespace swiftbalancer {

/// Parts of one allocation, not initialised: a search needs some twenty arrays for every layer.
class Arena {
 public:
  /// Runs lay_out(*this) twice: to measure, then to hand out.
  template <typename LayOut>
  void make(LayOut&& lay_out) {
    lay_out(*this);
    memory_ = std::make_unique_for_overwrite<std::byte[]>(used_);
    used_ = 0;
    lay_out(*this);
  }
  template <typename T>
  void take(T*& array, std::size_t size) {
    constexpr std::size_t kAlignment = 32;
    if (memory_) array = reinterpret_cast<T*>(memory_.get() + used_);
    used_ += (size * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
  }

 private:
  std::unique_ptr<std::byte[]> memory_;
  std::size_t used_ = 0;
};

class EvenState {
 public:
  /// Places of a rank are padded to this many, so that scans need no remainder.
  static constexpr int kLanes = 8;

  explicit EvenState(const LayerProblem& problem);
  EvenState(const EvenState&) = delete;
  EvenState& operator=(const EvenState&) = delete;

  int num_ranks() const noexcept { return num_ranks_; }
  int num_experts() const noexcept { return num_experts_; }
  int num_places() const noexcept { return num_ranks_ * stride_; }
  int stride() const noexcept { return stride_; }  ///< Places of a rank, padding included.
  int first_place(int rank) const noexcept { return rank * stride_; }
  int end_place(int rank) const noexcept { return rank * stride_ + num_slots_[rank]; }
  int num_slots(int rank) const noexcept { return num_slots_[rank]; }
  int rank_of(int place) const noexcept { return rank_of_[place]; }
  int expert_at(int place) const noexcept { return experts_[place]; }
  /// Of all places; infinite where padded.
  const float* pieces() const noexcept { return piece_; }
  float piece(int expert) const noexcept { return load_[expert] * reciprocal_[count_[expert]]; }
  float piece_with(int expert, int replicas) const noexcept {
    return load_[expert] * reciprocal_[replicas];
  }
  int count(int expert) const noexcept { return count_[expert]; }
  /// Load over speed; the mean is 1.
  float level(int rank) const noexcept { return level_[rank]; }
  float slowness(int rank) const noexcept { return slowness_[rank]; }
  bool holds(int rank, int expert) const noexcept { return bit(holders_, rank, expert); }
  /// Whether the rank held the expert at the start: coming home is no move.
  bool is_home(int rank, int expert) const noexcept { return bit(homes_, rank, expert); }
  bool is_pinned(int place) const noexcept;
  int place_of(int rank, int expert) const noexcept;
  /// The level that no placement of these loads on so many slots goes below: the mean, or the
  /// smallest largest piece.
  float lower_bound() const;
  int moves() const noexcept { return moves_; }
  int received(int rank) const noexcept { return received_[rank]; }
  std::span<const std::int32_t> replicated() const noexcept {
    return {replicated_, static_cast<std::size_t>(num_replicated_)};
  }
  /// Places of an expert: the first, and each next; < 0: no more.
  int first_holder(int expert) const noexcept { return first_holder_[expert]; }
  int next_holder(int place) const noexcept { return next_holder_[place]; }

  void replace(int place, int expert);
  void swap(int place, int other_place);
  /// How often places were written since the start.
  std::size_t num_writes() const noexcept { return log_.size(); }
  /// The first of the writes, in slots of the shape.
  std::vector<SlotWrite> writes(std::size_t num_writes) const;

 private:
  bool bit(const std::uint64_t* words, int rank, int expert) const noexcept {
    return (words[expert * words_ + (rank >> 6)] >> (rank & 63) & 1U) != 0;
  }
  int slot_of(int place) const noexcept;
  void lay_out(Arena& arena);
  void set_loads(const LayerProblem& problem);
  void fill();
  void link(int place, int expert) noexcept;
  void unlink(int place) noexcept;
  void attach(int rank, int expert) noexcept;
  void detach(int rank, int expert) noexcept;
  void write(int place, int expert);
  void spread_piece(int expert) noexcept;
  void refresh_level(int rank) noexcept;
  void note_count(int expert) noexcept;

  const ClusterShape* shape_;
  std::span<const std::uint8_t> pinned_;
  int num_ranks_;
  int num_experts_;
  int stride_;
  int words_;  // of 64 ranks, per expert
  int moves_ = 0;
  int num_replicated_ = 0;
  Arena arena_;
  float* load_;                  // [E]
  float* slowness_;              // [R]
  float* reciprocal_;            // [most replicas + 3]
  float* piece_;                 // [R][stride]
  float* level_;                 // [R]
  std::int32_t* experts_;        // [R][stride], -1 padded
  std::int32_t* rank_of_;        // [R][stride]
  std::int32_t* next_holder_;    // [R][stride], of the same expert
  std::int32_t* first_holder_;   // [E]
  std::int32_t* count_;          // [E]
  std::int32_t* num_slots_;      // [R]
  std::int32_t* received_;       // [R]
  std::int32_t* replicated_;     // experts with several slots, in any order
  std::int32_t* replicated_at_;  // [E] where in that list
  std::uint64_t* holders_;       // [E][words]
  std::uint64_t* homes_;         // [E][words]
  std::vector<SlotWrite> log_;   // of places instead of slots
};

}  // namespace swiftbalancer
