// Rows of a dispatch table that keep tokens on their own rank, then on their own node, as far as
// the shares allow. Every source works out what all sources take, so that together they follow the
// shares, and keeps its own row.
//
// The entries that sources of a node (or of all nodes) have left are laid on a line, one of each
// source in turn, and beside them what the slots there are open for: an entry goes to the slot
// beside its middle. Of the other sources only sums are needed, so no entry of theirs is looked at.

#include <algorithm>
#include <cstddef>

#include <swiftbalancer/dispatch_table.hpp>

#include "core/index.hpp"

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
      ranks_of_node_(index(shape.num_nodes())),
      left_(weight_.size()),
      open_(index(shape.num_slots())),
      end_of_(open_.size()) {
  for (int slot = 0; slot < shape.num_slots(); ++slot)
    rank_of_slot_.push_back(shape.rank_of_slot(slot));
  for (int rank = 0; rank < shape.num_ranks(); ++rank) {
    node_of_rank_.push_back(shape.node_of_rank(rank));
    ranks_of_node_[index(shape.node_of_rank(rank))].push_back(rank);
    all_ranks_.push_back(rank);
  }
  for (std::int64_t& weight : weight_) {
    total_weight_ += weight;
    weight *= kShareUnit;
  }
}

void LocalityFirst::choose(std::span<const std::int32_t> slots,
                           std::span<const std::uint32_t> shares, std::size_t source,
                           std::span<std::int32_t, kDispatchEntries> out) {
  next_ = out.data();
  source_ = source;
  keep_on_ranks(slots, shares);
  const std::size_t num_nodes = ranks_of_node_.size();
  const std::size_t own_node = index(node_of_rank_[source]);
  if (left_[source] > 0 && num_nodes > 1) keep_on_node(slots, own_node);
  if (left_[source] == 0) return;
  for (std::size_t node = 0; num_nodes > 1 && node < num_nodes; ++node) {
    if (node != own_node) keep_on_node(slots, node);
  }
  if (!make_room(slots, all_ranks_, kEverywhere)) return;
  set_turns(all_ranks_);
  give_out(slots, all_ranks_);
}

void LocalityFirst::keep_on_ranks(std::span<const std::int32_t> slots,
                                  std::span<const std::uint32_t> shares) {
  std::ranges::fill(left_, kDispatchEntries);
  for (std::size_t i = 0; i < slots.size(); ++i) {
    const std::size_t rank = index(rank_of_slot_[index(slots[i])]);
    const std::int64_t open = kDispatchEntries * total_weight_ * shares[index(slots[i])];
    const int own = static_cast<int>(std::min<std::int64_t>(left_[rank], open / weight_[rank]));
    open_[i] = open - own * weight_[rank];
    left_[rank] -= own;
    if (rank == source_) next_ = std::fill_n(next_, own, slots[i]);
  }
}

void LocalityFirst::keep_on_node(std::span<const std::int32_t> slots, std::size_t node) {
  const std::span<const int> sources = ranks_of_node_[node];
  if (!make_room(slots, sources, static_cast<int>(node))) return;
  set_turns(sources);
  if (node == index(node_of_rank_[source_]) && give_out(slots, sources)) {
    left_[source_] = 0;  // Its row is full: what the others take does not matter.
    return;
  }
  take(slots, sources);
}

// Puts the slots that are open for these sources on the line. Where they are open for more than
// there is, all are filled in proportion. @returns false where there is nothing to give or to take.
bool LocalityFirst::make_room(std::span<const std::int32_t> slots, std::span<const int> sources,
                              int node) {
  const auto is_here = [&](std::size_t i) {
    return node == kEverywhere || node_of_rank_[index(rank_of_slot_[index(slots[i])])] == node;
  };
  std::int64_t supply = 0, open = 0;
  for (std::size_t i = 0; i < slots.size(); ++i) open += is_here(i) ? open_[i] : 0;
  if (open <= 0) return false;
  for (const int rank : sources) supply += left_[index(rank)] * weight_[index(rank)];
  const double part = static_cast<double>(supply) / static_cast<double>(open);
  std::int64_t end = 0;
  for (std::size_t i = 0; i < slots.size(); ++i) {
    const std::int64_t room =
        part < 1.0 ? static_cast<std::int64_t>(part * static_cast<double>(open_[i])) : open_[i];
    end += is_here(i) ? room : 0;
    end_of_[i] = end;
  }
  return supply > 0;
}

void LocalityFirst::set_turns(std::span<const int> sources) {
  std::int64_t weight = 0;  // of a turn
  for (const int rank : sources) {
    weight += weight_[index(rank)];
    ending_[index(left_[index(rank)])] += weight_[index(rank)];
  }
  std::int64_t begin = 0;
  for (std::size_t turn = 0; turn < turns_.size(); ++turn) {
    weight -= ending_[turn];  // Of sources with no entry left for it.
    turns_[turn] = begin;
    begin += weight;
  }
  for (const int rank : sources) ending_[index(left_[index(rank)])] = 0;
}

// This source's entries. @returns whether there was a slot for each.
bool LocalityFirst::give_out(std::span<const std::int32_t> slots, std::span<const int> sources) {
  std::int64_t ahead = 0;  // of the sources before it that have an entry left for the turn
  for (const int rank : sources) {
    if (index(rank) == source_) break;
    ending_[index(left_[index(rank)])] += weight_[index(rank)];
    ahead += weight_[index(rank)];
  }
  std::size_t at = 0;
  for (std::size_t turn = 0; turn < index(left_[source_]) && at < slots.size(); ++turn) {
    ahead -= ending_[turn];
    const std::int64_t middle = turns_[turn] + ahead + weight_[source_] / 2;
    while (at < slots.size() && middle >= end_of_[at]) ++at;
    if (at < slots.size()) *next_++ = slots[at];
  }
  for (const int rank : sources) ending_[index(left_[index(rank)])] = 0;
  return at < slots.size();
}

// What all these sources take, off what they have left and what the slots are open for.
void LocalityFirst::take(std::span<const std::int32_t> slots, std::span<const int> sources) {
  std::size_t turn = 0, stop = 0;  // the first entry that is beyond the slot: its turn and source
  std::int64_t begin = 0;
  for (std::size_t i = 0; i < slots.size(); ++i) {
    const std::int64_t before = begin;
    while (turn < kDispatchEntries && turns_[turn + 1] <= end_of_[i]) ++turn;
    begin = turns_[turn];
    for (stop = 0; stop < sources.size() && turn < kDispatchEntries; ++stop) {
      const std::size_t rank = index(sources[stop]);
      if (left_[rank] <= static_cast<int>(turn)) continue;
      if (begin + weight_[rank] / 2 >= end_of_[i]) break;
      begin += weight_[rank];
    }
    open_[i] -= begin - before;
  }
  for (std::size_t k = 0; k < sources.size(); ++k) {
    int& left = left_[index(sources[k])];
    const int full = static_cast<int>(turn);
    left -= left > full ? full + (k < stop ? 1 : 0) : left;
  }
}

}  // namespace swiftbalancer
