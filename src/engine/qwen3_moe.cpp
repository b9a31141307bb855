// The family of Qwen3MoeForCausalLM (Hugging Face transformers, models/qwen3_moe): grouped-query
// attention with RMSNorm on every query and key head before the rotary embedding, a softmax router,
// SwiGLU experts.

#include <algorithm>
#include <cmath>
#include <swiftbalancer/error.hpp>
#include <utility>

#include "engine/families.hpp"
#include "engine/qwen3_moe_sizes.hpp"

namespace swiftbalancer::engine {
namespace {

std::size_t size_of(int count) { return static_cast<std::size_t>(count); }
std::size_t area(int rows, int cols) { return size_of(rows) * size_of(cols); }

struct Layer {
  std::vector<float> input_norm;
  PackedMatrix query, key, value, output;
  std::vector<float> query_norm, key_norm;
  std::vector<float> expert_norm;
  PackedMatrix router;
  std::vector<ExpertParts> experts;
};

/// Rotates pairs (i, i + head_dim / 2); @param angles cosines, then sines, head_dim / 2 each.
void rotate_head(float* head, const float* angles, int head_dim) {
  const int half = head_dim / 2;
  for (int i = 0; i < half; ++i) {
    const float a = head[i];
    const float b = head[i + half];
    head[i] = a * angles[i] - b * angles[i + half];
    head[i + half] = b * angles[i] + a * angles[i + half];
  }
}

std::vector<float> rope_table(const Qwen3MoeSizes& sizes) {
  const int half = sizes.head_dim / 2;
  std::vector<float> table;
  table.reserve(area(sizes.info.max_positions, sizes.head_dim));
  std::vector<float> frequencies;
  for (int i = 0; i < half; ++i) {
    const double exponent = 2.0 * i / sizes.head_dim;
    frequencies.push_back(static_cast<float>(1.0 / std::pow(sizes.rope_theta, exponent)));
  }
  for (int position = 0; position < sizes.info.max_positions; ++position) {
    // Angles are f32, as in the models' own code; their functions are rounded once.
    const auto angle = [&](int i) {
      return double{static_cast<float>(position) * frequencies[size_of(i)]};
    };
    for (int i = 0; i < half; ++i) table.push_back(static_cast<float>(std::cos(angle(i))));
    for (int i = 0; i < half; ++i) table.push_back(static_cast<float>(std::sin(angle(i))));
  }
  return table;
}

void add_rows(const std::vector<float>& from, std::span<float> to) {
  for (std::size_t i = 0; i < to.size(); ++i) to[i] += from[i];
}

/// Asks for a request's cached rows in one stream: the heads then read them in strides, which would
/// wait for memory row by row.
void fetch(const std::vector<float>& rows) {
  constexpr std::size_t kFloatsPerLine = 16;
  for (std::size_t i = 0; i < rows.size(); i += kFloatsPerLine) __builtin_prefetch(&rows[i]);
}

/// The largest probabilities, falling, ties by id.
void choose_experts(std::span<float> probabilities, std::span<std::int32_t> ids,
                    std::span<float> weights) {
  for (std::size_t k = 0; k < ids.size(); ++k) {
    std::size_t best = 0;
    for (std::size_t e = 1; e < probabilities.size(); ++e) {
      if (probabilities[e] > probabilities[best]) best = e;
    }
    ids[k] = static_cast<std::int32_t>(best);
    weights[k] = probabilities[best];
    probabilities[best] = -1.0F;
  }
}

class Qwen3Moe final : public Model {
 public:
  Qwen3Moe(io::Checkpoint checkpoint, Qwen3MoeSizes sizes)
      : checkpoint_(std::move(checkpoint)), sizes_(std::move(sizes)) {
    load_embedding();
    for (int layer = 0; layer < sizes_.info.num_layers; ++layer)
      layers_.push_back(load_layer(layer));
    rope_ = rope_table(sizes_);
  }

  const ModelInfo& info() const noexcept override { return sizes_.info; }
  KvCache make_cache() const override { return {sizes_.info.num_layers, sizes_.kv_width()}; }

  void embed(std::span<const std::int32_t> tokens, std::span<float> hidden) const override {
    const std::size_t width = size_of(sizes_.info.hidden_size);
    const std::byte* table = checkpoint_.tensor(kEmbedding).bytes.data();
    for (std::size_t t = 0; t < tokens.size(); ++t) {
      if (tokens[t] < 0 || tokens[t] >= sizes_.info.vocab_size) {
        throw Error(ErrorCode::kInvalidArgument,
                    "token " + std::to_string(tokens[t]) +
                        " is outside the vocabulary; allowed are 0 to " +
                        std::to_string(sizes_.info.vocab_size - 1));
      }
      const std::size_t row = size_of(tokens[t]) * width * bytes_of(embedding_type_);
      to_floats(table + row, embedding_type_, hidden.subspan(t * width, width));
    }
  }

  void attend_and_route(int layer, std::span<const Sequence> sequences, std::span<float> hidden,
                        Routing& routing) const override {
    const Layer& weights = layers_.at(size_of(layer));
    const int num_tokens = static_cast<int>(hidden.size() / size_of(sizes_.info.hidden_size));
    check_sequences(layer, sequences, num_tokens);
    std::vector<float> normed(hidden.size());
    normalise_rows(weights.input_norm, hidden, normed);
    const std::vector<float> attended = attend(layer, weights, sequences, normed, num_tokens);
    std::vector<float> projected(hidden.size());
    weights.output.multiply(attended.data(), num_tokens, projected.data());
    add_rows(projected, hidden);
    routing.expert_input.resize(hidden.size());
    normalise_rows(weights.expert_norm, hidden, routing.expert_input);
    route(weights, num_tokens, routing);
  }

  void run_expert(std::span<const std::byte* const> parts, std::span<const float> input,
                  int num_tokens, std::span<float> output) const override {
    // Kept between calls, since an expert of a small batch costs little more than allocating would.
    static thread_local std::vector<float> gate, up, tile;
    const std::size_t size = area(num_tokens, sizes_.expert_size);
    gate.resize(size);
    up.resize(size);
    const int hidden = sizes_.info.hidden_size;
    const int inner = sizes_.expert_size;
    multiply(parts[0], expert_type_, inner, hidden, input.data(), num_tokens, gate.data(), tile);
    multiply(parts[1], expert_type_, inner, hidden, input.data(), num_tokens, up.data(), tile);
    kernels().silu_multiply(gate.data(), up.data(), static_cast<int>(size));
    multiply(parts[2], expert_type_, hidden, inner, gate.data(), num_tokens, output.data(), tile);
  }

  void combine(const Routing& routing, std::span<const float* const> expert_output,
               std::span<float> hidden) const override {
    const std::size_t width = size_of(sizes_.info.hidden_size);
    const std::size_t top_k = size_of(sizes_.info.top_k);
    std::vector<float> sum(width);
    for (std::size_t t = 0; t * width < hidden.size(); ++t) {
      std::fill(sum.begin(), sum.end(), 0.0F);
      for (std::size_t k = t * top_k; k < (t + 1) * top_k; ++k) {
        const float weight = routing.topk_weights[k];
        for (std::size_t i = 0; i < width; ++i) sum[i] += weight * expert_output[k][i];
      }
      add_rows(sum, hidden.subspan(t * width, width));
    }
  }

  void logits(std::span<const float> hidden, std::span<float> logits) const override {
    std::vector<float> normed(hidden.size());
    normalise_rows(final_norm_, hidden, normed);
    head_.multiply(normed.data(), 1, logits.data());
  }

  ExpertParts expert_parts(int moe_layer_id, int logical_id) const override {
    return layers_.at(size_of(moe_layer_id)).experts.at(size_of(logical_id));
  }

 private:
  static constexpr const char* kEmbedding = "model.embed_tokens.weight";

  void load_embedding() {
    const int vocab = sizes_.info.vocab_size;
    const int hidden = sizes_.info.hidden_size;
    embedding_type_ = check_weight(checkpoint_, kEmbedding, {vocab, hidden});
    head_ = load_matrix(checkpoint_, sizes_.tied ? kEmbedding : "lm_head.weight", vocab, hidden);
    final_norm_ = load_vector(checkpoint_, "model.norm.weight", hidden);
  }

  Layer load_layer(int id) {
    const std::string prefix = "model.layers." + std::to_string(id) + ".";
    const int hidden = sizes_.info.hidden_size;
    const auto vector = [&](const char* name, int size) {
      return load_vector(checkpoint_, prefix + name, size);
    };
    const auto matrix = [&](const char* name, int rows, int cols) {
      return load_matrix(checkpoint_, prefix + name, rows, cols);
    };
    Layer layer;
    layer.input_norm = vector("input_layernorm.weight", hidden);
    layer.query = matrix("self_attn.q_proj.weight", sizes_.query_width(), hidden);
    layer.key = matrix("self_attn.k_proj.weight", sizes_.kv_width(), hidden);
    layer.value = matrix("self_attn.v_proj.weight", sizes_.kv_width(), hidden);
    layer.output = matrix("self_attn.o_proj.weight", hidden, sizes_.query_width());
    layer.query_norm = vector("self_attn.q_norm.weight", sizes_.head_dim);
    layer.key_norm = vector("self_attn.k_norm.weight", sizes_.head_dim);
    layer.expert_norm = vector("post_attention_layernorm.weight", hidden);
    layer.router = matrix("mlp.gate.weight", sizes_.info.num_logical_experts, hidden);
    for (int expert = 0; expert < sizes_.info.num_logical_experts; ++expert) {
      layer.experts.push_back(load_expert(prefix + "mlp.experts." + std::to_string(expert) + "."));
    }
    return layer;
  }

  ExpertParts load_expert(const std::string& prefix) {
    ExpertParts parts;
    for (const char* projection : {"gate_proj", "up_proj", "down_proj"}) {
      const std::string name = prefix + projection + ".weight";
      const bool down = projection == std::string_view("down_proj");
      const std::int64_t rows = down ? sizes_.info.hidden_size : sizes_.expert_size;
      const std::int64_t cols = down ? sizes_.expert_size : sizes_.info.hidden_size;
      const WeightType type = check_weight(checkpoint_, name, {rows, cols});
      const io::Tensor& tensor = checkpoint_.tensor(name);
      if (!expert_type_known_) expert_type_ = type;
      expert_type_known_ = true;
      if (type != expert_type_) {
        throw Error(ErrorCode::kIo, tensor.file + ": tensor \"" + name + "\" has dtype " +
                                        tensor.dtype_name +
                                        ", other experts do not; all experts must have one dtype");
      }
      parts.push_back(tensor.bytes);
    }
    return parts;
  }

  void check_sequences(int layer, std::span<const Sequence> sequences, int num_tokens) const {
    int total = 0;
    for (const Sequence& sequence : sequences) {
      total += sequence.num_tokens;
      const int end = sequence.first_position + sequence.num_tokens;
      if (sequence.first_position < 0 || end > sizes_.info.max_positions) {
        throw Error(ErrorCode::kInvalidArgument, "a sequence ends at position " +
                                                     std::to_string(end) +
                                                     "; the model has max_positions " +
                                                     std::to_string(sizes_.info.max_positions));
      }
      if (sequence.cache->keys(layer).size() != area(sequence.first_position, sizes_.kv_width())) {
        throw Error(ErrorCode::kInvalidState, "a sequence starts at position " +
                                                  std::to_string(sequence.first_position) +
                                                  ", which is not where its cache ends");
      }
    }
    if (total != num_tokens) {
      throw Error(ErrorCode::kInvalidArgument, "the sequences have " + std::to_string(total) +
                                                   " tokens, the batch has " +
                                                   std::to_string(num_tokens));
    }
  }

  void normalise_rows(const std::vector<float>& weight, std::span<const float> rows,
                      std::span<float> out) const {
    for (std::size_t i = 0; i < rows.size(); i += weight.size()) {
      kernels().rms_norm(&rows[i], weight.data(), static_cast<int>(weight.size()), sizes_.epsilon,
                         &out[i]);
    }
  }

  /// Norm and rotary embedding of one token's heads, in place.
  void turn_heads(const std::vector<float>& norm, int position, std::span<float> heads) const {
    normalise_rows(norm, heads, heads);
    const float* angles = rope_.data() + area(position, sizes_.head_dim);
    for (std::size_t i = 0; i < heads.size(); i += size_of(sizes_.head_dim)) {
      rotate_head(&heads[i], angles, sizes_.head_dim);
    }
  }

  std::vector<float> attend(int layer, const Layer& weights, std::span<const Sequence> sequences,
                            const std::vector<float>& normed, int num_tokens) const {
    std::vector<float> query(area(num_tokens, sizes_.query_width()));
    std::vector<float> key(area(num_tokens, sizes_.kv_width()));
    std::vector<float> value(key.size());
    weights.query.multiply(normed.data(), num_tokens, query.data());
    weights.key.multiply(normed.data(), num_tokens, key.data());
    weights.value.multiply(normed.data(), num_tokens, value.data());

    std::vector<float> attended(query.size());
    int first = 0;
    for (const Sequence& sequence : sequences) {
      const std::size_t query_at = area(first, sizes_.query_width());
      const std::size_t query_size = area(sequence.num_tokens, sizes_.query_width());
      const std::size_t kv_at = area(first, sizes_.kv_width());
      const std::size_t kv_size = area(sequence.num_tokens, sizes_.kv_width());
      attend_sequence(layer, weights, sequence, std::span(query).subspan(query_at, query_size),
                      std::span(key).subspan(kv_at, kv_size),
                      std::span(value).subspan(kv_at, kv_size),
                      std::span(attended).subspan(query_at, query_size));
      first += sequence.num_tokens;
    }
    return attended;
  }

  void attend_sequence(int layer, const Layer& weights, const Sequence& sequence,
                       std::span<float> query, std::span<float> key, std::span<const float> value,
                       std::span<float> attended) const {
    const std::size_t query_width = size_of(sizes_.query_width());
    const std::size_t kv_width = size_of(sizes_.kv_width());
    for (int t = 0; t < sequence.num_tokens; ++t) {
      const int position = sequence.first_position + t;
      turn_heads(weights.query_norm, position,
                 query.subspan(size_of(t) * query_width, query_width));
      turn_heads(weights.key_norm, position, key.subspan(size_of(t) * kv_width, kv_width));
    }
    std::vector<float>& keys = sequence.cache->keys(layer);
    std::vector<float>& values = sequence.cache->values(layer);
    keys.insert(keys.end(), key.begin(), key.end());
    values.insert(values.end(), value.begin(), value.end());

    fetch(keys);
    fetch(values);

    const int heads_per_kv = sizes_.num_heads / sizes_.num_kv_heads;
    const float scale = 1.0F / std::sqrt(static_cast<float>(sizes_.head_dim));
    std::vector<float> scores(size_of(sequence.first_position + sequence.num_tokens));
    for (int t = 0; t < sequence.num_tokens; ++t) {
      for (int head = 0; head < sizes_.num_heads; ++head) {
        const std::size_t at = size_of(t) * query_width + area(head, sizes_.head_dim);
        const std::size_t kv = area(head / heads_per_kv, sizes_.head_dim);
        kernels().attend(&query[at], keys.data() + kv, values.data() + kv,
                         sequence.first_position + t + 1, sizes_.kv_width(), sizes_.head_dim, scale,
                         scores.data(), &attended[at]);
      }
    }
  }

  void route(const Layer& weights, int num_tokens, Routing& routing) const {
    const std::size_t num_experts = size_of(sizes_.info.num_logical_experts);
    const std::size_t top_k = size_of(sizes_.info.top_k);
    std::vector<float> scores(size_of(num_tokens) * num_experts);
    weights.router.multiply(routing.expert_input.data(), num_tokens, scores.data());
    routing.topk_ids.resize(size_of(num_tokens) * top_k);
    routing.topk_weights.resize(routing.topk_ids.size());
    for (std::size_t t = 0; t < size_of(num_tokens); ++t) {
      const auto probabilities = std::span(scores).subspan(t * num_experts, num_experts);
      const auto chosen = std::span(routing.topk_weights).subspan(t * top_k, top_k);
      kernels().softmax(probabilities.data(), static_cast<int>(num_experts));
      choose_experts(probabilities, std::span(routing.topk_ids).subspan(t * top_k, top_k), chosen);
      if (!sizes_.renormalise) continue;
      float total = 0.0F;
      for (const float weight : chosen) total += weight;
      for (float& weight : chosen) weight /= total;
    }
  }

  io::Checkpoint checkpoint_;
  Qwen3MoeSizes sizes_;
  WeightType embedding_type_ = WeightType::kF32;
  WeightType expert_type_ = WeightType::kF32;
  bool expert_type_known_ = false;
  PackedMatrix head_;
  std::vector<float> final_norm_;
  std::vector<Layer> layers_;
  std::vector<float> rope_;
};

}  // namespace

std::unique_ptr<Model> load_qwen3_moe(io::Checkpoint checkpoint, const io::ModelConfig& config) {
  Qwen3MoeSizes sizes = read_qwen3_moe_sizes(config);
  return std::make_unique<Qwen3Moe>(std::move(checkpoint), std::move(sizes));
}

}  // namespace swiftbalancer::engine
