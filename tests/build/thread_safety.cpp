// For the check that lint runs (clang's -Wthread-safety): a member under a mutex, written with the
// mutex held, or without it if SWIFTBALANCER_UNLOCKED is defined.

#include "runtime/mutex.hpp"

namespace {

class Counter {
 public:
  void add() {
#ifndef SWIFTBALANCER_UNLOCKED
    const swiftbalancer::MutexLock lock(mutex_);
#endif
    ++count_;
  }

 private:
  swiftbalancer::Mutex mutex_;
  int count_ SWIFTBALANCER_GUARDED_BY(mutex_) = 0;
};

}  // namespace

int main() { Counter().add(); }
