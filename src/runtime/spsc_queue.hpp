#pragma once
// Bounded lock-free queue between exactly two threads: one enqueues, one dequeues. Allocates only
// when made. Ours because ThreadSanitizer must see through it: the packaged queues synchronise by
// fences, which it does not model.

#include <atomic>
#include <cstddef>
#include <utility>
#include <vector>

namespace swiftbalancer {

template <typename Message>
class SpscQueue {
 public:
  explicit SpscQueue(std::size_t capacity) : slots_(capacity + 1) {}

  /// Producer. Moves from `message` unless the queue is full. @returns false when full.
  bool try_enqueue(Message& message) noexcept {
    const std::size_t tail = tail_.load(std::memory_order_relaxed);
    const std::size_t next = after(tail);
    if (next == head_.load(std::memory_order_acquire)) return false;
    slots_[tail] = std::move(message);
    tail_.store(next, std::memory_order_release);
    return true;
  }
  /// Producer. Whether `count` more messages fit now.
  bool has_room_for(std::size_t count) const noexcept {
    const std::size_t used = (tail_.load(std::memory_order_relaxed) + slots_.size() -
                              head_.load(std::memory_order_acquire)) %
                             slots_.size();
    return slots_.size() - 1 - used >= count;
  }
  /// Consumer. The oldest message, which stays until pop(); null when empty.
  Message* front() noexcept {
    return empty() ? nullptr : &slots_[head_.load(std::memory_order_relaxed)];
  }
  /// Consumer, after front() gave a message.
  void pop() noexcept {
    const std::size_t head = head_.load(std::memory_order_relaxed);
    slots_[head] = Message{};
    head_.store(after(head), std::memory_order_release);
  }
  /// Consumer. @returns false when empty.
  bool try_dequeue(Message& message) noexcept {
    Message* oldest = front();
    if (oldest == nullptr) return false;
    message = std::move(*oldest);
    head_.store(after(head_.load(std::memory_order_relaxed)), std::memory_order_release);
    return true;
  }
  /// Consumer.
  bool empty() const noexcept {
    return head_.load(std::memory_order_relaxed) == tail_.load(std::memory_order_acquire);
  }

 private:
  std::size_t after(std::size_t index) const noexcept {
    return index + 1 == slots_.size() ? 0 : index + 1;
  }

  std::vector<Message> slots_;
  alignas(64) std::atomic<std::size_t> head_{0};  // apart: each is written by one thread only
  alignas(64) std::atomic<std::size_t> tail_{0};
};

}  // namespace swiftbalancer
