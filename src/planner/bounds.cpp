#include "planner/bounds.hpp"

#include <algorithm>
#include <cmath>
#include <queue>
#include <utility>
#include <vector>

namespace swiftbalancer {
namespace {

// An expert that could have large pieces: how many slots it needs at least if it has, and if not.
struct PieceChoice {
  double large;  // all its pieces are large
  double small;
};

// Whether replicas can be chosen so that pieces stay below `most` and at most j * num_ranks of them
// are above most / (j + 1). Says yes too often only where fractions of experts would have to be
// chosen.
bool is_feasible(const ClusterShape& shape, std::span<const std::int64_t> load, double most, int j,
                 std::vector<PieceChoice>& choices) {
  choices.clear();
  double slots = 0.0, large = 0.0;
  for (std::int64_t tokens : load) {
    const double pieces = static_cast<double>(tokens) / most;
    const double at_least = std::max(1.0, std::ceil(pieces));
    slots += at_least;
    if (pieces * (j + 1) <= 1.0) continue;
    large += at_least;
    choices.push_back({at_least, std::ceil(pieces * (j + 1))});
  }
  double excess = large - static_cast<double>(j) * shape.num_ranks();
  std::sort(choices.begin(), choices.end(), [](const PieceChoice& a, const PieceChoice& b) {
    return (a.small - a.large) * b.large < (b.small - b.large) * a.large;
  });
  for (const PieceChoice& choice : choices) {
    if (excess <= 0.0) break;
    slots += (choice.small - choice.large) * std::min(1.0, excess / choice.large);
    excess -= choice.large;
  }
  return slots <= shape.num_slots() * (1.0 + 1e-12);
}

}  // namespace

double mean_rank_load(const ClusterShape& shape, std::span<const std::int64_t> load) {
  double total = 0.0;
  for (std::int64_t tokens : load) total += static_cast<double>(tokens);
  return total / shape.num_ranks();
}

double smallest_largest_piece(const ClusterShape& shape, std::span<const std::int64_t> load) {
  std::priority_queue<std::pair<double, std::size_t>> pieces;
  std::vector<int> count(load.size(), 1);
  for (std::size_t expert = 0; expert < load.size(); ++expert)
    pieces.emplace(static_cast<double>(load[expert]), expert);
  for (int spare = shape.num_redundant_experts(); spare > 0; --spare) {
    const std::size_t expert = pieces.top().second;
    if (count[expert] == shape.num_ranks()) break;
    pieces.pop();
    ++count[expert];
    pieces.emplace(static_cast<double>(load[expert]) / count[expert], expert);
  }
  return pieces.top().first;
}

double pigeonhole_bound(const ClusterShape& shape, std::span<const std::int64_t> load) {
  const double start = std::max(mean_rank_load(shape, load), smallest_largest_piece(shape, load));
  double bound = start;
  std::vector<PieceChoice> choices;
  choices.reserve(load.size());
  for (int j = 1; j < shape.max_slots_per_rank() && start > 0.0; ++j) {
    if (is_feasible(shape, load, bound, j, choices)) continue;
    double low = bound, high = 2.0 * bound;
    while (!is_feasible(shape, load, high, j, choices)) high *= 2.0;
    while (high - low > 1e-9 * high) {
      const double middle = 0.5 * (low + high);
      (is_feasible(shape, load, middle, j, choices) ? high : low) = middle;
    }
    bound = low;
  }
  return bound;
}

double hottest_expert_bound(const ClusterShape& shape, std::span<const std::int64_t> load) {
  if (shape.num_redundant_experts() > 0) return 0.0;
  int others = shape.num_slots();
  for (int rank = 0; rank < shape.num_ranks(); ++rank)
    others = std::min(others, shape.slots_per_rank(rank) - 1);
  std::vector<std::int64_t> lightest(load.begin(), load.end());
  std::ranges::nth_element(lightest, lightest.begin() + std::max(0, others));
  double bound = static_cast<double>(std::ranges::max(load));
  for (int i = 0; i < others; ++i)
    bound += static_cast<double>(lightest[static_cast<std::size_t>(i)]);
  return bound;
}

double lower_bound(const ClusterShape& shape, std::span<const std::int64_t> load,
                   Dispatch dispatch) {
  const double bound = std::max({mean_rank_load(shape, load), smallest_largest_piece(shape, load),
                                 hottest_expert_bound(shape, load)});
  return dispatch == Dispatch::kEven ? std::max(bound, pigeonhole_bound(shape, load)) : bound;
}

}  // namespace swiftbalancer
