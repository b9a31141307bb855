// Memberships with real worker threads over the thread transport: a rank is lost, the others go on,
// and a new rank joins.

#include <atomic>
#include <barrier>
#include <numeric>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/threads_cluster.hpp"

namespace swiftbalancer {
namespace {

using testing_support::make_shape;

constexpr std::size_t kBytes = 64;

// The bytes of an expert name it.
void fill(std::byte* expert, int layer, int logical_id) {
  for (std::size_t i = 0; i < kBytes; ++i)
    expert[i] =
        static_cast<std::byte>((layer * 131 + logical_id * 31 + static_cast<int>(i) * 7) & 0xFF);
}

class MemberRank {
 public:
  /// @param joins the live ranks to join, whose reconfiguration is under way; empty: starts.
  MemberRank(const ClusterShape& shape, BalancerConfig config, int rank,
             std::unique_ptr<Transport> transport, std::span<const int> joins = {})
      : first_slots_(shape.slots_per_rank(rank)),
        layers_(shape.num_moe_layers()),
        memory_(static_cast<std::size_t>(layers_ * first_slots_) * kBytes) {
    config.load_expert = [this](int layer, int expert, std::span<std::byte* const> parts) {
      fill(parts[0], layer, expert);
      ++loaded;
    };
    const auto register_all = [this](Balancer& made) { register_with(made); };
    if (!joins.empty()) {
      balancer = Balancer::join(shape, config, std::move(transport), joins, register_all, joined);
      return;
    }
    const Placement initial = Placement::initial(shape);
    for (int layer = 0; layer < layers_; ++layer) {
      for (int slot = 0; slot < first_slots_; ++slot)
        fill(memory_of(layer, slot), layer,
             initial.layer(layer)[static_cast<std::size_t>(shape.first_slot(rank) + slot)]);
    }
    balancer = std::make_unique<Balancer>(shape, config, std::move(transport));
    register_all(*balancer);
    balancer->start(initial);
  }

  Status step() {
    Status begun = balancer->begin_step({balancer->steps_begun() + 1});
    if (!begun.ok()) return begun;
    std::vector<std::uint32_t> counts(static_cast<std::size_t>(first_slots_));
    for (int layer = 0; layer < layers_; ++layer) {
      for (std::size_t slot = 0; slot < counts.size(); ++slot)
        counts[slot] = held(layer, slot) == kEmptySlot
                           ? 0
                           : static_cast<std::uint32_t>(2000 / (1 + held(layer, slot)));
      balancer->record(layer, counts);
    }
    return balancer->end_step();
  }
  bool slots_hold_their_experts() const {
    std::byte expected[kBytes];
    for (int layer = 0; layer < layers_; ++layer) {
      for (std::size_t slot = 0; slot < static_cast<std::size_t>(first_slots_); ++slot) {
        if (held(layer, slot) == kEmptySlot) continue;
        fill(expected, layer, held(layer, slot));
        const auto parts = balancer->slot_parts(layer, static_cast<int>(slot));
        if (std::memcmp(parts[0], expected, kBytes) != 0) return false;
      }
    }
    return true;
  }
  int num_empty() const {
    int empty = 0;
    for (int layer = 0; layer < layers_; ++layer)
      empty += static_cast<int>(std::ranges::count(balancer->placement().layer(layer), kEmptySlot));
    return empty;
  }

 private:
  std::int32_t held(int layer, std::size_t slot) const {
    return balancer->placement().layer(
        layer)[static_cast<std::size_t>(balancer->shape().first_slot(balancer->rank())) + slot];
  }

  std::byte* memory_of(int layer, int slot) {
    return memory_.data() + static_cast<std::size_t>(layer * first_slots_ + slot) * kBytes;
  }
  void register_with(Balancer& made) {
    for (int layer = 0; layer < layers_; ++layer) {
      for (int slot = 0; slot < first_slots_; ++slot) {
        const WeightPart part{memory_of(layer, slot), kBytes};
        made.register_weights(layer, slot, {&part, 1});
      }
    }
  }

  int first_slots_, layers_;
  std::vector<std::byte> memory_;

 public:
  int loaded = 0;
  Status joined;
  std::unique_ptr<Balancer> balancer;  // after the memory that it borrows
};

BalancerConfig moving_config(ControlMode mode) {
  BalancerConfig config;
  config.policy = "stress";
  config.rebalance_interval = 4;
  config.window_assignments = 500;
  config.deadline = std::chrono::seconds(20);
  config.control_mode = mode;
  return config;
}

class Membership : public testing::TestWithParam<ControlMode> {};

// Rank 1 of 3 vanishes in the middle of migrations; ranks 0 and 2 go on; then rank 1 comes back.
TEST_P(Membership, SurvivorsGoOnAndANewRankJoins) {
  const ClusterShape shape = make_shape(3, 8, 3, 18);
  const BalancerConfig config = moving_config(GetParam());
  auto first = make_thread_transports(3), second = make_thread_transports(2),
       third = make_thread_transports(3);
  const std::vector<int> survivors = {0, 2}, all = {0, 1, 2};
  constexpr int kSteps = 60;
  std::latch left(3);
  std::barrier over(3);
  std::atomic<int> moves_after{0}, loaded{0};
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < 3; ++rank) {
    threads.emplace_back([&, rank] {
      const auto at = static_cast<std::size_t>(rank);
      auto member = std::make_unique<MemberRank>(shape, config, rank, std::move(first[at]));
      for (int step = 0; step < kSteps; ++step) ASSERT_TRUE(member->step().ok());
      left.arrive_and_wait();
      if (rank == 1) {
        member = std::make_unique<MemberRank>(shape, config, rank, std::move(third[1]), all);
        ASSERT_TRUE(member->joined.ok()) << member->joined.message();
      } else {
        const Status status =
            member->balancer->reconfigure(survivors, std::move(second[rank == 0 ? 0 : 1]));
        ASSERT_TRUE(status.ok()) << status.message();
        EXPECT_EQ(member->balancer->shape().num_ranks(), 2);
        const Health health = member->balancer->health();
        EXPECT_TRUE(health.ok) << "the ranks left go on: " << health.reason;
        EXPECT_EQ(health.reason, "rank 1 lost at step 60; 2 ranks go on");
        EXPECT_GE(health.failures, 1U);
        EXPECT_TRUE(member->slots_hold_their_experts());
        for (int step = 0; step < kSteps; ++step) {
          ASSERT_TRUE(member->step().ok());
          ASSERT_TRUE(member->slots_hold_their_experts());
        }
        loaded += member->loaded;
        const Status joined = member->balancer->reconfigure(all, std::move(third[at]));
        ASSERT_TRUE(joined.ok()) << joined.message();
        EXPECT_GT(member->num_empty(), 0) << "the new rank's slots start empty";
      }
      const auto before = member->balancer->stats().moves;
      for (int step = 0; step < kSteps; ++step) {
        ASSERT_TRUE(member->step().ok());
        ASSERT_TRUE(member->slots_hold_their_experts());
      }
      EXPECT_EQ(member->num_empty(), 0) << "a plan has filled them";
      moves_after += static_cast<int>(member->balancer->stats().moves - before);
      EXPECT_EQ(member->balancer->health().membership, 2U);
      over.arrive_and_wait();  // nobody's transport closes while a peer still reads
    });
  }
  threads.clear();
  EXPECT_GT(moves_after, 0);
}

INSTANTIATE_TEST_SUITE_P(BothControlModes, Membership,
                         testing::Values(ControlMode::kReplicated, ControlMode::kLeader));

// Rank 1 of unequal ones is lost: the plans of those left go by their own speeds.
TEST(MembershipLimits, SpeedsStayWithTheirRanks) {
  const ClusterShape shape = make_shape(2, 8, 3, 18);
  BalancerConfig config = moving_config(ControlMode::kReplicated);
  config.policy = "swift";
  config.limits.rank_speeds = {1.0, 1.0, 0.25};
  config.limits.max_moves_per_rebalance = 5;
  auto first = make_thread_transports(3), second = make_thread_transports(2);
  const std::vector<int> survivors = {0, 2};
  std::latch left(3);
  std::barrier over(3);
  std::atomic<std::uint64_t> plans_after{0};
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < 3; ++rank) {
    threads.emplace_back([&, rank] {
      MemberRank member(shape, config, rank, std::move(first[static_cast<std::size_t>(rank)]));
      for (int step = 0; step < 20; ++step) ASSERT_TRUE(member.step().ok());
      left.arrive_and_wait();
      if (rank != 1) {
        const Status status =
            member.balancer->reconfigure(survivors, std::move(second[rank == 0 ? 0 : 1]));
        ASSERT_TRUE(status.ok()) << status.message();
        const auto before = member.balancer->stats().plans_adopted;
        for (int step = 0; step < 60; ++step) ASSERT_TRUE(member.step().ok());
        EXPECT_TRUE(member.balancer->health().ok) << member.balancer->health().reason;
        plans_after += member.balancer->stats().plans_adopted - before;
      }
      over.arrive_and_wait();
    });
  }
  threads.clear();
  EXPECT_GT(plans_after, 0U);
}

// Rank 1 comes back with another packet_lag: nobody takes it in, and the others go on without it.
TEST(Join, ARankThatWasStartedDifferentlyIsRefusedAndTheOthersGoOn) {
  const ClusterShape shape = make_shape(2, 8, 3, 18);
  const BalancerConfig config = moving_config(ControlMode::kReplicated);
  auto first = make_thread_transports(3), second = make_thread_transports(3),
       third = make_thread_transports(2);
  const std::vector<int> all = {0, 1, 2}, others = {0, 2};
  std::latch left(3);
  std::barrier over(3);
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < 3; ++rank) {
    threads.emplace_back([&, rank] {
      const auto at = static_cast<std::size_t>(rank);
      auto member = std::make_unique<MemberRank>(shape, config, rank, std::move(first[at]));
      for (int step = 0; step < 20; ++step) ASSERT_TRUE(member->step().ok());
      left.arrive_and_wait();
      Status changed;
      if (rank == 1) {
        BalancerConfig other = config;
        other.packet_lag = 3;
        member = std::make_unique<MemberRank>(shape, other, rank, std::move(second[at]), all);
        changed = member->joined;
      } else {
        changed = member->balancer->reconfigure(all, std::move(second[at]));
      }
      EXPECT_EQ(changed.code(), ErrorCode::kInvalidArgument) << changed.message();
      EXPECT_THAT(changed.message(), testing::HasSubstr("\"packet_lag "));
      over.arrive_and_wait();
      if (rank != 1) {
        const Status again =
            member->balancer->reconfigure(others, std::move(third[rank == 0 ? 0 : 1]));
        ASSERT_TRUE(again.ok()) << again.message();
        for (int step = 0; step < 40; ++step) {
          ASSERT_TRUE(member->step().ok());
          ASSERT_TRUE(member->slots_hold_their_experts());
        }
      }
      over.arrive_and_wait();
    });
  }
}

TEST(Start, NamesTheSettingInWhichRanksDiffer) {
  const ClusterShape shape = make_shape(1, 4, 2, 4);
  auto transports = make_thread_transports(2);
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      BalancerConfig config = moving_config(ControlMode::kReplicated);
      config.packet_lag = rank == 0 ? 2 : 3;
      try {
        MemberRank member(shape, config, rank,
                          std::move(transports[static_cast<std::size_t>(rank)]));
        ADD_FAILURE() << "the ranks were to be refused";
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
        EXPECT_THAT(error.what(),
                    testing::HasSubstr("\"packet_lag 2\" on the one, \"packet_lag 3\""));
      }
    });
  }
}

}  // namespace
}  // namespace swiftbalancer
