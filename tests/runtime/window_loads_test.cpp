// Loads are read with the placements that their window ran under, however many windows and commits
// lie between.

#include "runtime/window_loads.hpp"

#include <cstring>
#include <deque>
#include <random>

#include <gtest/gtest.h>

namespace swiftbalancer {
namespace {

const ClusterShape kLoadsShape(
    {.num_moe_layers = 3, .num_logical_experts = 5, .num_ranks = 3, .slots_per_rank = {3, 2, 4}});

class OneWindow : public ::testing::Test {
 protected:
  PacketRing ring{PacketLayout(kLoadsShape), kLoadsShape.num_ranks(), 1, 1};
};

class Windows : public ::testing::TestWithParam<std::uint64_t> {
 protected:
  std::int32_t any_slot_content() {
    const auto drawn = static_cast<std::int32_t>(random_() % 6);
    return drawn == 5 ? kEmptySlot : drawn;
  }

  void fill_packets(std::uint32_t ring_slot) {
    for (int rank = 0; rank < kLoadsShape.num_ranks(); ++rank) {
      std::byte* counters = ring_.packet(ring_slot, rank).data() + sizeof(PacketHeader);
      for (std::size_t i = 0; i < layout_.num_counters(); ++i) {
        const auto count = static_cast<std::uint32_t>(random_() % 1000);
        std::memcpy(counters + i * sizeof count, &count, sizeof count);
      }
    }
  }

  // Counter by counter, from whole placements.
  ExpertLoad expected(std::uint32_t ring_slot, const Placement& before, const Placement& after) {
    ExpertLoad load(kLoadsShape.num_moe_layers(), kLoadsShape.num_logical_experts());
    for (int layer = 0; layer < kLoadsShape.num_moe_layers(); ++layer) {
      for (int slot = 0; slot < kLoadsShape.num_slots(); ++slot) {
        const int rank = kLoadsShape.rank_of_slot(slot);
        for (const int segment : {0, 1}) {
          const std::int32_t expert =
              (segment == 0 ? before : after).layer(layer)[static_cast<std::size_t>(slot)];
          std::uint32_t count = 0;
          std::memcpy(&count,
                      ring_.packet(ring_slot, rank).data() + sizeof(PacketHeader) +
                          layout_.counter(layer, segment, slot - kLoadsShape.first_slot(rank)) * 4,
                      sizeof count);
          if (expert != kEmptySlot) load.layer(layer)[static_cast<std::size_t>(expert)] += count;
        }
      }
    }
    return load;
  }

  std::mt19937 random_{static_cast<unsigned>(GetParam()) + 1};
  PacketLayout layout_{kLoadsShape};
  PacketRing ring_{layout_, kLoadsShape.num_ranks(), 1, GetParam()};
};

// A layer is committed not at all, once or several times in a window, and sets are read as late as
// the ring allows.
TEST_P(Windows, AreReadByThePlacementsThatTheyRanUnder) {
  Placement now = Placement::initial(kLoadsShape), before = now;
  WindowLoads loads(kLoadsShape, now, ring_.num_slots());
  struct Ended {
    std::uint32_t ring_slot;
    Placement before, after;
  };
  std::deque<Ended> ended;
  ExpertLoad load(kLoadsShape.num_moe_layers(), kLoadsShape.num_logical_experts());
  for (std::uint64_t step = 1; step <= 400; ++step) {
    const int commits = random_() % 3 == 0 ? static_cast<int>(random_() % 8) : 0;
    for (int commit = 0; commit < commits; ++commit) {
      const int layer = static_cast<int>(random_() % 3);
      for (std::int32_t& content : now.layer(layer)) content = any_slot_content();
      loads.committed(layer, now.layer(layer));
    }
    if (ended.size() == ring_.num_slots()) {
      const Ended& oldest = ended.front();
      loads.map(ring_, oldest.ring_slot, load);
      ASSERT_EQ(load, expected(oldest.ring_slot, oldest.before, oldest.after)) << "step " << step;
      ended.pop_front();
    }
    const std::uint32_t ring_slot = ring_.slot_of(step);
    loads.window_ended(ring_slot);
    fill_packets(ring_slot);
    ended.push_back({ring_slot, before, now});
    before = now;
  }
}

INSTANTIATE_TEST_SUITE_P(Lags, Windows, ::testing::Values(1, 2, 7));

// Whatever packets say, the planner can count with the sums.
TEST_F(OneWindow, SumsOfFullCountersAreBounded) {
  for (int rank = 0; rank < kLoadsShape.num_ranks(); ++rank) {
    const auto packet = ring.packet(0, rank);
    std::ranges::fill(packet, std::byte{0xFF});
    PacketHeader header;
    header.load_shift = 31;
    std::memcpy(packet.data(), &header, sizeof header);
  }
  WindowLoads loads(kLoadsShape, Placement::initial(kLoadsShape), ring.num_slots());
  loads.window_ended(0);
  ExpertLoad load(kLoadsShape.num_moe_layers(), kLoadsShape.num_logical_experts());
  loads.map(ring, 0, load);
  for (int layer = 0; layer < kLoadsShape.num_moe_layers(); ++layer) {
    for (const std::int64_t tokens : load.layer(layer)) EXPECT_EQ(tokens, 1'000'000'000'000'000);
  }
}

}  // namespace
}  // namespace swiftbalancer
