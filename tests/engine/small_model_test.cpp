// Random models of odd sizes against a plain forward pass in double precision: own lm_head, weights
// of the top-k not renormalised, both dtypes, sizes that are no multiples of the kernels' lanes.

#include "engine/small_model.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "engine/forward.hpp"

namespace swiftbalancer::engine {
namespace {

using ::swiftbalancer::testing::forward;
using ::swiftbalancer::testing::Request;
using ::swiftbalancer::testing::SmallModel;
using ::swiftbalancer::testing::TemporaryFolder;
using Row = std::vector<double>;

/// The model's equations, one token after the other, without any of the engine's code.
class PlainModel {
 public:
  explicit PlainModel(const SmallModel& source) : source_(source) {}

  Row next_logits(int token) {
    Row hidden = row_of("model.embed_tokens.weight", token, 20);
    const int position = static_cast<int>(keys_[0].size());
    for (std::size_t layer = 0; layer < 2; ++layer) {
      prefix_ = "model.layers." + std::to_string(layer) + ".";
      add(hidden, attention(layer, position, norm(hidden, prefix_ + "input_layernorm.weight")));
      add(hidden, experts(norm(hidden, prefix_ + "post_attention_layernorm.weight")));
    }
    return product("lm_head.weight", norm(hidden, "model.norm.weight"));
  }

 private:
  Row row_of(const std::string& name, int row, int width) const {
    const auto begin = source_.values.at(name).begin() + row * width;
    return {begin, begin + width};
  }
  Row product(const std::string& name, const Row& input) const {
    const auto& weights = source_.values.at(name);
    Row out(weights.size() / input.size());
    for (std::size_t i = 0; i < weights.size(); ++i)
      out[i / input.size()] += double{weights[i]} * input[i % input.size()];
    return out;
  }
  Row norm(const Row& input, const std::string& name) const {
    const auto& weights = source_.values.at(name);
    const double mean = std::inner_product(input.begin(), input.end(), input.begin(), 0.0) /
                        static_cast<double>(input.size());
    Row out(input.size());
    for (std::size_t i = 0; i < out.size(); ++i)
      out[i] = input[i] / std::sqrt(mean + 1e-5) * double{weights[i]};
    return out;
  }
  static void add(Row& to, const Row& from) {
    for (std::size_t i = 0; i < to.size(); ++i) to[i] += from[i];
  }
  static Row softmax(Row values) {
    const double largest = *std::max_element(values.begin(), values.end());
    double total = 0;
    for (double& value : values) total += value = std::exp(value - largest);
    for (double& value : values) value /= total;
    return values;
  }
  /// Head `head` of a projection, normalised and turned by its position.
  Row turned(const Row& heads, std::size_t head, const std::string& norm_name, int position) const {
    const auto begin = heads.begin() + static_cast<std::ptrdiff_t>(head * 8);
    const Row in = norm({begin, begin + 8}, prefix_ + norm_name);
    Row out(8);
    for (std::size_t i = 0; i < 4; ++i) {
      const double angle = position / std::pow(500.0, static_cast<double>(i) / 4.0);
      out[i] = in[i] * std::cos(angle) - in[i + 4] * std::sin(angle);
      out[i + 4] = in[i + 4] * std::cos(angle) + in[i] * std::sin(angle);
    }
    return out;
  }
  Row attention(std::size_t layer, int position, const Row& input) {
    const Row query = product(prefix_ + "self_attn.q_proj.weight", input);
    const Row key = product(prefix_ + "self_attn.k_proj.weight", input);
    Row turned_keys;
    for (std::size_t head = 0; head < 2; ++head) {
      const Row one = turned(key, head, "self_attn.k_norm.weight", position);
      turned_keys.insert(turned_keys.end(), one.begin(), one.end());
    }
    keys_[layer].push_back(turned_keys);
    values_[layer].push_back(product(prefix_ + "self_attn.v_proj.weight", input));
    Row attended(48);
    for (std::size_t head = 0; head < 6; ++head) {
      const Row q = turned(query, head, "self_attn.q_norm.weight", position);
      const std::size_t kv = head / 3 * 8;
      Row scores;
      for (const Row& cached : keys_[layer]) {
        double score = 0;
        for (std::size_t d = 0; d < 8; ++d) score += q[d] * cached[kv + d];
        scores.push_back(score / std::sqrt(8.0));
      }
      scores = softmax(scores);
      for (std::size_t p = 0; p < scores.size(); ++p) {
        for (std::size_t d = 0; d < 8; ++d)
          attended[head * 8 + d] += scores[p] * values_[layer][p][kv + d];
      }
    }
    return product(prefix_ + "self_attn.o_proj.weight", attended);
  }
  Row experts(const Row& input) const {
    Row probabilities = softmax(product(prefix_ + "mlp.gate.weight", input));
    Row out(20);
    for (int k = 0; k < 2; ++k) {
      const auto best = std::max_element(probabilities.begin(), probabilities.end());
      const double weight = *best;
      *best = 0;
      const std::string name =
          prefix_ + "mlp.experts." + std::to_string(best - probabilities.begin()) + ".";
      Row gate = product(name + "gate_proj.weight", input);
      const Row up = product(name + "up_proj.weight", input);
      for (std::size_t i = 0; i < gate.size(); ++i) gate[i] *= up[i] / (1 + std::exp(-gate[i]));
      const Row down = product(name + "down_proj.weight", gate);
      for (std::size_t i = 0; i < out.size(); ++i) out[i] += weight * down[i];
    }
    return out;
  }

  const SmallModel& source_;
  std::string prefix_;
  std::vector<Row> keys_[2];
  std::vector<Row> values_[2];
};

class SmallModels : public ::testing::TestWithParam<std::tuple<int, const char*>> {};

TEST_P(SmallModels, LogitsAgreeWithTheEquationsInDoublePrecision) {
  const auto [seed, dtype] = GetParam();
  const TemporaryFolder folder;
  const SmallModel source(static_cast<std::uint64_t>(seed), dtype);
  const auto model = load_model(source.write(folder));
  const std::vector<std::int32_t> tokens = {3, 0, 12, 7, 7, 1, 9, 11, 4, 2, 5, 6, 10};
  Request request(*model);

  const auto output = forward(*model, {{&request, tokens}});

  PlainModel plain(source);
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    const Row expected = plain.next_logits(tokens[t]);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      ASSERT_NEAR(output.logits[t * 13 + i], expected[i], 2e-4) << "token " << t << ", logit " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, SmallModels,
                         ::testing::Combine(::testing::Range(1, 6),
                                            ::testing::Values("F32", "BF16")),
                         [](const auto& test) {
                           return std::string(std::get<1>(test.param)) + "Seed" +
                                  std::to_string(std::get<0>(test.param));
                         });

TEST(SmallModel, RoutingIsOrderedByFallingProbabilityAndKeepsItWhenNotRenormalised) {
  const TemporaryFolder folder;
  const auto model = load_model(SmallModel(7).write(folder));
  const std::vector<std::int32_t> tokens = {1, 2, 3, 4, 5, 6, 7, 8};
  std::vector<float> hidden(tokens.size() * 20);
  model->embed(tokens, hidden);
  KvCache cache = model->make_cache();
  Routing routing;

  model->attend_and_route(0, std::vector<Sequence>{{&cache, 0, 8}}, hidden, routing);

  for (std::size_t t = 0; t < tokens.size(); ++t) {
    EXPECT_GE(routing.topk_weights[2 * t], routing.topk_weights[2 * t + 1]);
    EXPECT_LT(routing.topk_weights[2 * t] + routing.topk_weights[2 * t + 1], 1.0F);
    EXPECT_NE(routing.topk_ids[2 * t], routing.topk_ids[2 * t + 1]);
  }
}

TEST(SmallModel, EqualScoresGoToTheLowestIdsWithEqualWeightsWhenRenormalised) {
  const TemporaryFolder folder;
  SmallModel source(8);
  source.config["norm_topk_prob"] = true;
  auto& router = source.tensor("model.layers.0.mlp.gate.weight").bytes;
  std::fill(router.begin(), router.end(), '\0');
  const auto model = load_model(source.write(folder));
  std::vector<float> hidden(20, 1.0F);
  KvCache cache = model->make_cache();
  Routing routing;

  model->attend_and_route(0, std::vector<Sequence>{{&cache, 0, 1}}, hidden, routing);

  EXPECT_EQ(routing.topk_ids, (std::vector<std::int32_t>{0, 1}));
  EXPECT_EQ(routing.topk_weights, (std::vector<float>{0.5F, 0.5F}));
}

TEST(SmallModel, TiedEmbeddingsAreUsedAsTheHead) {
  const TemporaryFolder folder;
  SmallModel source(9);
  source.tensor("lm_head.weight").bytes = source.tensor("model.embed_tokens.weight").bytes;
  const auto own_head = load_model(source.write(folder));
  source.config["tie_word_embeddings"] = true;
  source.tensors.erase(source.tensors.begin() + 1);
  const TemporaryFolder tied_folder;
  const auto tied = load_model(source.write(tied_folder));
  const std::vector<float> hidden(20, 0.25F);
  std::vector<float> expected(13), logits(13);

  own_head->logits(hidden, expected);
  tied->logits(hidden, logits);

  EXPECT_EQ(logits, expected);
}

TEST(SmallModel, ReadsRopeThetaOfTheNestedForm) {
  const TemporaryFolder folder;
  const TemporaryFolder nested_folder;
  SmallModel source(10);
  const auto plain = load_model(source.write(folder));
  source.config.erase("rope_theta");
  source.config["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 500.0}};
  const auto nested = load_model(source.write(nested_folder));
  const std::vector<std::int32_t> tokens = {1, 2, 3};
  Request first(*plain);
  Request second(*nested);

  EXPECT_EQ(forward(*plain, {{&first, tokens}}).logits,
            forward(*nested, {{&second, tokens}}).logits);
}

}  // namespace
}  // namespace swiftbalancer::engine
