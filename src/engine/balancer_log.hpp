#pragma once
// Keeps the balancer's events of a run as records: commits and the life of each generation. Engine
// thread of one rank.

#include <chrono>
#include <cstdint>
#include <span>
#include <vector>

#include <swiftbalancer/balancer.hpp>
#include <swiftbalancer/shape.hpp>

#include "engine/record.hpp"

namespace swiftbalancer::engine {

class BalancerLog {
 public:
  BalancerLog(const ClusterShape& shape, std::size_t expert_bytes)
      : shape_(shape), expert_bytes_(static_cast<std::int64_t>(expert_bytes)) {}
  void add(std::uint64_t step, std::span<const BalancerEvent> events);
  /// Slots of the events that follow are numbered so.
  void renumber(const ClusterShape& shape) { shape_ = shape; }
  const std::vector<CommitRecord>& commits() const noexcept { return commits_; }
  const std::vector<GenerationRecord>& generations() const noexcept { return generations_; }
  /// Indices into generations() of those that ended, in the order in which they did.
  const std::vector<std::size_t>& ended() const noexcept { return ended_; }

 private:
  void describe(const MigrationPlan& plan, GenerationRecord& record) const;
  void add_commit(std::uint64_t step, const BalancerEvent& event);
  std::size_t generation(const GenerationId& id);
  void end(std::size_t generation, std::uint64_t step);

  ClusterShape shape_;
  std::int64_t expert_bytes_;
  std::vector<CommitRecord> commits_;
  std::vector<GenerationRecord> generations_;
  std::vector<std::chrono::steady_clock::time_point> opened_;  // by generation
  std::vector<std::size_t> ended_;
};

}  // namespace swiftbalancer::engine
