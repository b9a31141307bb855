#pragma once
// A whole forward pass on one rank, for tests: every request may bring any run of tokens, and the
// tokens of an expert may be run in any order and any pieces.

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "engine/model.hpp"

namespace swiftbalancer::testing {

inline std::string data_file(const std::string& name) {
  return std::string(SWIFTBALANCER_SOURCE_DIR) + "/data/models/" + name;
}

struct Request {
  explicit Request(const engine::Model& model) : cache(model.make_cache()) {}
  engine::KvCache cache;
  int position = 0;
};

struct Piece {
  Request* request;
  std::span<const std::int32_t> tokens;
};

struct Output {
  std::vector<float> logits;                        ///< [tokens of all pieces, vocab_size]
  std::vector<std::vector<std::int32_t>> topk_ids;  ///< per layer, [tokens, top_k]
};

/// Runs every expert on its tokens; with a generator, in a random order and in pieces of random
/// size.
inline void run_experts(const engine::Model& model, int layer, const engine::Routing& routing,
                        std::vector<float>& outputs, std::mt19937_64* generator) {
  const auto width = static_cast<std::size_t>(model.info().hidden_size);
  const auto top_k = static_cast<std::size_t>(model.info().top_k);
  std::vector<std::vector<std::size_t>> visits(
      static_cast<std::size_t>(model.info().num_logical_experts));
  for (std::size_t i = 0; i < routing.topk_ids.size(); ++i) {
    visits[static_cast<std::size_t>(routing.topk_ids[i])].push_back(i);
  }
  for (std::size_t expert = 0; expert < visits.size(); ++expert) {
    auto& chosen = visits[expert];
    if (generator != nullptr) std::shuffle(chosen.begin(), chosen.end(), *generator);
    std::vector<const std::byte*> parts;
    for (const auto& part : model.expert_parts(layer, static_cast<int>(expert)))
      parts.push_back(part.data());
    for (std::size_t begin = 0; begin < chosen.size();) {
      const std::size_t left = chosen.size() - begin;
      const std::size_t count = generator != nullptr ? 1 + (*generator)() % left : left;
      std::vector<float> input(count * width), output(count * width);
      for (std::size_t i = 0; i < count; ++i) {
        const auto row = routing.expert_input.begin() +
                         static_cast<std::ptrdiff_t>(chosen[begin + i] / top_k * width);
        std::copy_n(row, width, input.begin() + static_cast<std::ptrdiff_t>(i * width));
      }
      model.run_expert(parts, input, static_cast<int>(count), output);
      for (std::size_t i = 0; i < count; ++i) {
        std::copy_n(output.begin() + static_cast<std::ptrdiff_t>(i * width), width,
                    outputs.begin() + static_cast<std::ptrdiff_t>(chosen[begin + i] * width));
      }
      begin += count;
    }
  }
}

inline Output forward(const engine::Model& model, const std::vector<Piece>& pieces,
                      std::mt19937_64* generator = nullptr) {
  const engine::ModelInfo& info = model.info();
  const auto width = static_cast<std::size_t>(info.hidden_size);
  std::vector<std::int32_t> tokens;
  std::vector<engine::Sequence> sequences;
  for (const Piece& piece : pieces) {
    const int count = static_cast<int>(piece.tokens.size());
    tokens.insert(tokens.end(), piece.tokens.begin(), piece.tokens.end());
    sequences.push_back({&piece.request->cache, piece.request->position, count});
    piece.request->position += count;
  }
  std::vector<float> hidden(tokens.size() * width);
  model.embed(tokens, hidden);
  Output output;
  engine::Routing routing;
  for (int layer = 0; layer < info.num_layers; ++layer) {
    model.attend_and_route(layer, sequences, hidden, routing);
    output.topk_ids.push_back(routing.topk_ids);
    std::vector<float> rows(routing.topk_ids.size() * width);
    run_experts(model, layer, routing, rows, generator);
    std::vector<const float*> pointers;
    for (std::size_t i = 0; i < routing.topk_ids.size(); ++i) pointers.push_back(&rows[i * width]);
    model.combine(routing, pointers, hidden);
  }
  const auto vocab = static_cast<std::size_t>(info.vocab_size);
  output.logits.resize(tokens.size() * vocab);
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    model.logits(std::span(hidden).subspan(t * width, width),
                 std::span(output.logits).subspan(t * vocab, vocab));
  }
  return output;
}

/// The best token of the row; ties by id.
inline std::int32_t best_token(std::span<const float> logits) {
  return static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

}  // namespace swiftbalancer::testing
