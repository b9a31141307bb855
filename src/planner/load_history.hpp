#pragma once
// What the planner remembers of the loads of one phase: all since the last change of the traffic,
// how noisy they are, and whether the traffic has just changed. Used by the planner; counts only,
// no clock, so that every rank remembers the same.
//
// Packet sets are gathered into blocks: a set that is large enough is one, small ones make one
// together. After each block the last few are compared with all before (change_detector.hpp).
// History from before a change is forgotten.

#include <array>
#include <cstdint>
#include <deque>
#include <vector>

#include <swiftbalancer/load.hpp>
#include <swiftbalancer/shape.hpp>

#include "planner/change_detector.hpp"

namespace swiftbalancer {

class LoadHistory {
 public:
  /// @param window_assignments token-expert assignments per layer (mean over layers) that make a
  /// window.
  LoadHistory(const ClusterShape& shape, std::int64_t window_assignments);

  /// Cost: a few passes over [layers, experts] when it closes a block, two otherwise.
  void add(const ExpertLoad& load);

  /// Everything since the last change, and how many assignments per layer that is.
  const ExpertLoad& since_change() const noexcept { return segment_; }
  std::int64_t assignments_since_change() const noexcept { return segment_assignments_; }
  /// What the last change put an end to; empty before the first one.
  const ExpertLoad& before_change() const noexcept { return before_; }
  std::int64_t assignments_before_change() const noexcept { return before_assignments_; }
  /// The last window, whatever changed in it (or all there is).
  ExpertLoad last_window() const;
  /// The last blocks since the change, oldest first; valid until the next add().
  std::vector<const ExpertLoad*> bins() const;
  /// Changes of the traffic seen so far.
  int num_changes() const noexcept { return num_changes_; }
  /// Blocks closed so far: what is derived from the history needs a new look only when this grows.
  int num_blocks() const noexcept { return num_blocks_; }
  std::size_t num_blocks_since_change() const noexcept { return blocks_since_change_; }
  /// How many times more loads vary than those of independent tokens would, mean over layers, at
  /// least 1: tokens of one request are alike.
  double dispersion() const noexcept { return detector_.dispersion(); }
  /// Counters read so far: the cost, in a unit that does not depend on the machine.
  std::int64_t work() const noexcept { return work_; }

 private:
  struct Block {
    ExpertLoad load;
    std::int64_t assignments = 0;
  };
  void close_block();
  bool has_changed(std::size_t length);
  std::size_t first_block_of_change();
  void restart(std::size_t num_recent);
  void accumulate(ExpertLoad& sum, const ExpertLoad& load, std::int64_t sign);
  void compare(const ExpertLoad& recent);

  std::int64_t window_assignments_;
  std::int64_t block_assignments_;
  ExpertLoad empty_;
  Block open_;
  std::deque<Block> blocks_;  // the last kKeptBlocks, oldest first
  std::array<ExpertLoad, ChangeDetector::kRecentBlocks.size()> recent_;  // sums of the last ones
  std::size_t blocks_since_change_ = 0;  // may exceed blocks_.size()
  ExpertLoad segment_;                   // includes the open block
  std::int64_t segment_assignments_ = 0;
  ExpertLoad before_;
  std::int64_t before_assignments_ = 0;
  ChangeDetector detector_;
  std::vector<LayerDistance> distances_;  // [num_moe_layers] scratch
  int num_changes_ = 0;
  int num_blocks_ = 0;
  std::int64_t work_ = 0;
};

/// Mean assignments per layer.
std::int64_t assignments_of(const ExpertLoad& load);

}  // namespace swiftbalancer
