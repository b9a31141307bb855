// Tokens per second of a whole forward pass of the shipped checkpoint on one core: decoding with a
// batch of requests, and prefilling prompts of 96 tokens. Every token's logits are computed.

#include <benchmark/benchmark.h>

#include "engine/forward.hpp"

namespace swiftbalancer::engine {
namespace {

using ::swiftbalancer::testing::data_file;
using ::swiftbalancer::testing::forward;
using ::swiftbalancer::testing::Piece;
using ::swiftbalancer::testing::Request;

constexpr std::size_t kPromptSize = 96;

std::vector<std::int32_t> random_tokens(std::mt19937_64& generator) {
  std::vector<std::int32_t> tokens(kPromptSize);
  for (auto& token : tokens) token = static_cast<std::int32_t>(generator() % 256);
  return tokens;
}

void decode(benchmark::State& state) {
  const auto model = load_model(data_file("tiny_qwen3_moe"));
  const auto batch = static_cast<std::size_t>(state.range(0));
  std::mt19937_64 generator(1);
  std::vector<std::vector<std::int32_t>> prompts;
  std::vector<Request> after_prompt;
  for (std::size_t i = 0; i < batch; ++i) {
    prompts.push_back(random_tokens(generator));
    after_prompt.emplace_back(*model);
    forward(*model, {{&after_prompt.back(), prompts.back()}});
  }
  std::vector<Request> requests = after_prompt;
  for (auto _ : state) {
    if (requests.front().position == 2 * static_cast<int>(kPromptSize)) {
      state.PauseTiming();
      requests = after_prompt;
      state.ResumeTiming();
    }
    std::vector<Piece> pieces;
    for (std::size_t i = 0; i < batch; ++i)
      pieces.push_back({&requests[i], std::span(prompts[i]).first(1)});
    benchmark::DoNotOptimize(forward(*model, pieces).logits.data());
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(decode)->Arg(1)->Arg(8)->Arg(32)->Arg(128)->Unit(benchmark::kMicrosecond);

void prefill(benchmark::State& state) {
  const auto model = load_model(data_file("tiny_qwen3_moe"));
  std::mt19937_64 generator(1);
  std::vector<std::vector<std::int32_t>> prompts;
  for (std::int64_t i = 0; i < state.range(0); ++i) prompts.push_back(random_tokens(generator));
  for (auto _ : state) {
    std::vector<Request> requests(prompts.size(), Request(*model));
    std::vector<Piece> pieces;
    for (std::size_t i = 0; i < prompts.size(); ++i) pieces.push_back({&requests[i], prompts[i]});
    benchmark::DoNotOptimize(forward(*model, pieces).logits.data());
  }
  state.SetItemsProcessed(state.iterations() * state.range(0) *
                          static_cast<std::int64_t>(kPromptSize));
}
BENCHMARK(prefill)->Arg(1)->Arg(4)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace swiftbalancer::engine

BENCHMARK_MAIN();
