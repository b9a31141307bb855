// Checkpoints that the engine must refuse in one clear line, and calls that it must refuse.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <swiftbalancer/error.hpp>

#include "engine/forward.hpp"
#include "engine/small_model.hpp"

namespace swiftbalancer::engine {
namespace {

using ::swiftbalancer::testing::forward;
using ::swiftbalancer::testing::Request;
using ::swiftbalancer::testing::SmallModel;
using ::swiftbalancer::testing::TemporaryFolder;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

struct BadModel {
  std::string name;
  std::function<void(SmallModel&)> spoil;
  ErrorCode code;
  std::vector<std::string> message;  ///< Parts that the error must hold.
};

BadModel config(const std::string& name, const std::string& key, const nlohmann::json& value,
                ErrorCode code, const std::vector<std::string>& message) {
  return {name, [=](SmallModel& model) { model.config[key] = value; }, code, message};
}

std::vector<BadModel> unsupported_configs() {
  constexpr auto kCode = ErrorCode::kUnsupported;
  const std::string families = "supported families: qwen3_moe";
  return {
      config("UnknownFamily", "model_type", "mamba", kCode,
             {"model_type is \"mamba\"", "not supported", families}),
      config("DenseFamily", "model_type", "qwen3", kCode,
             {"model_type is \"qwen3\"", "not supported", families}),
      config("NoExperts", "num_experts", 0, kCode,
             {"num_experts is 0", "dense model is not supported", families}),
      {"ExpertsMissing",
       [](SmallModel& model) { model.config.erase("num_experts"); },
       kCode,
       {"num_experts is missing", "dense model is not supported", families}},
      config("MlpOnlyLayers", "mlp_only_layers", {1}, kCode, {"mlp_only_layers is [1]"}),
      config("SparseStep", "decoder_sparse_step", 2, kCode, {"decoder_sparse_step is 2"}),
      config("AttentionBias", "attention_bias", true, kCode, {"attention_bias is true"}),
      config("SlidingWindow", "use_sliding_window", true, kCode, {"use_sliding_window is true"}),
      config("SlidingLayers", "layer_types", {"full_attention", "sliding_attention"}, kCode,
             {"layer_types", "sliding_attention"}),
      config("Activation", "hidden_act", "gelu", kCode, {"hidden_act is \"gelu\"", "\"silu\""}),
      config("RopeScaling", "rope_scaling", {{"rope_type", "yarn"}}, kCode,
             {"rope_scaling.rope_type is \"yarn\""}),
      config("RopeParameters", "rope_parameters", {{"rope_type", "llama3"}}, kCode,
             {"rope_parameters.rope_type is \"llama3\""}),
      config("OddHeads", "head_dim", 12, kCode, {"head_dim is 12", "multiple of 8"}),
  };
}

std::vector<BadModel> invalid_configs() {
  constexpr auto kCode = ErrorCode::kInvalidArgument;
  std::vector<BadModel> cases = {
      config("NegativeExperts", "num_experts", -4, kCode, {"num_experts is -4", "from 1 to"}),
      config("TextExperts", "num_experts", "64", kCode, {"num_experts is \"64\"", "integer"}),
      config("HalfExperts", "num_experts", 2.5, kCode, {"num_experts is 2.5", "integer"}),
      config("TopKBeyondExperts", "num_experts_per_tok", 6, kCode,
             {"num_experts_per_tok is 6", "from 1 to 5"}),
      config("UnevenHeads", "num_key_value_heads", 4, kCode,
             {"num_key_value_heads is 4", "divisor of num_attention_heads 6"}),
      config("HeadDimMissing", "head_dim", nullptr, kCode, {"head_dim is null", "hidden_size 20"}),
      config("HugeHidden", "hidden_size", 18446744073709551615ULL, kCode,
             {"18446744073709551615", "from 1 to"}),
      config("EndOfTextOutside", "eos_token_id", 13, kCode,
             {"eos_token_id is 13", "below vocab_size 13"}),
      config("TwoEndsOfText", "eos_token_id", {1, 2}, kCode,
             {"eos_token_id is [1,2]", "one token id"}),
      config("EpsilonZero", "rms_norm_eps", 0.0, kCode, {"rms_norm_eps is 0.0", "positive"}),
      config("EpsilonText", "rms_norm_eps", "tiny", kCode,
             {"rms_norm_eps is \"tiny\"", "positive"}),
      config("ThetaNegative", "rope_theta", -1.0, kCode, {"rope_theta is -1.0", "positive"}),
      config("NormNotBoolean", "norm_topk_prob", 1, kCode,
             {"norm_topk_prob is 1", "true or false"}),
      config("TypeNotText", "model_type", 3, kCode, {"model_type is 3", "text"}),
      config("LayersNotAList", "mlp_only_layers", 3, kCode, {"mlp_only_layers is 3", "list"}),
      config("RopeNotAnObject", "rope_scaling", 4, kCode, {"rope_scaling is 4", "object"}),
  };
  for (const char* key : {"num_hidden_layers", "num_experts_per_tok", "hidden_size", "vocab_size",
                          "head_dim", "max_position_embeddings", "num_attention_heads",
                          "num_key_value_heads", "moe_intermediate_size"}) {
    cases.push_back(config(std::string(key) + "_zero", key, 0, kCode,
                           {std::string(key) + " is 0", "from 1 to"}));
    cases.push_back(config(std::string(key) + "_negative", key, -2, kCode,
                           {std::string(key) + " is -2", "from 1 to"}));
  }
  for (const char* key :
       {"model_type", "num_hidden_layers", "num_experts_per_tok", "hidden_size", "vocab_size",
        "max_position_embeddings", "num_attention_heads", "num_key_value_heads",
        "moe_intermediate_size", "rms_norm_eps", "rope_theta", "norm_topk_prob", "head_dim"}) {
    cases.push_back({std::string(key) + "_missing",
                     [=](SmallModel& model) { model.config.erase(key); },
                     kCode,
                     {std::string(key) + " is missing"}});
  }
  return cases;
}

std::vector<BadModel> bad_tensors() {
  constexpr auto kCode = ErrorCode::kIo;
  std::vector<BadModel> cases = {
      {"ExpertsOfTwoDtypes",
       [](SmallModel& model) {
         model.tensor("model.layers.1.mlp.experts.3.up_proj.weight") =
             SmallModel(1, "BF16").tensor("model.layers.1.mlp.experts.3.up_proj.weight");
       },
       kCode,
       {"model.layers.1.mlp.experts.3.up_proj.weight", "BF16", "one dtype"}},
      {"MoreExpertsThanTensors",
       [](SmallModel& model) { model.config["num_experts"] = 6; },
       kCode,
       {"model.layers.0.mlp.gate.weight", "[5, 20]", "[6, 20]"}},
      {"MoreLayersThanTensors",
       [](SmallModel& model) { model.config["num_hidden_layers"] = 3; },
       kCode,
       {"\"model.layers.2.input_layernorm.weight\" is missing"}},
  };
  for (const std::string& name : std::vector<std::string>{
           "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight",
           "model.layers.1.input_layernorm.weight",
           "model.layers.1.post_attention_layernorm.weight",
           "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight",
           "model.layers.0.self_attn.v_proj.weight", "model.layers.0.self_attn.o_proj.weight",
           "model.layers.0.self_attn.q_norm.weight", "model.layers.0.self_attn.k_norm.weight",
           "model.layers.0.mlp.gate.weight", "model.layers.0.mlp.experts.0.gate_proj.weight",
           "model.layers.0.mlp.experts.4.up_proj.weight",
           "model.layers.1.mlp.experts.2.down_proj.weight"}) {
    std::string label = name;
    std::replace(label.begin(), label.end(), '.', '_');
    cases.push_back({label + "_missing",
                     [=](SmallModel& model) { model.tensor(name).name = "renamed"; },
                     kCode,
                     {"\"" + name + "\" is missing"}});
    cases.push_back({label + "_dtype",
                     [=](SmallModel& model) { model.tensor(name).dtype = "I32"; },
                     kCode,
                     {"model.safetensors", "\"" + name + "\"", "dtype I32", "BF16 or F32"}});
    cases.push_back(
        {label + "_shape",
         [=](SmallModel& model) { model.tensor(name).shape.push_back(1); },
         kCode,
         {"model.safetensors", "\"" + name + "\" has shape [", ", 1]", "config.json says ["}});
  }
  return cases;
}

class BadModels : public ::testing::TestWithParam<BadModel> {};

TEST_P(BadModels, AreRefusedInOneLineThatNamesTheValue) {
  const TemporaryFolder folder;
  SmallModel model(1);
  GetParam().spoil(model);
  model.write(folder);
  try {
    load_model(folder.path());
    FAIL() << "loaded";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), GetParam().code) << error.what();
    EXPECT_THAT(error.what(), AllOf(HasSubstr(folder.path()), Not(HasSubstr("\n"))));
    for (const std::string& part : GetParam().message) EXPECT_THAT(error.what(), HasSubstr(part));
  }
}

const auto kNameOf = [](const auto& test) { return test.param.name; };
INSTANTIATE_TEST_SUITE_P(Unsupported, BadModels, ::testing::ValuesIn(unsupported_configs()),
                         kNameOf);
INSTANTIATE_TEST_SUITE_P(Invalid, BadModels, ::testing::ValuesIn(invalid_configs()), kNameOf);
INSTANTIATE_TEST_SUITE_P(Tensors, BadModels, ::testing::ValuesIn(bad_tensors()), kNameOf);

std::string error_of_loading(const std::string& path) {
  try {
    load_model(path);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kIo) << error.what();
    return error.what();
  }
  return "loaded";
}

TEST(LoadModel, NamesAConfigThatIsNotJsonOrNoObject) {
  const TemporaryFolder folder;
  SmallModel(1).write(folder);
  folder.write("config.json", "{\"model_type\": ");
  EXPECT_THAT(error_of_loading(folder.path()), HasSubstr("config.json: is not JSON"));
  folder.write("config.json", "[]");
  EXPECT_THAT(error_of_loading(folder.path()), HasSubstr("config.json: is not a JSON object"));
  folder.write("config.json", "");
  EXPECT_THAT(error_of_loading(folder.path()), HasSubstr("config.json is missing or empty"));
}

TEST(LoadModel, NamesAMissingFolderAndASingleFile) {
  const TemporaryFolder folder;
  SmallModel(1).write(folder);
  EXPECT_THAT(error_of_loading(folder.file("none")), HasSubstr("does not exist"));
  EXPECT_THAT(error_of_loading(folder.file("model.safetensors")),
              HasSubstr("a checkpoint folder is needed"));
}

TEST(LoadModel, ListsItsFamilies) {
  EXPECT_THAT(model_families(), ::testing::ElementsAre("qwen3_moe"));
}

class Misuse : public ::testing::Test {
 protected:
  Misuse() : model_(load_model(SmallModel(1).write(folder_))) {}

  std::string error_of(Request& request, const std::vector<std::int32_t>& tokens) {
    try {
      forward(*model_, {{&request, tokens}});
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }

  TemporaryFolder folder_;
  std::unique_ptr<Model> model_;
};

TEST_F(Misuse, TokensOutsideTheVocabularyAreRefused) {
  Request request(*model_);
  EXPECT_THAT(error_of(request, {1, 13}), AllOf(HasSubstr("token 13"), HasSubstr("0 to 12")));
  EXPECT_THAT(error_of(request, {-1}), HasSubstr("token -1"));
}

TEST_F(Misuse, ARequestLongerThanTheModelAllowsIsRefused) {
  Request request(*model_);
  EXPECT_EQ(error_of(request, std::vector<std::int32_t>(32, 1)), "no error");
  EXPECT_THAT(error_of(request, {1}),
              AllOf(HasSubstr("position 33"), HasSubstr("max_positions 32")));
}

TEST_F(Misuse, ACacheThatIsNotAtTheSequencesPositionIsRefused) {
  Request request(*model_);
  request.position = 5;
  EXPECT_THAT(error_of(request, {1}), HasSubstr("position 5"));
}

TEST_F(Misuse, SequencesThatDoNotCoverTheBatchAreRefused) {
  KvCache cache = model_->make_cache();
  std::vector<float> hidden(3 * 20);
  Routing routing;
  EXPECT_THROW(model_->attend_and_route(0, std::vector<Sequence>{{&cache, 0, 2}}, hidden, routing),
               Error);
}

}  // namespace
}  // namespace swiftbalancer::engine
