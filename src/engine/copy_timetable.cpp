#include "engine/copy_timetable.hpp"

#include <algorithm>
#include <utility>

namespace swiftbalancer::engine {

Link link_between(const ClusterShape& shape, int rank, int peer) noexcept {
  if (rank == peer) return Link::kMemory;
  return shape.node_of_rank(rank) == shape.node_of_rank(peer) ? Link::kLink : Link::kNodeLink;
}

CopyTimetable::CopyTimetable(const ClusterShape& shape,
                             const std::array<std::int64_t, kNumLinks>& copy_ns,
                             std::vector<int> buffers_per_rank)
    : shape_(shape), copy_ns_(copy_ns), buffers_per_rank_(std::move(buffers_per_rank)) {}

void CopyTimetable::adopt(const MigrationPlan& plan) {
  copies_.clear();
  finished_.assign(plan.units.size(), false);
  for (std::uint32_t unit = 0; unit < plan.units.size(); ++unit) {
    for (const ExpertCopy& copy : plan.units[unit].copies) {
      const int source = shape_.rank_of_slot(copy.source_slot);
      const int destination = shape_.rank_of_slot(copy.destination_slot);
      copies_.push_back({.unit = unit,
                         .source_rank = source,
                         .destination_rank = destination,
                         .link = link_between(shape_, source, destination)});
    }
  }
}

void CopyTimetable::finish_unit(std::uint32_t unit) {
  if (unit >= finished_.size()) return;
  finished_[unit] = true;
  for (Copy& copy : copies_) {
    if (copy.unit != unit) continue;
    copy.granted = false;
    copy.start_ns = copy.end_ns = kNotScheduled;
  }
}

void CopyTimetable::retire() {
  copies_.clear();
  finished_.clear();
}

void CopyTimetable::update(std::int64_t now_ns) {
  const auto num_ranks = static_cast<std::size_t>(shape_.num_ranks());
  std::vector<std::int64_t> egress_free(kNumLinks * num_ranks, now_ns);
  std::vector<std::int64_t> ingress_free(kNumLinks * num_ranks, now_ns);
  std::vector<int> buffers = buffers_per_rank_;
  const auto lane = [num_ranks](Link link, int rank) {
    return static_cast<std::size_t>(link) * num_ranks + static_cast<std::size_t>(rank);
  };
  const auto occupy = [&](const Copy& copy) {
    auto& egress = egress_free[lane(copy.link, copy.source_rank)];
    auto& ingress = ingress_free[lane(copy.link, copy.destination_rank)];
    egress = std::max(egress, copy.end_ns);
    ingress = std::max(ingress, copy.end_ns);
  };
  const auto has_started = [now_ns](const Copy& copy) {
    return copy.start_ns != kNotScheduled && copy.start_ns <= now_ns;
  };

  last_end_ns_ = now_ns;
  for (const Copy& copy : copies_) {
    if (!copy.granted) continue;
    --buffers[static_cast<std::size_t>(copy.destination_rank)];
    if (has_started(copy)) occupy(copy);
  }
  for (Copy& copy : copies_) {
    if (finished(copy)) continue;
    if (!has_started(copy)) {
      int& free_buffers = buffers[static_cast<std::size_t>(copy.destination_rank)];
      if (!copy.granted && free_buffers == 0) continue;
      if (!copy.granted) --free_buffers;
      copy.granted = true;
      copy.start_ns = std::max(egress_free[lane(copy.link, copy.source_rank)],
                               ingress_free[lane(copy.link, copy.destination_rank)]);
      copy.end_ns = copy.start_ns + copy_ns_[static_cast<std::size_t>(copy.link)];
      occupy(copy);
    }
    last_end_ns_ = std::max(last_end_ns_, copy.end_ns);
  }
}

std::uint32_t CopyTimetable::staged_cursor(int rank, std::int64_t now_ns) const noexcept {
  auto cursor = static_cast<std::uint32_t>(finished_.size());
  for (const Copy& copy : copies_) {
    if (copy.destination_rank != rank || finished(copy)) continue;
    if (copy.end_ns == kNotScheduled || copy.end_ns > now_ns) cursor = std::min(cursor, copy.unit);
  }
  return cursor;
}

bool CopyTimetable::sending(int rank, Link link, std::int64_t now_ns) const noexcept {
  return now_ns < last_end_ns_ && std::ranges::any_of(
                                      copies_,
                                      [&](const Copy& copy) {
                                        return copy.source_rank == rank && copy.link == link &&
                                               copy.start_ns <= now_ns && now_ns < copy.end_ns;
                                      });
}

bool CopyTimetable::receiving(int rank, Link link, std::int64_t now_ns) const noexcept {
  return now_ns < last_end_ns_ && std::ranges::any_of(
                                      copies_,
                                      [&](const Copy& copy) {
                                        return copy.destination_rank == rank && copy.link == link &&
                                               copy.start_ns <= now_ns && now_ns < copy.end_ns;
                                      });
}

}  // namespace swiftbalancer::engine
