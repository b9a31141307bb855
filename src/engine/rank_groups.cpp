#include "engine/rank_groups.hpp"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <iterator>
#include <utility>

namespace swiftbalancer::engine {
namespace {

std::string group_name(const char* purpose) {
  static std::atomic<int> count{0};
  return "swiftbalancer." + std::to_string(getpid()) + "." + std::to_string(count++) + "." +
         purpose;
}

// From 5 ranks on half of the transport's default, because there are two groups: 16 ranks must fit
// the 64 MB of /dev/shm that containers have by default, and take 32 MiB.
RingOptions rings_for(int num_ranks) {
  const std::size_t to_each = (std::size_t{1} << 19) / static_cast<std::size_t>(num_ranks);
  return {.ring_bytes =
              std::clamp(std::bit_floor(to_each), std::size_t{1} << 12, std::size_t{1} << 17)};
}

}  // namespace

struct RankGroups::Pair {
  explicit Pair(std::vector<int> ranks)
      : members(std::move(ranks)),
        exchange(group_name("exchange"), static_cast<int>(members.size()),
                 rings_for(static_cast<int>(members.size()))),
        balancer(group_name("balancer"), static_cast<int>(members.size()),
                 rings_for(static_cast<int>(members.size()))) {}
  void unlink() noexcept {
    exchange.unlink();
    balancer.unlink();
  }
  std::vector<int> members;
  ShmGroup exchange, balancer;
};

void RankGroups::make(std::vector<int> members) {
  pairs_.push_back(std::make_shared<Pair>(std::move(members)));
  for (std::size_t i = 0; i + 1 < pairs_.size(); ++i) pairs_[i]->unlink();
}

GroupNames RankGroups::names() const {
  return {pairs_.back()->exchange.name(), pairs_.back()->balancer.name()};
}

void RankGroups::all_opened() noexcept {
  pairs_.erase(pairs_.begin(), std::prev(pairs_.end()));
  pairs_.back()->unlink();
}

void RankGroups::mark_lost(int rank) noexcept {
  for (const auto& pair : pairs_) {
    const auto member = std::ranges::find(pair->members, rank);
    if (member == pair->members.end()) continue;
    const int number = static_cast<int>(member - pair->members.begin());
    pair->exchange.mark_lost(number);
    pair->balancer.mark_lost(number);
  }
}

}  // namespace swiftbalancer::engine
