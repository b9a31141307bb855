#include "engine/kernels.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <random>

namespace swiftbalancer::engine {
namespace {

std::vector<float> random_floats(std::mt19937_64& generator, std::size_t count) {
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(generator);
  return values;
}

const std::byte* bytes_of_floats(const std::vector<float>& values) {
  return reinterpret_cast<const std::byte*>(values.data());
}

/// Sizes around the number of lanes and common ones.
constexpr int kSizes[] = {1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 64, 100, 128};

TEST(Kernels, MatrixProductEqualsASumInDoublePrecision) {
  std::mt19937_64 generator(1);
  for (const int rows : kSizes) {
    for (const int cols : kSizes) {
      const int num_tokens = 3;
      const auto weights = random_floats(generator, static_cast<std::size_t>(rows * cols));
      const auto input = random_floats(generator, static_cast<std::size_t>(num_tokens * cols));
      std::vector<float> out(static_cast<std::size_t>(num_tokens * rows) + 1, -7.0F);
      PackedMatrix(bytes_of_floats(weights), WeightType::kF32, rows, cols)
          .multiply(input.data(), num_tokens, out.data());
      for (int t = 0; t < num_tokens; ++t) {
        for (int r = 0; r < rows; ++r) {
          double sum = 0;
          for (int c = 0; c < cols; ++c) {
            sum += double{weights[static_cast<std::size_t>(r * cols + c)]} *
                   double{input[static_cast<std::size_t>(t * cols + c)]};
          }
          ASSERT_NEAR(out[static_cast<std::size_t>(t * rows + r)], sum, 1e-4)
              << rows << " x " << cols;
        }
      }
      ASSERT_EQ(out.back(), -7.0F) << "wrote past " << rows << " x " << cols;
    }
  }
}

TEST(Kernels, PackedAndUnpackedWeightsGiveTheSameBits) {
  std::mt19937_64 generator(2);
  for (const int rows : kSizes) {
    for (const int cols : kSizes) {
      std::vector<std::uint16_t> weights(static_cast<std::size_t>(rows * cols));
      for (auto& weight : weights)
        weight = static_cast<std::uint16_t>(0x3C00U + generator() % 0x400U);
      const auto* bytes = reinterpret_cast<const std::byte*>(weights.data());
      const auto input = random_floats(generator, static_cast<std::size_t>(2 * cols));
      std::vector<float> packed(static_cast<std::size_t>(2 * rows)), direct(packed.size()), tile;
      PackedMatrix(bytes, WeightType::kBF16, rows, cols).multiply(input.data(), 2, packed.data());
      multiply(bytes, WeightType::kBF16, rows, cols, input.data(), 2, direct.data(), tile);
      ASSERT_EQ(packed, direct) << rows << " x " << cols;
    }
  }
}

TEST(Kernels, ReadsBf16AsTheUpperHalfOfAFloat) {
  const std::uint16_t halves[] = {0x3F80, 0xC000, 0x0000, 0x3DCD, 0x7F7F};
  std::vector<float> values(5);
  to_floats(reinterpret_cast<const std::byte*>(halves), WeightType::kBF16, values);
  EXPECT_EQ(values, (std::vector<float>{1.0F, -2.0F, 0.0F, 0.10009765625F, 3.38953139e38F}));
}

TEST(Kernels, SoftmaxAgreesWithDoublePrecisionFromTinyToHugeDifferences) {
  std::mt19937_64 generator(3);
  for (const int size : kSizes) {
    for (const float spread : {0.01F, 1.0F, 30.0F, 1000.0F}) {
      auto values = random_floats(generator, static_cast<std::size_t>(size));
      for (float& value : values) value *= spread;
      const float largest = *std::max_element(values.begin(), values.end());
      double total = 0;
      for (const float value : values) total += std::exp(double{value} - double{largest});
      auto result = values;
      kernels().softmax(result.data(), size);
      for (std::size_t i = 0; i < values.size(); ++i) {
        const double expected = std::exp(double{values[i]} - double{largest}) / total;
        ASSERT_NEAR(result[i], expected, 4e-7 * expected + 1e-30 + 1e-6 * expected * spread)
            << values[i];
      }
    }
  }
}

TEST(Kernels, SiluAgreesWithDoublePrecisionAndSaturates) {
  std::vector<float> gate = {-1000.0F, -100.0F, -20.0F, -1.0F,  -1e-6F, 0.0F,
                             0.5F,     3.0F,    20.0F,  100.0F, 1000.0F};
  const std::vector<float> before = gate;
  const std::vector<float> up(gate.size(), 2.0F);
  kernels().silu_multiply(gate.data(), up.data(), static_cast<int>(gate.size()));
  for (std::size_t i = 0; i < gate.size(); ++i) {
    const double expected = 2.0 * double{before[i]} / (1.0 + std::exp(-double{before[i]}));
    EXPECT_NEAR(gate[i], expected, 4e-7 * std::fabs(expected) + 1e-30) << before[i];
  }
}

TEST(Kernels, RmsNormAgreesWithDoublePrecision) {
  std::mt19937_64 generator(4);
  for (const int size : kSizes) {
    const auto input = random_floats(generator, static_cast<std::size_t>(size));
    const auto weight = random_floats(generator, static_cast<std::size_t>(size));
    std::vector<float> out(input.size());
    kernels().rms_norm(input.data(), weight.data(), size, 1e-6F, out.data());
    double squares = 0;
    for (const float value : input) squares += double{value} * double{value};
    for (std::size_t i = 0; i < input.size(); ++i) {
      ASSERT_NEAR(out[i], double{input[i]} / std::sqrt(squares / size + 1e-6) * double{weight[i]},
                  1e-5);
    }
  }
}

TEST(Kernels, AttentionAgreesWithDoublePrecision) {
  std::mt19937_64 generator(6);
  for (const int head_dim : {8, 16, 32, 40, 72, 128}) {
    for (const int positions : {1, 2, 7, 8, 9, 33}) {
      const auto width = static_cast<std::size_t>(head_dim + 8);
      const auto query = random_floats(generator, static_cast<std::size_t>(head_dim));
      const auto keys = random_floats(generator, static_cast<std::size_t>(positions) * width);
      const auto values = random_floats(generator, static_cast<std::size_t>(positions) * width);
      std::vector<float> scores(static_cast<std::size_t>(positions)),
          out(static_cast<std::size_t>(head_dim));
      kernels().attend(query.data(), keys.data(), values.data(), positions, static_cast<int>(width),
                       head_dim, 0.25F, scores.data(), out.data());
      std::vector<double> expected(out.size());
      double total = 0;
      for (std::size_t p = 0; p < scores.size(); ++p) {
        double score = 0;
        for (std::size_t d = 0; d < out.size(); ++d)
          score += double{query[d]} * double{keys[p * width + d]};
        const double weight = std::exp(score * 0.25);
        total += weight;
        for (std::size_t d = 0; d < out.size(); ++d)
          expected[d] += weight * double{values[p * width + d]};
      }
      for (std::size_t d = 0; d < out.size(); ++d) {
        ASSERT_NEAR(out[d], expected[d] / total, 2e-5) << head_dim << " at " << positions;
      }
    }
  }
}

/// Runs one set of kernels on seeded inputs and collects every number it produced.
std::vector<float> everything(const Kernels& set, std::uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::vector<float> results;
  const auto keep = [&](const std::vector<float>& values) {
    results.insert(results.end(), values.begin(), values.end());
  };
  for (const int size : kSizes) {
    const auto count = static_cast<std::size_t>(size);
    const auto weights = random_floats(generator, 8 * count);
    const auto input = random_floats(generator, 3 * count);
    for (const WeightType type : {WeightType::kF32, WeightType::kBF16}) {
      std::vector<float> tile(floats_of_tile(size)), out(24);
      set.pack_tile(bytes_of_floats(weights) + (type == WeightType::kF32 ? 0 : 2), type, 5, size, 0,
                    tile.data());
      keep(tile);
      for (float& value : tile)
        value = std::isfinite(value) ? value : 1.0F;  // NaN payloads are not numbers
      set.multiply_tile(tile.data(), size, input.data(), 3, out.data(), 8, 5);
      keep(out);
    }
    auto values = random_floats(generator, count);
    for (float& value : values) value *= 12.0F;
    std::vector<float> out(count);
    set.rms_norm(values.data(), input.data(), size, 1e-6F, out.data());
    keep(out);
    out = values;
    set.silu_multiply(out.data(), input.data(), size);
    keep(out);
    out = values;
    set.softmax(out.data(), size);
    keep(out);
    std::vector<float> scores(count), attended(40);
    const auto keys = random_floats(generator, 40 * count);
    set.attend(keys.data(), keys.data(), keys.data(), size, 40, 40, 0.2F, scores.data(),
               attended.data());
    keep(scores);
    keep(attended);
  }
  return results;
}

TEST(Kernels, TheFastestAndThePortableOnesGiveTheSameBits) {
  for (const std::uint64_t seed : {1U, 2U, 3U, 4U, 5U}) {
    const auto fast = everything(kernels(), seed);
    const auto portable = everything(portable_kernels(), seed);
    ASSERT_EQ(fast.size(), portable.size());
    EXPECT_EQ(std::memcmp(fast.data(), portable.data(), fast.size() * sizeof(float)), 0)
        << "seed " << seed;
  }
}

}  // namespace
}  // namespace swiftbalancer::engine
