#pragma once
// The inner loops of Packing: scans over contiguous floats, compiled for the machine's vector width
// too. Sums of integers, minima and maxima only, so that every width gives the same bytes. Values
// are at least 0 or infinite, never NaN.

#include <cstddef>
#include <cstdint>

namespace swiftbalancer::scan {

inline constexpr std::size_t kWidth = 8;

/// Largest of `values`; 0 if none.
float largest(const float* values, std::size_t size) noexcept;
/// Smallest of `values`; infinite if none.
float smallest(const float* values, std::size_t size) noexcept;
/// Sum of floor(value * factor), at most `most` each.
std::int64_t sum_of_floors(const float* values, std::size_t size, float factor,
                           float most) noexcept;
/// How many of the rows [rows][size] come before one where base + offset[i] <= value[i] <= high for
/// some i.
std::size_t rows_without(const float* values, std::size_t rows, const float* offsets,
                         std::size_t size, float base, float high) noexcept;
/// Whether base + offset[i] <= one[i] + other[i] <= high for some i.
bool any_sum_within(const float* one, const float* other, const float* offsets, std::size_t size,
                    float base, float high) noexcept;
/// Smallest max(a + values[i], b + offset[i] - values[i]).
float smallest_heavier(const float* values, const float* offsets, std::size_t size, float a,
                       float b) noexcept;
/// For each key, how many keys are below it. @param size a multiple of kWidth.
void count_below_each(const std::int32_t* keys, std::size_t size, std::int32_t* counts) noexcept;

}  // namespace swiftbalancer::scan
