#pragma once
// Keeps the balancer's events of a run as records: commits and the life of each generation. Engine
// thread of one rank.

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
  const std::vector<CommitRecord>& commits() const noexcept { return commits_; }
  const std::vector<GenerationRecord>& generations() const noexcept { return generations_; }

 private:
  void add_commit(std::uint64_t step, const BalancerEvent& event);
  GenerationRecord& generation(const GenerationId& id);

  const ClusterShape& shape_;
  std::int64_t expert_bytes_;
  std::vector<CommitRecord> commits_;
  std::vector<GenerationRecord> generations_;
};

}  // namespace swiftbalancer::engine
