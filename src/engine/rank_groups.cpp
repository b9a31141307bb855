#include "engine/rank_groups.hpp"

#include <unistd.h>

#include <atomic>

namespace swiftbalancer::engine {
namespace {

std::string group_name(const char* purpose) {
  static std::atomic<int> count{0};
  return "swiftbalancer." + std::to_string(getpid()) + "." + std::to_string(count++) + "." +
         purpose;
}

// 16 ranks must fit the 64 MB of /dev/shm that containers have by default: the rings of a pair of
// ranks take four times ring_bytes here (two groups of two lanes), 32 KiB make 32 MiB of them.
RingOptions rings_for(int num_ranks) {
  return {.ring_bytes = num_ranks > 8 ? std::size_t{1} << 15 : std::size_t{1} << 17};
}

}  // namespace

RankGroups::RankGroups(int num_ranks)
    : exchange_(group_name("exchange"), num_ranks, rings_for(num_ranks)),
      balancer_(group_name("balancer"), num_ranks, rings_for(num_ranks)) {}

void RankGroups::unlink() noexcept {
  exchange_.unlink();
  balancer_.unlink();
}

void RankGroups::mark_lost(int rank) noexcept {
  exchange_.mark_lost(rank);
  balancer_.mark_lost(rank);
}

}  // namespace swiftbalancer::engine
