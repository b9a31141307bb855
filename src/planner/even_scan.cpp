#include "planner/even_scan.hpp"

#include <limits>

#include "planner/even_state.hpp"

// Eight candidates at a time where the machine can; the same arithmetic everywhere.
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define SWIFTBALANCER_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define SWIFTBALANCER_CLONES
#endif

namespace swiftbalancer {
namespace {

constexpr int kLanes = EvenState::kLanes;
constexpr float kWorthless = -std::numeric_limits<float>::infinity();

// Any place in an array of floats.
using Lanes = float __attribute__((vector_size(kLanes * sizeof(float)), aligned(4), may_alias));

SWIFTBALANCER_CLONES float largest(const Lanes& lanes) {
  float result = lanes[0];
  for (int lane = 1; lane < kLanes; ++lane) result = lanes[lane] > result ? lanes[lane] : result;
  return result;
}

}  // namespace

SWIFTBALANCER_CLONES float best_swap(const SwapRanks ranks, const SwapPlaces high,
                                     const SwapPlaces low, const int padded) {
  Lanes best = Lanes{} + kWorthless;
  for (int first = 0; first < padded; first += kLanes) {
    const Lanes pieces = *reinterpret_cast<const Lanes*>(low.pieces + first);
    const Lanes weights = *reinterpret_cast<const Lanes*>(low.weights + first);
    for (int place = 0; place < high.num_slots; ++place) {
      const Lanes shift = high.pieces[place] - pieces;
      const Lanes gain =
          shift * (ranks.drop - shift * ranks.slowness) * (weights * high.weights[place]);
      best = gain > best ? gain : best;
    }
  }
  return 2.0F * largest(best);
}

void Victims::resize(std::size_t most) {
  most = (most + kLanes - 1) / kLanes * kLanes;
  for (auto* column : {&rank, &expert}) column->resize(most);
  for (auto* column : {&given, &taken, &slow, &weight}) column->resize(most);
}

void Victims::pad() {
  for (std::size_t i = size; i % kLanes != 0; ++i) {
    given[i] = kWorthless;
    taken[i] = slow[i] = 0.0F;
    weight[i] = 1.0F;
  }
}

SWIFTBALANCER_CLONES float score_victims(const Victims& victims, const float piece,
                                         const float bonus, float* gains) {
  const float *given = victims.given.data(), *taken = victims.taken.data(),
              *slow = victims.slow.data(), *weight = victims.weight.data();
  Lanes best = Lanes{} + kWorthless;
  for (std::size_t v = 0; v < victims.size; v += kLanes) {
    const Lanes gain = (*reinterpret_cast<const Lanes*>(given + v) + bonus -
                        piece * (*reinterpret_cast<const Lanes*>(taken + v) +
                                 piece * *reinterpret_cast<const Lanes*>(slow + v))) *
                       *reinterpret_cast<const Lanes*>(weight + v);
    *reinterpret_cast<Lanes*>(gains + v) = gain;
    best = gain > best ? gain : best;
  }
  return largest(best);
}

}  // namespace swiftbalancer
