#pragma once
// When each copy of the active plan runs in virtual time. It follows from the agreement's events
// and the agreed clock at which their step began, and from nothing else, so every rank keeps the
// same timetable. Pure; used by TimedDevice, engine thread.

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <swiftbalancer/migration_plan.hpp>
#include <swiftbalancer/shape.hpp>

namespace swiftbalancer::engine {

/// What lies between two ranks.
enum class Link : std::uint8_t {
  kMemory,    ///< The same rank: its own memory.
  kLink,      ///< The same node.
  kNodeLink,  ///< Another node.
};
inline constexpr std::size_t kNumLinks = 3;
Link link_between(const ClusterShape& shape, int rank, int peer) noexcept;

class CopyTimetable {
 public:
  static constexpr std::int64_t kNotScheduled = -1;

  struct Copy {
    std::uint32_t unit = 0;
    int source_rank = 0;
    int destination_rank = 0;
    Link link = Link::kMemory;
    bool granted = false;  ///< Has a staging buffer on its destination.
    std::int64_t start_ns = kNotScheduled;
    std::int64_t end_ns = kNotScheduled;
  };

  /// @param copy_ns [Link] one expert's way, latency included. @param buffers_per_rank [num_ranks],
  /// each >= 1.
  CopyTimetable(const ClusterShape& shape, const std::array<std::int64_t, kNumLinks>& copy_ns,
                std::vector<int> buffers_per_rank);

  // Events of one step in their order, then update() once.
  void adopt(const MigrationPlan& plan);
  /// Committed or dropped: its buffers are free, what was under way stops.
  void finish_unit(std::uint32_t unit);
  void retire();
  /// Grants buffers in plan order and lays out what has not started: per link and direction of a
  /// rank one copy at a time, in plan order, each from the first moment at which buffer, egress and
  /// ingress are free.
  /// @param now_ns agreed clock at which the step of the events began; never falls.
  void update(std::int64_t now_ns);

  /// Units, in plan order from the first, that are finished or whose copies to `rank` have ended. 0
  /// without a plan.
  std::uint32_t staged_cursor(int rank, std::int64_t now_ns) const noexcept;
  bool sending(int rank, Link link, std::int64_t now_ns) const noexcept;
  bool receiving(int rank, Link link, std::int64_t now_ns) const noexcept;
  /// In plan order; those of finished units are not scheduled.
  std::span<const Copy> copies() const noexcept { return copies_; }

 private:
  bool finished(const Copy& copy) const noexcept { return finished_[copy.unit]; }

  const ClusterShape& shape_;
  std::array<std::int64_t, kNumLinks> copy_ns_;
  std::vector<int> buffers_per_rank_;
  std::vector<Copy> copies_;    // of the active plan
  std::vector<bool> finished_;  // [unit]
  std::int64_t last_end_ns_ = 0;
};

}  // namespace swiftbalancer::engine
