#pragma once
// The allocations of a test program through operator new: counted by thread, and made to fail where
// a test wants it. Including it replaces operator new and delete, so a program does so in one
// source, and not beside a sanitizer's own.

#include <cstdint>
#include <cstdlib>
#include <new>

namespace swiftbalancer::testing_support {

/// Of one thread.
struct Allocations {
  bool watched = true;     ///< They count, and may fail.
  std::uint64_t made = 0;  ///< While watched.
  std::int64_t left = -1;  ///< So many still succeed; < 0: all do.
  bool for_good = false;   ///< From then on all fail; else one does.
  bool has_failed = false;

  bool fails() noexcept {
    if (!watched) return false;
    ++made;
    if (left < 0) return false;
    if (left > 0) return --left < 0;
    has_failed = true;
    if (!for_good) left = -1;
    return true;
  }
};
inline thread_local Allocations allocations;

}  // namespace swiftbalancer::testing_support

// Not inlined: g++ takes an inlined malloc() and free() for a mismatch with delete and new.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  if (!swiftbalancer::testing_support::allocations.fails()) {
    if (void* memory = std::malloc(bytes)) return memory;
  }
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(std::size_t bytes, std::align_val_t alignment) {
  const auto unit = static_cast<std::size_t>(alignment);
  if (!swiftbalancer::testing_support::allocations.fails()) {
    if (void* memory = std::aligned_alloc(unit, (bytes + unit - 1) / unit * unit)) return memory;
  }
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
