#include "transport/conformance.hpp"

namespace swiftbalancer {
namespace {

using Messages = TransportTest;
using Pair = PairTest;

constexpr Delivery kDeliveries[] = {Delivery::kEager, Delivery::kRendezvous};
constexpr std::size_t kSizes[] = {0, 1, 7, 500, kSmallRing, 10 * kSmallRing + 3};

const char* name_of(Delivery delivery) {
  return delivery == Delivery::kEager ? "eager" : "rendezvous";
}

TEST_P(Messages, ArriveWhetherSendOrReceiveIsPostedFirst) {
  make();
  const int from = 0, to = num_ranks() - 1;  // with one rank: to oneself
  std::uint64_t tag = 0;
  for (const Delivery delivery : kDeliveries) {
    for (const std::size_t bytes : kSizes) {
      for (const bool send_first : {true, false}) {
        SCOPED_TRACE(std::string(name_of(delivery)) + ", " + std::to_string(bytes) +
                     " bytes, send first " + std::to_string(send_first));
        const auto message = pattern(++tag, bytes);
        std::vector<std::byte> in(bytes);
        TransportHandle sent, received;
        if (send_first) {
          sent = send(at(from), to, tag, message, delivery);
          const bool early = at(from).poll(sent).state == TransferState::kDone;
          EXPECT_EQ(early, delivery == Delivery::kEager && (bytes < kSmallRing / 2 || to == from));
          if (early) sent = {};
        }
        received = receive(at(to), from, tag, in, delivery);
        if (!send_first) {
          EXPECT_EQ(at(to).poll(received).state, TransferState::kPending);
          sent = send(at(from), to, tag, message, delivery);
        }
        TransferStatus status;
        for (int i = 0; i < 1000 && (sent || status.state == TransferState::kPending); ++i) {
          if (status.state == TransferState::kPending) status = at(to).poll(received);
          if (sent && at(from).poll(sent).state == TransferState::kDone) sent = {};
        }
        EXPECT_EQ(status.state, TransferState::kDone);
        EXPECT_EQ(status.bytes, bytes);
        EXPECT_FALSE(sent);
        EXPECT_EQ(in, message);
      }
    }
  }
}

TEST_P(Messages, AreScatteredIntoPartsCutDifferently) {
  make();
  const int from = num_ranks() - 1, to = 0;
  for (const Delivery delivery : kDeliveries) {
    const auto message = pattern(9, 5000);
    const std::span<const std::byte> all(message);
    const std::span<const std::byte> sources[] = {all.first(1), all.subspan(1, 0),
                                                  all.subspan(1, 2999), all.subspan(3000)};
    std::vector<std::byte> a(2000), b(0), c(1), d(4000, std::byte{0x55});
    const std::span<std::byte> targets[] = {a, b, c, d};
    const auto sent = at(from).post_send(to, 1, sources, delivery);
    const auto received = at(to).post_recv(from, 1, targets, delivery);
    TransferStatus status;
    for (int i = 0; i < 1000 && status.state == TransferState::kPending; ++i) {
      status = at(to).poll(received);
      if (from != to) at(from).poll(sent);
    }
    ASSERT_EQ(status.state, TransferState::kDone);
    EXPECT_EQ(status.bytes, message.size());
    a.insert(a.end(), c.begin(), c.end());
    a.insert(a.end(), d.begin(), d.begin() + 2999);
    EXPECT_EQ(a, message);
    EXPECT_EQ(d[2999], std::byte{0x55}) << "wrote beyond the message";
    at(from).cancel(sent);
  }
}

TEST_P(Messages, ManyAreInFlightBetweenAllRanksAtOnce) {
  make();
  constexpr std::uint64_t kPerPair = 12;
  run([&](Transport& t) {
    struct Transfer {
      TransportHandle handle;
      std::vector<std::byte> bytes, expected;
    };
    std::vector<Transfer> transfers;
    const auto ranks = static_cast<std::uint64_t>(num_ranks());
    for (std::uint64_t tag = 0; tag < kPerPair; ++tag) {
      for (int peer = 0; peer < num_ranks(); ++peer) {
        const auto me = static_cast<std::uint64_t>(t.rank()),
                   other = static_cast<std::uint64_t>(peer);
        const std::size_t bytes = tag * 311;
        transfers.push_back({{}, pattern((me * ranks + other) * kPerPair + tag, bytes), {}});
        transfers.push_back({{},
                             std::vector<std::byte>(bytes),
                             pattern((other * ranks + me) * kPerPair + tag, bytes)});
      }
    }
    // Receives are posted in the opposite order of tags.
    for (std::size_t i = 0; i < transfers.size(); i += 2) {
      const std::size_t pair = i / 2, tag = pair / ranks;
      const auto peer = static_cast<int>(pair % ranks);
      const std::size_t back = ((kPerPair - 1 - tag) * ranks + pair % ranks) * 2 + 1;
      transfers[i].handle = send(t, peer, tag, transfers[i].bytes,
                                 tag % 2 == 0 ? Delivery::kEager : Delivery::kRendezvous);
      const std::uint64_t back_tag = kPerPair - 1 - tag;
      transfers[back].handle =
          receive(t, peer, back_tag, transfers[back].bytes,
                  back_tag % 2 == 0 ? Delivery::kEager : Delivery::kRendezvous);
    }
    for (std::size_t i = 0; i < transfers.size(); ++i) {
      const Status status = wait_done(t, transfers[i].handle, soon());
      ASSERT_TRUE(status.ok()) << status.message();
      if (i % 2 == 1) {
        EXPECT_EQ(transfers[i].bytes, transfers[i].expected);
      }
    }
  });
}

TEST_P(Messages, OfARankToItselfAreDeliveredBothWays) {
  make();
  run([&](Transport& t) {
    for (const Delivery delivery : kDeliveries) {
      const auto message = pattern(3, 5 * kSmallRing);
      std::vector<std::byte> in(message.size());
      const auto sent = send(t, t.rank(), 4, message, delivery);
      const auto received = receive(t, t.rank(), 4, in, delivery);
      ASSERT_TRUE(wait_done(t, received, soon()).ok());
      ASSERT_TRUE(wait_done(t, sent, soon()).ok());
      EXPECT_EQ(in, message);
    }
  });
}

TEST_P(Messages, RefusePeersThatDoNotExist) {
  make();
  std::vector<std::byte> bytes(4);
  for (const int peer : {-1, num_ranks()}) {
    EXPECT_THROW(send(at(0), peer, 1, bytes, Delivery::kEager), Error);
    EXPECT_THROW(receive(at(0), peer, 1, bytes, Delivery::kEager), Error);
  }
}

TEST_P(Pair, ReceiveThatIsTooSmallFailsAndTouchesNothing) {
  make();
  for (const bool send_first : {true, false}) {
    for (const Delivery delivery : kDeliveries) {
      SCOPED_TRACE(std::string(name_of(delivery)) + ", send first " + std::to_string(send_first));
      const auto message = pattern(1, 101);
      std::vector<std::byte> in(100, std::byte{0x77});
      TransportHandle sent, received;
      if (send_first) sent = send(at(0), 1, 1, message, delivery);
      if (send_first) at(1).poll({});
      received = receive(at(1), 0, 1, in, delivery);
      if (!send_first) sent = send(at(0), 1, 1, message, delivery);
      const auto [s, r] = drive(at(0), sent, at(1), received);
      EXPECT_EQ(r.state, TransferState::kFailed);
      EXPECT_EQ(s.state,
                delivery == Delivery::kEager ? TransferState::kDone : TransferState::kFailed);
      EXPECT_EQ(in, std::vector<std::byte>(100, std::byte{0x77}));
      // The pair goes on.
      in.resize(101);
      sent = send(at(0), 1, 1, message, delivery);
      EXPECT_EQ(drive(at(0), sent, at(1), receive(at(1), 0, 1, in, delivery)).second.state,
                TransferState::kDone);
      EXPECT_EQ(in, message);
    }
  }
}

TEST_P(Pair, SameTagIsReceivedInTheOrderSent) {
  make();
  for (const Delivery delivery : kDeliveries) {
    const auto first = pattern(1, 3000), second = pattern(2, 10);
    std::vector<std::byte> in1(3000), in2(3000);
    const auto s1 = send(at(0), 1, 1, first, delivery), s2 = send(at(0), 1, 1, second, delivery);
    const auto r1 = receive(at(1), 0, 1, in1, delivery), r2 = receive(at(1), 0, 1, in2, delivery);
    EXPECT_EQ(drive(at(0), s1, at(1), r1).second.bytes, 3000U);
    EXPECT_EQ(drive(at(0), s2, at(1), r2).second.bytes, 10U);
    EXPECT_EQ(in1, first);
  }
}

TEST_P(Pair, RendezvousSendWaitsForItsReceiveAndDoesNotBlockOthers) {
  make();
  const auto bulk = pattern(1, 5 * kSmallRing), other = pattern(2, 5 * kSmallRing);
  const auto stalled = send(at(0), 1, 1, bulk, Delivery::kRendezvous);
  const auto sent = send(at(0), 1, 2, other, Delivery::kRendezvous);
  std::vector<std::byte> in(other.size());
  EXPECT_EQ(drive(at(0), sent, at(1), receive(at(1), 0, 2, in, Delivery::kRendezvous)).second.state,
            TransferState::kDone);
  EXPECT_EQ(in, other);
  EXPECT_EQ(at(0).poll(stalled).state, TransferState::kPending);
  EXPECT_EQ(
      drive(at(0), stalled, at(1), receive(at(1), 0, 1, in, Delivery::kRendezvous)).second.state,
      TransferState::kDone);
  EXPECT_EQ(in, bulk);
}

TEST_P(Pair, HandleIsForgottenOnceReported) {
  make();
  const auto message = pattern(1, 10);
  const auto sent = send(at(0), 1, 1, message, Delivery::kEager);
  EXPECT_EQ(at(0).poll(sent).state, TransferState::kDone);
  EXPECT_EQ(at(0).poll(sent).state, TransferState::kFailed);
  const auto next = send(at(0), 1, 2, message, Delivery::kEager);
  EXPECT_NE(next.id, sent.id);
  at(0).cancel(sent);  // an old name does not reach the new operation
  EXPECT_EQ(at(0).poll(next).state, TransferState::kDone);
}

INSTANTIATE_TEST_SUITE_P(Transports, Messages, testing::ValuesIn(group_cases({1, 2, 3, 8})),
                         case_name);
INSTANTIATE_TEST_SUITE_P(Transports, Pair, testing::ValuesIn(group_cases({2, 3})), case_name);

}  // namespace
}  // namespace swiftbalancer
