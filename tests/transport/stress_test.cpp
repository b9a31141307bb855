#include <algorithm>
#include <random>

#include "transport/conformance.hpp"

namespace swiftbalancer {
namespace {

using Stress = TransportTest;
using Random = std::mt19937_64;

constexpr std::size_t kMessagesPerPair = 24;
constexpr auto kStressCanary = std::byte{0xc5};

/// What both sides know of a message between two ranks, drawn from the same seed.
struct Message {
  std::uint64_t seed;
  std::size_t bytes;
  Delivery delivery;
  bool given_up;  // both sides cancel it some time
};

std::vector<Message> messages_between(std::uint64_t seed, int from, int to) {
  Random random(seed * 1000003 + static_cast<std::uint64_t>(from) * 1009 +
                static_cast<std::uint64_t>(to));
  std::vector<Message> messages(kMessagesPerPair);
  for (Message& m : messages) {
    const std::size_t largest = random() % 4 == 0 ? 6 * kSmallRing : 300;
    m = {random(), random() % largest, random() % 2 == 0 ? Delivery::kEager : Delivery::kRendezvous,
         random() % 5 == 0};
  }
  return messages;
}

struct StressTransfer {
  Message message;
  std::uint64_t tag;
  int peer;
  bool sending;
  std::vector<std::byte> bytes;
  TransportHandle handle;
  int polls_left = 0;
  bool cancelled = false;
};

void post(Transport& t, StressTransfer& x) {
  x.handle = x.sending ? send(t, x.peer, x.tag, x.bytes, x.message.delivery)
                       : receive(t, x.peer, x.tag, x.bytes, x.message.delivery);
}

/// @returns true when the transfer is over.
bool advance(Transport& t, StressTransfer& x) {
  if (x.message.given_up && x.polls_left-- <= 0) {
    t.cancel(x.handle);
    x.cancelled = true;
    std::fill(x.bytes.begin(), x.bytes.end(), kStressCanary);
    return true;
  }
  const TransferStatus status = t.poll(x.handle);
  if (status.state == TransferState::kPending) return false;
  EXPECT_EQ(status.state, TransferState::kDone);
  EXPECT_EQ(status.bytes, x.message.bytes);
  return true;
}

void run_rank(Transport& t, std::uint64_t seed) {
  Random random(seed * 77 + static_cast<std::uint64_t>(t.rank()));
  std::vector<StressTransfer> transfers;
  for (int peer = 0; peer < t.num_ranks(); ++peer) {
    for (const bool sending : {true, false}) {
      const auto messages =
          sending ? messages_between(seed, t.rank(), peer) : messages_between(seed, peer, t.rank());
      for (std::size_t i = 0; i < messages.size(); ++i) {
        transfers.push_back({messages[i], i, peer, sending, {}, {}});
        transfers.back().bytes = sending ? pattern(messages[i].seed, messages[i].bytes)
                                         : std::vector<std::byte>(messages[i].bytes);
        transfers.back().polls_left = static_cast<int>(random() % 12);
      }
    }
  }
  std::shuffle(transfers.begin(), transfers.end(), random);
  std::vector<StressTransfer*> active;
  std::size_t posted = 0;
  const auto deadline = soon();
  while (posted < transfers.size() || !active.empty()) {
    for (std::size_t n = random() % 8; n > 0 && posted < transfers.size(); --n, ++posted) {
      post(t, transfers[posted]);
      active.push_back(&transfers[posted]);
    }
    std::erase_if(active, [&](StressTransfer* x) { return advance(t, *x); });
    const bool more_to_do =
        posted < transfers.size() ||
        std::any_of(
            active.begin(), active.end(), [](StressTransfer* x) { return x->message.given_up; });
    if (more_to_do || active.empty()) continue;
    const Status status = t.wait(deadline);
    ASSERT_TRUE(status.ok()) << status.message() << ", " << active.size() << " transfers left";
  }
  std::vector<std::byte> mine(1), out(static_cast<std::size_t>(t.num_ranks()));
  const Status status = wait_done(t, t.post_all_gather(1, mine, out), deadline);
  ASSERT_TRUE(status.ok()) << status.message();
  for (const StressTransfer& x : transfers) {
    const auto expected = x.cancelled ? std::vector<std::byte>(x.bytes.size(), kStressCanary)
                                      : pattern(x.message.seed, x.message.bytes);
    ASSERT_TRUE(x.bytes == expected)
        << (x.sending ? "send to " : "receive from ") << x.peer << ", tag " << x.tag;
  }
}

TEST_P(Stress, RandomTrafficWithRandomCancelsArrivesByteForByte) {
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    make();
    run([&](Transport& t) {
      SCOPED_TRACE("seed " + std::to_string(seed) + ", rank " + std::to_string(t.rank()));
      run_rank(t, seed);
    });
    if (HasFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(Transports, Stress, testing::ValuesIn(group_cases({1, 2, 3, 8})),
                         case_name);

}  // namespace
}  // namespace swiftbalancer
