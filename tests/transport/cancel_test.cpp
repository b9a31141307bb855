#include <algorithm>

#include "transport/conformance.hpp"

namespace swiftbalancer {
namespace {

using Cancel = PairTest;

constexpr std::size_t kBytes =
    4 * kSmallRing;          // more than a ring: several stages in which it is half transferred
constexpr int kStages = 24;  // polls, alternately on both sides; more than a whole transfer needs
constexpr auto kCanary = std::byte{0xc5};

bool untouched(const std::vector<std::byte>& bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == kCanary; });
}

class Transfer {
 public:
  Transfer(Transport& from, Transport& to, Delivery delivery)
      : from_(from), to_(to), delivery_(delivery) {}
  void post_send() { sent = send(from_, to_.rank(), 1, out, delivery_); }
  void post_recv() { received = receive(to_, from_.rank(), 1, in, delivery_); }
  /// One poll, alternately on both sides.
  void step() {
    if (turn_++ % 2 == 0) {
      if (sent && from_.poll(sent).state != TransferState::kPending) sent = {};
    } else if (received && to_.poll(received).state != TransferState::kPending) {
      received = {};
    }
  }
  void go_on() {
    for (int i = 0; i < 4 * kStages; ++i) step();
  }

  std::vector<std::byte> out = pattern(1, kBytes), in = std::vector<std::byte>(kBytes);
  TransportHandle sent, received;

 private:
  Transport &from_, &to_;
  Delivery delivery_;
  int turn_ = 0;
};

TEST_P(Cancel, OfASendAtEveryStageLeavesItsBufferAndTheReceiveToTheNextSend) {
  for (const Delivery delivery : {Delivery::kEager, Delivery::kRendezvous}) {
    int cancelled = 0;
    for (int stage = 0; stage < kStages; ++stage) {
      SCOPED_TRACE("stage " + std::to_string(stage));
      make();
      Transfer transfer(at(0), at(1), delivery);
      if (stage % 2 == 0) transfer.post_recv();
      transfer.post_send();
      if (stage % 2 == 1) transfer.post_recv();
      for (int i = 0; i < stage; ++i) transfer.step();
      auto expected = transfer.out;
      if (transfer.sent) {
        ++cancelled;
        at(0).cancel(transfer.sent);
        transfer.sent = {};
        std::fill(transfer.out.begin(), transfer.out.end(), kCanary);
        transfer.go_on();
        EXPECT_TRUE(transfer.received) << "a receive was completed by a send that was given up";
        transfer.out = expected = pattern(2, kBytes - 1);
        transfer.post_send();
      }
      transfer.go_on();
      EXPECT_FALSE(transfer.sent || transfer.received);
      transfer.in.resize(expected.size());
      EXPECT_EQ(transfer.in, expected);
    }
    EXPECT_GT(cancelled, 4);
  }
}

TEST_P(Cancel, OfAReceiveAtEveryStageLeavesItsBufferAndTheSendToTheNextReceive) {
  for (const Delivery delivery : {Delivery::kEager, Delivery::kRendezvous}) {
    int cancelled = 0;
    for (int stage = 0; stage < kStages; ++stage) {
      SCOPED_TRACE("stage " + std::to_string(stage));
      make();
      Transfer transfer(at(0), at(1), delivery);
      if (stage % 2 == 0) transfer.post_recv();
      transfer.post_send();
      if (stage % 2 == 1) transfer.post_recv();
      for (int i = 0; i < stage; ++i) transfer.step();
      if (transfer.received) {
        ++cancelled;
        at(1).cancel(transfer.received);
        transfer.received = {};
        auto given_up = std::move(transfer.in);
        std::fill(given_up.begin(), given_up.end(), kCanary);
        transfer.in.assign(kBytes, std::byte{0});
        // With all of a rendezvous pushed there is nothing left to receive: the next send is what
        // arrives.
        if (delivery == Delivery::kRendezvous && !transfer.sent) transfer.post_send();
        transfer.post_recv();
        transfer.go_on();
        EXPECT_TRUE(untouched(given_up));
      }
      transfer.go_on();
      EXPECT_FALSE(transfer.sent || transfer.received);
      EXPECT_EQ(transfer.in, transfer.out);
    }
    EXPECT_GT(cancelled, 4);
  }
}

TEST_P(Cancel, OfBothSidesAtEveryStageLeavesThePairUsable) {
  for (const Delivery delivery : {Delivery::kEager, Delivery::kRendezvous}) {
    for (int stage = 0; stage < kStages; ++stage) {
      SCOPED_TRACE("stage " + std::to_string(stage));
      make();
      Transfer transfer(at(0), at(1), delivery);
      transfer.post_send();
      transfer.post_recv();
      for (int i = 0; i < stage; ++i) transfer.step();
      if (!transfer.sent)
        continue;  // delivered: an eager message would be kept for the next receive
      if (stage % 3 == 0) at(1).cancel(transfer.received);
      at(0).cancel(transfer.sent);
      if (stage % 3 != 0) at(1).cancel(transfer.received);
      auto given_up = std::move(transfer.in);
      std::fill(given_up.begin(), given_up.end(), kCanary);
      transfer.out = pattern(3, kBytes);
      transfer.in.assign(kBytes, std::byte{0});
      transfer.post_recv();
      transfer.post_send();
      transfer.go_on();
      EXPECT_FALSE(transfer.sent || transfer.received);
      EXPECT_EQ(transfer.in, transfer.out);
      EXPECT_TRUE(untouched(given_up));
    }
  }
}

TEST_P(Cancel, OfAnAllGatherAtEveryStageTouchesNothingAfterwards) {
  for (int stage = 0; stage < kStages; ++stage) {
    SCOPED_TRACE("stage " + std::to_string(stage));
    make();
    const auto ranks = static_cast<std::size_t>(num_ranks());
    auto mine = pattern(1, kBytes), others = pattern(2, kBytes);
    std::vector<std::byte> out(kBytes * ranks), others_out(kBytes * ranks);
    const auto gather = at(0).post_all_gather(1, mine, out);
    const auto other = at(1).post_all_gather(1, others, others_out);
    bool done = false;
    for (int i = 0; i < stage && !done; ++i) {
      if (i % 2 == 0) done = at(0).poll(gather).state != TransferState::kPending;
      if (i % 2 == 1 && at(1).poll(other).state != TransferState::kPending) break;
    }
    if (done) break;
    at(0).cancel(gather);
    std::fill(out.begin(), out.end(), kCanary);
    std::fill(mine.begin(), mine.end(), kCanary);
    Transfer transfer(at(1), at(0),
                      Delivery::kEager);  // behind the contributions, the pair goes on
    transfer.post_send();
    transfer.post_recv();
    transfer.go_on();
    EXPECT_EQ(transfer.in, transfer.out);
    EXPECT_TRUE(untouched(out));
    at(1).cancel(other);
  }
}

INSTANTIATE_TEST_SUITE_P(Transports, Cancel, testing::ValuesIn(group_cases({2, 3})), case_name);

}  // namespace
}  // namespace swiftbalancer
