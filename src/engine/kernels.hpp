#pragma once
// The arithmetic of the reference engine. Every sum has one order that depends on nothing but its
// own length: eight fixed lanes and a fixed tree, whatever the batch, the alignment and the
// instruction set. So a token's numbers are the same bits in every batch, and the portable and the
// AVX2 kernels agree to the bit (no contraction, see swiftbalancer_compile_options). Called by
// model families on the engine's thread; all functions are pure and thread-safe.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace swiftbalancer::engine {

enum class WeightType { kF32, kBF16 };
constexpr std::size_t bytes_of(WeightType type) { return type == WeightType::kF32 ? 4 : 2; }

/// Rows that one tile of a weight matrix holds, and lanes of every sum.
inline constexpr int kLanes = 8;

/// One instruction set's implementation of the loops.
struct Kernels {
  /// Converts rows [first_row, first_row + 8) of a row-major [rows, cols] matrix (any alignment) to
  /// a tile: for every eight columns eight rows of eight floats; zeros beyond the matrix. @param
  /// tile floats_of_tile(cols) floats, out.
  void (*pack_tile)(const std::byte* weights, WeightType type, int rows, int cols, int first_row,
                    float* tile);
  /// out[t * out_stride + r] = sum over columns of tile[r] * input[t * cols]. @param num_rows rows
  /// to write, at most 8.
  void (*multiply_tile)(const float* tile, int cols, const float* input, int num_tokens, float* out,
                        int out_stride, int num_rows);
  /// out = input / sqrt(mean(input^2) + epsilon) * weight; out may be input.
  void (*rms_norm)(const float* input, const float* weight, int size, float epsilon, float* out);
  /// values = exp(values - max) / sum, in place.
  void (*softmax)(float* values, int size);
  /// gate = gate / (1 + exp(-gate)) * up, in place.
  void (*silu_multiply)(float* gate, const float* up, int size);
  /// One head of attention over cached positions 0 to num_positions - 1. @param keys, values
  /// position p starts at p * stride.
  /// @param head_dim a multiple of 8. @param scores [num_positions], scratch. @param out
  /// [head_dim].
  void (*attend)(const float* query, const float* keys, const float* values, int num_positions,
                 int stride, int head_dim, float scale, float* scores, float* out);
};

/// What every x86-64 and other machine can run.
const Kernels& portable_kernels();
/// The fastest for this machine; same bits.
const Kernels& kernels();

std::size_t floats_of_tile(int cols);

/// A weight matrix converted to tiles once.
class PackedMatrix {
 public:
  PackedMatrix() = default;
  PackedMatrix(const std::byte* weights, WeightType type, int rows, int cols);
  int rows() const noexcept { return rows_; }
  int cols() const noexcept { return cols_; }
  /// @param input [num_tokens, cols]. @param out [num_tokens, rows].
  void multiply(const float* input, int num_tokens, float* out) const;

 private:
  int rows_ = 0;
  int cols_ = 0;
  std::vector<float> tiles_;
};

/// The same product with weights read where they lie, each tile converted once for all tokens.
/// @param tile scratch, resized as needed.
void multiply(const std::byte* weights, WeightType type, int rows, int cols, const float* input,
              int num_tokens, float* out, std::vector<float>& tile);

/// Elements as floats. @param bytes out.size() elements, any alignment.
void to_floats(const std::byte* bytes, WeightType type, std::span<float> out);

}  // namespace swiftbalancer::engine
