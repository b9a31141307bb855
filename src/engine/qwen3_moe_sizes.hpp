#pragma once
// What qwen3_moe reads from config.json, with everything that this engine cannot run refused. Used
// by qwen3_moe.cpp while a model loads.

#include "engine/model.hpp"
#include "io/model_config.hpp"

namespace swiftbalancer::engine {

struct Qwen3MoeSizes {
  ModelInfo info;
  int num_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  int expert_size = 0;
  float epsilon = 0.0F;
  double rope_theta = 0.0;
  bool renormalise = false;
  bool tied = false;

  int query_width() const { return num_heads * head_dim; }
  int kv_width() const { return num_kv_heads * head_dim; }
};

/// @throws Error kUnsupported (dense layers, biases, sliding windows, scaled rotary embeddings),
/// kInvalidArgument
///         (missing keys, wrong types, values outside their range or that do not fit together).
Qwen3MoeSizes read_qwen3_moe_sizes(const io::ModelConfig& config);

}  // namespace swiftbalancer::engine
