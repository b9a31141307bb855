#include "runtime/planner_process/messages.hpp"

#include <algorithm>
#include <cctype>
#include <cstring>
#include <type_traits>

#include <swiftbalancer/error.hpp>

#include "runtime/byte_reader.hpp"
#include "runtime/plan_bytes.hpp"

namespace swiftbalancer::planner_messages {
namespace {

constexpr std::size_t kMostText = 1000;

class Writer {
 public:
  explicit Writer(std::size_t expected_bytes = 0) { bytes_.reserve(expected_bytes); }
  template <typename T>
  void put(const T& value) {
    static_assert(std::is_arithmetic_v<T>);
    put_all(std::span(&value, 1));
  }
  template <typename T>
  void put_all(std::span<const T> values) {
    const std::size_t at = bytes_.size();
    bytes_.resize(at + values.size_bytes());
    if (!values.empty()) std::memcpy(bytes_.data() + at, values.data(), values.size_bytes());
  }
  template <typename T>
  void put_list(const std::vector<T>& values) {
    put<std::uint64_t>(values.size());
    put_all(std::span<const T>(values));
  }
  Bytes take() { return std::move(bytes_); }

 private:
  Bytes bytes_;
};

void put_shape(Writer& writer, const ClusterShape& shape) {
  for (const int count : {shape.num_moe_layers(), shape.num_logical_experts(),
                          shape.num_expert_groups(), shape.num_ranks()})
    writer.put<std::int32_t>(count);
  for (int rank = 0; rank < shape.num_ranks(); ++rank) {
    writer.put<std::int32_t>(shape.slots_per_rank(rank));
    writer.put<std::int32_t>(shape.node_of_rank(rank));
  }
}

ClusterShape take_shape(ByteReader& reader) {
  ShapeOptions options;
  options.num_moe_layers = reader.take<std::int32_t>();
  options.num_logical_experts = reader.take<std::int32_t>();
  options.num_expert_groups = reader.take<std::int32_t>();
  options.num_ranks = reader.take<std::int32_t>();
  for (int rank = 0; rank < options.num_ranks; ++rank) {
    options.slots_per_rank.push_back(reader.take<std::int32_t>());
    options.node_of_rank.push_back(reader.take<std::int32_t>());
  }
  return ClusterShape(options);
}

void put_limits(Writer& writer, const PlanLimits& limits) {
  writer.put(limits.max_moves_per_rebalance);
  writer.put(limits.max_bytes_per_rebalance);
  writer.put(limits.max_bytes_per_rank);
  writer.put<std::int32_t>(limits.max_rank_moves);
  writer.put<std::int32_t>(limits.max_replicas);
  writer.put_list(limits.rank_speeds);
  writer.put_list(limits.pinned_experts);
  writer.put<std::uint8_t>(limits.gate ? 1 : 0);
  if (!limits.gate) return;
  writer.put(limits.gate->seconds_per_imbalance);
  writer.put(limits.gate->seconds_per_move);
  writer.put(limits.gate->horizon_steps);
}

PlanLimits take_limits(ByteReader& reader) {
  PlanLimits limits;
  limits.max_moves_per_rebalance = reader.take<std::int64_t>();
  limits.max_bytes_per_rebalance = reader.take<std::int64_t>();
  limits.max_bytes_per_rank = reader.take<std::int64_t>();
  limits.max_rank_moves = reader.take<std::int32_t>();
  limits.max_replicas = reader.take<std::int32_t>();
  limits.rank_speeds = reader.take_list<double>();
  limits.pinned_experts = reader.take_list<int>();
  const auto gated = reader.take<std::uint8_t>();
  if (gated > 1) ByteReader::refuse("its gate is neither there nor not");
  if (gated == 0) return limits;
  CostGate& gate = limits.gate.emplace();
  gate.seconds_per_imbalance = reader.take<double>();
  gate.seconds_per_move = reader.take<double>();
  gate.horizon_steps = reader.take<double>();
  return limits;
}

void put_config(Writer& writer, const PlannerConfig& config) {
  writer.put<std::uint64_t>(config.policy.size());
  writer.put_all(std::span<const char>(config.policy));
  writer.put<std::int32_t>(config.max_moves_per_layer);
  writer.put(config.imbalance_trigger);
  writer.put(config.min_gain);
  writer.put(config.window_assignments);
  put_limits(writer, config.limits);
  writer.put_list(config.expert_bytes);
  writer.put<std::uint8_t>(config.locality_first ? 1 : 0);
}

PlannerConfig take_config(ByteReader& reader) {
  PlannerConfig config;
  const auto name = reader.take_bytes(reader.take<std::uint64_t>());
  config.policy.assign(reinterpret_cast<const char*>(name.data()), name.size());
  config.max_moves_per_layer = reader.take<std::int32_t>();
  config.imbalance_trigger = reader.take<double>();
  config.min_gain = reader.take<double>();
  config.window_assignments = reader.take<std::int64_t>();
  config.limits = take_limits(reader);
  config.expert_bytes = reader.take_list<std::int64_t>();
  config.locality_first = reader.take<std::uint8_t>() != 0;
  return config;
}

}  // namespace

Bytes encode_restart(const ClusterShape& shape, const PlannerConfig& config,
                     const ServedState& served) {
  Bytes state(state_bytes(shape));
  if (encode_state(served, shape, state) != state.size())
    throw Error(ErrorCode::kInvalidArgument,
                "what is served is of another shape than the planner's");
  Writer writer;
  put_shape(writer, shape);
  put_config(writer, config);
  writer.put_all(std::span<const std::byte>(state));
  return writer.take();
}

Restart decode_restart(std::span<const std::byte> bytes) {
  ByteReader reader(bytes);
  const ClusterShape shape = take_shape(reader);
  PlannerConfig config = take_config(reader);
  ServedState served;
  decode_state(reader.rest(), shape, served).throw_if_failed();
  return {shape, std::move(config), std::move(served)};
}

Bytes encode_committed(int moe_layer_id, std::span<const std::int32_t> placement,
                       std::span<const std::uint32_t> shares) {
  Writer writer(sizeof(std::int32_t) + placement.size_bytes() + shares.size_bytes());
  writer.put<std::int32_t>(moe_layer_id);
  writer.put_all(placement);
  writer.put_all(shares);
  return writer.take();
}

Committed decode_committed(std::span<const std::byte> bytes, const ClusterShape& shape) {
  ByteReader reader(bytes);
  const auto slots = static_cast<std::size_t>(shape.num_slots());
  Committed committed{reader.take<std::int32_t>(), std::vector<std::int32_t>(slots),
                      std::vector<std::uint32_t>(slots)};
  if (committed.moe_layer_id < 0 || committed.moe_layer_id >= shape.num_moe_layers())
    ByteReader::refuse("layer " + std::to_string(committed.moe_layer_id) + " is committed");
  reader.take_all(std::span(committed.placement));
  reader.take_all(std::span(committed.shares));
  for (const std::int32_t expert : committed.placement) {
    if (expert < 0 || expert >= shape.num_logical_experts())
      ByteReader::refuse("expert " + std::to_string(expert) + " is committed");
  }
  reader.end();
  return committed;
}

Bytes encode_rebalancing(bool rebalancing) {
  Writer writer;
  writer.put<std::uint8_t>(rebalancing ? 1 : 0);
  return writer.take();
}

bool decode_rebalancing(std::span<const std::byte> bytes) {
  ByteReader reader(bytes);
  const bool rebalancing = reader.take<std::uint8_t>() != 0;
  reader.end();
  return rebalancing;
}

Bytes encode_observe(std::uint64_t step, const ExpertLoad& load, Phase phase) {
  Writer writer;
  writer.put(step);
  writer.put(static_cast<std::uint64_t>(phase));
  for (int layer = 0; layer < load.num_moe_layers(); ++layer) writer.put_all(load.layer(layer));
  return writer.take();
}

Observe decode_observe(std::span<const std::byte> bytes, const ClusterShape& shape) {
  ByteReader reader(bytes);
  const auto step = reader.take<std::uint64_t>();
  const auto phase = reader.take<std::uint64_t>();
  if (phase > static_cast<std::uint64_t>(Phase::kMixed))
    ByteReader::refuse("phase " + std::to_string(phase) + " is observed");
  Observe observe{step, static_cast<Phase>(phase),
                  ExpertLoad(shape.num_moe_layers(), shape.num_logical_experts())};
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer)
    reader.take_all(observe.load.layer(layer));
  reader.end();
  return observe;
}

Bytes encode_observed(const Observed& observed) {
  Writer writer;
  writer.put(observed.step);
  writer.put<std::uint8_t>(observed.wants_rebalance ? 1 : 0);
  return writer.take();
}

Observed decode_observed(std::span<const std::byte> bytes) {
  ByteReader reader(bytes);
  Observed observed;
  observed.step = reader.take<std::uint64_t>();
  observed.wants_rebalance = reader.take<std::uint8_t>() != 0;
  reader.end();
  return observed;
}

Bytes encode_generation(const GenerationId& generation, std::span<const std::byte> rest) {
  Writer writer;
  writer.put(generation.membership);
  writer.put(generation.step);
  writer.put_all(rest);
  return writer.take();
}

GenerationId decode_generation(std::span<const std::byte> bytes, std::span<const std::byte>& rest) {
  ByteReader reader(bytes);
  GenerationId generation;
  generation.membership = reader.take<std::uint32_t>();
  generation.step = reader.take<std::uint64_t>();
  rest = reader.rest();
  return generation;
}

std::size_t most_answer_bytes(const ClusterShape& shape) {
  constexpr std::size_t kGeneration = sizeof(std::uint32_t) + sizeof(std::uint64_t);
  return kGeneration + std::max(kMostText, most_plan_bytes(shape));
}

std::string printable(std::span<const std::byte> text) {
  std::string line;
  for (const std::byte byte : text.first(std::min(text.size(), kMostText))) {
    const auto letter = static_cast<unsigned char>(byte);
    line += std::isprint(letter) != 0 ? static_cast<char>(letter) : '?';
  }
  return line;
}

}  // namespace swiftbalancer::planner_messages
