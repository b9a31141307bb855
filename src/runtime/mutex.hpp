#pragma once
// The standard library's mutex and condition variable with the notes that clang's check needs
// (core/thread_annotations.hpp). Used wherever members are shared under a mutex; nothing is added.

#include <chrono>
#include <condition_variable>
#include <mutex>

#include "core/thread_annotations.hpp"

namespace swiftbalancer {

class SWIFTBALANCER_CAPABILITY("mutex") Mutex {
 public:
  void lock() SWIFTBALANCER_ACQUIRE() { mutex_.lock(); }
  void unlock() SWIFTBALANCER_RELEASE() { mutex_.unlock(); }

 private:
  friend class ConditionVariable;
  std::mutex mutex_;
};

/// Holds a mutex for as long as it lives.
class SWIFTBALANCER_SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) SWIFTBALANCER_ACQUIRE(mutex) : mutex_(mutex) { mutex_.lock(); }
  ~MutexLock() SWIFTBALANCER_RELEASE() { mutex_.unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

/// A wait may end for no reason: callers loop over their condition. They write the loop themselves,
/// because the check does not know inside a predicate that the mutex is held.
class ConditionVariable {
 public:
  void wait(Mutex& mutex) SWIFTBALANCER_REQUIRES(mutex) {
    std::unique_lock lock(mutex.mutex_, std::adopt_lock);
    condition_.wait(lock);
    lock.release();
  }
  /// @returns false once the time has come.
  bool wait_until(Mutex& mutex, std::chrono::steady_clock::time_point time)
      SWIFTBALANCER_REQUIRES(mutex) {
    std::unique_lock lock(mutex.mutex_, std::adopt_lock);
    const std::cv_status status = condition_.wait_until(lock, time);
    lock.release();
    return status == std::cv_status::no_timeout;
  }
  void notify_one() noexcept { condition_.notify_one(); }
  void notify_all() noexcept { condition_.notify_all(); }

 private:
  std::condition_variable condition_;
};

}  // namespace swiftbalancer
