#include <latch>

#include "transport/conformance.hpp"

namespace swiftbalancer {
namespace {

using Waiting = PairTest;
using namespace std::chrono_literals;

TEST_P(Waiting, EndsAtTheDeadlineAndNamesTheRankThatIsMissing) {
  make();
  std::vector<std::byte> in(8);
  const auto received = receive(at(0), 1, 1, in, Delivery::kEager);
  const auto deadline = soon(30);
  const Status status = at(0).wait(deadline);
  EXPECT_EQ(status.code(), ErrorCode::kTimeout);
  EXPECT_NE(status.message().find("rank 1"), std::string::npos) << status.message();
  EXPECT_GE(std::chrono::steady_clock::now(), deadline);
  EXPECT_EQ(wait_done(at(0), received, soon(1)).code(), ErrorCode::kTimeout);
  EXPECT_EQ(at(0).poll(received).state, TransferState::kFailed) << "wait_done cancels";
  EXPECT_EQ(at(0).wait(std::chrono::steady_clock::time_point::min()).code(), ErrorCode::kTimeout);
}

TEST_P(Waiting, EndsWhenAMessageArrives) {
  make();
  for (const Delivery delivery : {Delivery::kEager, Delivery::kRendezvous}) {
    const auto message = pattern(1, 10 * kSmallRing);
    std::vector<std::byte> in(message.size());
    std::latch receiving(1);
    std::jthread sender([&] {
      receiving.wait();
      EXPECT_TRUE(wait_done(at(0), send(at(0), 1, 1, message, delivery), soon()).ok());
    });
    const auto received = receive(at(1), 0, 1, in, delivery);
    receiving.count_down();
    const Status status = wait_done(at(1), received, soon());
    EXPECT_TRUE(status.ok()) << status.message();
    EXPECT_EQ(in, message);
  }
}

TEST_P(Waiting, SleepsUntilExchangesOfAllWithAllAreDone) {
  make();
  run([&](Transport& t) {
    for (std::uint64_t round = 0; round < 50; ++round) {
      const auto ranks = static_cast<std::size_t>(num_ranks());
      const auto message = pattern(round * 100 + static_cast<std::uint64_t>(t.rank()), round * 40);
      std::vector<std::vector<std::byte>> in(ranks, std::vector<std::byte>(message.size()));
      std::vector<TransportHandle> handles;
      for (int peer = 0; peer < num_ranks(); ++peer) {
        const Delivery delivery = round % 3 == 0 ? Delivery::kRendezvous : Delivery::kEager;
        handles.push_back(receive(t, peer, round, in[static_cast<std::size_t>(peer)], delivery));
        handles.push_back(send(t, peer, round, message, delivery));
      }
      const auto deadline = soon();
      while (!handles.empty()) {
        std::erase_if(handles, [&](TransportHandle handle) {
          return t.poll(handle).state == TransferState::kDone;
        });
        if (handles.empty()) break;
        const Status status = t.wait(deadline);
        ASSERT_TRUE(status.ok()) << status.message();
      }
      for (std::size_t peer = 0; peer < ranks; ++peer)
        ASSERT_EQ(in[peer], pattern(round * 100 + peer, round * 40));
    }
  });
}

TEST_P(Waiting, IsEndedByWakeFromAnotherThread) {
  make();
  std::vector<std::byte> in(8);
  const auto received = receive(at(0), 1, 1, in, Delivery::kEager);
  at(0).wake();
  EXPECT_TRUE(at(0).wait(soon()).ok()) << "a wake before the wait is remembered";
  EXPECT_EQ(at(0).wait(soon(1)).code(), ErrorCode::kTimeout) << "but ends one wait only";
  for (int i = 0; i < 200; ++i) {
    std::jthread other([&] { at(0).wake(); });
    EXPECT_TRUE(at(0).wait(soon()).ok());
  }
  EXPECT_EQ(at(0).poll(received).state, TransferState::kPending);
}

TEST_P(Waiting, DeliversWhatAClosedPeerHadSentAndThenReportsTheLoss) {
  make();
  const auto message = pattern(1, 200);
  send(at(0), 1, 1, message, Delivery::kEager);
  close(0);
  std::vector<std::byte> in(200), never(200);
  EXPECT_TRUE(wait_done(at(1), receive(at(1), 0, 1, in, Delivery::kEager), soon()).ok());
  EXPECT_EQ(in, message);
  EXPECT_EQ(at(1).lost_peers(), std::vector<int>{0});
  EXPECT_EQ(at(1).wait(soon(1)).code(), ErrorCode::kTimeout)
      << "no operation depends on the closed rank";
  for (const Delivery delivery : {Delivery::kEager, Delivery::kRendezvous}) {
    const Status status = wait_done(at(1), receive(at(1), 0, 2, never, delivery), soon());
    EXPECT_EQ(status.code(), ErrorCode::kPeerLost);
    EXPECT_NE(status.message().find("rank 0"), std::string::npos) << status.message();
  }
  EXPECT_EQ(wait_done(at(1), send(at(1), 0, 3, message, Delivery::kRendezvous), soon()).code(),
            ErrorCode::kPeerLost);
  const auto too_much = pattern(1, 3 * kSmallRing);
  EXPECT_EQ(wait_done(at(1), send(at(1), 0, 3, too_much, Delivery::kEager), soon()).code(),
            ErrorCode::kPeerLost);
  std::vector<std::byte> out(200 * static_cast<std::size_t>(num_ranks()));
  EXPECT_EQ(wait_done(at(1), at(1).post_all_gather(4, message, out), soon()).code(),
            ErrorCode::kPeerLost);
}

TEST_P(Waiting, EndsWhenAPeerClosesMeanwhile) {
  make();
  std::latch waiting(1);
  std::jthread closing([&] {
    waiting.wait();
    close(0);
  });
  std::vector<std::byte> out(8 * static_cast<std::size_t>(num_ranks())), mine(8);
  const auto gather = at(1).post_all_gather(1, mine, out);
  waiting.count_down();
  // The closing rank never contributed; with three ranks the third has not either.
  const Status status = at(1).wait(soon());
  EXPECT_EQ(status.code(), ErrorCode::kPeerLost) << status.message();
  EXPECT_NE(status.message().find("rank 0 (closed)"), std::string::npos) << status.message();
  at(1).cancel(gather);
}

TEST_P(Waiting, IsNotEndedByAnOldResultThatNobodyAskedFor) {
  make();
  const auto message = pattern(1, 8);
  std::vector<std::byte> in(8), never(8);
  const auto received = receive(at(1), 0, 1, in, Delivery::kEager);
  const auto pending = receive(at(1), 0, 2, never, Delivery::kEager);
  send(at(0), 1, 1, message, Delivery::kEager);
  EXPECT_TRUE(at(1).wait(soon()).ok());
  EXPECT_EQ(at(1).wait(soon(1)).code(), ErrorCode::kTimeout) << "it would spin";
  EXPECT_EQ(at(1).poll(received).state, TransferState::kDone);
  at(1).cancel(pending);
}

INSTANTIATE_TEST_SUITE_P(Transports, Waiting, testing::ValuesIn(group_cases({2, 3})), case_name);

}  // namespace
}  // namespace swiftbalancer
