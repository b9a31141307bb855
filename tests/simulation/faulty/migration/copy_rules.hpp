#pragma once
// In the fault build: the rules of src/migration/copy_rules.hpp, each with its wrong answer.

#include <cstddef>
#include <cstdint>
#include <vector>

#include <swiftbalancer/migration_plan.hpp>

#include "active_fault.hpp"

namespace swiftbalancer {

struct CopyRules {
  bool is_passed(bool pending, bool failed) const {
    return !pending || (failed && faulty(Fault::kSkipFailed));
  }
  bool all_here(std::size_t num_missing) const {
    return num_missing == 0 || (num_missing == 1 && faulty(Fault::kMissingIsStaged));
  }
  bool holds_back(std::uint64_t left_behind, std::uint64_t generation_step) const {
    return left_behind < generation_step && !faulty(Fault::kNoOlderDrain);
  }
  bool stops_transfers() const { return !faulty(Fault::kFreeOnDrop); }
  bool returns_buffers(bool dropped) const { return !dropped || !faulty(Fault::kBufferLost); }
  template <typename Owed, typename New>
  void take_buffers(const Owed& owed, const New& new_ones) const {
    if (faulty(Fault::kDrainLate)) new_ones();
    owed();
    if (!faulty(Fault::kDrainLate)) new_ones();
  }
  GenerationId named(const GenerationId& generation) const {
    return faulty(Fault::kTagNoGeneration) ? GenerationId{} : generation;
  }
  std::size_t granted(std::size_t next, std::size_t count) const {
    return faulty(Fault::kAnyOrderGrants) ? count - 1 - next : next;
  }
  std::vector<std::byte*>& target_of_local(std::vector<std::byte*>& buffer,
                                           const std::vector<std::byte*>& source) const {
    if (faulty(Fault::kLocalAtCommit)) buffer = source;
    return buffer;
  }
  bool may_overwrite(int num_readers_left) const {
    return num_readers_left == 0 || faulty(Fault::kSplitAnyOrder);
  }
};

}  // namespace swiftbalancer
