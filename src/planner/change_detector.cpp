#include "planner/change_detector.hpp"

#include <algorithm>
#include <cmath>

namespace swiftbalancer {
namespace {

// A change must be worth an answer: a chi-square distance beyond noise of 0.02 shifts the loads of
// experts by 14 %, of ranks by a few percent. While little is known of the noise, more is asked
// for: text domains differ by 0.17 to 2 (tests/planner/data), parts of one domain by up to 0.1.
constexpr double kMinDifference = 0.03;
constexpr double kMinDifferenceAtFirst = 0.14;
constexpr double kSamplesToTrust = 32.0;
// ... so many times the noise that is known, which few samples tell badly,
constexpr double kTimesNoise = 2.5;
// ... and so many standard deviations beyond what is usual. Distances are skewed and overlap, so
// this is more than the table of the normal distribution says for one false alarm in 10,000.
constexpr double kDeviations = 12.0;
constexpr double kMostSamples = 64.0;  // then old ones fade
constexpr double kSamplesKept = 8.0;   // of what was learnt before a change

}  // namespace

bool ChangeDetector::has_changed(std::size_t length, std::span<const LayerDistance> layers) {
  Usual& usual = usual_[length];
  double measured = 0.0, expected = 0.0;
  int live = 0;
  for (const LayerDistance& layer : layers) {
    if (layer.expected <= 0.0) continue;
    measured += layer.measured;
    expected += layer.expected;
    ++live;
  }
  if (live == 0) return false;
  const double ratio = measured / expected;
  const double noise = std::max({1.0, usual.mean, dispersion()});
  const double deviation = std::sqrt(usual.variance);
  const double beyond = (measured - noise * expected) / live;
  const double known = std::min(1.0, usual.samples / kSamplesToTrust);
  const double least = kMinDifferenceAtFirst + known * (kMinDifference - kMinDifferenceAtFirst);
  if (beyond >= least && ratio >= kTimesNoise * noise &&
      ratio >= usual.mean + kDeviations * deviation)
    return true;
  // A change that begins within the recent part must not pass for noise.
  const double learnt =
      usual.samples < 4.0 ? ratio : std::min(ratio, usual.mean + 3.0 * deviation + 0.1);
  usual.samples = std::min(kMostSamples, usual.samples + 1.0);
  const double weight = 1.0 / usual.samples;
  const double off = learnt - usual.mean;
  usual.mean += weight * off;
  usual.variance = (1.0 - weight) * (usual.variance + weight * off * off);
  return false;
}

void ChangeDetector::restart() noexcept {
  for (Usual& usual : usual_) usual.samples = std::min(usual.samples, kSamplesKept);
}

double ChangeDetector::dispersion() const noexcept {
  double dispersion = 1.0;
  for (const Usual& usual : usual_) {
    if (usual.samples > 0.0) dispersion = std::max(dispersion, usual.mean);
  }
  return dispersion;
}

}  // namespace swiftbalancer
