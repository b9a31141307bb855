#include "planner/exact_plan.hpp"

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>
#include <vector>

namespace swiftbalancer {
namespace {

// Replica counts outside, packing inside: experts by falling piece, each on a set of ranks that do
// not hold it yet.
class Search {
 public:
  Search(const ClusterShape& shape, std::span<const std::int64_t> load)
      : shape_(shape),
        load_(load.begin(), load.end()),
        count_(load.size(), 1),
        room_(static_cast<std::size_t>(shape.num_ranks())),
        rank_load_(room_.size(), 0.0) {
    std::ranges::sort(load_, std::greater<>());
    mean_ = std::accumulate(load_.begin(), load_.end(), 0.0) / shape.num_ranks();
    for (int rank = 0; rank < shape.num_ranks(); ++rank)
      room_[static_cast<std::size_t>(rank)] = shape.slots_per_rank(rank);
  }

  double run() {
    choose_count(0, shape_.num_redundant_experts());
    return best_;
  }

 private:
  void choose_count(std::size_t expert, int left) {
    if (expert == load_.size()) {
      if (left == 0) pack_counts();
      return;
    }
    const int most = std::min(left, shape_.num_ranks() - 1);
    for (int extra = 0; extra <= most; ++extra) {
      if (load_[expert] / (1 + extra) >= best_) continue;
      count_[expert] = 1 + extra;
      choose_count(expert + 1, left - extra);
    }
  }

  void pack_counts() {
    order_.resize(load_.size());
    std::iota(order_.begin(), order_.end(), std::size_t{0});
    std::ranges::stable_sort(order_, [this](std::size_t a, std::size_t b) {
      return load_[a] / count_[a] > load_[b] / count_[b];
    });
    place(0, 0, count_[order_[0]]);
  }

  // Puts the rest of an expert's replicas on ranks from `rank` on.
  void place(std::size_t i, std::size_t rank, int left) {
    if (best_ <= mean_ * (1.0 + 1e-12)) return;
    if (left == 0) {
      if (i + 1 < order_.size()) {
        place(i + 1, 0, count_[order_[i + 1]]);
      } else {
        best_ = std::min(best_, std::ranges::max(rank_load_));
      }
      return;
    }
    if (rank + static_cast<std::size_t>(left) > room_.size()) return;
    const double piece = load_[order_[i]] / count_[order_[i]];
    if (room_[rank] > 0 && rank_load_[rank] + piece < best_ - 1e-12 * mean_) {
      const double before = rank_load_[rank];
      rank_load_[rank] += piece;
      --room_[rank];
      place(i, rank + 1, left - 1);
      ++room_[rank];
      rank_load_[rank] = before;
    }
    // A later rank of the same load and room would only repeat what has just been tried.
    std::size_t next = rank + 1;
    while (next < room_.size() && room_[next] == room_[rank] &&
           rank_load_[next] == rank_load_[rank])
      ++next;
    place(i, next, left);
  }

  const ClusterShape& shape_;
  std::vector<double> load_;
  std::vector<int> count_;
  std::vector<std::size_t> order_;
  std::vector<int> room_;
  std::vector<double> rank_load_;
  double mean_ = 0.0;
  double best_ = std::numeric_limits<double>::infinity();
};

}  // namespace

double exact_hottest_rank(const ClusterShape& shape, std::span<const std::int64_t> load) {
  return Search(shape, load).run();
}

}  // namespace swiftbalancer
