#pragma once
// The conformance suite of all transports: every TEST_P(TransportTest, ...) in this folder runs on
// each kind below, for each number of ranks. A new transport joins by one line in kGroupKinds.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <unistd.h>

#include <swiftbalancer/transport.hpp>

#include "wait_limit.hpp"

namespace swiftbalancer {

struct TestGroup {
  std::vector<std::unique_ptr<Transport>> ranks;
};

inline TestGroup make_thread_group(int num_ranks, std::size_t ring_bytes) {
  return {make_thread_transports(num_ranks, {ring_bytes})};
}

inline TestGroup make_shm_group(int num_ranks, std::size_t ring_bytes) {
  static int number = 0;
  ShmGroup group("swiftbalancer." + std::to_string(::getpid()) + ".test" + std::to_string(++number),
                 num_ranks, {ring_bytes});
  TestGroup result;
  for (int rank = 0; rank < num_ranks; ++rank)
    result.ranks.push_back(open_shm_transport(group.name(), rank));
  return result;  // the name goes, the mappings stay
}

struct GroupKind {
  const char* name;
  TestGroup (*make)(int num_ranks, std::size_t ring_bytes);
};

inline constexpr GroupKind kGroupKinds[] = {
    {"thread", make_thread_group},
    {"shm", make_shm_group},
};

struct GroupCase {
  GroupKind kind;
  int num_ranks;
};

inline std::vector<GroupCase> group_cases(std::initializer_list<int> rank_counts) {
  std::vector<GroupCase> cases;
  for (const GroupKind& kind : kGroupKinds) {
    for (const int num_ranks : rank_counts) cases.push_back({kind, num_ranks});
  }
  return cases;
}

inline std::string case_name(const testing::TestParamInfo<GroupCase>& info) {
  return std::string(info.param.kind.name) + "_" + std::to_string(info.param.num_ranks);
}

inline constexpr std::size_t kSmallRing = 1024;

inline std::chrono::steady_clock::time_point soon() {
  return std::chrono::steady_clock::now() + testing_support::kWaitLimit;
}
inline std::chrono::steady_clock::time_point soon(int milliseconds) {
  return std::chrono::steady_clock::now() + std::chrono::milliseconds(milliseconds);
}

/// Bytes that tell messages apart: every seed gives another sequence.
inline std::vector<std::byte> pattern(std::uint64_t seed, std::size_t bytes) {
  std::vector<std::byte> result(bytes);
  std::uint64_t state = seed * 0x9e3779b97f4a7c15ULL + 1;
  for (std::byte& b : result) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    b = static_cast<std::byte>(state >> 56);
  }
  return result;
}

inline TransportHandle send(Transport& from, int to, std::uint64_t tag,
                            const std::vector<std::byte>& bytes, Delivery delivery) {
  const std::span<const std::byte> part(bytes);
  return from.post_send(to, tag, {&part, 1}, delivery);
}

inline TransportHandle receive(Transport& to, int from, std::uint64_t tag,
                               std::vector<std::byte>& bytes, Delivery delivery) {
  const std::span<std::byte> part(bytes);
  return to.post_recv(from, tag, {&part, 1}, delivery);
}

class TransportTest : public testing::TestWithParam<GroupCase> {
 protected:
  int num_ranks() const { return GetParam().num_ranks; }
  void make(std::size_t ring_bytes = kSmallRing) {
    group_ = GetParam().kind.make(num_ranks(), ring_bytes);
  }
  Transport& at(int rank) { return *group_.ranks[static_cast<std::size_t>(rank)]; }
  void close(int rank) { group_.ranks[static_cast<std::size_t>(rank)].reset(); }

  /// Runs one thread per rank.
  void run(const std::function<void(Transport&)>& body) {
    std::vector<std::jthread> threads;
    for (auto& transport : group_.ranks) threads.emplace_back([&] { body(*transport); });
  }

  TestGroup group_;
};

/// The same, with at least two ranks; driven by one thread, so that every interleaving is chosen by
/// the test.
class PairTest : public TransportTest {
 protected:
  /// Polls both until they are final. The second may be on the same instance.
  std::pair<TransferStatus, TransferStatus> drive(Transport& a, TransportHandle ha, Transport& b,
                                                  TransportHandle hb) {
    TransferStatus sa, sb;
    for (int i = 0;
         i < 10000 && (sa.state == TransferState::kPending || sb.state == TransferState::kPending);
         ++i) {
      if (sa.state == TransferState::kPending) sa = a.poll(ha);
      if (sb.state == TransferState::kPending) sb = b.poll(hb);
    }
    return {sa, sb};
  }
};

}  // namespace swiftbalancer
