#include "planner/packing_scans.hpp"

#include <limits>

// Chosen when the program starts; sanitizers do not bear such early choices.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define SWIFTBALANCER_WIDE __attribute__((target_clones("avx2", "default")))
#else
#define SWIFTBALANCER_WIDE
#endif

namespace swiftbalancer::scan {

SWIFTBALANCER_WIDE float largest(const float* values, std::size_t size) noexcept {
  float most = 0.0F;
#pragma omp simd reduction(max : most)
  for (std::size_t i = 0; i < size; ++i) most = values[i] > most ? values[i] : most;
  return most;
}

SWIFTBALANCER_WIDE std::int64_t sum_of_floors(const float* values, std::size_t size, float factor,
                                              float most) noexcept {
  std::int32_t sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::size_t i = 0; i < size; ++i) {
    const float parts = values[i] * factor;
    sum += static_cast<std::int32_t>(parts < most ? parts : most);
  }
  return sum;
}

SWIFTBALANCER_WIDE bool any_within(const float* values, const float* offsets, std::size_t size,
                                   float base, float high) noexcept {
  std::int32_t any = 0;
#pragma omp simd reduction(| : any)
  for (std::size_t i = 0; i < size; ++i) {
    any |= static_cast<std::int32_t>(values[i] <= high) &
           static_cast<std::int32_t>(values[i] >= base + offsets[i]);
  }
  return any != 0;
}

SWIFTBALANCER_WIDE bool any_sum_within(const float* one, const float* other, const float* offsets,
                                       std::size_t size, float base, float high) noexcept {
  std::int32_t any = 0;
#pragma omp simd reduction(| : any)
  for (std::size_t i = 0; i < size; ++i) {
    const float sum = one[i] + other[i];
    any |= static_cast<std::int32_t>(sum <= high) &
           static_cast<std::int32_t>(sum >= base + offsets[i]);
  }
  return any != 0;
}

SWIFTBALANCER_WIDE float smallest_heavier(const float* values, const float* offsets,
                                          std::size_t size, float a, float b) noexcept {
  float least = std::numeric_limits<float>::infinity();
#pragma omp simd reduction(min : least)
  for (std::size_t i = 0; i < size; ++i) {
    const float one = a + values[i], other = b + offsets[i] - values[i];
    const float heavier = one > other ? one : other;
    least = heavier < least ? heavier : least;
  }
  return least;
}

SWIFTBALANCER_WIDE std::int32_t count_below(const std::int32_t* keys, std::size_t size,
                                            std::int32_t key) noexcept {
  std::int32_t count = 0;
#pragma omp simd reduction(+ : count)
  for (std::size_t i = 0; i < size; ++i) count += static_cast<std::int32_t>(keys[i] < key);
  return count;
}

}  // namespace swiftbalancer::scan
