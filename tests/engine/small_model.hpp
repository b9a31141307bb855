#pragma once
// A random checkpoint of a few hundred weights with sizes that are no multiples of the kernels'
// lanes, to check features that the shipped checkpoint lacks and to break one thing at a time.

#include <bit>
#include <cstdint>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "io/safetensors_writer.hpp"
#include "io/temporary_folder.hpp"

namespace swiftbalancer::testing {

struct SmallModel {
  nlohmann::json config = {{"model_type", "qwen3_moe"},
                           {"hidden_size", 20},
                           {"num_hidden_layers", 2},
                           {"num_attention_heads", 6},
                           {"num_key_value_heads", 2},
                           {"head_dim", 8},
                           {"num_experts", 5},
                           {"num_experts_per_tok", 2},
                           {"moe_intermediate_size", 11},
                           {"vocab_size", 13},
                           {"max_position_embeddings", 32},
                           {"rms_norm_eps", 1e-5},
                           {"rope_theta", 500.0},
                           {"norm_topk_prob", false},
                           {"tie_word_embeddings", false},
                           {"eos_token_id", nullptr}};
  std::string dtype = "F32";
  std::vector<StoredTensor> tensors;
  std::map<std::string, std::vector<float>>
      values;  ///< What the tensors hold, after rounding to dtype.

  explicit SmallModel(std::uint64_t seed, std::string type = "F32")
      : dtype(std::move(type)), generator_(seed) {
    add("model.embed_tokens.weight", {13, 20});
    add("lm_head.weight", {13, 20});
    add("model.norm.weight", {20});
    for (int layer = 0; layer < 2; ++layer) {
      const std::string prefix = "model.layers." + std::to_string(layer) + ".";
      add(prefix + "input_layernorm.weight", {20});
      add(prefix + "post_attention_layernorm.weight", {20});
      add(prefix + "self_attn.q_proj.weight", {48, 20});
      add(prefix + "self_attn.k_proj.weight", {16, 20});
      add(prefix + "self_attn.v_proj.weight", {16, 20});
      add(prefix + "self_attn.o_proj.weight", {20, 48});
      add(prefix + "self_attn.q_norm.weight", {8});
      add(prefix + "self_attn.k_norm.weight", {8});
      add(prefix + "mlp.gate.weight", {5, 20});
      for (int expert = 0; expert < 5; ++expert) {
        const std::string name = prefix + "mlp.experts." + std::to_string(expert) + ".";
        add(name + "gate_proj.weight", {11, 20});
        add(name + "up_proj.weight", {11, 20});
        add(name + "down_proj.weight", {20, 11});
      }
    }
  }

  StoredTensor& tensor(const std::string& name) {
    for (StoredTensor& candidate : tensors) {
      if (candidate.name == name) return candidate;
    }
    throw std::runtime_error("no tensor " + name);
  }
  /// @returns the folder's path.
  std::string write(const TemporaryFolder& folder) const {
    folder.write("config.json", config.dump());
    folder.write("model.safetensors", safetensors_file(tensors));
    return folder.path();
  }

 private:
  void add(const std::string& name, const std::vector<std::int64_t>& shape) {
    std::normal_distribution<float> normal(0.0F, 0.5F);
    std::size_t count = 1;
    for (const std::int64_t size : shape) count *= static_cast<std::size_t>(size);
    StoredTensor tensor{name, dtype, shape, {}};
    std::vector<float>& stored = values[name];
    for (std::size_t i = 0; i < count; ++i) {
      std::uint32_t bits = std::bit_cast<std::uint32_t>(normal(generator_));
      if (dtype == "BF16") bits &= 0xFFFF0000U;
      stored.push_back(std::bit_cast<float>(bits));
      char raw[4];
      std::memcpy(raw, &bits, 4);
      if (dtype == "BF16") {
        tensor.bytes.append(raw + 2, 2);
      } else {
        tensor.bytes.append(raw, 4);
      }
    }
    tensors.push_back(std::move(tensor));
  }

  std::mt19937_64 generator_;
};

}  // namespace swiftbalancer::testing
