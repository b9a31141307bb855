#pragma once
// One layer under search: which rank holds which replicas, and how each expert's load is split over
// its replicas so that ranks end up level. Used by the swift search only; fixed order of all
// arithmetic, no thread.
//
// A replica carries an amount of its expert's load. A spare slot is one whose expert its rank
// already holds: it carries nothing and is the cheapest to give away.

#include <cstdint>
#include <span>
#include <vector>

#include <swiftbalancer/policy.hpp>

namespace swiftbalancer {

class SwiftState {
 public:
  explicit SwiftState(const LayerProblem& problem);

  const ClusterShape& shape() const noexcept { return *shape_; }
  double load_of(int expert) const noexcept { return load_[index(expert)]; }
  double rank_load(int rank) const noexcept { return rank_load_[index(rank)]; }
  double mean() const noexcept { return mean_; }
  int expert_at(int slot) const noexcept { return slots_[index(slot)]; }
  double amount_at(int slot) const noexcept { return amount_[index(slot)]; }
  bool is_spare(int slot) const noexcept { return spare_[index(slot)] != 0; }
  bool holds(int rank, int expert) const noexcept {
    return held_[index(expert) * num_ranks_ + index(rank)] != 0;
  }
  /// Whether the rank held it at the start.
  bool is_home(int rank, int expert) const noexcept {
    return held_first_[index(expert) * num_ranks_ + index(rank)] != 0;
  }
  /// Moves that it costs to put another expert into the slot; less than 0: takes some back.
  int cost_of(int slot, int expert) const noexcept {
    const int rank = shape_->rank_of_slot(slot);
    const bool takes_back = !is_spare(slot) && !is_home(rank, expert_at(slot));
    return (is_home(rank, expert) ? 0 : 1) - (takes_back ? 1 : 0);
  }
  int replicas(int expert) const noexcept { return count_[index(expert)]; }
  /// Slots that carry a part of an expert's load, spare ones not among them.
  std::span<const std::int32_t> replica_slots(int expert) const noexcept {
    return {replicas_.data() + index(expert) * max_replicas_, index(count_[index(expert)])};
  }
  std::span<const std::int32_t> slots() const noexcept { return slots_; }
  std::span<const double> amounts() const noexcept { return amount_; }
  int hottest_rank() const noexcept;
  /// Replicas that ranks gained since the start, all and one.
  int moves() const noexcept { return moves_; }
  int received(int rank) const noexcept { return received_[index(rank)]; }
  /// A bound below which no placement of these loads brings the maximum: the mean, or the smallest
  /// largest piece.
  double lower_bound() const;

  /// Splits the load of all replicated experts so that ranks become level: each in turn, heaviest
  /// first, until a sweep changes nothing of note or `sweeps` are done (Gauss-Seidel; minimises the
  /// sum of squared rank loads).
  void level(int sweeps);
  /// The slot, spare or one of several replicas, now holds another expert that its rank lacks.
  void replace(int slot, int expert);
  void swap(int slot, int other);
  /// The fall of sum(max(0, rank load - target)^2) if replace(slot, expert) were done and both
  /// experts levelled; expert < 0: only given up.
  double gain_of_replace(int slot, int expert, double target) noexcept;

 private:
  static std::size_t index(int value) noexcept { return static_cast<std::size_t>(value); }
  struct Level {
    double load;
    int position;
  };
  double refill(int expert, std::span<const std::int32_t> slots, double* amounts) noexcept;
  void attach(int slot, int expert);
  void detach(int slot);
  void touch(int rank) noexcept;
  void count_move(int rank, int expert, int change) noexcept;

  const ClusterShape* shape_;
  std::size_t num_ranks_;
  std::size_t max_replicas_;
  std::vector<double> load_;              // [E]
  std::vector<std::int32_t> by_load_;     // experts, heaviest first
  std::vector<std::int32_t> slots_;       // [P]
  std::vector<double> amount_;            // [P]
  std::vector<std::uint8_t> spare_;       // [P]
  std::vector<std::uint8_t> held_;        // [E][R]
  std::vector<std::uint8_t> held_first_;  // [E][R], at the start
  std::vector<std::int32_t> count_;       // [E] without spares
  std::vector<std::int32_t> replicas_;    // [E][max_replicas]
  std::vector<double> rank_load_;         // [R]
  double mean_ = 0.0;
  int moves_ = 0;
  std::vector<std::int32_t> received_;  // [R]
  std::vector<Level> levels_;           // scratch of refill()
  std::vector<double> trial_;           // scratch of gain_of_replace(): amounts
  std::vector<std::int32_t> trial_slots_;
  std::vector<std::int32_t> touched_;  // scratch: ranks whose load a trial changed
  std::vector<double> touched_load_;
  std::vector<std::uint8_t> is_touched_;
};

}  // namespace swiftbalancer
