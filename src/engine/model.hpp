#pragma once
// A Mixture-of-Experts model in the pieces that expert parallelism needs: everything up to the
// router runs on the rank that owns the token, an expert runs wherever a slot holds it, and the
// results are summed in top-k order. Arithmetic is batch-invariant: a token's numbers do not depend
// on which rank, slot or batch it was computed in. Called by the engine thread of a rank; const
// functions are thread-safe. Families register in src/engine/families.cpp.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "io/checkpoint.hpp"

namespace swiftbalancer::engine {

/// Sizes every family tells the engine.
struct ModelInfo {
  std::string family;
  int num_layers = 0;  ///< All of them MoE in the families supported so far.
  int num_moe_layers = 0;
  int num_logical_experts = 0;
  int top_k = 0;
  int hidden_size = 0;
  int vocab_size = 0;
  int max_positions = 0;
  int end_of_text = -1;  ///< Token id, -1 if none.
};

/// Keys and values of one request, all layers. Grows by append; owned by the request's rank.
class KvCache {
 public:
  KvCache(int num_layers, int row_width)
      : row_width_(row_width),
        keys_(static_cast<std::size_t>(num_layers)),
        values_(static_cast<std::size_t>(num_layers)) {}
  std::vector<float>& keys(int layer) { return keys_[static_cast<std::size_t>(layer)]; }
  std::vector<float>& values(int layer) { return values_[static_cast<std::size_t>(layer)]; }
  int row_width() const noexcept { return row_width_; }
  /// Forgets what was appended after the first `positions`.
  void cut_back(int positions) {
    const auto size = static_cast<std::size_t>(positions) * static_cast<std::size_t>(row_width_);
    for (auto* layers : {&keys_, &values_}) {
      for (std::vector<float>& rows : *layers) rows.resize(std::min(rows.size(), size));
    }
  }

 private:
  int row_width_;
  std::vector<std::vector<float>> keys_;  // [layer][position * row_width]
  std::vector<std::vector<float>> values_;
};

/// A run of consecutive tokens of one request inside a batch.
struct Sequence {
  KvCache* cache = nullptr;
  int first_position = 0;  ///< Position of its first token in this batch.
  int num_tokens = 0;
};

/// One layer's routing decisions for a batch.
struct Routing {
  std::vector<std::int32_t>
      topk_ids;  ///< [num_tokens, top_k] logical ids, by falling router score, ties by id.
  std::vector<float> topk_weights;  ///< [num_tokens, top_k]
  std::vector<float> expert_input;  ///< [num_tokens, hidden_size] what the experts read
};

/// The bytes of one expert as they lie in a slot: the checkpoint's own bytes, one part per
/// projection, in an order fixed by the family (qwen3_moe: gate_proj, up_proj, down_proj).
using ExpertParts = std::vector<std::span<const std::byte>>;

class Model {
 public:
  virtual ~Model() = default;
  virtual const ModelInfo& info() const noexcept = 0;
  virtual KvCache make_cache() const = 0;

  /// @param hidden [tokens.size(), hidden_size], out.
  virtual void embed(std::span<const std::int32_t> tokens, std::span<float> hidden) const = 0;
  /// Attention of one layer with residual, in place; appends to the sequences' caches; then the
  /// router.
  virtual void attend_and_route(int layer, std::span<const Sequence> sequences,
                                std::span<float> hidden, Routing& routing) const = 0;
  /// One expert on some tokens. @param parts pointers to the slot's parts. @param input, output
  /// [num_tokens, hidden_size].
  virtual void run_expert(std::span<const std::byte* const> parts, std::span<const float> input,
                          int num_tokens, std::span<float> output) const = 0;
  /// hidden += sum over k, in order, of topk_weights[t, k] * expert_output[t, k].
  /// @param expert_output [num_tokens * top_k] pointers to rows of hidden_size.
  virtual void combine(const Routing& routing, std::span<const float* const> expert_output,
                       std::span<float> hidden) const = 0;
  /// @param hidden one row. @param logits [vocab_size].
  virtual void logits(std::span<const float> hidden, std::span<float> logits) const = 0;

  /// Where the bytes of an expert lie in the checkpoint (mapped; valid while the model lives).
  virtual ExpertParts expert_parts(int moe_layer_id, int logical_id) const = 0;
};

/// Loads a Hugging Face checkpoint folder (config.json, *.safetensors, bf16 or f32).
/// @throws Error kIo (missing, truncated, wrong dtype or shape; names file and tensor),
/// kInvalidArgument (config.json: key
///         missing, wrong type or value; names file, key and value), kUnsupported (family not
///         registered, dense model, a feature of the family that is not built; lists the families).
std::unique_ptr<Model> load_model(const std::string& folder);
/// Registered families, sorted.
std::vector<std::string> model_families();

}  // namespace swiftbalancer::engine
