#include "runtime/plan_bytes.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <swiftbalancer/dispatch_table.hpp>
#include <swiftbalancer/placement.hpp>

#include "protocol/packet.hpp"
#include "runtime/byte_reader.hpp"

namespace swiftbalancer {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr std::uint32_t kPlanMagic = 0x50425753U;    // "SWBP"
constexpr std::uint32_t kServedMagic = 0x53425753U;  // "SWBS"
constexpr std::uint32_t kVersion = 1;

struct MessageHeader {
  std::uint32_t magic = 0;
  std::uint32_t version = kVersion;
  std::uint64_t bytes = 0;     // Whole message.
  std::uint64_t checksum = 0;  // Over everything behind this field.
  std::uint32_t num_moe_layers = 0;
  std::uint32_t num_logical_experts = 0;
  std::uint32_t num_slots = 0;
  std::uint32_t num_rows = 0;  // Layers that follow.
};
constexpr std::size_t kCovered = offsetof(MessageHeader, checksum) + sizeof(std::uint64_t);

struct PlanTotals {
  std::uint64_t step = 0;
  std::uint32_t membership = 0;
  std::int32_t moves = 0;
  OverLayers imbalance_before;
  OverLayers imbalance_after;
};

// Followed by placement [num_slots] and shares [num_slots], as every layer of a state is.
struct ChangeHeader {
  std::int32_t moe_layer_id = 0;
  std::int32_t moves = 0;
  std::int64_t work = 0;
  double imbalance_before = 1.0;
  double imbalance_after = 1.0;
};
static_assert(sizeof(MessageHeader) == 40 && sizeof(PlanTotals) == 48 && sizeof(ChangeHeader) == 32,
              "no padding: every byte of a message is written");

std::size_t row_bytes(const ClusterShape& shape) {
  return static_cast<std::size_t>(shape.num_slots()) *
         (sizeof(std::int32_t) + sizeof(std::uint32_t));
}

std::size_t bytes_of_plan(std::size_t num_rows, const ClusterShape& shape) {
  return sizeof(MessageHeader) + sizeof(PlanTotals) +
         num_rows * (sizeof(ChangeHeader) + row_bytes(shape));
}

bool has_size(std::span<const std::int32_t> placement, std::span<const std::uint32_t> shares,
              const ClusterShape& shape) {
  const auto slots = static_cast<std::size_t>(shape.num_slots());
  return placement.size() == slots && shares.size() == slots;
}

// Writes into memory whose size was checked before.
class Writer {
 public:
  explicit Writer(std::span<std::byte> out) : out_(out) {}
  template <typename T>
  void put(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    put_all(std::span(&value, 1));
  }
  template <typename T>
  void put_all(std::span<const T> values) {
    std::memcpy(out_.data() + at_, values.data(), values.size_bytes());
    at_ += values.size_bytes();
  }

 private:
  std::span<std::byte> out_;
  std::size_t at_ = 0;
};

MessageHeader header_of(std::uint32_t magic, std::size_t num_rows, std::size_t bytes,
                        const ClusterShape& shape) {
  MessageHeader header;
  header.magic = magic;
  header.bytes = bytes;
  header.num_moe_layers = static_cast<std::uint32_t>(shape.num_moe_layers());
  header.num_logical_experts = static_cast<std::uint32_t>(shape.num_logical_experts());
  header.num_slots = static_cast<std::uint32_t>(shape.num_slots());
  header.num_rows = static_cast<std::uint32_t>(num_rows);
  return header;
}

void seal(std::span<std::byte> message) {
  const std::uint64_t checksum = checksum_of(message.subspan(kCovered));
  std::memcpy(message.data() + offsetof(MessageHeader, checksum), &checksum, sizeof checksum);
}

std::string text(std::uint64_t value) { return std::to_string(value); }

// What is wrong with the header, or nothing.
std::string find_fault(std::span<const std::byte> bytes, std::uint32_t magic,
                       const ClusterShape& shape, MessageHeader& header) {
  if (bytes.size() < sizeof header) return "truncated to " + text(bytes.size()) + " bytes";
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.magic != magic) return "magic " + text(header.magic) + " is not that of this message";
  if (header.version != kVersion) {
    return "version " + text(header.version) + "; this program reads " + text(kVersion);
  }
  if (header.bytes != bytes.size())
    return "says " + text(header.bytes) + " bytes, has " + text(bytes.size());
  if (header.checksum != checksum_of(bytes.subspan(kCovered))) return "checksum does not match";
  const MessageHeader own = header_of(magic, 0, 0, shape);
  const auto name = [](const MessageHeader& of) {
    return "[" + text(of.num_moe_layers) + " layers, " + text(of.num_logical_experts) +
           " experts, " + text(of.num_slots) + " slots]";
  };
  if (name(header) != name(own)) return "is for " + name(header) + ", the shape is " + name(own);
  return {};
}

// What is wrong with one layer, or nothing.
std::string find_fault(std::span<const std::int32_t> placement,
                       std::span<const std::uint32_t> shares, bool empty_allowed,
                       const ClusterShape& shape) {
  const int experts = shape.num_logical_experts();
  std::vector<std::uint64_t> sum(static_cast<std::size_t>(experts), 0);
  for (std::size_t slot = 0; slot < placement.size(); ++slot) {
    const std::int32_t expert = placement[slot];
    const bool empty = empty_allowed && expert == kEmptySlot;
    if (!empty && (expert < 0 || expert >= experts)) {
      return "slot " + text(slot) + " holds expert " + std::to_string(expert) +
             "; allowed are 0 to " + std::to_string(experts - 1);
    }
    if (!empty) sum[static_cast<std::size_t>(expert)] += shares[slot];
    if (empty && shares[slot] != 0)
      return "empty slot " + text(slot) + " has share " + text(shares[slot]) + "; it must be 0";
  }
  for (std::size_t expert = 0; expert < sum.size(); ++expert) {
    if (sum[expert] != kShareUnit) {
      return "shares of expert " + text(expert) + " sum to " + text(sum[expert]) +
             " (0: it has no slot); they must sum to " + text(kShareUnit);
    }
  }
  return {};
}

std::string find_fault(const OverLayers& imbalance) {
  if (std::isfinite(imbalance.mean_over_layers) && std::isfinite(imbalance.worst_layer)) return {};
  return "an imbalance over all layers is not finite";
}

std::string find_fault(const LayerPlan& plan, const ClusterShape& shape) {
  if (!std::isfinite(plan.imbalance_before) || !std::isfinite(plan.imbalance_after))
    return "an imbalance is not finite";
  if (plan.moves < 0 || plan.moves > shape.num_slots()) {
    return std::to_string(plan.moves) + " moves; allowed are 0 to " +
           std::to_string(shape.num_slots());
  }
  return find_fault(plan.placement, plan.shares, false, shape);
}

// What is wrong, or nothing and the plan of the message.
std::string read_plan(std::span<const std::byte> bytes, const GenerationId& expected,
                      const ClusterShape& shape, Plan& plan) {
  MessageHeader header;
  if (std::string fault = find_fault(bytes, kPlanMagic, shape, header); !fault.empty())
    return fault;
  const auto layers = static_cast<std::uint32_t>(shape.num_moe_layers());
  if (header.num_rows > layers || bytes.size() != bytes_of_plan(header.num_rows, shape)) {
    return text(bytes.size()) + " bytes for " + text(header.num_rows) + " of " + text(layers) +
           " layers";
  }
  ByteReader reader(bytes.subspan(sizeof header));
  const auto totals = reader.take<PlanTotals>();
  if (totals.membership != expected.membership || totals.step != expected.step)
    return "is of generation " + text(totals.step) + " of membership " + text(totals.membership);
  for (const OverLayers& imbalance : {totals.imbalance_before, totals.imbalance_after})
    if (std::string fault = find_fault(imbalance); !fault.empty()) return fault;

  std::vector<char> seen(layers, 0);
  std::int64_t moves = 0;
  for (std::uint32_t row = 0; row < header.num_rows; ++row) {
    const auto change = reader.take<ChangeHeader>();
    const std::string name = "layer " + std::to_string(change.moe_layer_id);
    if (change.moe_layer_id < 0 || change.moe_layer_id >= shape.num_moe_layers())
      return name + "; allowed are 0 to " + text(layers - 1);
    if (std::exchange(seen[static_cast<std::size_t>(change.moe_layer_id)], 1) != 0)
      return name + " appears twice";
    LayerChange& read = plan.changes.emplace_back();
    read.moe_layer_id = change.moe_layer_id;
    read.plan.placement.resize(static_cast<std::size_t>(shape.num_slots()));
    read.plan.shares.resize(static_cast<std::size_t>(shape.num_slots()));
    reader.take_all(std::span(read.plan.placement));
    reader.take_all(std::span(read.plan.shares));
    read.plan.imbalance_before = change.imbalance_before;
    read.plan.imbalance_after = change.imbalance_after;
    read.plan.moves = change.moves;
    read.plan.work = change.work;
    if (std::string fault = find_fault(read.plan, shape); !fault.empty())
      return name + ": " + fault;
    moves += change.moves;
  }
  if (totals.moves != moves)
    return "says " + std::to_string(totals.moves) + " moves, its layers have " +
           std::to_string(moves);
  plan.imbalance_before = totals.imbalance_before;
  plan.imbalance_after = totals.imbalance_after;
  plan.moves = totals.moves;
  return {};
}

std::string read_state(std::span<const std::byte> bytes, const ClusterShape& shape,
                       ServedState& state) {
  MessageHeader header;
  if (std::string fault = find_fault(bytes, kServedMagic, shape, header); !fault.empty())
    return fault;
  if (header.num_rows != header.num_moe_layers || bytes.size() != state_bytes(shape))
    return text(bytes.size()) + " bytes for " + text(header.num_rows) + " layers";
  ByteReader reader(bytes.subspan(sizeof header));
  state.placement = Placement(shape.num_moe_layers(), shape.num_slots());
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    auto& shares = state.shares.emplace_back(static_cast<std::size_t>(shape.num_slots()));
    reader.take_all(state.placement.layer(layer));
    reader.take_all(std::span(shares));
    std::string fault = find_fault(state.placement.layer(layer), shares, true, shape);
    if (!fault.empty()) return "layer " + std::to_string(layer) + ": " + fault;
  }
  return {};
}

}  // namespace

std::size_t most_plan_bytes(const ClusterShape& shape) {
  return bytes_of_plan(static_cast<std::size_t>(shape.num_moe_layers()), shape);
}

std::size_t encode_plan(const GenerationId& generation, const Plan& plan, const ClusterShape& shape,
                        std::span<std::byte> out) {
  const std::size_t bytes = bytes_of_plan(plan.changes.size(), shape);
  const bool fits = std::ranges::all_of(plan.changes, [&](const LayerChange& change) {
    return has_size(change.plan.placement, change.plan.shares, shape);
  });
  if (!fits || bytes > out.size()) return 0;
  Writer writer(out);
  writer.put(header_of(kPlanMagic, plan.changes.size(), bytes, shape));
  writer.put(PlanTotals{generation.step, generation.membership, plan.moves, plan.imbalance_before,
                        plan.imbalance_after});
  for (const LayerChange& change : plan.changes) {
    writer.put(ChangeHeader{change.moe_layer_id, change.plan.moves, change.plan.work,
                            change.plan.imbalance_before, change.plan.imbalance_after});
    writer.put_all(std::span(change.plan.placement));
    writer.put_all(std::span(change.plan.shares));
  }
  seal(out.first(bytes));
  return bytes;
}

Status decode_plan(std::span<const std::byte> bytes, const GenerationId& expected,
                   const ClusterShape& shape, Plan& plan) {
  Plan read;
  const std::string fault = read_plan(bytes, expected, shape, read);
  if (!fault.empty()) {
    return {ErrorCode::kTransport,
            "plan message for generation " + text(expected.step) + ": " + fault};
  }
  plan = std::move(read);
  return {};
}

std::size_t state_bytes(const ClusterShape& shape) {
  return sizeof(MessageHeader) +
         static_cast<std::size_t>(shape.num_moe_layers()) * row_bytes(shape);
}

std::size_t encode_state(const ServedState& state, const ClusterShape& shape,
                         std::span<std::byte> out) {
  const std::size_t bytes = state_bytes(shape);
  const auto layers = static_cast<std::size_t>(shape.num_moe_layers());
  bool fits = state.placement.num_moe_layers() == shape.num_moe_layers() &&
              state.shares.size() == layers && bytes <= out.size();
  for (std::size_t layer = 0; fits && layer < layers; ++layer) {
    fits = has_size(state.placement.layer(static_cast<int>(layer)), state.shares[layer], shape);
  }
  if (!fits) return 0;
  Writer writer(out);
  writer.put(header_of(kServedMagic, layers, bytes, shape));
  for (std::size_t layer = 0; layer < layers; ++layer) {
    writer.put_all(state.placement.layer(static_cast<int>(layer)));
    writer.put_all(std::span(state.shares[layer]));
  }
  seal(out.first(bytes));
  return bytes;
}

Status decode_state(std::span<const std::byte> bytes, const ClusterShape& shape,
                    ServedState& state) {
  ServedState read;
  const std::string fault = read_state(bytes, shape, read);
  if (!fault.empty()) return {ErrorCode::kTransport, "state message: " + fault};
  state = std::move(read);
  return {};
}

}  // namespace swiftbalancer
