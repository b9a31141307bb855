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

SWIFTBALANCER_WIDE float smallest(const float* values, std::size_t size) noexcept {
  float least = std::numeric_limits<float>::infinity();
#pragma omp simd reduction(min : least)
  for (std::size_t i = 0; i < size; ++i) least = values[i] < least ? values[i] : least;
  return least;
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

SWIFTBALANCER_WIDE std::size_t rows_without(const float* values, std::size_t rows,
                                            const float* offsets, std::size_t size, float base,
                                            float high) noexcept {
  for (std::size_t row = 0; row < rows; ++row, values += size) {
    std::int32_t any = 0;
#pragma omp simd reduction(| : any)
    for (std::size_t i = 0; i < size; ++i) {
      any |= static_cast<std::int32_t>(values[i] <= high) &
             static_cast<std::int32_t>(values[i] >= base + offsets[i]);
    }
    if (any != 0) return row;
  }
  return rows;
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

SWIFTBALANCER_WIDE void count_below_each(const std::int32_t* keys, std::size_t size,
                                         std::int32_t* counts) noexcept {
  for (std::size_t first = 0; first < size; first += kWidth) {
    std::int32_t below[kWidth] = {};
    for (std::size_t other = 0; other < size; ++other) {
      const std::int32_t key = keys[other];
#pragma omp simd
      for (std::size_t i = 0; i < kWidth; ++i)
        below[i] += static_cast<std::int32_t>(key < keys[first + i]);
    }
    for (std::size_t i = 0; i < kWidth; ++i) counts[first + i] = below[i];
  }
}

}  // namespace swiftbalancer::scan
