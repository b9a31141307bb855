#include "runtime/membership_messages.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "protocol/packet.hpp"
#include "runtime/plan_bytes.hpp"

namespace swiftbalancer {
namespace {

constexpr std::uint32_t kSnapshotMagic = 0x4E425753U;  // "SWBN"
constexpr std::uint32_t kStateMagic = 0x4D425753U;     // "SWBM"
constexpr std::uint32_t kVerdictMagic = 0x56425753U;   // "SWBV"

struct SnapshotBlock {
  std::uint32_t magic = kSnapshotMagic;
  std::uint32_t joins = 0;
  std::uint32_t membership = 0;
  std::uint32_t mode = 0;
  std::uint32_t newest_agreed = 0;
  std::uint32_t padding = 0;
  std::uint64_t begun_step = 0;
  std::uint64_t used_step = 0;
  std::uint64_t last_open_step = 0;
  ConfigText config;
};

struct StateBlock {
  std::uint32_t magic = kStateMagic;
  std::uint32_t num_ranks = 0;
};

struct VerdictBlock {
  std::uint32_t magic = kVerdictMagic;
  std::uint32_t ok = 0;
  std::uint32_t ready = 0;
  std::uint32_t padding = 0;
  std::uint64_t digest = 0;
  char why[488] = {};
};

template <typename Block>
void append(std::vector<std::byte>& bytes, const Block& block) {
  const std::size_t at = bytes.size();
  bytes.resize(at + sizeof block);
  std::memcpy(bytes.data() + at, &block, sizeof block);
}

// A block of known layout at the end of which its checksum follows.
std::vector<std::byte> sealed(std::vector<std::byte> bytes) {
  const std::uint64_t checksum = checksum_of(bytes);
  append(bytes, checksum);
  return bytes;
}

Status damaged(const std::string& what) {
  return {ErrorCode::kTransport, "reconfiguration: " + what};
}

// @returns the bytes before the checksum, or nothing when it does not match.
std::span<const std::byte> open(std::span<const std::byte> bytes) {
  std::uint64_t checksum = 0;
  if (bytes.size() < sizeof checksum) return {};
  const auto content = bytes.first(bytes.size() - sizeof checksum);
  std::memcpy(&checksum, bytes.data() + content.size(), sizeof checksum);
  return checksum == checksum_of(content) ? content : std::span<const std::byte>{};
}

// The nodes that are left, in their order and without gaps: ranks that shared one still do,
// wherever they stand.
void number_densely(std::vector<int>& node_of_rank) {
  std::vector<int> left = node_of_rank;
  std::ranges::sort(left);
  left.erase(std::ranges::unique(left).begin(), left.end());
  for (int& node : node_of_rank)
    node = static_cast<int>(std::ranges::lower_bound(left, node) - left.begin());
}

std::size_t epoch_bytes(int num_moe_layers) {
  return static_cast<std::size_t>(num_moe_layers) * sizeof(std::uint64_t);
}

// A StateBlock, the ranks, their checksum.
std::size_t head_bytes(std::size_t num_ranks) {
  return sizeof(StateBlock) + num_ranks * sizeof(std::int32_t) + sizeof(std::uint64_t);
}

}  // namespace

ClusterShape shape_of_ranks(const ClusterShape& first_shape, std::span<const int> ranks) {
  ShapeOptions options;
  options.num_moe_layers = first_shape.num_moe_layers();
  options.num_logical_experts = first_shape.num_logical_experts();
  options.num_expert_groups = first_shape.num_expert_groups();
  options.num_ranks = static_cast<int>(ranks.size());
  int before = -1;
  for (int rank : ranks) {
    if (rank <= before || rank >= first_shape.num_ranks()) {
      throw Error(ErrorCode::kInvalidArgument, "live_ranks names rank " + std::to_string(rank) +
                                                   " after rank " + std::to_string(before) +
                                                   "; allowed: ascending, below " +
                                                   std::to_string(first_shape.num_ranks()));
    }
    before = rank;
    options.slots_per_rank.push_back(first_shape.slots_per_rank(rank));
    options.node_of_rank.push_back(first_shape.node_of_rank(rank));
  }
  const int slots =
      std::accumulate(options.slots_per_rank.begin(), options.slots_per_rank.end(), 0);
  if (slots < options.num_logical_experts) {
    throw Error(ErrorCode::kUnavailable,
                "the " + std::to_string(ranks.size()) + " live ranks have " +
                    std::to_string(slots) + " slots, which cannot hold " +
                    std::to_string(options.num_logical_experts) + " experts");
  }
  number_densely(options.node_of_rank);
  return ClusterShape(options);
}

std::vector<std::byte> encode_snapshot(const Snapshot& snapshot,
                                       std::span<const std::uint64_t> epochs, int num_moe_layers) {
  SnapshotBlock block;
  block.joins = snapshot.joins ? 1 : 0;
  block.membership = snapshot.membership;
  block.newest_agreed = snapshot.newest_agreed;
  block.mode = static_cast<std::uint32_t>(snapshot.mode);
  block.begun_step = snapshot.begun_step;
  block.used_step = snapshot.used_step;
  block.last_open_step = snapshot.last_open_step;
  block.config = snapshot.config;
  std::vector<std::byte> bytes;
  append(bytes, block);
  bytes.resize(sizeof block + epoch_bytes(num_moe_layers));
  if (!epochs.empty())
    std::memcpy(bytes.data() + sizeof block, epochs.data(), epoch_bytes(num_moe_layers));
  return sealed(std::move(bytes));
}

Status decode_snapshot(std::span<const std::byte> bytes, int num_moe_layers, Snapshot& snapshot,
                       std::vector<std::uint64_t>& epochs) {
  const auto content = open(bytes);
  SnapshotBlock block;
  if (content.size() != sizeof block + epoch_bytes(num_moe_layers))
    return damaged("its snapshot is damaged");
  std::memcpy(&block, content.data(), sizeof block);
  if (block.magic != kSnapshotMagic || block.mode > 2) return damaged("its snapshot is not one");
  snapshot.joins = block.joins != 0;
  snapshot.membership = block.membership;
  snapshot.newest_agreed = block.newest_agreed;
  snapshot.mode = static_cast<BalancingMode>(block.mode);
  snapshot.begun_step = block.begun_step;
  snapshot.used_step = block.used_step;
  snapshot.last_open_step = block.last_open_step;
  snapshot.config = block.config;
  epochs.resize(static_cast<std::size_t>(num_moe_layers));
  std::memcpy(epochs.data(), content.data() + sizeof block, epoch_bytes(num_moe_layers));
  return {};
}

std::size_t membership_state_capacity(const ClusterShape& first_shape) {
  return head_bytes(static_cast<std::size_t>(first_shape.num_ranks())) + state_bytes(first_shape);
}

std::vector<std::byte> encode_membership_state(std::span<const int> ranks,
                                               const ClusterShape& first_shape,
                                               const ServedState& state) {
  const ClusterShape shape = shape_of_ranks(first_shape, ranks);
  std::vector<std::byte> bytes;
  append(bytes, StateBlock{kStateMagic, static_cast<std::uint32_t>(ranks.size())});
  for (int rank : ranks) append(bytes, static_cast<std::int32_t>(rank));
  bytes = sealed(std::move(bytes));  // the state that follows has a checksum of its own
  const std::size_t head = bytes.size();
  bytes.resize(head + state_bytes(shape));
  if (encode_state(state, shape, std::span(bytes).subspan(head)) == 0)
    throw Error(ErrorCode::kInternal, "what is served is not of the shape of its ranks");
  return bytes;
}

Status decode_membership_state(std::span<const std::byte> bytes, const ClusterShape& first_shape,
                               std::vector<int>& ranks, ServedState& state) {
  StateBlock block;
  if (bytes.size() < sizeof block) return damaged("the served state is truncated");
  std::memcpy(&block, bytes.data(), sizeof block);
  const auto most = static_cast<std::uint32_t>(first_shape.num_ranks());
  const std::size_t head = head_bytes(block.num_ranks);
  if (block.magic != kStateMagic || block.num_ranks == 0 || block.num_ranks > most ||
      bytes.size() < head)
    return damaged("the served state is not one");
  if (open(bytes.first(head)).empty()) return damaged("the ranks of the served state are damaged");
  std::vector<std::int32_t> named(block.num_ranks);
  std::memcpy(named.data(), bytes.data() + sizeof block, named.size() * sizeof named[0]);
  ranks.assign(named.begin(), named.end());
  try {
    const ClusterShape shape = shape_of_ranks(first_shape, ranks);
    const std::size_t size = state_bytes(shape);
    if (bytes.size() < head + size) return damaged("the served state is truncated");
    return decode_state(bytes.subspan(head, size), shape, state);
  } catch (const Error& error) {
    return damaged(std::string("the served state: ") + error.what());
  }
}

std::vector<std::byte> encode_verdict(const Verdict& verdict) {
  VerdictBlock block;
  block.ok = verdict.ok ? 1 : 0;
  block.ready = verdict.ready ? 1 : 0;
  block.digest = verdict.digest;
  verdict.why.copy(block.why, sizeof block.why - 1);
  std::vector<std::byte> bytes;
  append(bytes, block);
  return sealed(std::move(bytes));
}

Status decode_verdict(std::span<const std::byte> bytes, Verdict& verdict) {
  const auto content = open(bytes);
  VerdictBlock block;
  if (content.size() != sizeof block) return damaged("its verdict is damaged");
  std::memcpy(&block, content.data(), sizeof block);
  if (block.magic != kVerdictMagic) return damaged("its verdict is not one");
  verdict.ok = block.ok != 0;
  verdict.ready = block.ready != 0;
  verdict.digest = block.digest;
  verdict.why.assign(block.why, strnlen(block.why, sizeof block.why));
  return {};
}

}  // namespace swiftbalancer
