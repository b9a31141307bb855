#pragma once
// A model's view of a Balancer, by the layer ids of its config.json: the maps and loads that
// engines built on vllm-ascend's five calls ask for. A model may begin with dense layers; layer ids
// count them, rows of the stacked calls do not. Made by the engine once its Balancer exists; all
// calls on the engine's thread.

#include <cstdint>
#include <string>
#include <vector>

#include <swiftbalancer/balancer.hpp>

namespace swiftbalancer {

class ModelRegistration {
 public:
  /// Families: qwen3_moe, deepseek_v2, deepseek_v3 (`model_type`).
  /// @param balancer borrowed; outlives this object. @param config_json text of the config.json.
  /// @param name of that text in messages.
  /// @throws Error kUnsupported: another family, dense layers elsewhere than in front;
  /// kInvalidArgument: a value missing or out of range, or other numbers of MoE layers or experts
  /// than the balancer's; kIo: not JSON.
  ModelRegistration(const Balancer& balancer, const std::string& config_json,
                    const std::string& name = "config.json");
  /// The same from a file. @throws Error likewise; kIo: cannot be read.
  static ModelRegistration from_file(const Balancer& balancer, const std::string& path);

  int num_moe_layers() const noexcept { return num_moe_layers_; }
  /// Dense layers in front of the MoE layers: layer ids of MoE layers begin here.
  int num_dense_layers() const noexcept { return num_dense_layers_; }

  /// This rank's expert_map of one layer [num_logical_experts]: local slot or -1.
  /// @param layer_id counts all decoder layers, dense ones too.
  /// @throws Error kInvalidArgument: a dense layer or no layer (says the allowed ids);
  /// kInvalidState before Balancer::start().
  std::vector<std::int32_t> get_expert_map(int layer_id) const;
  /// This rank's log2phy row of one layer [num_logical_experts]: the slot to send to. Parameter and
  /// errors as get_expert_map().
  std::vector<std::int32_t> get_log2phy_map(int layer_id) const;
  /// expert_map of the first `num_moe_layers` MoE layers [num_moe_layers, num_logical_experts],
  /// row-major.
  /// @throws Error kInvalidArgument unless 1 <= num_moe_layers <= num_moe_layers(); kInvalidState.
  std::vector<std::int32_t> get_all_expert_map(int num_moe_layers) const;

  /// Tokens that each local slot has received since clear_all_moe_loads(), or since the
  /// registration before the first: [num_moe_layers, slots of this rank], row-major. Counted by
  /// slot: where a commit fell in between, a slot's tokens are those of the experts it held one
  /// after the other, so clear after commits to attribute them. Balancing is not affected.
  std::vector<std::int64_t> get_all_moe_loads() const;
  void clear_all_moe_loads();

 private:
  int moe_layer_of(int layer_id) const;
  std::vector<std::int64_t> received() const;

  const Balancer* balancer_;
  std::string family_;
  int num_dense_layers_ = 0;
  int num_moe_layers_ = 0;
  std::vector<std::int64_t> cleared_;  // [num_moe_layers * slots] received before the last clear
};

}  // namespace swiftbalancer
