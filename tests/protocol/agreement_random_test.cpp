// Two real ranks beside one whose packets are drawn at random: whatever it tells, the two decide
// alike, and every rule about how things end holds.

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "protocol/agreement.hpp"

namespace swiftbalancer::testing {
namespace {

class RandomSets {
 public:
  explicit RandomSets(std::uint64_t seed) : random_(seed) {
    config_.num_ranks = 3;
    config_.num_moe_layers = 3;
    config_.packet_interval = 1 + below(3);
    config_.packet_lag = 1 + below(4);
    config_.rebalance_interval = 1 + below(6);
    config_.max_open_sets = 1 + below(12);
    config_.max_active_sets = 1 + below(12);
    config_.max_installs_per_set = static_cast<std::uint32_t>(below(4));
    config_.leader_plans = below(3) == 0;
    stranger_ = below(3);
    AgreedState begin;
    begin.step = now_ = below(10);
    begin.epochs.assign(3, 0);
    for (std::uint64_t rank = 0; rank < 3; ++rank) {
      config_.rank = static_cast<int>(rank);
      ranks_.emplace_back(config_, begin);
    }
  }

  void run(int steps) {
    while (steps-- > 0) step();
    roll_forward();
  }

 private:
  std::uint64_t below(std::uint64_t limit) { return random_() % limit; }
  bool one_in(std::uint64_t chance) { return below(chance) == 0; }
  std::array<Agreement*, 2> real() {
    return {&ranks_[stranger_ == 0 ? 1 : 0], &ranks_[stranger_ == 2 ? 1 : 2]};
  }

  void step() {
    ++now_;
    if (const auto due = real()[0]->set_due(now_)) {
      if (one_in(4)) offer_a_wrong_set();
      std::vector<BalancerEvent> first, second;
      use(*real()[0], *due, first);
      use(*real()[1], *due, second);
      expect_alike(first, second);
      check(first);
    }
    report();
    if (real()[0]->packet_due(now_)) post();
  }

  void use(Agreement& rank, std::uint64_t step, std::vector<BalancerEvent>& decisions) {
    RC_ASSERT(rank.next_set() == step);
    RC_ASSERT(rank.use_set(step, packets_.at(step), decisions).ok());
  }

  void offer_a_wrong_set() {
    Agreement& rank = *real()[below(2)];
    std::uint64_t wrong = below(now_ + 10);
    if (wrong == rank.next_set()) ++wrong;
    const std::uint64_t digest = rank.digest();
    std::vector<BalancerEvent> decisions;
    std::vector<PacketHeader> set(3);
    for (PacketHeader& packet : set) packet.digest = digest;
    RC_ASSERT(!rank.use_set(wrong, set, decisions).ok());
    RC_ASSERT(decisions.empty());
    RC_ASSERT(rank.digest() == digest);
  }

  void post() {
    std::vector<PacketHeader>& set = packets_[now_];
    set.resize(3);
    for (std::uint64_t rank = 0; rank < 3; ++rank) ranks_[rank].fill_packet(now_, set[rank]);
    PacketHeader& drawn = set[stranger_];
    const Agreement& agreed = *real()[0];
    drawn.digest = agreed.digest();
    drawn.flags = 0;
    for (const PacketFlags flag : {kWantsRebalance, kPlanFailed, kIdle, kPlannerLost, kAsksMode})
      drawn.flags |= one_in(flag == kWantsRebalance ? 2 : 12) ? flag : 0U;
    drawn.flags |= one_in(300) ? kPlannerOff : 0U;
    drawn.mode = static_cast<std::uint32_t>(below(3));
    drawn.active_step = pick({agreed.active_generation().step, 0, now_, below(now_ + 1)});
    drawn.open_step = pick({agreed.open_generation().step, 0, now_, below(now_ + 1)});
    drawn.plan_hash = pick({held_ != nullptr ? held_->hash : 0, 0, random_()});
    drawn.staged_cursor = static_cast<std::uint32_t>(pick({below(6), below(6), 0xFFFFFFFFU, now_}));
    drawn.abort_unit = one_in(10) ? static_cast<std::uint32_t>(below(8)) : kNoUnit;
    if (one_in(30)) drawn.abort_unit = 0xFFFFFFFEU;
  }
  // Mostly the first.
  std::uint64_t pick(std::initializer_list<std::uint64_t> values) {
    return one_in(4) ? *(values.begin() + below(values.size())) : *values.begin();
  }

  // What workers tell.
  void report() {
    const GenerationId open = real()[0]->open_generation();
    if (open && (held_ == nullptr || held_->generation != open)) make_plan(open);
    for (Agreement* rank : real()) {
      if (one_in(3) && held_ != nullptr) rank->plan_ready(one_in(30) ? *other_ : *held_);
      if (one_in(40)) rank->plan_failed(open);
      if (one_in(60)) rank->planner_lost();
      if (one_in(2000)) rank->planner_off();
      if (one_in(40)) rank->ask_mode(static_cast<BalancingMode>(below(3)));
      rank->set_wants_rebalance(one_in(3));
      const MigrationPlan* active = rank->active_plan();
      if (active == nullptr) continue;
      const auto units = static_cast<std::uint32_t>(active->units.size());
      if (one_in(2)) rank->staged(active->generation, static_cast<std::uint32_t>(below(units + 1)));
      if (one_in(15))
        rank->unit_failed(active->generation, static_cast<std::uint32_t>(below(units)));
    }
  }
  void make_plan(const GenerationId& open) {
    MigrationPlan plan;
    plan.generation = open;
    plan.hash = random_() | 1;
    plan.units.resize(below(6));
    for (CommitUnit& unit : plan.units) {
      unit.moe_layer_id = static_cast<int>(below(3));
      unit.most_installs = static_cast<std::uint32_t>(below(4));
    }
    held_ = plans_.emplace_back(std::make_unique<MigrationPlan>(plan)).get();
    plan.hash += 2;
    other_ = plans_.emplace_back(std::make_unique<MigrationPlan>(plan)).get();
  }

  void expect_alike(const std::vector<BalancerEvent>& one,
                    const std::vector<BalancerEvent>& other) {
    RC_ASSERT(one.size() == other.size());
    for (std::size_t i = 0; i < one.size(); ++i) {
      RC_ASSERT(one[i].kind == other[i].kind);
      RC_ASSERT(one[i].reason == other[i].reason);
      RC_ASSERT(one[i].generation == other[i].generation);
      RC_ASSERT(one[i].unit == other[i].unit);
      RC_ASSERT(one[i].rank == other[i].rank);
      if (one[i].kind != BalancerEventKind::kClosed) RC_ASSERT(one[i].plan == other[i].plan);
    }
    const Agreement &a = *real()[0], &b = *real()[1];
    RC_ASSERT(a.digest() == b.digest());
    RC_ASSERT(a.mode() == b.mode());
    RC_ASSERT(a.open_generation() == b.open_generation());
    RC_ASSERT(a.active_plan() == b.active_plan());
    RC_ASSERT(std::ranges::equal(a.epochs(), b.epochs()));
  }

  void check(const std::vector<BalancerEvent>& decisions) {
    ++sets_open_;
    ++sets_idle_;
    std::uint32_t commits = 0, installs = 0;
    bool open = was_open_;
    for (const BalancerEvent& decision : decisions) {
      switch (decision.kind) {
        case BalancerEventKind::kOpened:
          RC_ASSERT(!open && !off_);
          RC_ASSERT(real()[0]->mode() != BalancingMode::kPaused);
          open = true;
          sets_open_ = 0;
          break;
        case BalancerEventKind::kClosed:
          RC_ASSERT(std::exchange(open, false));
          break;
        case BalancerEventKind::kAdopted:
          RC_ASSERT(std::exchange(open, false));
          RC_ASSERT(!plan_ && real()[0]->mode() == BalancingMode::kOn);
          plan_ = decision.plan;
          ended_.clear();
          sets_idle_ = 0;
          break;
        case BalancerEventKind::kCommitted:
          installs += decision.plan->units[decision.unit].most_installs;
          ++commits;
          sets_idle_ = 0;
          [[fallthrough]];
        case BalancerEventKind::kDropped:
          RC_ASSERT(plan_ == decision.plan);
          RC_ASSERT(ended_.insert(decision.unit).second);  // once, whatever became of it
          break;
        case BalancerEventKind::kRetired:
          RC_ASSERT(plan_ && ended_.size() == (*plan_)->units.size());
          plan_.reset();
          break;
        case BalancerEventKind::kPlannersReset:
          RC_ASSERT(!open);
          break;
        case BalancerEventKind::kBalancingOff:
          RC_ASSERT(!open && !std::exchange(off_, true));
          break;
      }
    }
    RC_ASSERT(open == static_cast<bool>(real()[0]->open_generation()));
    was_open_ = open;
    RC_ASSERT(!open || sets_open_ < config_.max_open_sets);
    RC_ASSERT(!plan_ || sets_idle_ < config_.max_active_sets);
    const std::uint32_t limit = config_.max_installs_per_set;
    RC_ASSERT(limit == 0 || commits <= 1 || installs <= limit);
  }

  // One rank goes on as far as the packets of the other let it; then both end their membership.
  void roll_forward() {
    Agreement &ahead = *real()[0], &behind = *real()[1];
    std::vector<BalancerEvent> decisions;
    for (std::uint64_t more = below(config_.packet_lag + 1); more-- > 0;) {
      const auto due = ahead.set_due(++now_);
      if (due && packets_.contains(*due)) use(ahead, *due, decisions);
    }
    const std::vector<std::uint64_t> target(ahead.epochs().begin(), ahead.epochs().end());
    for (Agreement* rank : {&ahead, &behind}) {
      RC_ASSERT(rank->roll_forward(target, decisions).ok());
      RC_ASSERT(std::ranges::equal(rank->epochs(), target));
      RC_ASSERT(rank->active_plan() == nullptr && !rank->open_generation());
    }
  }

  std::mt19937_64 random_;
  AgreementConfig config_;
  std::uint64_t stranger_ = 0;
  std::uint64_t now_ = 0;
  std::vector<Agreement> ranks_;
  std::map<std::uint64_t, std::vector<PacketHeader>> packets_;
  std::vector<std::unique_ptr<MigrationPlan>> plans_;
  const MigrationPlan* held_ = nullptr;   // of the newest generation
  const MigrationPlan* other_ = nullptr;  // likewise, with another hash
  // As the decisions tell.
  std::optional<const MigrationPlan*> plan_;
  std::set<std::uint32_t> ended_;
  bool was_open_ = false, off_ = false;
  std::uint64_t sets_open_ = 0, sets_idle_ = 0;
};

RC_GTEST_PROP(AgreementProperty, RandomPacketsNeverBreakARule, ()) {
  const auto seed = *rc::gen::inRange<std::uint64_t>(0, 1U << 30).as("seed");
  RandomSets(seed).run(150);
}

}  // namespace
}  // namespace swiftbalancer::testing
