#pragma once
// The rules of docs/protocol.md about copies and buffers that a single line can break, each as a
// function of its own, used by the files of this folder. The fault build of the simulation replaces
// this header by one in which each can be switched to a wrong answer (tests/simulation/faulty/).
// Pure.

#include <cstddef>
#include <cstdint>
#include <vector>

#include <swiftbalancer/migration_plan.hpp>

namespace swiftbalancer {

struct CopyRules {
  /// Rule 6: units that are dropped or committed count as passed, failed ones do not.
  constexpr bool is_passed(bool pending, bool /*failed*/) const { return !pending; }
  /// Rule 8: a unit is staged when nothing of it is missing.
  constexpr bool all_here(std::size_t num_missing) const { return num_missing == 0; }
  /// Rule 8: a copy that an older generation has left behind holds its layer back.
  constexpr bool holds_back(std::uint64_t left_behind, std::uint64_t generation_step) const {
    return left_behind < generation_step;
  }
  /// Rule 9: what is under way for a unit ends before its memory is used for anything else.
  constexpr bool stops_transfers() const { return true; }
  /// Rule 9: the buffers of a unit return to the pool, whatever became of it.
  constexpr bool returns_buffers(bool /*dropped*/) const { return true; }
  /// Rule 9: receives that are owed take buffers before any new one, else two ranks could wait for
  /// each other.
  template <typename Owed, typename New>
  void take_buffers(const Owed& owed, const New& new_ones) const {
    owed();
    new_ones();
  }
  /// Rule 9: tags name the generation.
  constexpr GenerationId named(const GenerationId& generation) const { return generation; }
  /// Rule 10: buffers are granted in plan order. @returns which of `count` arrivals is the next.
  constexpr std::size_t granted(std::size_t next, std::size_t /*count*/) const { return next; }
  /// Rule 10: a copy within a rank is staged too. @returns where it goes.
  std::vector<std::byte*>& target_of_local(std::vector<std::byte*>& buffer,
                                           const std::vector<std::byte*>& /*source*/) const {
    return buffer;
  }
  /// Rule 10: a slot is overwritten when all who read it have.
  constexpr bool may_overwrite(int num_readers_left) const { return num_readers_left == 0; }
};

}  // namespace swiftbalancer
