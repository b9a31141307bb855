#pragma once
// Ranks as threads, each with a real Balancer and its worker thread over the thread transport.
// Experts are small blocks of bytes that name themselves.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <latch>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include <swiftbalancer/balancer.hpp>
#include <swiftbalancer/error.hpp>

namespace swiftbalancer::testing_support {

/// With a pool for small experts: one of the default size would have a million buffers.
inline BalancerConfig with_small_pool(BalancerConfig config, std::size_t expert_bytes) {
  config.staging_bytes = std::min(config.staging_bytes, 256 * expert_bytes);
  return config;
}

inline ClusterShape make_shape(int layers, int experts, int ranks, int slots) {
  ShapeOptions options;
  options.num_moe_layers = layers;
  options.num_logical_experts = experts;
  options.num_ranks = ranks;
  options.num_slots = slots;
  return ClusterShape(options);
}

/// Memory of one rank's slots and the Balancer over it.
class RankUnderTest {
 public:
  static constexpr std::size_t kExpertBytes = 96;  // two parts

  RankUnderTest(const ClusterShape& shape, const BalancerConfig& config,
                std::unique_ptr<Transport> transport)
      : shape_(shape),
        rank_(transport->rank()),
        balancer(shape, with_small_pool(config, kExpertBytes), std::move(transport)) {
    const Placement initial = Placement::initial(shape);
    const int slots = shape.slots_per_rank(rank_);
    memory_.resize(static_cast<std::size_t>(shape.num_moe_layers() * slots) * kExpertBytes);
    for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
      for (int slot = 0; slot < slots; ++slot) {
        std::byte* expert =
            memory_.data() + static_cast<std::size_t>(layer * slots + slot) * kExpertBytes;
        fill(expert, layer,
             initial.layer(layer)[static_cast<std::size_t>(shape.first_slot(rank_) + slot)]);
        const WeightPart parts[] = {{expert, 64}, {expert + 64, 32}};
        balancer.register_weights(layer, slot, parts);
      }
    }
    balancer.start(initial);
  }

  /// True when every slot's bytes are those of the expert that the placement names.
  bool slots_hold_their_experts() const {
    std::byte expected[kExpertBytes];
    for (int layer = 0; layer < shape_.num_moe_layers(); ++layer) {
      for (int slot = 0; slot < shape_.slots_per_rank(rank_); ++slot) {
        fill(expected, layer,
             balancer.placement().layer(
                 layer)[static_cast<std::size_t>(shape_.first_slot(rank_) + slot)]);
        const auto parts = balancer.slot_parts(layer, slot);
        if (std::memcmp(parts[0], expected, 64) != 0 ||
            std::memcmp(parts[1], expected + 64, 32) != 0)
          return false;
      }
    }
    return true;
  }

  void record_skewed(std::uint64_t step) {
    std::vector<std::uint32_t> counts(static_cast<std::size_t>(shape_.slots_per_rank(rank_)));
    for (int layer = 0; layer < shape_.num_moe_layers(); ++layer) {
      for (std::size_t slot = 0; slot < counts.size(); ++slot) {
        const auto expert = balancer.placement().layer(
            layer)[static_cast<std::size_t>(shape_.first_slot(rank_)) + slot];
        counts[slot] =
            static_cast<std::uint32_t>(1000 / (1 + (expert + static_cast<int>(step / 100)) % 8));
      }
      balancer.record(layer, counts);
    }
  }

 private:
  static void fill(std::byte* expert, int layer, int logical_id) {
    for (std::size_t i = 0; i < kExpertBytes; ++i) {
      expert[i] = static_cast<std::byte>((static_cast<std::size_t>(layer) * 131 +
                                          static_cast<std::size_t>(logical_id) * 31 + i * 7) &
                                         0xFF);
    }
  }

  const ClusterShape shape_;
  const int rank_;
  std::vector<std::byte> memory_;

 public:
  Balancer balancer;  // after the memory that it borrows
};

/// Runs `body` on one thread per rank. Everything is built inside the threads, as engines do.
inline void run_ranks(const ClusterShape& shape, const BalancerConfig& config,
                      const std::function<void(RankUnderTest&, int rank)>& body) {
  auto transports = make_thread_transports(shape.num_ranks());
  std::latch done(shape.num_ranks());
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < shape.num_ranks(); ++rank) {
    threads.emplace_back([&, rank] {
      RankUnderTest under_test(shape, config,
                               std::move(transports[static_cast<std::size_t>(rank)]));
      body(under_test, rank);
      done.arrive_and_wait();  // nobody's transport closes while a peer still reads its last
                               // packets
    });
  }
}

/// What a Balancer refuses a configuration with.
inline std::string refusal(const ClusterShape& shape, const BalancerConfig& config) {
  try {
    Balancer balancer(shape, config, std::move(make_thread_transports(shape.num_ranks())[0]));
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
  return "accepted";
}

}  // namespace swiftbalancer::testing_support
