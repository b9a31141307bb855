#include <algorithm>
#include <numeric>

#include "transport/conformance.hpp"

namespace swiftbalancer {
namespace {

using AllGather = TransportTest;

void expect_gathered(const std::vector<std::byte>& out, std::uint64_t tag, std::size_t bytes,
                     int num_ranks) {
  for (int r = 0; r < num_ranks; ++r) {
    const auto begin =
        out.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(r) * bytes);
    EXPECT_EQ(std::vector<std::byte>(begin, begin + static_cast<std::ptrdiff_t>(bytes)),
              pattern(tag * 1000 + static_cast<std::uint64_t>(r), bytes))
        << "tag " << tag << ", contribution of rank " << r;
  }
}

TEST_P(AllGather, CollectsEveryRanksContributionWhateverItsSize) {
  make();
  run([&](Transport& t) {
    std::uint64_t tag = 0;
    for (const std::size_t bytes : {std::size_t{0}, std::size_t{1}, std::size_t{100},
                                    std::size_t{4096}, 3 * kSmallRing + 5}) {
      ++tag;
      const auto mine = pattern(tag * 1000 + static_cast<std::uint64_t>(t.rank()), bytes);
      std::vector<std::byte> out(bytes * static_cast<std::size_t>(num_ranks()));
      std::size_t reported = 1;
      const Status status = wait_done(t, t.post_all_gather(tag, mine, out), soon(), &reported);
      ASSERT_TRUE(status.ok()) << status.message();
      EXPECT_EQ(reported, out.size());
      expect_gathered(out, tag, bytes, num_ranks());
    }
  });
}

TEST_P(AllGather, KeepsTagsApartWhenRanksPostThemInDifferentOrder) {
  make();
  constexpr std::size_t kTags = 6, kBytes = 300;
  run([&](Transport& t) {
    std::vector<std::size_t> order(kTags);
    std::iota(order.begin(), order.end(), 0U);
    std::rotate(order.begin(), order.begin() + t.rank() % static_cast<int>(kTags), order.end());
    if (t.rank() % 2 == 1) std::reverse(order.begin(), order.end());
    std::vector<std::vector<std::byte>> mine(kTags), out(kTags);
    std::vector<TransportHandle> handles(kTags);
    for (const std::size_t tag : order) {
      mine[tag] = pattern(tag * 1000 + static_cast<std::uint64_t>(t.rank()), kBytes);
      out[tag].resize(kBytes * static_cast<std::size_t>(num_ranks()));
      handles[tag] = t.post_all_gather(tag, mine[tag], out[tag]);
    }
    for (std::size_t tag = 0; tag < kTags; ++tag) {
      const Status status = wait_done(t, handles[tag], soon());
      ASSERT_TRUE(status.ok()) << status.message();
      expect_gathered(out[tag], tag, kBytes, num_ranks());
    }
  });
}

TEST_P(AllGather, UsesOtherTagsThanMessages) {
  make();
  run([&](Transport& t) {
    constexpr std::uint64_t kTag = 7;
    const int next = (t.rank() + 1) % num_ranks(),
              previous = (t.rank() + num_ranks() - 1) % num_ranks();
    const auto message = pattern(static_cast<std::uint64_t>(t.rank()), 8);
    const auto mine = pattern(kTag * 1000 + static_cast<std::uint64_t>(t.rank()), 8);
    std::vector<std::byte> in(8), out(8 * static_cast<std::size_t>(num_ranks()));
    const auto sent = send(t, next, kTag, message, Delivery::kEager);
    const auto gathered = t.post_all_gather(kTag, mine, out);
    const auto received = receive(t, previous, kTag, in, Delivery::kEager);
    for (const TransportHandle handle : {gathered, received, sent})
      ASSERT_TRUE(wait_done(t, handle, soon()).ok());
    EXPECT_EQ(in, pattern(static_cast<std::uint64_t>(previous), 8));
    expect_gathered(out, kTag, 8, num_ranks());
  });
}

TEST_P(AllGather, IsNotHeldUpByRendezvousTransfersThatNobodyReceives) {
  make();
  run([&](Transport& t) {
    const auto bulk = pattern(1, 20 * kSmallRing);
    std::vector<TransportHandle> stalled;
    for (int to = 0; to < num_ranks(); ++to) {
      for (std::uint64_t tag = 0; tag < 3; ++tag)
        stalled.push_back(send(t, to, tag, bulk, Delivery::kRendezvous));
    }
    const auto mine = pattern(5000 + static_cast<std::uint64_t>(t.rank()), 64);
    std::vector<std::byte> out(64 * static_cast<std::size_t>(num_ranks()));
    const Status status = wait_done(t, t.post_all_gather(5, mine, out), soon());
    ASSERT_TRUE(status.ok()) << status.message();
    expect_gathered(out, 5, 64, num_ranks());
    for (const TransportHandle handle : stalled) {
      EXPECT_EQ(t.poll(handle).state, TransferState::kPending);
      t.cancel(handle);
    }
  });
}

TEST_P(AllGather, FailsWhenAContributionHasAnotherSize) {
  make();
  if (num_ranks() == 1) return;  // there is no other contribution
  std::vector<std::byte> small(8), large(16);
  std::vector<std::byte> out(8 * static_cast<std::size_t>(num_ranks())),
      large_out(16 * static_cast<std::size_t>(num_ranks()));
  const auto mine = at(0).post_all_gather(1, small, out);
  const auto other = at(1).post_all_gather(1, large, large_out);
  EXPECT_EQ(at(0).poll(mine).state, TransferState::kFailed);
  at(1).cancel(other);
  EXPECT_THROW(at(0).post_all_gather(2, small, large_out), Error);
}

INSTANTIATE_TEST_SUITE_P(Transports, AllGather, testing::ValuesIn(group_cases({1, 2, 3, 8})),
                         case_name);

}  // namespace
}  // namespace swiftbalancer
