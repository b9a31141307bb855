#include "protocol/packet.hpp"

#include <cstring>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace swiftbalancer {
namespace {

std::vector<std::byte> sealed_packet(std::uint32_t rank, std::uint64_t step) {
  std::vector<std::byte> packet(sizeof(PacketHeader) + 64);
  PacketHeader header;
  header.rank = rank;
  header.step = step;
  header.digest = 42;
  std::memcpy(packet.data(), &header, sizeof header);
  seal_packet(packet);
  return packet;
}

TEST(Packet, OpensAsItWasSealed) {
  const auto packet = sealed_packet(3, 17);
  PacketHeader header;
  EXPECT_TRUE(open_packet(packet, 0, 3, 17, header).ok());
  EXPECT_EQ(header.digest, 42U);
}

TEST(Packet, EveryFlippedBitIsFound) {
  const auto packet = sealed_packet(3, 17);
  PacketHeader header;
  for (std::size_t bit = 0; bit < packet.size() * 8; ++bit) {
    auto broken = packet;
    broken[bit / 8] ^= static_cast<std::byte>(1U << (bit % 8));
    EXPECT_EQ(open_packet(broken, 0, 3, 17, header).code(), ErrorCode::kTransport) << "bit " << bit;
  }
}

TEST(Packet, OfAnotherRankOrStepIsRefusedByName) {
  const auto packet = sealed_packet(3, 17);
  PacketHeader header;
  EXPECT_THAT(open_packet(packet, 0, 2, 17, header).message(), testing::HasSubstr("names rank 3"));
  EXPECT_THAT(open_packet(packet, 0, 3, 18, header).message(), testing::HasSubstr("names step 17"));
  EXPECT_THAT(open_packet(std::span(packet).first(10), 0, 3, 17, header).message(),
              testing::HasSubstr("truncated"));
}

TEST(Packet, OfAModeOrPhaseThatThereIsNotIsRefused) {
  for (const bool phase : {false, true}) {
    auto packet = sealed_packet(3, 17);
    PacketHeader header;
    std::memcpy(&header, packet.data(), sizeof header);
    (phase ? header.phase : header.mode) = 3;
    std::memcpy(packet.data(), &header, sizeof header);
    seal_packet(packet);
    EXPECT_THAT(open_packet(packet, 0, 3, 17, header).message(),
                testing::HasSubstr(phase ? "names phase 3" : "names mode 3"));
  }
}

TEST(Packet, LayoutKeepsSegmentsApart) {
  ShapeOptions options;
  options.num_moe_layers = 3;
  options.num_logical_experts = 5;
  options.num_ranks = 2;
  options.num_slots = 7;
  const ClusterShape shape(options);
  const PacketLayout layout(shape);
  std::vector<int> used(layout.num_counters(), 0);
  for (int layer = 0; layer < 3; ++layer) {
    for (int segment = 0; segment < 2; ++segment) {
      for (int slot = 0; slot < shape.max_slots_per_rank(); ++slot)
        ++used[layout.counter(layer, segment, slot)];
    }
  }
  EXPECT_LE(*std::max_element(used.begin(), used.end()), 1);
  EXPECT_EQ(layout.bytes() % 8, 0U);
}

}  // namespace
}  // namespace swiftbalancer
