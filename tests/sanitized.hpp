#pragma once
// Whether this program's modules are under AddressSanitizer or ThreadSanitizer, which take up to
// ten times as long: told when it runs, because tests are compiled once for both.

extern "C" {
[[gnu::weak]] void __asan_init();
[[gnu::weak]] void __tsan_init();
}

namespace swiftbalancer::testing_support {

inline bool is_sanitized() { return &__asan_init != nullptr || &__tsan_init != nullptr; }

}  // namespace swiftbalancer::testing_support
