#include "planner/even_scan.hpp"

#include <limits>

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

// Inlined into each clone: behind a call the compiler omits the reset of the upper halves of the
// vector registers, and all scalar code that follows waits on them.
[[gnu::always_inline]] inline float largest(const Lanes& lanes) {
  float result = lanes[0];
  for (int lane = 1; lane < kLanes; ++lane) result = lanes[lane] > result ? lanes[lane] : result;
  return result;
}

}  // namespace

SWIFTBALANCER_CLONES float score_swaps(const SwapRanks& ranks, const SwapPlaces& high,
                                       const SwapPlaces& low, const int padded, float* gains) {
  const float h = ranks.high, l = ranks.low, high_slow = ranks.high_slow, low_slow = ranks.low_slow,
              cost = ranks.cost;
  const Lanes zero{};
  Lanes best = zero + kWorthless;
  for (int first = 0; first < padded; first += kLanes) {
    const Lanes pieces = *reinterpret_cast<const Lanes*>(low.pieces + first);
    const Lanes weights = *reinterpret_cast<const Lanes*>(low.weights + first);
    for (int place = 0; place < high.num_slots; ++place) {
      const Lanes shift = high.pieces[place] - pieces;
      Lanes above = h - shift * high_slow, below = l + shift * low_slow;
      above = above > zero ? above : zero;
      below = below > zero ? below : zero;
      const Lanes gain = (cost - above * above - below * below) * (weights * high.weights[place]);
      *reinterpret_cast<Lanes*>(gains + place * padded + first) = gain;
      best = gain > best ? gain : best;
    }
  }
  return largest(best);
}

void Victims::lay_out(Arena& arena, std::size_t most) {
  most = (most + kLanes - 1) / kLanes * kLanes;
  arena.take(place, most);
  for (float** column : {&given, &level, &slow, &weight}) arena.take(*column, most);
}

void Victims::pad() noexcept {
  for (int i = size; i % kLanes != 0; ++i) {
    given[i] = kWorthless;
    level[i] = slow[i] = 0.0F;
    weight[i] = 1.0F;
  }
}

SWIFTBALANCER_CLONES float score_victims(const Victims& victims, const float piece,
                                         const float bonus, float* gains) {
  const Lanes zero{};
  Lanes best = zero + kWorthless;
  for (int v = 0; v < victims.size; v += kLanes) {
    Lanes level = *reinterpret_cast<const Lanes*>(victims.level + v) +
                  piece * *reinterpret_cast<const Lanes*>(victims.slow + v);
    level = level > zero ? level : zero;
    const Lanes gain =
        (*reinterpret_cast<const Lanes*>(victims.given + v) + bonus - level * level) *
        *reinterpret_cast<const Lanes*>(victims.weight + v);
    *reinterpret_cast<Lanes*>(gains + v) = gain;
    best = gain > best ? gain : best;
  }
  return largest(best);
}

void Comers::lay_out(Arena& arena, std::size_t most) {
  most = (most + kLanes - 1) / kLanes * kLanes;
  arena.take(expert, most);
  for (float** column : {&relief, &piece}) arena.take(*column, most);
}

void Comers::pad() noexcept {
  for (int i = size; i % kLanes != 0; ++i) {
    relief[i] = kWorthless;
    piece[i] = 0.0F;
  }
}

SWIFTBALANCER_CLONES float score_comers(const Comers& comers, const float given, const float level,
                                        const float slow, float* gains) {
  const Lanes zero{};
  Lanes best = zero + kWorthless;
  for (int i = 0; i < comers.size; i += kLanes) {
    Lanes above = level + slow * *reinterpret_cast<const Lanes*>(comers.piece + i);
    above = above > zero ? above : zero;
    const Lanes gain = given + *reinterpret_cast<const Lanes*>(comers.relief + i) - above * above;
    *reinterpret_cast<Lanes*>(gains + i) = gain;
    best = gain > best ? gain : best;
  }
  return largest(best);
}

}  // namespace swiftbalancer
