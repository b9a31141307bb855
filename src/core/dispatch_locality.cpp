// Rows of a dispatch table that keep tokens on their own rank, then on their own node, as far as
// the shares allow. Every source works out what all sources take, so that together they follow the
// shares, and keeps its own row.

#include <algorithm>
#include <cstddef>

#include <swiftbalancer/dispatch_table.hpp>

namespace swiftbalancer {
namespace {

constexpr int kEverywhere = -1;
// Source weights are brought down to about this sum: amounts then stay far below 2^63.
constexpr double kWeightSum = 1 << 20;

std::vector<std::int64_t> weights_of(std::span<const std::int64_t> source_load, int num_sources) {
  std::vector<std::int64_t> weights(static_cast<std::size_t>(num_sources), 1);
  double sum = 0.0;
  for (const std::int64_t load : source_load) sum += static_cast<double>(load);
  if (sum <= 0.0) return weights;
  const double scale = std::min(1.0, kWeightSum / sum);
  for (std::size_t source = 0; source < weights.size(); ++source) {
    const double weight = static_cast<double>(source_load[source]) * scale;
    weights[source] = std::max<std::int64_t>(1, static_cast<std::int64_t>(weight));
  }
  return weights;
}

}  // namespace

LocalityFirst::LocalityFirst(const ClusterShape& shape, std::span<const std::int64_t> source_load)
    : weight_(weights_of(source_load, shape.num_ranks())),
      left_(weight_.size()),
      taken_(weight_.size()),
      open_(static_cast<std::size_t>(shape.num_slots())) {
  for (int slot = 0; slot < shape.num_slots(); ++slot)
    rank_of_slot_.push_back(shape.rank_of_slot(slot));
  for (int rank = 0; rank < shape.num_ranks(); ++rank)
    node_of_rank_.push_back(shape.node_of_rank(rank));
  num_nodes_ = shape.num_nodes();
  for (const std::int64_t weight : weight_) total_weight_ += weight;
}

void LocalityFirst::choose(std::span<const std::int32_t> slots,
                           std::span<const std::uint32_t> shares, std::size_t source,
                           std::span<std::int32_t, kDispatchEntries> out) {
  next_ = out.data();
  source_ = source;
  std::ranges::fill(left_, kDispatchEntries);
  for (std::size_t i = 0; i < slots.size(); ++i) {
    open_[i] = kDispatchEntries * total_weight_ * shares[static_cast<std::size_t>(slots[i])];
    const auto rank = static_cast<std::size_t>(rank_of_slot_[static_cast<std::size_t>(slots[i])]);
    const std::int64_t entry = weight_[rank] * kShareUnit;
    const int own = static_cast<int>(std::min<std::int64_t>(left_[rank], open_[i] / entry));
    open_[i] -= own * entry;
    left_[rank] -= own;
    if (rank == source) next_ = std::fill_n(next_, own, slots[i]);
  }
  for (int node = 0; num_nodes_ > 1 && node < num_nodes_; ++node) spread(slots, node);
  spread(slots, kEverywhere);
}

// Lays the entries that the node's sources have left on a line, one of each source in turn, and
// beside them what its slots are open for: an entry goes to the slot beside its middle. Where slots
// are open for more than there is, all are filled in proportion; where for less, entries are left.
void LocalityFirst::spread(std::span<const std::int32_t> slots, int node) {
  const auto is_here = [&](std::size_t rank) {
    return node == kEverywhere || node_of_rank_[rank] == node;
  };
  const auto rank_of = [&](std::size_t i) {
    return static_cast<std::size_t>(rank_of_slot_[static_cast<std::size_t>(slots[i])]);
  };
  std::int64_t supply = 0, open = 0;
  for (std::size_t rank = 0; rank < left_.size(); ++rank)
    supply += is_here(rank) ? left_[rank] * weight_[rank] * kShareUnit : 0;
  for (std::size_t i = 0; i < slots.size(); ++i) open += is_here(rank_of(i)) ? open_[i] : 0;
  if (supply <= 0 || open <= 0) return;
  const double part = std::min(1.0, static_cast<double>(supply) / static_cast<double>(open));
  const auto room = [&](std::size_t i) {
    const double filled = part * static_cast<double>(open_[i]);
    return part < 1.0 ? static_cast<std::int64_t>(filled) : open_[i];
  };
  std::ranges::fill(taken_, 0);
  std::size_t at = 0;
  const auto skip_others = [&] {
    while (at < slots.size() && !is_here(rank_of(at))) ++at;
  };
  skip_others();
  std::int64_t begin = 0, limit = room(at), filled = 0;
  for (int turn = 0; turn < kDispatchEntries; ++turn) {
    for (std::size_t rank = 0; rank < left_.size(); ++rank) {
      if (!is_here(rank) || left_[rank] <= turn) continue;
      const std::int64_t entry = weight_[rank] * kShareUnit;
      while (begin + entry / 2 >= limit) {
        open_[at] -= filled;
        filled = 0;
        ++at;
        skip_others();
        if (at == slots.size()) break;
        limit += room(at);
      }
      if (at == slots.size()) break;
      begin += entry;
      filled += entry;
      ++taken_[rank];
      if (rank == source_) *next_++ = slots[at];
    }
    if (at == slots.size()) break;
  }
  if (at < slots.size()) open_[at] -= filled;
  for (std::size_t rank = 0; rank < left_.size(); ++rank) left_[rank] -= taken_[rank];
}

}  // namespace swiftbalancer
