// The shipped checkpoint against logits, routing and greedy texts computed by Hugging Face
// transformers in float32 (data/models/README.md).

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "engine/forward.hpp"
#include "io/checkpoint.hpp"
#include "io/safetensors_writer.hpp"
#include "io/temporary_folder.hpp"

namespace swiftbalancer::engine {
namespace {

using ::swiftbalancer::testing::best_token;
using ::swiftbalancer::testing::data_file;
using ::swiftbalancer::testing::forward;
using ::swiftbalancer::testing::Output;
using ::swiftbalancer::testing::Request;

const char* const kDomains[] = {"python", "c_headers", "english", "man_en", "man_zh",
                                "man_ja", "man_ru",    "man_de",  "man_fr", "metamath"};

template <class T>
std::vector<T> values_of(const io::Tensor& tensor) {
  std::vector<T> values(tensor.bytes.size() / sizeof(T));
  std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
  return values;
}

class Reference : public ::testing::TestWithParam<const char*> {
 protected:
  static void SetUpTestSuite() {
    model_ = load_model(data_file("tiny_qwen3_moe"));
    reference_.emplace(io::Checkpoint::open(data_file("reference/tiny_qwen3_moe.safetensors")));
  }
  static void TearDownTestSuite() {
    model_.reset();
    reference_.reset();
  }

  template <class T>
  std::vector<T> expected(const char* what) const {
    return values_of<T>(reference_->tensor(std::string(GetParam()) + "." + what));
  }
  Output forward_prompt() const {
    Request request(*model_);
    const auto tokens = expected<std::int32_t>("input_ids");
    return forward(*model_, {{&request, tokens}});
  }

  static inline std::unique_ptr<Model> model_;
  static inline std::optional<io::Checkpoint> reference_;
};

TEST_P(Reference, LogitsAgreeWithinTwoThousandths) {
  const auto logits = expected<float>("logits");

  const Output output = forward_prompt();

  ASSERT_EQ(output.logits.size(), logits.size());
  float largest = 0.0F;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const float difference = std::fabs(output.logits[i] - logits[i]);
    ASSERT_LE(difference, 2e-3F) << "token " << i / 258 << ", logit " << i % 258;
    largest = std::max(largest, difference);
  }
  RecordProperty("largest_difference", std::to_string(largest));
}

TEST_P(Reference, EveryTokenVisitsTheSameExperts) {
  const auto expected_ids =
      expected<std::int32_t>("topk_ids");  // [layers, tokens, top_k], ids ascending

  const Output output = forward_prompt();

  const auto top_k = static_cast<std::ptrdiff_t>(model_->info().top_k);
  std::vector<std::int32_t> ids;
  for (auto layer : output.topk_ids) {
    for (auto row = layer.begin(); row != layer.end(); row += top_k) std::sort(row, row + top_k);
    ids.insert(ids.end(), layer.begin(), layer.end());
  }
  EXPECT_EQ(ids, expected_ids);
}

TEST_P(Reference, GreedyContinuationIsTheSame) {
  const auto continuation = expected<std::int32_t>("greedy");
  const std::size_t vocab = static_cast<std::size_t>(model_->info().vocab_size);
  Request request(*model_);
  std::vector<std::int32_t> next = expected<std::int32_t>("input_ids");
  std::vector<std::int32_t> written;
  while (written.size() < continuation.size()) {
    const Output output = forward(*model_, {{&request, next}});
    next = {best_token(std::span(output.logits).last(vocab))};
    written.push_back(next.front());
  }
  EXPECT_EQ(written, continuation);
}

INSTANTIATE_TEST_SUITE_P(Domains, Reference, ::testing::ValuesIn(kDomains),
                         [](const auto& test) { return std::string(test.param); });

TEST(ShippedModel, TellsItsSizes) {
  const auto model = load_model(data_file("tiny_qwen3_moe"));
  const ModelInfo& info = model->info();
  EXPECT_EQ(info.family, "qwen3_moe");
  EXPECT_EQ(info.num_layers, 6);
  EXPECT_EQ(info.num_moe_layers, 6);
  EXPECT_EQ(info.num_logical_experts, 64);
  EXPECT_EQ(info.top_k, 4);
  EXPECT_EQ(info.hidden_size, 128);
  EXPECT_EQ(info.vocab_size, 258);
  EXPECT_EQ(info.max_positions, 1024);
  EXPECT_EQ(info.end_of_text, 256);
  EXPECT_EQ(model->make_cache().row_width(), 64);
}

/// The shipped checkpoint with every tensor written as float32 (exact: bf16 is a prefix of f32).
void write_f32_copy(const ::swiftbalancer::testing::TemporaryFolder& folder) {
  const auto source = io::Checkpoint::open(data_file("tiny_qwen3_moe"));
  std::vector<::swiftbalancer::testing::StoredTensor> tensors;
  for (const auto& [name, tensor] : source.tensors()) {
    std::string bytes(tensor.bytes.size() * 2, '\0');
    for (std::size_t i = 0; i < tensor.bytes.size(); i += 2)
      std::memcpy(&bytes[2 * i + 2], &tensor.bytes[i], 2);
    tensors.push_back({name, "F32", tensor.shape, std::move(bytes)});
  }
  folder.write("model.safetensors", ::swiftbalancer::testing::safetensors_file(tensors));
  folder.write("config.json", source.config_json());
}

TEST(ShippedModel, GivesTheSameBitsFromAFloat32Copy) {
  const ::swiftbalancer::testing::TemporaryFolder folder;
  write_f32_copy(folder);
  const auto bf16 = load_model(data_file("tiny_qwen3_moe"));
  const auto f32 = load_model(folder.path());
  ASSERT_EQ(f32->expert_parts(5, 63)[0].size(), 2 * bf16->expert_parts(5, 63)[0].size());
  const std::vector<std::int32_t> tokens = {104, 101, 108, 108, 111, 32, 119, 111,
                                            114, 108, 100, 10,  256, 0,  255};

  Request first(*bf16);
  Request second(*f32);
  const Output expected = forward(*bf16, {{&first, tokens}});
  const Output output = forward(*f32, {{&second, tokens}});

  EXPECT_EQ(output.logits, expected.logits);
}

TEST(ShippedModel, ExpertPartsAreTheCheckpointsOwnBytes) {
  const auto model = load_model(data_file("tiny_qwen3_moe"));
  const auto checkpoint = io::Checkpoint::open(data_file("tiny_qwen3_moe"));
  const char* const projections[] = {"gate_proj", "up_proj", "down_proj"};
  for (const auto& [layer, expert] : {std::pair{0, 0}, {2, 17}, {5, 63}}) {
    const ExpertParts parts = model->expert_parts(layer, expert);
    ASSERT_EQ(parts.size(), 3U);
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const auto& tensor =
          checkpoint.tensor("model.layers." + std::to_string(layer) + ".mlp.experts." +
                            std::to_string(expert) + "." + projections[i] + ".weight");
      EXPECT_TRUE(
          std::equal(parts[i].begin(), parts[i].end(), tensor.bytes.begin(), tensor.bytes.end()))
          << tensor.file << ' ' << layer << ' ' << expert << ' ' << projections[i];
    }
  }
}

}  // namespace
}  // namespace swiftbalancer::engine
