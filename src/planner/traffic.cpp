#include "planner/traffic.hpp"

namespace swiftbalancer {
namespace {

// When to look again at traffic that has not changed: with so many times the data.
constexpr std::int64_t kLookAgainFactor = 2;
// A change is answered with half a window of evidence; up to three more plans correct the
// first with the data that has come meanwhile.
constexpr std::int64_t kFirstLookFraction = 2;
// But never on fewer blocks: where a step holds several windows, two more steps halve the noise.
constexpr std::size_t kFirstLookBlocks = 3;
// What is not recognised by then is new.
constexpr std::size_t kBlocksToRecognise = 8;
constexpr int kPlansPerChange = 4;
constexpr std::int64_t kCorrectWithinWindows = 3;
// Where one step holds several windows, the first plan is made on a few steps: its corrections wait
// for so many times that evidence at most.
constexpr std::int64_t kLargeStepWindows = 4;
constexpr std::int64_t kCorrectWithinFactor = 128;

}  // namespace

Traffic::Traffic(const ClusterShape& shape, std::int64_t window_assignments)
    : window_assignments_(window_assignments),
      history_(shape, window_assignments),
      memory_(shape.num_moe_layers(), shape.num_logical_experts()),
      look_at_(window_assignments) {}

bool Traffic::add(const ExpertLoad& load) {
  const int blocks = history_.num_blocks();
  history_.add(load);
  if (changes_ != history_.num_changes()) note_change();
  // Between blocks the evidence hardly grows.
  if (blocks == history_.num_blocks()) return false;
  if (!is_known_ && changes_ > 0 && first_look_ == 0 &&
      history_.num_blocks_since_change() <= kBlocksToRecognise)
    look_for_known_domain();
  return true;
}

void Traffic::note_change() {
  changes_ = history_.num_changes();
  memory_.remember(history_.before_change(), history_.dispersion());
  look_at_ = window_assignments_ / kFirstLookFraction;
  first_look_ = 0;
  plans_since_change_ = 0;
  is_known_ = false;
}

// A domain that was met before needs no evidence but that it is the one.
void Traffic::look_for_known_domain() {
  is_known_ = memory_.expect(history_.since_change(), history_.dispersion()).recognised;
  if (is_known_) look_at_ = 0;
}

bool Traffic::has_new_evidence() const noexcept {
  return history_.assignments_since_change() >= look_at_ &&
         (is_known_ || first_look_ > 0 || changes_ == 0 ||
          history_.num_blocks_since_change() >= kFirstLookBlocks);
}

void Traffic::note_look() noexcept {
  if (!has_new_evidence()) return;
  look_at_ = kLookAgainFactor * history_.assignments_since_change();
  if (first_look_ == 0) first_look_ = history_.assignments_since_change();
}

void Traffic::note_plan() noexcept { ++plans_since_change_; }

bool Traffic::is_open() const noexcept {
  if (plans_since_change_ == 0) return true;
  const std::int64_t within = first_look_ >= kLargeStepWindows * window_assignments_
                                  ? kCorrectWithinFactor * first_look_
                                  : kCorrectWithinWindows * window_assignments_;
  return plans_since_change_ < kPlansPerChange && history_.assignments_since_change() <= within;
}

LoadEstimate Traffic::estimate() const {
  // Asked anew: with more data a domain is known better, or turns out to be another.
  return estimate_load(history_.since_change(), history_.dispersion(),
                       memory_.expect(history_.since_change(), history_.dispersion()));
}

}  // namespace swiftbalancer
