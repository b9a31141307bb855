#include "transport/doorbell.hpp"

#include <cerrno>
#include <ctime>

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace swiftbalancer::ring {
namespace {

static_assert(sizeof(std::atomic<std::uint32_t>) == sizeof(std::uint32_t),
              "the kernel sees the bare word");

long futex(std::atomic<std::uint32_t>& word, int operation, std::uint32_t value,
           const timespec* deadline) noexcept {
  return ::syscall(SYS_futex, &word, operation, value, deadline, nullptr, FUTEX_BITSET_MATCH_ANY);
}

void wake(std::atomic<std::uint32_t>& word) noexcept { futex(word, FUTEX_WAKE, 1, nullptr); }

}  // namespace

void arm_doorbell(std::atomic<std::uint32_t>& word, std::uint32_t rings) noexcept {
  word.exchange(rings, std::memory_order_acq_rel);
}

void disarm_doorbell(std::atomic<std::uint32_t>& word) noexcept {
  word.exchange(0, std::memory_order_acq_rel);
}

void sleep_on_doorbell(std::atomic<std::uint32_t>& word,
                       std::chrono::steady_clock::time_point deadline) noexcept {
  // FUTEX_WAIT_BITSET takes an absolute CLOCK_MONOTONIC time, which is what steady_clock counts.
  const auto since = deadline.time_since_epoch();
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(since);
  timespec until{};
  until.tv_sec = static_cast<std::time_t>(seconds.count());
  until.tv_nsec = static_cast<long>(std::chrono::nanoseconds(since - seconds).count());
  for (std::uint32_t value = word.load(std::memory_order_acquire); value != 0;
       value = word.load(std::memory_order_acquire)) {
    const long result = futex(word, FUTEX_WAIT_BITSET, value, &until);
    if (result == 0 || errno != EAGAIN) return;  // EAGAIN: rung meanwhile, but not often enough
  }
}

void ring_doorbell(std::atomic<std::uint32_t>& word) noexcept {
  // Written even if the word is 0: the ring must be ordered against arming.
  std::uint32_t value = word.load(std::memory_order_relaxed);
  while (!word.compare_exchange_weak(value, value == 0 ? 0 : value - 1, std::memory_order_acq_rel,
                                     std::memory_order_relaxed)) {
  }
  if (value == 1) wake(word);
}

void ring_doorbell_now(std::atomic<std::uint32_t>& word) noexcept {
  if (word.exchange(0, std::memory_order_acq_rel) != 0) wake(word);
}

}  // namespace swiftbalancer::ring
