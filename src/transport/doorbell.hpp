#pragma once
// How a rank sleeps and is woken, also between processes. The word counts down: 0 means awake, n >
// 0 that the owner sleeps (or is about to) until n rings. Ringing an owner that is awake is one
// atomic operation and no system call.
//
// No wake-up is lost: the owner arms, looks for work once more, then sleeps; the others make their
// work visible, then ring. Both change the same word atomically, so either the owner sees the work
// or the ring finds the word armed. Owner: one thread. Ringing: any thread or process.

#include <atomic>
#include <chrono>
#include <cstdint>

namespace swiftbalancer::ring {

void arm_doorbell(std::atomic<std::uint32_t>& word, std::uint32_t rings) noexcept;
void disarm_doorbell(std::atomic<std::uint32_t>& word) noexcept;
/// Sleeps until the word reaches 0 or the deadline; may return early.
void sleep_on_doorbell(std::atomic<std::uint32_t>& word,
                       std::chrono::steady_clock::time_point deadline) noexcept;

/// One of the rings that the owner counts.
void ring_doorbell(std::atomic<std::uint32_t>& word) noexcept;
/// Wakes the owner whatever it counts.
void ring_doorbell_now(std::atomic<std::uint32_t>& word) noexcept;

}  // namespace swiftbalancer::ring
