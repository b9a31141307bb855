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
  /// of Gauss-Seidel water filling, over-relaxed for pairs of ranks of one speed), then along
  /// chains of replicas from ranks above the lower bound to ranks below it. Where no chain leads
  /// on, the ranks that they reach hold all replicas of what they carry: they raise the bound
  /// (Newton on cuts, Dinkelbach 1967). An expert that a rank holds twice is split as if it held it
  /// once: its second slot gets nothing.
  /// @param slots [num_slots], may hold kEmptySlot. @param load [num_logical_experts], >= 0.
  /// @returns the largest rank load divided by the rank's speed.
  /// Cost: some 3 us at 320 slots on 32 ranks.
  double level(std::span<const std::int32_t> slots, std::span<const double> load);
  /// As level(), and with `near` then, without making the hottest rank hotter, so that many tokens
  /// can stay on the rank and on the node that they come from: a replica gets at least the part of
  /// its own rank, a node's replicas those of the node's ranks, as far as they can. All ranks are
  /// taken to send the same. Cost: then some 15 us.
  double level(std::span<const std::int32_t> slots, std::span<const double> load, bool near) {
    return near ? level_near(slots, load) : level(slots, load);
  }

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
  struct Expert {
    double piece;            // what a replica gets when all get the same
    std::int32_t first;      // of its replicas in replicas_
    std::int32_t count;      // ranks that hold it
    std::int32_t last_rank;  // the last of them
  };
  struct Replica {
    std::int32_t slot;
    std::int32_t rank;
  };
  struct Group {  // the replicas of one expert
    double load;
    std::int32_t first;
    std::int32_t count;
  };
  struct Shared {  // a slot whose expert has replicas elsewhere, and where they are in replicas_
    std::int32_t slot;
    std::int32_t first_other;
    std::int32_t end_other;
  };
  struct Arrival {  // how a search for chains came to a rank: from where, and out of which slot
                    // into which
    std::uint64_t search;
    std::int32_t from;
    std::int32_t out;
    std::int32_t in;
  };

  void collect(std::span<const std::int32_t> slots, std::span<const double> load);
  void count_ranks(std::span<const std::int32_t> slots);
  void group_experts(std::span<const double> load);
  void fill(const Group& group);
  void fill_pair(const Group& group);
  double highest() const noexcept;
  bool is_hot(std::int32_t rank) const noexcept {
    return rank_load_[static_cast<std::size_t>(rank)] >
           limit_ * speed_[static_cast<std::size_t>(rank)];
  }
  bool relieve(std::int32_t hot);
  bool search_from(std::int32_t rank);
  bool move_along_chain(std::int32_t to);
  bool raise_bound();
  void set_bound(double bound);
  double level_near(std::span<const std::int32_t> slots, std::span<const double> load);
  void split_near();
  void relieve_above_floors();

  std::vector<std::int32_t> first_slot_;  // [R + 1]
  std::vector<double> speed_;             // [R]
  std::vector<double> slowness_;          // [R] 1 / speed
  std::vector<double> inverse_;           // [R + 1] of a number of replicas; of 0 it is 0
  double total_speed_ = 0.0;
  bool is_uniform_ = true;         // all speeds are 1
  std::vector<double> amount_;     // [P]
  std::vector<double> rank_load_;  // [R]
  double bound_ = 0.0;
  double limit_ = 0.0;               // bound_ and the tolerance
  std::vector<Expert> experts_;      // [E]
  std::vector<std::int32_t> place_;  // [P] among its expert's replicas; -1: an empty or wasted slot
  std::vector<Replica> replicas_;    // [P] by expert
  std::vector<Group> groups_;        // [E + 1], the first num_groups_ are in use
  std::size_t num_groups_ = 0;
  std::vector<Shared> shared_;              // [P + 1] by rank
  std::vector<std::int32_t> first_shared_;  // [R + 1]
  // Scratch of fill() and of the search for chains.
  std::vector<double> rest_;
  std::vector<std::int32_t> left_out_;
  std::vector<std::int32_t> queue_;
  std::vector<Arrival> arrival_;  // [R] of the search that came there last
  std::uint64_t search_ = 0;
  std::size_t reached_ = 0;  // ranks in queue_
  // Of level_near().
  std::vector<std::int32_t> node_of_rank_;  // [R]
  std::vector<double> part_of_node_;        // [nodes] of all ranks
  std::vector<std::int32_t> on_node_;       // [nodes] replicas of an expert; scratch
  std::vector<double> near_;                // [P] what the slot gets of the tokens of its node
  std::vector<double> floor_;               // [P]
};

}  // namespace swiftbalancer
