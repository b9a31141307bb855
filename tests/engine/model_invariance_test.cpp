// A token's numbers are the same bits whatever batch, chunk of its prompt or slot address it was
// computed with.

#include <gtest/gtest.h>

#include <random>

#include "engine/forward.hpp"

namespace swiftbalancer::engine {
namespace {

using ::swiftbalancer::testing::best_token;
using ::swiftbalancer::testing::data_file;
using ::swiftbalancer::testing::forward;
using ::swiftbalancer::testing::Output;
using ::swiftbalancer::testing::Piece;
using ::swiftbalancer::testing::Request;

class Invariance : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { model_ = load_model(data_file("tiny_qwen3_moe")); }
  static void TearDownTestSuite() { model_.reset(); }
  static inline std::unique_ptr<Model> model_;
};

std::vector<std::int32_t> random_tokens(std::mt19937_64& generator, std::size_t count) {
  std::vector<std::int32_t> tokens(count);
  for (auto& token : tokens) token = static_cast<std::int32_t>(generator() % 258);
  return tokens;
}

TEST_F(Invariance, PromptInOneRunInChunksAndTokenByTokenGivesTheSameBits) {
  std::mt19937_64 generator(11);
  const auto tokens = random_tokens(generator, 60);
  Request whole(*model_);
  const std::vector<float> expected = forward(*model_, {{&whole, tokens}}).logits;

  for (const std::size_t chunk : {1U, 7U, 32U}) {
    Request request(*model_);
    std::vector<float> logits;
    for (std::size_t at = 0; at < tokens.size(); at += chunk) {
      const auto piece = std::span(tokens).subspan(at, std::min(chunk, tokens.size() - at));
      const Output output = forward(*model_, {{&request, piece}});
      logits.insert(logits.end(), output.logits.begin(), output.logits.end());
    }
    EXPECT_EQ(logits, expected) << "chunks of " << chunk;
  }
}

struct Tracked {
  std::vector<std::int32_t> tokens;
  std::vector<float> expected;                          ///< Logits when alone.
  std::vector<std::vector<std::int32_t>> expected_ids;  ///< Per layer.
  Request request;
};

/// Advances a random subset of the requests by random runs, in random order. @returns the requests
/// that took part.
std::vector<std::size_t> draw_batch(std::vector<Tracked>& requests, std::mt19937_64& generator,
                                    std::vector<Piece>& pieces) {
  std::vector<std::size_t> chosen;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    const auto at = static_cast<std::size_t>(requests[i].request.position);
    if (at < requests[i].tokens.size() && generator() % 4 != 0) chosen.push_back(i);
  }
  std::shuffle(chosen.begin(), chosen.end(), generator);
  for (const std::size_t i : chosen) {
    const auto rest = std::span<const std::int32_t>(requests[i].tokens)
                          .subspan(static_cast<std::size_t>(requests[i].request.position));
    const std::size_t run = generator() % 2 == 0 ? 1 : 1 + generator() % rest.size();
    pieces.push_back({&requests[i].request, rest.first(run)});
  }
  return chosen;
}

TEST_F(Invariance, RandomMixesOfRequestsGiveTheBitsOfEachRequestAlone) {
  constexpr std::size_t kVocab = 258;
  constexpr std::size_t kTopK = 4;
  for (const std::uint64_t seed : {1U, 2U, 3U}) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 generator(seed);
    std::vector<Tracked> requests;
    for (int i = 0; i < 9; ++i) {
      requests.push_back(
          {random_tokens(generator, 1 + generator() % 30), {}, {}, Request(*model_)});
      Request alone(*model_);
      Output output = forward(*model_, {{&alone, requests.back().tokens}});
      requests.back().expected = std::move(output.logits);
      requests.back().expected_ids = std::move(output.topk_ids);
    }
    std::size_t compared = 0;
    for (int step = 0; step < 400; ++step) {
      std::vector<Piece> pieces;
      const auto chosen = draw_batch(requests, generator, pieces);
      if (chosen.empty()) continue;
      const Output output = forward(*model_, pieces, &generator);
      std::size_t row = 0;
      for (std::size_t p = 0; p < pieces.size(); ++p) {
        const Tracked& tracked = requests[chosen[p]];
        const std::size_t count = pieces[p].tokens.size();
        const std::size_t first = static_cast<std::size_t>(tracked.request.position) - count;
        const auto logits = std::span(output.logits).subspan(row * kVocab, count * kVocab);
        const auto expected = std::span(tracked.expected).subspan(first * kVocab, count * kVocab);
        ASSERT_TRUE(std::equal(logits.begin(), logits.end(), expected.begin()))
            << "request " << chosen[p] << " from position " << first;
        for (std::size_t layer = 0; layer < output.topk_ids.size(); ++layer) {
          const auto ids = std::span(output.topk_ids[layer]).subspan(row * kTopK, count * kTopK);
          ASSERT_TRUE(std::equal(
              ids.begin(), ids.end(),
              tracked.expected_ids[layer].begin() + static_cast<std::ptrdiff_t>(first * kTopK)));
        }
        row += count;
        compared += count;
      }
    }
    std::size_t total = 0;
    for (const Tracked& tracked : requests) total += tracked.tokens.size();
    EXPECT_EQ(compared, total);
  }
}

TEST_F(Invariance, AnExpertRunsFromAnySlotAddress) {
  std::mt19937_64 generator(5);
  std::uniform_real_distribution<float> uniform(-2.0F, 2.0F);
  constexpr int kTokens = 3;
  std::vector<float> input(kTokens * 128), expected(kTokens * 128);
  for (float& value : input) value = uniform(generator);
  const ExpertParts parts = model_->expert_parts(3, 41);
  std::vector<const std::byte*> pointers;
  for (const auto& part : parts) pointers.push_back(part.data());
  model_->run_expert(pointers, input, kTokens, expected);

  for (const std::size_t offset : {2U, 6U, 14U, 30U}) {
    std::vector<std::vector<std::byte>> slots;
    std::vector<const std::byte*> addresses;
    for (const auto& part : parts) {
      slots.emplace_back(part.size() +
                         offset);  // ends with the slot: a read beyond it is found by the sanitizer
      std::copy(part.begin(), part.end(),
                slots.back().begin() + static_cast<std::ptrdiff_t>(offset));
      addresses.push_back(slots.back().data() + offset);
    }
    std::vector<float> output(expected.size());
    model_->run_expert(addresses, input, kTokens, output);
    EXPECT_EQ(output, expected) << "offset " << offset;
  }
}

TEST_F(Invariance, AnotherExpertsBytesChangeTheResult) {
  const std::vector<float> input(128, 0.5F);
  std::vector<std::vector<float>> outputs;
  for (const int expert : {0, 1}) {
    std::vector<const std::byte*> parts;
    for (const auto& part : model_->expert_parts(0, expert)) parts.push_back(part.data());
    outputs.emplace_back(128);
    model_->run_expert(parts, input, 1, outputs.back());
  }
  EXPECT_NE(outputs[0], outputs[1]);
}

}  // namespace
}  // namespace swiftbalancer::engine
