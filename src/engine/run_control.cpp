#include "engine/run_control.hpp"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <swiftbalancer/load.hpp>

namespace swiftbalancer::engine {
namespace {

void set_nonblocking(int fd) {
  if (fcntl(fd, F_SETFL, O_NONBLOCK) != 0)
    throw Error(ErrorCode::kIo, std::string("cannot set up a pipe: ") + std::strerror(errno));
}

void add_counters(const BalancingRecord& rank, BalancingRecord& sum) {
  sum.planner_restarts += rank.planner_restarts;
  sum.failures += rank.failures;
  sum.dropped_samples += rank.dropped_samples;
  sum.experts_loaded += rank.experts_loaded;
}

}  // namespace

void add_balancing(const BalancingRecord& rank, bool first, BalancingRecord& sum) {
  if (first) {
    sum = rank;
    return;
  }
  sum.planner_running = sum.planner_running && rank.planner_running;
  // Agreed by all, but a rank that has joined knows only what came since.
  sum.planner_resets = std::max(sum.planner_resets, rank.planner_resets);
  sum.moves = std::max(sum.moves, rank.moves);
  sum.migrated_bytes = std::max(sum.migrated_bytes, rank.migrated_bytes);
  if (rank.plan_step > sum.plan_step) {
    sum.plan_step = rank.plan_step;
    sum.plan_imbalance_before = rank.plan_imbalance_before;
    sum.plan_imbalance_after = rank.plan_imbalance_after;
  }
  add_counters(rank, sum);
}

void add_health(int rank, bool rank_ok, const std::string& rank_reason, bool& ok,
                std::string& reason) {
  if (rank_reason.empty() || (rank_ok && !reason.empty()) || !ok) return;
  ok = rank_ok;
  reason = "rank " + std::to_string(rank) + ": " + rank_reason;
}

ControlDesk::ControlDesk(RunControl* control, int num_ranks)
    : control_(control), ranks_(static_cast<std::size_t>(num_ranks)) {}

FrameReader ControlDesk::connect(int rank) {
  Pipe pipe = make_pipe();
  set_nonblocking(pipe.read.get());
  set_nonblocking(pipe.write.get());
  Rank& to = ranks_[static_cast<std::size_t>(rank)];
  to = {};
  to.live = true;
  to.number = num_connected_++;
  to.down = std::make_unique<FrameWriter>(std::move(pipe.write));
  return FrameReader(std::move(pipe.read));
}

void ControlDesk::tell(int rank, FrameHeader header, std::span<const std::byte> content) {
  Rank& to = ranks_[static_cast<std::size_t>(rank)];
  if (to.live && to.down) to.down->write(header, content);
}

void ControlDesk::lose(int rank) {
  Rank& lost = ranks_[static_cast<std::size_t>(rank)];
  if (!lost.live) return;
  lost.live = false;
  gone_.push_back(lost.last);
  publish();
}

void ControlDesk::add_counts(const RankSnapshot& rank, RunSnapshot& run) {
  run.tokens += rank.tokens;
  for (std::size_t layer = 0; layer < run.layer_tokens.size(); ++layer)
    run.layer_tokens[layer] += rank.layer_tokens[layer];
  run.waits.for_packets += rank.waits.for_packets;
  run.waits.for_plans += rank.waits.for_plans;
  run.waits.for_copies += rank.waits.for_copies;
  run.waits.wait_ns += rank.waits.wait_ns;
}

// Every rank is told: which of them counts is the agreement's business.
void ControlDesk::serve() {
  for (const BalancingMode mode : control_->take_modes()) {
    const auto byte = static_cast<std::byte>(mode);
    for (std::size_t rank = 0; rank < ranks_.size(); ++rank)
      tell(static_cast<int>(rank), {.kind = FrameKind::kMode}, std::span(&byte, 1));
  }
}

void ControlDesk::on_snapshot(std::span<const std::byte> content) {
  if (control_ == nullptr) return;
  RankSnapshot snapshot = decode_rank_snapshot(content);
  Rank& rank = ranks_.at(static_cast<std::size_t>(snapshot.rank));
  // What only this snapshot tells is kept until it is shown.
  const auto keep = [](auto& earlier, auto& later) {
    later.insert(later.begin(), earlier.begin(), earlier.end());
  };
  keep(rank.last.commits, snapshot.commits);
  keep(rank.last.generations, snapshot.generations);
  rank.last = std::move(snapshot);
  publish();
}

// Ranks send their snapshots at the same steps: shown is what all of them have made.
void ControlDesk::publish() {
  const auto live = std::find_if(ranks_.begin(), ranks_.end(), [](auto& r) { return r.live; });
  if (live == ranks_.end() || live->last.step == live->shown.step) return;
  RunSnapshot run;
  run.step = live->last.step;
  if (std::any_of(ranks_.begin(), ranks_.end(),
                  [&](const Rank& r) { return r.live && r.last.step != run.step; }))
    return;
  const auto oldest = std::min_element(ranks_.begin(), ranks_.end(), [](auto& a, auto& b) {
    return a.live != b.live ? a.live : a.number < b.number;
  });
  const std::size_t layers = live->last.layer_tokens.size();
  run.layer_tokens.assign(layers, 0);
  std::vector<std::vector<double>> loads(layers);
  for (Rank& rank : ranks_) {
    if (!rank.live) continue;
    const RankSnapshot& last = rank.last;
    rank.shown.layer_tokens.resize(layers);
    for (std::size_t layer = 0; layer < layers; ++layer) {
      loads[layer].push_back(
          static_cast<double>(last.layer_tokens[layer] - rank.shown.layer_tokens[layer]));
    }
    add_counts(last, run);
    add_balancing(last.balancing, run.num_ranks++ == 0, run.balancing);
    add_health(last.rank, last.healthy, last.health_reason, run.healthy, run.health_reason);
    if (&rank == &*oldest) {
      run.commits = last.commits;
      run.generations = last.generations;
    }
    rank.last.commits.clear();
    rank.last.generations.clear();
    rank.shown = rank.last;
  }
  // What lost ranks have counted happened all the same: no sum ever falls.
  for (const RankSnapshot& rank : gone_) {
    if (rank.layer_tokens.size() != layers) continue;  // lost before its first
    add_counts(rank, run);
    add_counters(rank.balancing, run.balancing);
  }
  for (const auto& layer : loads) {
    const bool any = std::any_of(layer.begin(), layer.end(), [](double load) { return load > 0; });
    run.layer_imbalance.push_back(any ? imbalance(layer) : 0.0);
  }
  control_->on_snapshot(run);
}

}  // namespace swiftbalancer::engine
