#include "engine/qwen3_moe_sizes.hpp"

#include "engine/families.hpp"

namespace swiftbalancer::engine {
namespace {

// Far above published models; a damaged config ends in a message, not in an allocation of all
// memory.
constexpr int kMaxSize = 1 << 20;
constexpr int kMaxLayers = 4096;

void check_supported(const io::ModelConfig& config) {
  if (!config.has("num_experts") || config.is_zero("num_experts")) {
    config.unsupported("num_experts", "a dense model is not supported; " + families_hint());
  }
  if (config.list_size("mlp_only_layers") > 0) {
    config.unsupported("mlp_only_layers",
                       "dense layers are not supported; every layer must have experts");
  }
  if (config.has("decoder_sparse_step") &&
      config.integer("decoder_sparse_step", 1, kMaxLayers) != 1) {
    config.unsupported("decoder_sparse_step", "dense layers are not supported; only 1 is");
  }
  if (config.boolean("attention_bias", false)) {
    config.unsupported("attention_bias", "biases are not supported; only false is");
  }
  if (config.boolean("use_sliding_window", false)) {
    config.unsupported("use_sliding_window", "sliding windows are not supported; only false is");
  }
  if (config.list_contains("layer_types", "sliding_attention")) {
    config.unsupported("layer_types",
                       "sliding windows are not supported; only \"full_attention\" is");
  }
  if (config.text("hidden_act", "silu") != "silu") {
    config.unsupported("hidden_act", "this activation is not supported; only \"silu\" is");
  }
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const io::ModelConfig rope = config.section(key);
    for (const char* type : {"rope_type", "type"}) {
      if (rope.text(type, "default") != "default") {
        rope.unsupported(type, "scaled rotary embeddings are not supported; only \"default\" is");
      }
    }
  }
}

int head_dim_of(const io::ModelConfig& config, int hidden_size, int num_heads) {
  if (!config.has("head_dim") && hidden_size % num_heads != 0) {
    config.invalid("head_dim", "it is needed where num_attention_heads " +
                                   std::to_string(num_heads) + " does not divide hidden_size " +
                                   std::to_string(hidden_size));
  }
  const int head_dim =
      config.has("head_dim") ? config.integer("head_dim", 1, kMaxSize) : hidden_size / num_heads;
  if (head_dim % kLanes != 0) {
    config.unsupported("head_dim", "heads of " + std::to_string(head_dim) +
                                       " are not supported; a multiple of " +
                                       std::to_string(kLanes) + " is needed");
  }
  return head_dim;
}

}  // namespace

Qwen3MoeSizes read_qwen3_moe_sizes(const io::ModelConfig& config) {
  check_supported(config);
  Qwen3MoeSizes sizes;
  ModelInfo& info = sizes.info;
  info.family = "qwen3_moe";
  info.num_layers = config.integer("num_hidden_layers", 1, kMaxLayers);
  info.num_moe_layers = info.num_layers;
  info.num_logical_experts = config.integer("num_experts", 1, kMaxSize);
  info.top_k = config.integer("num_experts_per_tok", 1, info.num_logical_experts);
  info.hidden_size = config.integer("hidden_size", 1, kMaxSize);
  info.vocab_size = config.integer("vocab_size", 1, 1 << 24);
  info.max_positions = config.integer("max_position_embeddings", 1, kMaxSize);
  info.end_of_text = config.token_id("eos_token_id", info.vocab_size);
  sizes.num_heads = config.integer("num_attention_heads", 1, 1 << 10);
  sizes.num_kv_heads = config.integer("num_key_value_heads", 1, sizes.num_heads);
  if (sizes.num_heads % sizes.num_kv_heads != 0) {
    config.invalid("num_key_value_heads", "a divisor of num_attention_heads " +
                                              std::to_string(sizes.num_heads) + " is needed");
  }
  sizes.head_dim = head_dim_of(config, info.hidden_size, sizes.num_heads);
  sizes.expert_size = config.integer("moe_intermediate_size", 1, kMaxSize);
  sizes.epsilon = static_cast<float>(config.positive_number("rms_norm_eps"));
  const bool nested = !config.has("rope_theta") && config.has("rope_parameters");
  sizes.rope_theta = nested ? config.section("rope_parameters").positive_number("rope_theta")
                            : config.positive_number("rope_theta");
  sizes.renormalise = config.boolean("norm_topk_prob");
  sizes.tied = config.boolean("tie_word_embeddings", false);
  return sizes;
}

}  // namespace swiftbalancer::engine
