#pragma once
// Splits the tokens of one layer's replicated experts over their slots so that the hottest rank is
// as cool as the placement allows. A workspace: made once for a shape, then called layer by layer
// without allocating. Used by policies and the planner on the balancer worker. Pure: fixed order of
// all arithmetic, the same bytes on every platform. One thread at a time.

#include <cstdint>
#include <span>
#include <vector>

#include <swiftbalancer/shape.hpp>

namespace swiftbalancer {

class ReplicaSplit {
 public:
  /// How far the hottest rank may stay above the optimum of the placement, as a part of it.
  static constexpr double kTolerance = 9e-4;

  /// @param shape outlives this. @param rank_speed [num_ranks], > 0, relative; empty: all alike.
  explicit ReplicaSplit(const ClusterShape& shape, std::span<const double> rank_speed = {});

  /// Splits one layer: evenly, then each expert in turn so that its ranks become level (one sweep
  /// of Gauss-Seidel water filling), then along chains of replicas from ranks above the lower bound
  /// to ranks below it. Where no chain leads on, the ranks that it reaches hold all replicas of
  /// what they carry: they raise the bound (Newton on cuts, Dinkelbach 1967). An expert that a rank
  /// holds twice is split as if it held it once: its second slot gets nothing.
  /// @param slots [num_slots], may hold kEmptySlot. @param load [num_logical_experts], >= 0.
  /// @returns the largest rank load divided by the rank's speed.
  /// Cost: some 3 us at 320 slots on 32 ranks.
  double level(std::span<const std::int32_t> slots, std::span<const double> load);

  // Of the last layer.

  /// [num_slots] tokens that each slot gets.
  std::span<const double> amounts() const noexcept { return amount_; }
  /// [num_ranks] tokens.
  std::span<const double> rank_loads() const noexcept { return rank_load_; }
  /// No split of this placement has its hottest rank below (in the unit of level()'s result).
  double lower_bound() const noexcept { return bound_; }
  /// The amounts as parts of their expert's load in kShareUnit. Those of an expert sum to
  /// kShareUnit exactly: rounded down, what is left goes to the largest. An expert without load is
  /// split evenly over the ranks that hold it. @param out [num_slots]; 0 for an empty slot.
  void shares(std::span<std::uint32_t> out) const;

 private:
  struct Replica {
    std::int32_t slot;
    std::int32_t rank;
  };
  struct Group {  // the replicas of one expert
    double load;
    std::int32_t first;
    std::int32_t count;
  };
  struct Shared {  // a slot whose expert has replicas elsewhere
    std::int32_t slot;
    std::int32_t group;
  };
  struct Arrival {  // how the search for chains came to a rank: from where, and out of which slot
                    // into which
    std::int32_t from;
    std::int32_t out;
    std::int32_t in;
  };

  void collect(std::span<const std::int32_t> slots, std::span<const double> load);
  void count_ranks(std::span<const std::int32_t> slots);
  void fill(const Group& group);
  double highest() const noexcept;
  void relieve(std::int32_t hot);
  bool move_along_chain(std::int32_t to);
  bool raise_bound(std::size_t reached);
  void set_bound(double bound);

  std::vector<std::int32_t> first_slot_;  // [R + 1]
  std::vector<double> speed_;             // [R]
  std::vector<double> slowness_;          // [R] 1 / speed
  double total_speed_ = 0.0;
  std::vector<double> amount_;     // [P]
  std::vector<double> rank_load_;  // [R]
  double bound_ = 0.0;
  double limit_ = 0.0;                   // bound_ and the tolerance
  std::vector<std::int32_t> count_;      // [E] ranks that hold it
  std::vector<std::int32_t> last_rank_;  // [E] the last of them so far
  std::vector<std::int32_t> group_of_;   // [E] or -1
  std::vector<std::int32_t> alone_;      // [P] != 0: gets all of its expert's tokens
  std::vector<Group> groups_;
  std::size_t num_groups_ = 0;
  std::vector<Replica> replicas_;           // by group
  std::vector<Shared> shared_;              // by rank
  std::vector<std::int32_t> first_shared_;  // [R + 1]
  // Scratch of fill() and relieve().
  std::vector<double> rest_;
  std::vector<std::int32_t> left_out_;
  std::vector<std::int32_t> queue_;
  std::vector<Arrival> arrival_;     // [R]
  std::vector<std::uint64_t> seen_;  // [R] the search that came there last
  std::uint64_t search_ = 0;
};

}  // namespace swiftbalancer
