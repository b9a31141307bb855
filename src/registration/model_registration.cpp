#include <swiftbalancer/model_registration.hpp>

#include <span>
#include <string_view>

#include <swiftbalancer/error.hpp>
#include <swiftbalancer/placement.hpp>

#include "io/model_config.hpp"
#include "io/text_file.hpp"

namespace swiftbalancer {
namespace {

constexpr int kMaxLayers = 4096;
constexpr int kMaxExperts = 1 << 20;

struct Layers {
  int dense = 0;  // In front.
  int moe = 0;
};

// A family that mixes dense layers in between would shift every layer id behind them.
Layers qwen3_moe_layers(const io::ModelConfig& config) {
  if (config.list_size("mlp_only_layers") > 0)
    config.unsupported("mlp_only_layers", "dense layers are not supported in this family");
  if (config.has("decoder_sparse_step") &&
      config.integer("decoder_sparse_step", 1, kMaxLayers) != 1)
    config.unsupported("decoder_sparse_step",
                       "dense layers are not supported in this family; only 1 is");
  return {0, config.integer("num_hidden_layers", 1, kMaxLayers)};
}

Layers deepseek_layers(const io::ModelConfig& config) {
  if (config.has("moe_layer_freq") && config.integer("moe_layer_freq", 1, kMaxLayers) != 1)
    config.unsupported("moe_layer_freq",
                       "dense layers between MoE layers are not supported; only 1 is");
  const int all = config.integer("num_hidden_layers", 1, kMaxLayers);
  const int dense = config.integer("first_k_dense_replace", 0, all - 1);
  return {dense, all - dense};
}

struct Family {
  std::string_view model_type;  // As config.json spells it.
  const char* num_experts;      // The key.
  Layers (*layers)(const io::ModelConfig& config);
};

// Sorted by name.
constexpr Family kFamilies[] = {
    {"deepseek_v2", "n_routed_experts", deepseek_layers},
    {"deepseek_v3", "n_routed_experts", deepseek_layers},
    {"qwen3_moe", "num_experts", qwen3_moe_layers},
};

const Family& family_of(const io::ModelConfig& config) {
  const std::string model_type = config.text("model_type");
  std::string names;
  for (const Family& family : kFamilies) {
    if (family.model_type == model_type) return family;
    names.append(names.empty() ? "" : ", ").append(family.model_type);
  }
  config.unsupported("model_type", "this family is not supported; supported families: " + names);
}

void require_equal(int model, int balancer, const std::string& what, const std::string& name) {
  if (model == balancer) return;
  throw Error(ErrorCode::kInvalidArgument, name + ": the model has " + std::to_string(model) + " " +
                                               what + ", the balancer's shape " +
                                               std::to_string(balancer) +
                                               "; make the shape from this config.json");
}

const Placement& served_placement(const Balancer& balancer) {
  const Placement& placement = balancer.placement();
  if (placement.num_moe_layers() == 0)
    throw Error(ErrorCode::kInvalidState, "no placement is served yet; call Balancer::start first");
  return placement;
}

}  // namespace

ModelRegistration::ModelRegistration(const Balancer& balancer, const std::string& config_json,
                                     const std::string& name)
    : balancer_(&balancer) {
  const io::ModelConfig config(config_json, name);
  const Family& family = family_of(config);
  const Layers layers = family.layers(config);
  const ClusterShape& shape = balancer.shape();
  family_ = family.model_type;
  num_dense_layers_ = layers.dense;
  num_moe_layers_ = layers.moe;
  require_equal(layers.moe, shape.num_moe_layers(), "MoE layers", name);
  require_equal(config.integer(family.num_experts, 1, kMaxExperts), shape.num_logical_experts(),
                std::string("experts (") + family.num_experts + ")", name);
  cleared_.resize(static_cast<std::size_t>(num_moe_layers_) *
                  static_cast<std::size_t>(shape.slots_per_rank(balancer.rank())));
  clear_all_moe_loads();
}

ModelRegistration ModelRegistration::from_file(const Balancer& balancer, const std::string& path) {
  return ModelRegistration(balancer, io::read_text_file(path), path);
}

int ModelRegistration::moe_layer_of(int layer_id) const {
  if (layer_id >= num_dense_layers_ && layer_id < num_dense_layers_ + num_moe_layers_)
    return layer_id - num_dense_layers_;
  const bool dense = layer_id >= 0 && layer_id < num_dense_layers_;
  throw Error(ErrorCode::kInvalidArgument,
              "layer_id " + std::to_string(layer_id) +
                  (dense ? " is a dense layer" : " is no layer") + " of this " + family_ +
                  " model; MoE layers are " + std::to_string(num_dense_layers_) + " to " +
                  std::to_string(num_dense_layers_ + num_moe_layers_ - 1));
}

std::vector<std::int32_t> ModelRegistration::get_expert_map(int layer_id) const {
  const int layer = moe_layer_of(layer_id);
  return expert_map(served_placement(*balancer_).layer(layer), balancer_->shape(),
                    balancer_->rank());
}

std::vector<std::int32_t> ModelRegistration::get_log2phy_map(int layer_id) const {
  const int layer = moe_layer_of(layer_id);
  return log2phy(served_placement(*balancer_).layer(layer), balancer_->shape(), balancer_->rank());
}

std::vector<std::int32_t> ModelRegistration::get_all_expert_map(int num_moe_layers) const {
  if (num_moe_layers < 1 || num_moe_layers > num_moe_layers_) {
    throw Error(ErrorCode::kInvalidArgument, "num_moe_layers is " + std::to_string(num_moe_layers) +
                                                 "; this " + family_ + " model allows 1 to " +
                                                 std::to_string(num_moe_layers_));
  }
  std::vector<std::int32_t> stacked;
  for (int layer = 0; layer < num_moe_layers; ++layer) {
    const auto map = get_expert_map(num_dense_layers_ + layer);
    stacked.insert(stacked.end(), map.begin(), map.end());
  }
  return stacked;
}

std::vector<std::int64_t> ModelRegistration::received() const {
  std::vector<std::int64_t> tokens(cleared_.size());
  const std::size_t slots = tokens.size() / static_cast<std::size_t>(num_moe_layers_);
  for (int layer = 0; layer < num_moe_layers_; ++layer) {
    balancer_->received_tokens(
        layer, std::span(tokens).subspan(static_cast<std::size_t>(layer) * slots, slots));
  }
  return tokens;
}

std::vector<std::int64_t> ModelRegistration::get_all_moe_loads() const {
  std::vector<std::int64_t> loads = received();
  for (std::size_t i = 0; i < loads.size(); ++i) loads[i] -= cleared_[i];
  return loads;
}

void ModelRegistration::clear_all_moe_loads() { cleared_ = received(); }

}  // namespace swiftbalancer
