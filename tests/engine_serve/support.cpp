#include "engine_serve/support.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "engine/sampling.hpp"

namespace swiftbalancer::engine::testing {
namespace {

// Runs tokens through all layers; returns the last row.
std::vector<float> forward(const Model& model, std::span<const std::int32_t> tokens, KvCache& cache,
                           int first_position) {
  const auto width = static_cast<std::size_t>(model.info().hidden_size);
  const auto top_k = static_cast<std::size_t>(model.info().top_k);
  std::vector<float> hidden(tokens.size() * width);
  model.embed(tokens, hidden);
  const std::vector<Sequence> sequences{{&cache, first_position, static_cast<int>(tokens.size())}};
  for (int layer = 0; layer < model.info().num_layers; ++layer) {
    Routing routing;
    model.attend_and_route(layer, sequences, hidden, routing);
    std::vector<float> results(tokens.size() * top_k * width);
    std::vector<const float*> rows;
    for (std::size_t i = 0; i < tokens.size() * top_k; ++i) {
      std::vector<const std::byte*> parts;
      for (const auto& part : model.expert_parts(layer, routing.topk_ids[i]))
        parts.push_back(part.data());
      const auto input =
          std::span<const float>(routing.expert_input).subspan(i / top_k * width, width);
      model.run_expert(parts, input, 1, std::span<float>(results).subspan(i * width, width));
      rows.push_back(results.data() + i * width);
    }
    model.combine(routing, rows, hidden);
  }
  return {hidden.end() - static_cast<std::ptrdiff_t>(width), hidden.end()};
}

}  // namespace

Outputs local_outputs(const ServeOptions& options) {
  const auto model = load_model(options.model);
  const Traffic traffic = make_traffic(options.traffic, model->info());
  std::vector<float> logits(static_cast<std::size_t>(model->info().vocab_size));
  Outputs outputs;
  for (const Request& request : traffic.requests) {
    KvCache cache = model->make_cache();
    std::vector<std::int32_t> output;
    std::vector<std::int32_t> next = request.prompt;
    int position = 0;
    while (true) {
      const std::vector<float> last = forward(*model, next, cache, position);
      position += static_cast<int>(next.size());
      model->logits(last, logits);
      output.push_back(choose_token(logits, options.traffic, request.id, position));
      if (static_cast<int>(output.size()) == request.max_output_tokens ||
          output.back() == model->info().end_of_text)
        break;
      next.assign(1, output.back());
    }
    outputs.push_back(output);
  }
  return outputs;
}

void expect_nothing_left() {
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
  for (const auto& entry : std::filesystem::directory_iterator("/dev/shm")) {
    EXPECT_THAT(
        entry.path().filename().string(),
        ::testing::Not(::testing::HasSubstr("swiftbalancer." + std::to_string(getpid()) + ".")));
  }
}

}  // namespace swiftbalancer::engine::testing
