#pragma once
// One layer while it is packed from nothing: which expert each slot of each rank holds, even
// shares. A workspace: made once for a shape, used layer by layer without allocating. Used by the
// full planner only. Pure, fixed order of all arithmetic; single precision, whose error is far
// below any tolerance, but for what eplb does, in double as there.
//
// Pieces lie transposed, [depth][lanes]: the k-th slots of all ranks side by side, so that one scan
// looks at all ranks. Lanes beyond the ranks, and slots that a rank does not have, are infinite.

#include <bit>
#include <cstdint>
#include <span>
#include <vector>

#include <swiftbalancer/shape.hpp>

namespace swiftbalancer {

class Packing {
 public:
  /// Slot `depth` of rank `rank`.
  struct Place {
    int rank = -1;
    int depth = 0;
  };

  /// @param shape outlives this.
  explicit Packing(const ClusterShape& shape);

  const ClusterShape& shape() const noexcept { return shape_; }
  /// Replicas at most that an expert can have without same-rank duplicates.
  int max_replicas() const noexcept { return shape_.num_ranks(); }

  // ---- Loads and replicas, before pack() ----
  void set_load(std::span<const std::int64_t> load);
  std::span<const float> load() const noexcept { return load_; }
  float mean() const noexcept { return mean_; }
  /// [num_logical_experts], at least 1 each, at most max_replicas(), together num_slots.
  std::span<std::int32_t> replicas() noexcept { return count_; }
  /// Replica counts with the smallest largest piece (Adams' apportionment).
  void choose_replicas();
  /// Replica counts by the divisor load / (count - 1 + theta): theta 1 is Adams', 2 Jefferson's.
  void choose_replicas_by_divisor(float theta);

  // ---- Placing ----
  /// Rounds that ranks with fewer slots than others sit out.
  enum class SmallRanks : std::uint8_t { kLastRounds, kFirstRounds };
  /// Rounds: each gives one piece to every rank that takes part, heaviest piece to lightest rank.
  void pack(SmallRanks sit_out = SmallRanks::kLastRounds);
  /// What eplb does with the load that was set: each piece, heaviest first, to the lightest rank
  /// with a slot left. Same-rank duplicates as there. @returns false where ties or max_replicas()
  /// decide which replicas eplb would choose; the packing is of no use then.
  bool pack_as_eplb();
  /// After that, what repair_same_rank_duplicates() does. @returns false where exchanges do not
  /// suffice; some duplicates are left then.
  bool part_duplicates_as_eplb() noexcept;
  float largest_piece() const noexcept { return largest_piece_; }

  int hottest_rank() const noexcept;
  float rank_load(int rank) const noexcept { return rank_load_[at(rank)]; }
  float lightest_load() const noexcept;
  std::span<const float> rank_loads() const noexcept {
    return {rank_load_.data(), at(shape_.num_ranks())};
  }
  int expert_at(Place place) const noexcept { return expert_[cell(place)]; }
  int num_replicas(int expert) const noexcept { return count_[at(expert)]; }
  float piece(int expert) const noexcept { return piece_[at(expert)]; }
  bool holds(int rank, int expert) const noexcept {
    return (holders_[at(expert) * words_ + at(rank) / 64] >> (rank % 64) & 1) != 0;
  }
  template <typename Visit>
  void for_each_holder(int expert, Visit visit) const {
    for (std::size_t word = 0; word < words_; ++word) {
      for (std::uint64_t bits = holders_[at(expert) * words_ + word]; bits != 0; bits &= bits - 1)
        visit(static_cast<int>(word * 64) + __builtin_ctzll(bits));
    }
  }

  /// Some rank held an expert twice when it was filled; exchanges may have parted them.
  bool may_have_duplicates() const noexcept { return has_duplicates_; }

  /// A place on another rank whose exchange with `hot` brings both ranks to `target` or below.
  /// @returns rank -1: none.
  Place find_fitting(Place hot, float target) const noexcept;
  /// The same for two slots of a rank at once: those of `hot` and `second`, another depth there.
  /// @returns the first place; the depth of the other goes to `second_depth`.
  Place find_fitting_pair(Place hot, int second, float target, int& second_depth) const noexcept;
  /// The place whose exchange with `hot` makes the heavier of the two ranks lightest, below `best`,
  /// which becomes that. @returns rank -1: none.
  Place find_best(Place hot, float& best) const noexcept;
  void swap(Place a, Place b) noexcept;
  /// The slot, of an expert with other replicas, now holds another one, which its rank lacks.
  void replace(Place place, int expert) noexcept;

  /// Copies the placement out, [num_slots], and in.
  void write(std::span<std::int32_t> slots) const noexcept;
  void read(std::span<const std::int32_t> slots) noexcept;

 private:
  static std::size_t at(int value) noexcept { return static_cast<std::size_t>(value); }
  std::size_t cell(Place place) const noexcept { return at(place.depth) * lanes_ + at(place.rank); }
  void sort_experts() noexcept;
  bool counts_are_greedy() const noexcept;
  void sort_experts_exactly() noexcept;
  void list_pieces() noexcept;
  int slot_of_round(int rank, int round, SmallRanks sit_out) const noexcept;
  // Bits of a key that hold the rank: the last ones of its load make room, which makes keys unique.
  std::int32_t rank_bits() const noexcept {
    return static_cast<std::int32_t>(std::bit_ceil(at(shape_.num_ranks()))) - 1;
  }
  // The ranks that take part, lightest first, to sorted_.
  template <typename TakesPart>
  void order_ranks(TakesPart takes_part) noexcept {
    std::size_t size = 0;
    for (int rank = 0; rank < shape_.num_ranks(); ++rank) {
      if (!takes_part(rank)) continue;
      key_[size++] = (std::bit_cast<std::int32_t>(rank_load_[at(rank)]) & ~rank_bits()) | rank;
    }
    sort_keys(size);
  }
  void sort_keys(std::size_t size) noexcept;
  void order_ranks_exactly() noexcept;
  void clear() noexcept;
  void set_pieces() noexcept;
  void place(int rank, std::size_t slot, int expert) noexcept {
    std::uint64_t& holders = holders_[at(expert) * words_ + at(rank) / 64];
    const std::uint64_t bit = std::uint64_t{1} << (rank % 64);
    if ((holders & bit) != 0) {
      has_duplicates_ = true;
      has_duplicate_[at(rank)] = 1;
    }
    holders |= bit;
    expert_[slot] = expert;
    value_[slot] = piece_[at(expert)];
  }
  void put(int rank, int depth, int expert) noexcept {
    place(rank, cell({rank, depth}), expert);
    rank_load_[at(rank)] += piece_[at(expert)];
  }
  bool part_duplicate(Place place) noexcept;
  void hold(int rank, int expert) noexcept {
    holders_[at(expert) * words_ + at(rank) / 64] |= std::uint64_t{1} << (rank % 64);
  }
  void let_go(int rank, int expert) noexcept;
  void sum_rank(int rank) noexcept;
  void set_piece(int expert) noexcept;

  // A replica that was added when its expert had so many.
  struct Further {
    std::int32_t replicas;
    std::int32_t expert;
  };

  const ClusterShape& shape_;
  std::size_t lanes_;
  std::size_t words_;
  float mean_ = 0.0F;
  float largest_piece_ = 0.0F;
  bool has_duplicates_ = false;
  std::vector<float> load_;                  // [E]
  std::vector<std::int32_t> count_;          // [E]
  std::vector<float> piece_;                 // [E]
  std::vector<std::int32_t> order_;          // [E] roughly heaviest piece first
  std::vector<float> priority_;              // [E] scratch of choose_replicas*()
  std::vector<std::uint16_t> part_;          // [E] scratch of sort_experts(), as the next
  std::vector<std::int32_t> half_sorted_;    // [E]
  std::vector<float> value_;                 // [depth][lanes] pieces
  std::vector<std::int32_t> expert_;         // [depth][lanes]
  std::vector<float> rank_load_;             // [lanes]
  std::vector<std::uint64_t> holders_;       // [E][words] ranks that hold it
  std::vector<std::uint8_t> has_duplicate_;  // [R] when it was filled
  std::vector<std::int32_t> key_;            // [lanes] scratch of order_ranks(), as the next
  std::vector<std::int32_t> position_;       // [lanes]
  std::vector<std::int32_t> sorted_;         // [R] ranks of a round, lightest first
  std::vector<double> exact_;                // [E] loads of pack_as_eplb(), as what follows
  std::vector<double> exact_piece_;          // [E]
  std::vector<double> exact_load_;           // [R]
  std::vector<std::int32_t> room_;           // [R] slots left
  std::vector<std::size_t> next_cell_;       // [R]
  std::vector<std::int32_t> listed_;         // [P] experts of the pieces, heaviest first
  std::vector<Further> further_;             // of the pieces of one load
};

}  // namespace swiftbalancer
