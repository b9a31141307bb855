#include "engine/kernels.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

// Each loop is written once on vectors of eight floats and inlined into one function per
// instruction set: the compiler maps a vector to one AVX2 or two SSE registers, element by element
// the same operations.
#define SWIFTBALANCER_INLINE [[gnu::always_inline]] inline

namespace swiftbalancer::engine {
namespace {

using Floats = float __attribute__((vector_size(32)));
using Words = std::uint32_t __attribute__((vector_size(32)));
using Halves = std::uint16_t __attribute__((vector_size(16)));

SWIFTBALANCER_INLINE Floats load(const float* from) {
  Floats result;
  std::memcpy(&result, from, sizeof result);
  return result;
}

SWIFTBALANCER_INLINE void store(float* to, const Floats& value) {
  std::memcpy(to, &value, sizeof value);
}

/// The first `count` floats, then `fill`.
SWIFTBALANCER_INLINE Floats load_some(const float* from, int count, float fill) {
  float padded[kLanes];
  for (int i = 0; i < kLanes; ++i) padded[i] = i < count ? from[i] : fill;
  return load(padded);
}

SWIFTBALANCER_INLINE void store_some(float* to, const Floats& value, int count) {
  for (int i = 0; i < count; ++i) to[i] = value[i];
}

SWIFTBALANCER_INLINE Floats widen(const Halves& halves) {
  return std::bit_cast<Floats>(__builtin_convertvector(halves, Words)
                               << 16);  // bf16 is the upper half of an f32
}

/// Sums of neighbours: (a0+a1, a2+a3, b0+b1, b2+b3) in each half.
SWIFTBALANCER_INLINE Floats add_neighbours(const Floats& a, const Floats& b) {
  return __builtin_shufflevector(a, b, 0, 2, 8, 10, 4, 6, 12, 14) +
         __builtin_shufflevector(a, b, 1, 3, 9, 11, 5, 7, 13, 15);
}

/// Eight sums of eight lanes each: ((l0+l1)+(l2+l3)) + ((l4+l5)+(l6+l7)).
SWIFTBALANCER_INLINE Floats sum_each(const Floats (&sums)[kLanes]) {
  const Floats low =
      add_neighbours(add_neighbours(sums[0], sums[1]), add_neighbours(sums[2], sums[3]));
  const Floats high =
      add_neighbours(add_neighbours(sums[4], sums[5]), add_neighbours(sums[6], sums[7]));
  return __builtin_shufflevector(low, high, 0, 1, 2, 3, 8, 9, 10, 11) +
         __builtin_shufflevector(low, high, 4, 5, 6, 7, 12, 13, 14, 15);
}

SWIFTBALANCER_INLINE float sum_of(const Floats& v) {
  return ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
}

/// exp by range reduction to [-ln2/2, ln2/2] and the Taylor polynomial of degree 7 (remainder below
/// 6e-9). Own code, since the C library's may choose another implementation on another machine.
SWIFTBALANCER_INLINE Floats exponential(const Floats& argument) {
  constexpr float kShift =
      12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  constexpr float kLn2High = 0.693359375F;
  constexpr float kLn2Low = -2.12194440e-4F;
  Floats x = argument;
  x = x < -87.0F ? Floats{} - 87.0F : x;  // so that the result stays a normal number
  x = x > 88.0F ? Floats{} + 88.0F : x;
  const Floats shifted = x * 1.44269504F + kShift;
  const Floats n = shifted - kShift;
  const Floats r = (x - n * kLn2High) - n * kLn2Low;
  Floats p = r * (1.0F / 5040) + 1.0F / 720;
  p = p * r + 1.0F / 120;
  p = p * r + 1.0F / 24;
  p = p * r + 1.0F / 6;
  p = p * r + 0.5F;
  p = p * r * r + r + 1.0F;
  const Words exponent =
      std::bit_cast<Words>(shifted) - std::bit_cast<std::uint32_t>(kShift) + 127U;
  return p * std::bit_cast<Floats>(exponent << 23);
}

SWIFTBALANCER_INLINE void pack_tile_loop(const std::byte* weights, WeightType type, int rows,
                                         int cols, int first_row, float* tile) {
  const std::size_t element = bytes_of(type);
  const int num_rows = std::min(kLanes, rows - first_row);
  for (int r = 0; r < kLanes; ++r) {
    float* to = tile + r * kLanes;
    if (r >= num_rows) {
      for (int c = 0; c < cols; c += kLanes, to += kLanes * kLanes) store(to, Floats{});
      continue;
    }
    const auto row = static_cast<std::size_t>(first_row + r) * static_cast<std::size_t>(cols);
    const std::byte* from = weights + row * element;
    int c = 0;
    for (; c + kLanes <= cols; c += kLanes, to += kLanes * kLanes, from += kLanes * element) {
      if (type == WeightType::kBF16) {
        Halves halves;
        std::memcpy(&halves, from, sizeof halves);
        store(to, widen(halves));
      } else {
        std::memcpy(to, from, sizeof(Floats));
      }
    }
    if (c < cols) {
      float padded[kLanes] = {};
      to_floats(from, type, {padded, static_cast<std::size_t>(cols - c)});
      store(to, load(padded));
    }
  }
}

SWIFTBALANCER_INLINE void add_products(const float* tile, const Floats& input,
                                       Floats (&sums)[kLanes]) {
  for (int r = 0; r < kLanes; ++r) sums[r] += load(tile + r * kLanes) * input;
}

SWIFTBALANCER_INLINE void multiply_tile_loop(const float* tile, int cols, const float* input,
                                             int num_tokens, float* out, int out_stride,
                                             int num_rows) {
  for (int t = 0; t < num_tokens; ++t) {
    const float* x = input + static_cast<std::ptrdiff_t>(t) * cols;
    const float* weights = tile;
    Floats sums[kLanes] = {};
    int c = 0;
    for (; c + kLanes <= cols; c += kLanes, weights += kLanes * kLanes) {
      add_products(weights, load(x + c), sums);
    }
    if (c < cols) add_products(weights, load_some(x + c, cols - c, 0.0F), sums);
    float* y = out + static_cast<std::ptrdiff_t>(t) * out_stride;
    if (num_rows == kLanes) {
      store(y, sum_each(sums));
    } else {
      store_some(y, sum_each(sums), num_rows);
    }
  }
}

SWIFTBALANCER_INLINE void rms_norm_loop(const float* input, const float* weight, int size,
                                        float epsilon, float* out) {
  Floats squares{};
  int i = 0;
  for (; i + kLanes <= size; i += kLanes) squares += load(input + i) * load(input + i);
  if (i < size) {
    const Floats rest = load_some(input + i, size - i, 0.0F);
    squares += rest * rest;
  }
  const float scale = 1.0F / std::sqrt(sum_of(squares) / static_cast<float>(size) + epsilon);
  for (int j = 0; j < size; ++j) out[j] = input[j] * scale * weight[j];
}

SWIFTBALANCER_INLINE float largest_of(const float* values, int size) {
  float largest = values[0];
  if (size >= kLanes) {
    Floats lanes = load(values);
    for (int i = kLanes; i + kLanes <= size; i += kLanes) {
      const Floats next = load(values + i);
      lanes = next > lanes ? next : lanes;
    }
    for (int lane = 0; lane < kLanes; ++lane)
      largest = lanes[lane] > largest ? lanes[lane] : largest;
  }
  for (int i = size / kLanes * kLanes; i < size; ++i)
    largest = values[i] > largest ? values[i] : largest;
  return largest;
}

SWIFTBALANCER_INLINE void softmax_loop(float* values, int size) {
  const float largest = largest_of(values, size);
  Floats sums{};
  int i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    const Floats e = exponential(load(values + i) - largest);
    store(values + i, e);
    sums += e;
  }
  if (i < size) {
    const Floats e = exponential(load_some(values + i, size - i, largest) - largest);
    store_some(values + i, e, size - i);
    sums += load_some(values + i, size - i, 0.0F);
  }
  const float total = sum_of(sums);
  for (int j = 0; j < size; ++j) values[j] /= total;
}

SWIFTBALANCER_INLINE void silu_multiply_loop(float* gate, const float* up, int size) {
  for (int i = 0; i < size; i += kLanes) {
    const int count = std::min(kLanes, size - i);
    const bool whole = count == kLanes;
    const Floats g = whole ? load(gate + i) : load_some(gate + i, count, 0.0F);
    const Floats u = whole ? load(up + i) : load_some(up + i, count, 0.0F);
    const Floats result = g / (exponential(-g) + 1.0F) * u;
    if (whole) {
      store(gate + i, result);
    } else {
      store_some(gate + i, result, count);
    }
  }
}

SWIFTBALANCER_INLINE void score_positions(const float* query, const float* keys, int num_positions,
                                          int stride, int head_dim, float scale, float* scores) {
  for (int p = 0; p < num_positions; p += kLanes) {
    const int count = std::min(kLanes, num_positions - p);
    Floats sums[kLanes] = {};
    const float* rows[kLanes];
    for (int r = 0; r < kLanes; ++r) {
      rows[r] = keys + static_cast<std::ptrdiff_t>(p + std::min(r, count - 1)) * stride;
    }
    for (int d = 0; d < head_dim; d += kLanes) {
      const Floats q = load(query + d);
      for (int r = 0; r < kLanes; ++r) sums[r] += q * load(rows[r] + d);
    }
    const Floats result = sum_each(sums) * scale;
    if (count == kLanes) {
      store(scores + p, result);
    } else {
      store_some(scores + p, result, count);
    }
  }
}

/// out[d] = sum over positions, in order, of scores[p] * values[p][d], for kVectors * 8 columns.
template <int kVectors>
SWIFTBALANCER_INLINE void weigh_columns(const float* values, const float* scores, int num_positions,
                                        int stride, float* out) {
  Floats sums[kVectors] = {};
  for (int p = 0; p < num_positions; ++p) {
    const float* row = values + static_cast<std::ptrdiff_t>(p) * stride;
    for (int v = 0; v < kVectors; ++v) sums[v] += load(row + v * kLanes) * scores[p];
  }
  for (int v = 0; v < kVectors; ++v) store(out + v * kLanes, sums[v]);
}

SWIFTBALANCER_INLINE void attend_loop(const float* query, const float* keys, const float* values,
                                      int num_positions, int stride, int head_dim, float scale,
                                      float* scores, float* out) {
  score_positions(query, keys, num_positions, stride, head_dim, scale, scores);
  softmax_loop(scores, num_positions);
  int d = 0;
  for (; d + 4 * kLanes <= head_dim; d += 4 * kLanes) {
    weigh_columns<4>(values + d, scores, num_positions, stride, out + d);
  }
  for (; d < head_dim; d += kLanes)
    weigh_columns<1>(values + d, scores, num_positions, stride, out + d);
}

constexpr Kernels kPortable = {pack_tile_loop, multiply_tile_loop, rms_norm_loop,
                               softmax_loop,   silu_multiply_loop, attend_loop};

#if defined(__x86_64__)
#define SWIFTBALANCER_AVX2 __attribute__((target("avx2")))

SWIFTBALANCER_AVX2 void pack_tile_avx2(const std::byte* weights, WeightType type, int rows,
                                       int cols, int first_row, float* tile) {
  pack_tile_loop(weights, type, rows, cols, first_row, tile);
}
SWIFTBALANCER_AVX2 void multiply_tile_avx2(const float* tile, int cols, const float* input,
                                           int num_tokens, float* out, int out_stride,
                                           int num_rows) {
  multiply_tile_loop(tile, cols, input, num_tokens, out, out_stride, num_rows);
}
SWIFTBALANCER_AVX2 void rms_norm_avx2(const float* input, const float* weight, int size,
                                      float epsilon, float* out) {
  rms_norm_loop(input, weight, size, epsilon, out);
}
SWIFTBALANCER_AVX2 void softmax_avx2(float* values, int size) { softmax_loop(values, size); }
SWIFTBALANCER_AVX2 void silu_multiply_avx2(float* gate, const float* up, int size) {
  silu_multiply_loop(gate, up, size);
}
SWIFTBALANCER_AVX2 void attend_avx2(const float* query, const float* keys, const float* values,
                                    int num_positions, int stride, int head_dim, float scale,
                                    float* scores, float* out) {
  attend_loop(query, keys, values, num_positions, stride, head_dim, scale, scores, out);
}

constexpr Kernels kAvx2 = {pack_tile_avx2, multiply_tile_avx2, rms_norm_avx2,
                           softmax_avx2,   silu_multiply_avx2, attend_avx2};
#endif

int round_up(int value) { return (value + kLanes - 1) / kLanes * kLanes; }

}  // namespace

const Kernels& portable_kernels() { return kPortable; }

const Kernels& kernels() {
#if defined(__x86_64__)
  static const bool has_avx2 = __builtin_cpu_supports("avx2") != 0;
  if (has_avx2) return kAvx2;
#endif
  return kPortable;
}

std::size_t floats_of_tile(int cols) {
  return static_cast<std::size_t>(round_up(cols)) * static_cast<std::size_t>(kLanes);
}

PackedMatrix::PackedMatrix(const std::byte* weights, WeightType type, int rows, int cols)
    : rows_(rows), cols_(cols) {
  const std::size_t tile = floats_of_tile(cols);
  tiles_.resize(static_cast<std::size_t>(round_up(rows) / kLanes) * tile);
  float* to = tiles_.data();
  for (int row = 0; row < rows; row += kLanes, to += tile) {
    kernels().pack_tile(weights, type, rows, cols, row, to);
  }
}

void PackedMatrix::multiply(const float* input, int num_tokens, float* out) const {
  const float* tile = tiles_.data();
  for (int row = 0; row < rows_; row += kLanes, tile += floats_of_tile(cols_)) {
    kernels().multiply_tile(tile, cols_, input, num_tokens, out + row, rows_,
                            std::min(kLanes, rows_ - row));
  }
}

void multiply(const std::byte* weights, WeightType type, int rows, int cols, const float* input,
              int num_tokens, float* out, std::vector<float>& tile) {
  tile.resize(floats_of_tile(cols));
  for (int row = 0; row < rows; row += kLanes) {
    kernels().pack_tile(weights, type, rows, cols, row, tile.data());
    kernels().multiply_tile(tile.data(), cols, input, num_tokens, out + row, rows,
                            std::min(kLanes, rows - row));
  }
}

void to_floats(const std::byte* bytes, WeightType type, std::span<float> out) {
  if (type == WeightType::kF32) {
    std::memcpy(out.data(), bytes, out.size_bytes());
    return;
  }
  for (std::size_t i = 0; i < out.size(); ++i) {
    std::uint16_t half = 0;
    std::memcpy(&half, bytes + 2 * i, sizeof half);
    out[i] = std::bit_cast<float>(std::uint32_t{half} << 16);
  }
}

}  // namespace swiftbalancer::engine
