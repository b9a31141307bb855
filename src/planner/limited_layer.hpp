#pragma once
// One layer being placed under limits: ranks of unequal speed and size, pinned slots, at most so
// many replicas of an expert, experts bound to a node. Builds a placement that keeps them, and
// improves it by swaps and replacements that keep them too. Used by the planners for limits and for
// groups on nodes. Deterministic; the lists of an instance are its own.

#include <cstdint>
#include <span>
#include <vector>

#include <swiftbalancer/policy.hpp>

namespace swiftbalancer {

class LimitedLayer {
 public:
  /// @param problem outlives this object. @param home_of_expert [num_logical_experts] the node that
  /// an expert is bound to; empty: experts are bound to none.
  LimitedLayer(const LayerProblem& problem, std::span<const int> home_of_expert);

  /// Places everything: pinned slots first, then replicas by load, heaviest first onto the rank
  /// that is least late with it. @returns false when the limits cannot be kept.
  bool build();
  /// Starts from a placement instead. @param slots [num_slots], within the limits.
  void assign(std::span<const std::int32_t> slots);

  /// Lets experts of nodes whose load is above `level` times their part have replicas elsewhere,
  /// until none is, or `max_cross_node_replicas` are out.
  void spill(double level, int max_cross_node_replicas);

  /// From now on changes count as moves from the placement that is assigned, and refine() and
  /// make_room() stay within these. @param max_moves, max_rank_moves as in LayerProblem.
  void limit_moves(int max_moves, int max_rank_moves);
  int moves() const noexcept { return moves_; }
  /// Changes looked at so far.
  std::int64_t work() const noexcept { return work_; }
  /// With limit_moves(): gives slots of experts with more than max_replicas, and slots that repeat
  /// an expert of their rank, to others, as far as moves allow.
  void make_room();
  /// One change of refine(). @returns false where nothing helps.
  bool improve_once();

  /// Lowers the highest rank time by changes that send no expert out of its node, until it is at
  /// most `target`, nothing helps, or the work is spent. @returns work done: changes looked at.
  std::int64_t refine(double target, std::int64_t max_work);

  /// Time of the slowest rank: load / speed.
  double highest_time() const;
  /// The part of all tokens that is served outside the node of their expert.
  double cross_node_share() const;
  const std::vector<std::int32_t>& slots() const noexcept { return slots_; }

 private:
  struct Change {
    double time = 0.0;  // of the slowest rank that it touches, and of the one to relieve
    int slot = -1;
    int other_slot = -1;       // swap with this one
    std::int32_t expert = -1;  // or give the slot to this expert
  };

  bool count_replicas(std::vector<int>& replicas) const;
  bool add_replicas(int domain, int free_slots, std::vector<int>& replicas) const;
  void place(const std::vector<int>& replicas);
  void repair_duplicates();
  bool swap_duplicate_away(int slot);
  void replace_duplicate(int slot);
  void consider_swaps(int rank, Change& best);
  void consider_replacements(int rank, Change& best);
  void consider_replacement(int slot, std::int32_t expert, int rank, Change& best);
  double time_after_replacing(int slot, std::int32_t expert, int domain);
  int spill_once(double level, int allowed);
  bool spill_replica(int from, int to, double wanted);
  bool exchange_experts(int from, int to, double wanted);
  int spill_candidate(int from, int to, double wanted) const;

  void set(int slot, std::int32_t expert);
  void recompute(int rank);
  void add_delta(int rank, double load);
  bool may_enter(int rank, std::int32_t expert) const;
  bool comes(int rank, std::int32_t expert) const;
  int held_before(int rank, std::int32_t expert) const;
  bool affords(int slot, std::int32_t expert) const;
  bool affords_swap(int slot, int other_slot);
  int cost_of(int slot, std::int32_t expert) const;
  int sender_of(std::int32_t expert) const;
  void count_leaving(int rank, std::int32_t expert);
  void count_arrival(int rank, std::int32_t expert);
  bool is_better(const Change& replacement, const Change& swap, double now) const;
  bool is_pinned(int slot) const;
  bool is_foreign(int slot) const;
  int slowest_rank() const;
  int num_domains() const;
  int domain_of_rank(int rank) const;
  double load_of(std::int32_t expert) const;
  double piece(std::int32_t expert) const;
  std::vector<double> node_loads() const;
  int count(std::int32_t expert) const;
  int& held(int rank, std::int32_t expert);
  int held(int rank, std::int32_t expert) const;

  const LayerProblem& problem_;
  const ClusterShape& shape_;
  std::vector<int> home_;             // [num_logical_experts], empty: no domains
  std::vector<int> ranks_in_domain_;  // [num_domains]
  std::vector<double> slowness_;      // [num_ranks] 1 / speed
  std::vector<double> node_speed_;    // [num_nodes]
  int max_replicas_;
  std::vector<std::int32_t> slots_;         // [num_slots]
  std::vector<std::vector<int>> slots_of_;  // [num_logical_experts] ascending
  std::vector<int> held_;                   // [num_ranks][num_logical_experts]
  std::vector<double> time_;                // [num_ranks]
  std::vector<double> delta_;               // [num_ranks], of the change looked at
  std::vector<int> touched_;                // ranks with a delta
  std::int64_t work_ = 0;
  // Of limit_moves(); empty lists without it.
  std::vector<int> held_before_;           // as held_
  std::vector<std::vector<int>> holders_;  // [num_logical_experts] ranks that held it
  std::vector<int> received_, sent_;       // [num_ranks]
  std::vector<int> source_;                // as held_: the rank that sends it there
  int moves_ = 0;
  int max_moves_ = -1;
  int max_rank_moves_ = -1;
};

}  // namespace swiftbalancer
