#pragma once
// What the planner remembers of the loads: all since the last change of the traffic, how noisy they
// are, and whether the traffic has just changed. Used by the planner; counts only, no clock, so
// that every rank remembers the same.
//
// Packet sets are gathered into blocks of a quarter of a window. The traffic has changed when the
// last blocks differ from those before by more than their noise explains, all layers taken
// together. History from before a change is forgotten.

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include <swiftbalancer/load.hpp>
#include <swiftbalancer/shape.hpp>

namespace swiftbalancer {

class LoadHistory {
 public:
  /// @param window_assignments token-expert assignments per layer (mean over layers) that make a
  /// window.
  LoadHistory(const ClusterShape& shape, std::int64_t window_assignments);

  void add(const ExpertLoad& load);

  /// Everything since the last change, and how many assignments per layer that is.
  const ExpertLoad& since_change() const noexcept { return segment_; }
  std::int64_t assignments_since_change() const noexcept { return segment_assignments_; }
  /// The last window, whatever changed in it (or all there is).
  ExpertLoad last_window() const;
  /// Changes of the traffic seen so far.
  int num_changes() const noexcept { return num_changes_; }
  /// Blocks closed so far: what is derived from the history needs a new look only when this grows.
  int num_blocks() const noexcept { return num_blocks_; }
  /// How many times more the last blocks vary than blocks of independent tokens would, mean over
  /// layers, at least 1: tokens of one request are alike.
  double dispersion() const { return dispersion_before(0); }

 private:
  struct Block {
    ExpertLoad load;
    std::int64_t assignments = 0;
  };
  void close_block();
  void detect_change();
  struct Difference {
    double beyond_noise = 0.0;
    double noise = 0.0;
  };
  Difference difference(std::size_t num_recent, double dispersion) const;
  double dispersion_of(std::size_t first, std::size_t num_batches, std::size_t batch) const;
  double dispersion_before(std::size_t num_recent) const;
  void restart(std::size_t num_recent);

  std::int64_t block_assignments_;
  ExpertLoad empty_;
  Block open_;
  std::deque<Block> blocks_;             // the last kKeptBlocks, oldest first
  std::size_t blocks_since_change_ = 0;  // may exceed blocks_.size()
  ExpertLoad segment_;                   // includes the open block
  std::int64_t segment_assignments_ = 0;
  double usual_difference_ = 0.0;  // sum over the first ones since the change
  int num_differences_ = 0;
  double carried_dispersion_ = 1.0;  // as of the last change
  int num_changes_ = 0;
  int num_blocks_ = 0;
};

/// Mean assignments per layer.
std::int64_t assignments_of(const ExpertLoad& load);

}  // namespace swiftbalancer
