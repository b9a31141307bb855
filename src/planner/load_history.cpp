#include "planner/load_history.hpp"

#include <algorithm>
#include <numeric>
#include <span>
#include <utility>

#include "planner/layer_problem.hpp"

namespace swiftbalancer {
namespace {

constexpr std::int64_t kBlocksPerWindow = 4;
// Tokens of a block: more tell no more about a change.
constexpr std::int64_t kMostBlockTokensPerExpert = 8;
constexpr std::size_t kKeptBlocks = 16;
// Experts with less than this part of the mean load weigh less: they hardly count for the balance,
// and one odd request multiplies their load.
constexpr double kHistoryFloor = 0.25;

// Sum over experts of (share now - share before)^2 / (pooled share + kHistoryFloor / experts), in
// one division per expert: with off = now - both * n / all, share now - share before = off * all /
// (n * before).
LayerDistance layer_distance(std::span<const std::int64_t> now,
                             std::span<const std::int64_t> both) {
  const auto n = static_cast<double>(total(now)), all = static_cast<double>(total(both));
  const double before = all - n;
  if (n <= 0.0 || before <= 0.0) return {};
  const double part = n / all, floor = kHistoryFloor * all / static_cast<double>(now.size());
  // Two chains of additions: one would wait for itself.
  double measured[2] = {0.0, 0.0}, expected[2] = {0.0, 0.0};
  for (std::size_t expert = 0; expert < now.size(); ++expert) {
    const auto pooled = static_cast<double>(both[expert]);
    const double off = static_cast<double>(now[expert]) - part * pooled;
    const double weight = 1.0 / (pooled + floor);
    measured[expert % 2] += off * off * weight;
    expected[expert % 2] += pooled * (all - pooled) * weight;
  }
  const double scale = all / (n * before);
  return {scale * scale * all * (measured[0] + measured[1]),
          scale * (expected[0] + expected[1]) / all};
}

}  // namespace

std::int64_t assignments_of(const ExpertLoad& load) {
  std::int64_t sum = 0;
  for (int layer = 0; layer < load.num_moe_layers(); ++layer) sum += total(load.layer(layer));
  return load.num_moe_layers() > 0 ? sum / load.num_moe_layers() : 0;
}

LoadHistory::LoadHistory(const ClusterShape& shape, std::int64_t window_assignments)
    : window_assignments_(window_assignments),
      block_assignments_(
          std::clamp<std::int64_t>(window_assignments / kBlocksPerWindow, 1,
                                   kMostBlockTokensPerExpert * shape.num_logical_experts())),
      empty_(shape.num_moe_layers(), shape.num_logical_experts()),
      open_{empty_, 0},
      segment_(empty_),
      before_(empty_),
      distances_(static_cast<std::size_t>(shape.num_moe_layers())) {
  recent_.fill(empty_);
}

void LoadHistory::accumulate(ExpertLoad& sum, const ExpertLoad& load, std::int64_t sign) {
  for (int layer = 0; layer < sum.num_moe_layers(); ++layer) {
    const auto from = load.layer(layer);
    const auto to = sum.layer(layer);
    for (std::size_t expert = 0; expert < to.size(); ++expert) to[expert] += sign * from[expert];
  }
  work_ += std::int64_t{sum.num_moe_layers()} * sum.num_logical_experts();
}

void LoadHistory::add(const ExpertLoad& load) {
  const std::int64_t assignments = assignments_of(load);
  if (assignments == 0) return;
  accumulate(open_.load, load, 1);
  accumulate(segment_, load, 1);
  open_.assignments += assignments;
  segment_assignments_ += assignments;
  if (open_.assignments >= block_assignments_) close_block();
}

void LoadHistory::close_block() {
  blocks_.push_back(std::exchange(open_, Block{empty_, 0}));
  ++blocks_since_change_;
  ++num_blocks_;
  for (std::size_t length = 0; length < recent_.size(); ++length) {
    const std::size_t num_recent = ChangeDetector::kRecentBlocks[length];
    accumulate(recent_[length], blocks_.back().load, 1);
    if (blocks_.size() > num_recent)
      accumulate(recent_[length], blocks_[blocks_.size() - 1 - num_recent].load, -1);
  }
  if (blocks_.size() > kKeptBlocks) blocks_.pop_front();
  for (std::size_t length = 0; length < recent_.size(); ++length) {
    if (has_changed(length)) return restart(first_block_of_change());
  }
}

// Long parts are compared less often: they hardly differ from one block to the next.
bool LoadHistory::has_changed(std::size_t length) {
  const std::size_t num_recent = ChangeDetector::kRecentBlocks[length];
  if (blocks_since_change_ < 2 * num_recent || blocks_since_change_ % (num_recent / 2) != 0)
    return false;
  compare(recent_[length]);
  return detector_.has_changed(length, distances_);
}

void LoadHistory::compare(const ExpertLoad& recent) {
  for (int layer = 0; layer < recent.num_moe_layers(); ++layer)
    distances_[static_cast<std::size_t>(layer)] =
        layer_distance(recent.layer(layer), segment_.layer(layer));
  work_ += std::int64_t{recent.num_moe_layers()} * recent.num_logical_experts();
}

// The cut that explains most, weighing how much lies on either side. @returns blocks since.
std::size_t LoadHistory::first_block_of_change() {
  const std::size_t last = std::min(blocks_.size(), blocks_since_change_ - 1);
  std::size_t best = ChangeDetector::kRecentBlocks.front();
  double best_evidence = 0.0;
  std::int64_t after = 0;
  ExpertLoad recent = empty_;
  for (std::size_t num_recent = 1; num_recent <= last; ++num_recent) {
    const Block& block = blocks_[blocks_.size() - num_recent];
    accumulate(recent, block.load, 1);
    after += block.assignments;
    compare(recent);
    double beyond_noise = 0.0;
    for (const LayerDistance& layer : distances_)
      beyond_noise += layer.measured - detector_.dispersion() * layer.expected;
    const auto before = static_cast<double>(segment_assignments_ - after);
    const double evidence = beyond_noise * static_cast<double>(after) * before;
    if (evidence > best_evidence) {
      best_evidence = evidence;
      best = num_recent;
    }
  }
  return best;
}

void LoadHistory::restart(std::size_t num_recent) {
  before_ = std::exchange(segment_, empty_);
  before_assignments_ = std::exchange(segment_assignments_, 0);
  for (std::size_t i = 0; i < num_recent; ++i) {
    const Block& block = blocks_[blocks_.size() - 1 - i];
    accumulate(segment_, block.load, 1);
    accumulate(before_, block.load, -1);
    segment_assignments_ += block.assignments;
  }
  before_assignments_ -= segment_assignments_;
  blocks_since_change_ = num_recent;
  detector_.restart();
  ++num_changes_;
}

std::vector<const ExpertLoad*> LoadHistory::bins() const {
  std::vector<const ExpertLoad*> bins;
  const std::size_t count = std::min(blocks_.size(), blocks_since_change_);
  for (std::size_t bin = blocks_.size() - count; bin < blocks_.size(); ++bin)
    bins.push_back(&blocks_[bin].load);
  return bins;
}

ExpertLoad LoadHistory::last_window() const {
  ExpertLoad window = open_.load;
  std::int64_t assignments = open_.assignments;
  for (auto block = blocks_.rbegin(); block != blocks_.rend() && assignments < window_assignments_;
       ++block) {
    for (int layer = 0; layer < window.num_moe_layers(); ++layer) {
      for (std::size_t expert = 0; expert < window.layer(layer).size(); ++expert)
        window.layer(layer)[expert] += block->load.layer(layer)[expert];
    }
    assignments += block->assignments;
  }
  return window;
}

}  // namespace swiftbalancer
