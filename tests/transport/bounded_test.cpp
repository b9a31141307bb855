// No call works on without end while bytes flow: between two looks at a wake-up, the deadline and
// finished operations a bounded amount moves, and messages go before bulk data. Counted in bytes
// and calls. One thread drives all ranks.
#include <algorithm>
#include <csignal>

#include <sys/mman.h>

#include "transport/conformance.hpp"

namespace swiftbalancer {
namespace {

using Bounded = TransportTest;
using BoundedAmongRanks = PairTest;

constexpr std::size_t kRing = std::size_t{1} << 17;
constexpr std::size_t kMost = 3 * kRing;  // what may move between two looks; less than all rings
constexpr std::size_t kBulk = std::size_t{8} << 20;
constexpr auto kNever = std::byte{0};  // is not in the bytes that are sent

/// Of memory that is filled from the front.
std::size_t written(std::span<const std::byte> memory) {
  const auto end = std::partition_point(memory.begin(), memory.end(),
                                        [](std::byte byte) { return byte != kNever; });
  return static_cast<std::size_t>(end - memory.begin());
}

/// A rendezvous transfer between two ranks, possibly of the same instance.
struct Flow {
  Flow(Transport& from, Transport& to, std::uint64_t tag, std::size_t bytes = kBulk)
      : out(bytes, std::byte{0x5a}), in(bytes, kNever) {
    received = receive(to, from.rank(), tag, in, Delivery::kRendezvous);
    sent = send(from, to.rank(), tag, out, Delivery::kRendezvous);
  }
  std::size_t arrived() const { return written(in); }

  std::vector<std::byte> out, in;
  TransportHandle sent, received;
};

std::size_t arrived(const std::vector<std::unique_ptr<Flow>>& flows) {
  std::size_t bytes = 0;
  for (const auto& flow : flows) bytes += flow->arrived();
  return bytes;
}

/// From every other rank to the first.
std::vector<std::unique_ptr<Flow>> flows_to_first(const TestGroup& group) {
  std::vector<std::unique_ptr<Flow>> flows;
  for (std::size_t from = 1; from < group.ranks.size(); ++from)
    flows.push_back(std::make_unique<Flow>(*group.ranks[from], *group.ranks[0], from));
  return flows;
}

TEST_P(Bounded, PollMovesALimitedAmount) {
  make(kRing);
  Flow flow(at(0), at(0), 1);
  std::size_t polls = 0;
  for (bool pending = true; pending; ++polls) {
    const std::size_t before = flow.arrived();
    pending = at(0).poll(flow.received).state == TransferState::kPending;
    ASSERT_LE(flow.arrived() - before, kMost);
    ASSERT_LT(polls, kBulk) << "no poll moves anything";
  }
  EXPECT_EQ(flow.arrived(), kBulk);
}

TEST_P(Bounded, RoundOfPollsMovesNoMoreThanOnePoll) {
  make(kRing);
  std::vector<std::unique_ptr<Flow>> flows;
  for (std::uint64_t tag = 1; tag <= 16; ++tag)
    flows.push_back(std::make_unique<Flow>(at(0), at(0), tag, std::size_t{1} << 20));
  std::size_t before = 0;
  for (int round = 0; round < 20; ++round) {
    for (const auto& flow : flows) {
      at(0).poll(flow->received);
      at(0).poll(flow->sent);
    }
    EXPECT_LE(arrived(flows) - before, kMost);
    before = arrived(flows);
  }
  EXPECT_GT(before, kMost);
}

TEST_P(Bounded, WaitLooksAtTheDeadlineWhileBytesFlow) {
  make(kRing);
  const Flow flow(at(0), at(0), 1);
  EXPECT_EQ(at(0).wait(soon(0)).code(), ErrorCode::kTimeout);
  EXPECT_LE(flow.arrived(), kMost);
}

TEST_P(Bounded, WaitLooksAtFinishedOperationsWhileBytesFlow) {
  make(kRing);
  const Flow small(at(0), at(0), 1, 1000);
  const Flow flow(at(0), at(0), 2);
  for (const TransportHandle handle : {small.sent, small.received}) {
    EXPECT_TRUE(at(0).wait(soon()).ok());
    EXPECT_LE(flow.arrived(), kMost);
    EXPECT_EQ(at(0).poll(handle).state, TransferState::kDone);
  }
  EXPECT_EQ(small.arrived(), 1000U);
}

/// Memory whose middle page calls wake() of a transport when it is first written: a wake-up from
/// the midst of a copy, at the same place in every run.
class WakingMemory {
 public:
  static constexpr std::size_t kPage = 4096;

  WakingMemory(Transport& transport, std::size_t bytes) : bytes_(bytes) {
    memory_ = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT_NE(memory_, MAP_FAILED);
    page_ = static_cast<std::byte*>(memory_) + page_offset();
    EXPECT_EQ(::mprotect(page_, kPage, PROT_NONE), 0);
    target = &transport;
    protected_page = page_;
    struct sigaction action{};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO;
    ::sigaction(SIGSEGV, &action, &before_);
  }
  ~WakingMemory() {
    ::sigaction(SIGSEGV, &before_, nullptr);
    ::munmap(memory_, bytes_);
  }
  WakingMemory(const WakingMemory&) = delete;
  WakingMemory& operator=(const WakingMemory&) = delete;
  std::span<std::byte> span() const { return {static_cast<std::byte*>(memory_), bytes_}; }
  std::size_t page_offset() const { return bytes_ / 2; }

 private:
  static void on_fault(int, siginfo_t* info, void*) {
    const auto* at = static_cast<const std::byte*>(info->si_addr);
    if (at < protected_page || at >= protected_page + kPage) std::abort();
    ::mprotect(protected_page, kPage, PROT_READ | PROT_WRITE);
    target->wake();
  }
  static inline Transport* target = nullptr;
  static inline std::byte* protected_page = nullptr;

  std::size_t bytes_;
  void* memory_ = nullptr;
  std::byte* page_ = nullptr;
  struct sigaction before_{};
};

TEST_P(Bounded, WaitLooksAtAWakeUpWhileBytesFlow) {
  make(kRing);
  const std::vector<std::byte> out(kBulk, std::byte{0x5a});
  const WakingMemory in(at(0), kBulk);
  const std::span<std::byte> target = in.span();
  const auto received = at(0).post_recv(0, 1, {&target, 1}, Delivery::kRendezvous);
  const auto sent = send(at(0), 0, 1, out, Delivery::kRendezvous);
  EXPECT_TRUE(at(0).wait(soon()).ok());
  EXPECT_EQ(at(0).poll({}).state, TransferState::kFailed);  // makes no progress
  EXPECT_GE(written(target), in.page_offset()) << "ended before the wake-up";
  EXPECT_LE(written(target) - in.page_offset(), kMost);
  at(0).cancel(received);
  at(0).cancel(sent);
}

TEST_P(BoundedAmongRanks, PollDoesNotEmptyTheRingsOfAllPeers) {
  make(kRing);
  const auto flows = flows_to_first(group_);
  for (int rank = 1; rank < num_ranks(); ++rank)  // each fills its ring
    at(rank).poll(flows[static_cast<std::size_t>(rank - 1)]->sent);
  for (int polls = 0; polls < num_ranks(); ++polls) {
    const std::size_t before = arrived(flows);
    at(0).poll(flows[0]->received);
    EXPECT_LE(arrived(flows) - before, kMost);
  }
  for (const auto& flow : flows) EXPECT_GT(flow->arrived(), 0U) << "a peer starves";
}

TEST_P(BoundedAmongRanks, GatherIsTakenBeforeTheBulkOfAnyPeer) {
  make(kRing);
  const auto flows = flows_to_first(group_);
  std::vector<std::byte> mine(64, std::byte{1}), out(64 * static_cast<std::size_t>(num_ranks()));
  std::vector<std::vector<std::byte>> outs(group_.ranks.size(), out);
  for (int rank = num_ranks() - 1; rank >= 0; --rank) {
    if (rank != 0) at(rank).poll(flows[static_cast<std::size_t>(rank - 1)]->sent);
    const auto gather = at(rank).post_all_gather(1, mine, outs[static_cast<std::size_t>(rank)]);
    if (rank == 0) {
      EXPECT_EQ(at(0).poll(gather).state, TransferState::kDone);
    }
  }
  EXPECT_LE(arrived(flows), kMost);
}

TEST_P(BoundedAmongRanks, PostingMovesNoBulk) {
  make(kRing);
  Flow flow(at(0), at(1), 1);
  std::vector<std::byte> mine(64), out(64 * static_cast<std::size_t>(num_ranks())), in(8);
  at(0).poll(flow.sent);  // takes the request and fills the ring
  std::size_t before = 0;
  do {  // the peer empties it
    before = flow.arrived();
    at(1).poll(flow.received);
  } while (flow.arrived() != before);
  const auto gather = at(0).post_all_gather(1, mine, out);
  const auto eager = send(at(0), 1, 2, mine, Delivery::kEager);
  const auto received = receive(at(0), 1, 3, in, Delivery::kRendezvous);
  at(1).poll(flow.received);
  EXPECT_EQ(flow.arrived(), before);
  for (const TransportHandle handle : {gather, eager, received}) at(0).cancel(handle);
}

TEST_P(BoundedAmongRanks, BulkIsNotStarvedByMessages) {
  make(kRing);
  Flow flow(at(1), at(0), 1);
  const auto message = pattern(1, 1000);
  std::vector<std::byte> in(message.size());
  std::uint64_t tag = 1;
  int passes = 0;
  for (bool pending = true; pending; ++passes) {
    std::vector<TransportHandle> sends;
    for (int i = 0; i < 200; ++i, ++tag) {  // more than a ring: it never runs dry
      sends.push_back(send(at(1), 0, tag, message, Delivery::kEager));
      const auto received = receive(at(0), 1, tag, in, Delivery::kEager);
      at(0).poll(received);
      at(0).cancel(received);
    }
    at(1).poll(flow.sent);
    pending = at(0).poll(flow.received).state == TransferState::kPending;
    for (const TransportHandle handle : sends) at(1).cancel(handle);
    ASSERT_LT(passes, 1000);
  }
  EXPECT_EQ(flow.arrived(), kBulk);
}

TEST_P(BoundedAmongRanks, LossIsToldWhileBytesFlow) {
  make(kRing);
  std::vector<std::byte> in(8);
  const auto received = receive(at(0), 1, 1, in, Delivery::kEager);
  close(1);
  const Flow flow(at(0), at(0), 1);
  const Status status = at(0).wait(soon());
  EXPECT_EQ(status.code(), ErrorCode::kPeerLost) << status.message();
  EXPECT_LE(flow.arrived(), kMost);
  at(0).cancel(received);
}

INSTANTIATE_TEST_SUITE_P(Transports, Bounded, testing::ValuesIn(group_cases({1, 3})), case_name);
INSTANTIATE_TEST_SUITE_P(Transports, BoundedAmongRanks, testing::ValuesIn(group_cases({2, 8})),
                         case_name);

}  // namespace
}  // namespace swiftbalancer
