#include "planner/load_history.hpp"

#include <algorithm>
#include <utility>

namespace swiftbalancer {
namespace {

constexpr std::int64_t kBlocksPerWindow = 4;
constexpr std::size_t kKeptBlocks = 16;
constexpr std::size_t kRecentBlocks = 2;     // Half a window tells a change.
constexpr std::size_t kMinBlocksBefore = 2;  // Less history says nothing about what was usual.
// A change is a chi-square distance beyond noise of at least this: a total variation of about 0.19.
// Text domains differ by 0.15 to 0.6 in total variation (distances 0.17 to 2, data in
// tests/planner); halves of a window of 256 requests of one domain by 0.02, of 32 requests by up to
// 0.1.
constexpr double kMinDifference = 0.14;
constexpr double kTimesNoise =
    2.0;  // ... and so many times the noise, which itself is only estimated,
constexpr double kTimesUsual = 3.0;    // ... and so many times what was usual in the
constexpr int kUsualDifferences = 32;  // first blocks after a change; later ones may be slow drift.

void accumulate(ExpertLoad& sum, const ExpertLoad& load, std::int64_t sign) {
  for (int layer = 0; layer < sum.num_moe_layers(); ++layer) {
    const auto from = load.layer(layer);
    const auto to = sum.layer(layer);
    for (std::size_t expert = 0; expert < to.size(); ++expert) to[expert] += sign * from[expert];
  }
}

double total(std::span<const std::int64_t> counts) {
  std::int64_t sum = 0;
  for (std::int64_t count : counts) sum += count;
  return static_cast<double>(sum);
}

struct Distance {
  double measured = 0.0;
  double expected = 0.0;  // from independent tokens
};

// Sum over experts of (share now - share before)^2 / pooled share.
Distance layer_distance(std::span<const std::int64_t> now, std::span<const std::int64_t> both) {
  const double n = total(now), all = total(both), before = all - n;
  Distance distance;
  if (n <= 0.0 || before <= 0.0) return distance;
  int live = 0;
  for (std::size_t expert = 0; expert < now.size(); ++expert) {
    if (both[expert] == 0) continue;
    ++live;
    const double shift = static_cast<double>(now[expert]) / n -
                         static_cast<double>(both[expert] - now[expert]) / before;
    distance.measured += shift * shift * all / static_cast<double>(both[expert]);
  }
  distance.expected = (live - 1) * (1.0 / n + 1.0 / before);
  return distance;
}

}  // namespace

std::int64_t assignments_of(const ExpertLoad& load) {
  std::int64_t sum = 0;
  for (int layer = 0; layer < load.num_moe_layers(); ++layer) {
    for (std::int64_t tokens : load.layer(layer)) sum += tokens;
  }
  return load.num_moe_layers() > 0 ? sum / load.num_moe_layers() : 0;
}

LoadHistory::LoadHistory(const ClusterShape& shape, std::int64_t window_assignments)
    : block_assignments_(std::max<std::int64_t>(1, window_assignments / kBlocksPerWindow)),
      empty_(shape.num_moe_layers(), shape.num_logical_experts()),
      open_{empty_, 0},
      segment_(empty_) {}

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
  if (blocks_.size() > kKeptBlocks) blocks_.pop_front();
  detect_change();
}

ExpertLoad LoadHistory::last_window() const {
  ExpertLoad window = open_.load;
  std::int64_t assignments = open_.assignments;
  for (auto block = blocks_.rbegin();
       block != blocks_.rend() && assignments < kBlocksPerWindow * block_assignments_; ++block) {
    accumulate(window, block->load, 1);
    assignments += block->assignments;
  }
  return window;
}

// Sum over layers and batches of (count - expected)^2 / expected, per degree of freedom: 1 for
// independent tokens.
double LoadHistory::dispersion_of(std::size_t first, std::size_t num_batches,
                                  std::size_t batch) const {
  double statistic = 0.0, freedom = 0.0;
  const auto experts = static_cast<std::size_t>(empty_.num_logical_experts());
  std::vector<std::int64_t> sum(experts), row(experts);
  const auto gather = [&](std::vector<std::int64_t>& into, int layer, std::size_t from,
                          std::size_t count) {
    std::fill(into.begin(), into.end(), 0);
    for (std::size_t b = from; b < from + count; ++b) {
      const auto block = blocks_[b].load.layer(layer);
      for (std::size_t expert = 0; expert < experts; ++expert) into[expert] += block[expert];
    }
  };
  for (int layer = 0; layer < empty_.num_moe_layers(); ++layer) {
    gather(sum, layer, first, num_batches * batch);
    const double all = total(sum);
    if (all <= 0.0) continue;
    const auto live = std::count_if(sum.begin(), sum.end(), [](std::int64_t n) { return n > 0; });
    freedom += static_cast<double>(num_batches - 1) * static_cast<double>(live - 1);
    for (std::size_t i = 0; i < num_batches; ++i) {
      gather(row, layer, first + i * batch, batch);
      const double part = total(row) / all;
      for (std::size_t expert = 0; expert < experts; ++expert) {
        const double expected = part * static_cast<double>(sum[expert]);
        const double off = static_cast<double>(row[expert]) - expected;
        if (expected > 0.0) statistic += off * off / expected;
      }
    }
  }
  return freedom > 0.0 ? statistic / freedom : 1.0;
}

// Requests live longer than a block, so longer batches may vary more: the largest of three lengths
// counts.
double LoadHistory::dispersion_before(std::size_t num_recent) const {
  const std::size_t available = std::min(blocks_.size(), blocks_since_change_) - num_recent;
  // Few blocks after a change do not tell; how alike the tokens of a request are hardly depends on
  // the domain.
  double dispersion = available < kKeptBlocks / 2 ? carried_dispersion_ : 1.0;
  for (std::size_t batch : {1, 2, 4}) {
    const std::size_t batches = available / batch;
    if (batches < 2) break;
    dispersion = std::max(
        dispersion, dispersion_of(blocks_.size() - num_recent - batches * batch, batches, batch));
  }
  return dispersion;
}

// Mean over layers of the distance between the last blocks and all since the change before them.
LoadHistory::Difference LoadHistory::difference(std::size_t num_recent, double dispersion) const {
  ExpertLoad recent = empty_;
  for (std::size_t i = 0; i < num_recent; ++i)
    accumulate(recent, blocks_[blocks_.size() - 1 - i].load, 1);
  Difference sum;
  for (int layer = 0; layer < empty_.num_moe_layers(); ++layer) {
    const Distance distance = layer_distance(recent.layer(layer), segment_.layer(layer));
    sum.noise += dispersion * distance.expected / empty_.num_moe_layers();
    sum.beyond_noise +=
        (distance.measured - dispersion * distance.expected) / empty_.num_moe_layers();
  }
  return sum;
}

void LoadHistory::detect_change() {
  if (blocks_since_change_ < kRecentBlocks + kMinBlocksBefore) return;
  const double dispersion = dispersion_before(kRecentBlocks);
  const auto [beyond_noise, noise] = difference(kRecentBlocks, dispersion);
  const double usual = num_differences_ > 0 ? usual_difference_ / num_differences_ : 0.0;
  if (beyond_noise < std::max({kMinDifference, kTimesNoise * noise, kTimesUsual * usual})) {
    if (num_differences_ < kUsualDifferences) {
      usual_difference_ += std::max(0.0, beyond_noise);
      ++num_differences_;
    }
    return;
  }
  // Where it began: the cut that explains most, weighing how much lies on either side.
  std::size_t best = kRecentBlocks;
  double best_evidence = 0.0;
  const std::size_t last =
      std::min({blocks_.size(), blocks_since_change_ - 1, std::size_t{2 * kBlocksPerWindow}});
  double after = 0.0;
  for (std::size_t num_recent = 1; num_recent <= last; ++num_recent) {
    after += static_cast<double>(blocks_[blocks_.size() - num_recent].assignments);
    const double before = static_cast<double>(segment_assignments_) - after;
    const double evidence =
        difference(num_recent, dispersion).beyond_noise * after * before / (after + before);
    if (evidence > best_evidence) {
      best_evidence = evidence;
      best = num_recent;
    }
  }
  carried_dispersion_ = dispersion;
  restart(best);
}

void LoadHistory::restart(std::size_t num_recent) {
  segment_ = empty_;
  segment_assignments_ = 0;
  for (std::size_t i = 0; i < num_recent; ++i) {
    const Block& block = blocks_[blocks_.size() - 1 - i];
    accumulate(segment_, block.load, 1);
    segment_assignments_ += block.assignments;
  }
  blocks_since_change_ = num_recent;
  usual_difference_ = 0.0;
  num_differences_ = 0;
  ++num_changes_;
}

}  // namespace swiftbalancer
