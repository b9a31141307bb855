// Without memory: each allocation inside the transport fails once, in turn. The call that met it is
// repeated, and everything arrives once, whole and in its place. And steady traffic allocates
// nothing.
#include <algorithm>
#include <fstream>

#include "allocations.hpp"
#include "transport/conformance.hpp"
#include "transport/processes.hpp"

namespace swiftbalancer {
namespace {

using Memory = PairTest;
using testing_support::allocations;

constexpr std::size_t kLong = 5 * kSmallRing;  // in pieces, and more than a ring

/// Counts the allocations of calls, and lets one of them fail.
class Calls {
 public:
  /// @param failing number of the allocation that fails; 0: none.
  explicit Calls(std::uint64_t failing) : failing_(failing) {}
  bool has_failed() const { return failed_; }
  std::uint64_t made() const { return made_; }

  /// Calls, and calls again if memory was lacking.
  template <typename Call>
  auto operator()(Call call) {
    try {
      return once(call);
    } catch (const std::bad_alloc&) {
      failed_ = true;
      return once(call);
    }
  }
  template <typename Call>
  auto once(Call call) {
    const Armed armed(*this);
    return call();
  }

 private:
  class Armed {
   public:
    explicit Armed(Calls& calls) : calls_(calls) {
      const std::uint64_t left = calls_.failing_ - calls_.made_ - 1;
      allocations = {.made = calls_.made_,
                     .left = calls_.failing_ > calls_.made_ ? static_cast<std::int64_t>(left) : -1};
    }
    ~Armed() {
      calls_.made_ = allocations.made;
      allocations = {};
    }
    Armed(const Armed&) = delete;
    Armed& operator=(const Armed&) = delete;

   private:
    Calls& calls_;
  };

  std::uint64_t failing_, made_ = 0;
  bool failed_ = false;
};

struct Posted {
  Transport& transport;
  TransportHandle handle;
  TransferState state = TransferState::kPending;
};

/// Two of the ranks of a group and what they do; one thread drives both.
class Scenario {
 public:
  Scenario(Transport& a, Transport& b, Calls& calls) : a_(a), b_(b), calls_(calls) {}

  TransportHandle send(Transport& from, std::uint64_t tag, const std::vector<std::byte>& bytes,
                       Delivery delivery) {
    return calls_([&] { return swiftbalancer::send(from, other(from), tag, bytes, delivery); });
  }
  TransportHandle receive(Transport& to, std::uint64_t tag, std::vector<std::byte>& bytes,
                          Delivery delivery) {
    return calls_([&] { return swiftbalancer::receive(to, other(to), tag, bytes, delivery); });
  }
  TransferState poll(Transport& t, TransportHandle handle) {
    return calls_([&] { return t.poll(handle); }).state;
  }
  void cancel(Transport& t, TransportHandle handle) {  // never lacks memory
    EXPECT_NO_THROW(calls_.once([&] { t.cancel(handle); }));
  }
  /// Polls in turns, each operation until it is done.
  void poll_all(std::vector<Posted>& operations, int rounds) {
    for (int round = 0; round < rounds; ++round) {
      for (Posted& op : operations) {
        if (op.state == TransferState::kPending) op.state = poll(op.transport, op.handle);
      }
    }
  }
  void finish(std::vector<Posted> operations) {
    poll_all(operations, 1000);
    for (const Posted& op : operations) EXPECT_EQ(op.state, TransferState::kDone);
  }
  void expect_nothing_pending() {
    for (Transport* t : {&a_, &b_}) {
      const Status status = calls_([&] { return t->wait(soon(0)); });
      EXPECT_NE(status.message().find("pending with no rank"), std::string::npos)
          << status.message();
    }
  }

  void eager_messages();
  void receives_given_up_half_way();
  void rendezvous();
  void all_gathers();

 private:
  int other(const Transport& t) const { return t.rank() == a_.rank() ? b_.rank() : a_.rank(); }

  Transport &a_, &b_;
  Calls& calls_;
};

void Scenario::eager_messages() {
  std::vector<std::vector<std::byte>> messages, in;
  std::vector<TransportHandle> sent;
  for (std::uint64_t tag = 0; tag < 4; ++tag) {  // nobody has asked for the first three
    messages.push_back(pattern(tag, tag == 2 ? kLong : 100));
    in.emplace_back(messages.back().size());
  }
  std::vector<std::byte> last(messages[3].size());
  const auto received = receive(b_, 3, in[3], Delivery::kEager);
  for (std::uint64_t tag = 0; tag < 4; ++tag)
    sent.push_back(send(a_, tag, messages[tag], Delivery::kEager));
  finish({{a_, sent[3]}, {b_, received}});
  for (const std::size_t tag : {2U, 0U, 1U})
    finish({{a_, sent[tag]}, {b_, receive(b_, tag, in[tag], Delivery::kEager)}});
  EXPECT_EQ(in, messages);
}

// Messages begun without a receive go on into one, and back when it is given up.
void Scenario::receives_given_up_half_way() {
  for (const bool posted_first : {false, true}) {
    const auto message = pattern(11, kLong);
    std::vector<std::byte> given_up(kLong), in(kLong), never(8);
    const auto waits = receive(b_, 12, never, Delivery::kEager);  // makes b_ take what comes
    TransportHandle received;
    if (posted_first) received = receive(b_, 11, given_up, Delivery::kEager);
    const auto sent = send(a_, 11, message, Delivery::kEager);
    for (int i = 0; i < 2; ++i) {
      EXPECT_EQ(poll(b_, waits), TransferState::kPending);
      EXPECT_EQ(poll(a_, sent), TransferState::kPending);
    }
    if (!posted_first) received = receive(b_, 11, given_up, Delivery::kEager);
    EXPECT_EQ(poll(b_, received), TransferState::kPending);
    cancel(b_, received);
    std::ranges::fill(given_up, std::byte{0xc5});
    finish({{a_, sent}, {b_, receive(b_, 11, in, Delivery::kEager)}});
    EXPECT_EQ(in, message);
    EXPECT_EQ(given_up, std::vector<std::byte>(kLong, std::byte{0xc5}));
    cancel(b_, waits);
  }
}

void Scenario::rendezvous() {
  const auto message = pattern(21, kLong), second = pattern(22, kLong);
  std::vector<std::byte> given_up(kLong), in(kLong);
  // Both ends are given up once, each half way.
  const auto first_sent = send(a_, 21, message, Delivery::kRendezvous);
  const auto first_received = receive(b_, 21, given_up, Delivery::kRendezvous);
  EXPECT_EQ(poll(a_, first_sent), TransferState::kPending);
  EXPECT_EQ(poll(b_, first_received), TransferState::kPending);
  cancel(a_, first_sent);
  const auto sent = send(a_, 21, second, Delivery::kRendezvous);
  EXPECT_EQ(poll(a_, sent), TransferState::kPending);
  cancel(b_, first_received);
  finish({{a_, sent}, {b_, receive(b_, 21, in, Delivery::kRendezvous)}});
  EXPECT_EQ(in, second);
}

void Scenario::all_gathers() {
  const auto ranks = static_cast<std::size_t>(a_.num_ranks());
  std::vector<std::vector<std::byte>> mine, out(4, std::vector<std::byte>(kLong * ranks));
  for (std::uint64_t i = 0; i < 4; ++i) mine.push_back(pattern(30 + i, kLong));
  const auto post = [&](Transport& t, std::uint64_t tag, std::size_t i) {
    return calls_([&] { return t.post_all_gather(tag, mine[i], out[i]); });
  };
  // The second comes before it is posted, and unasked, as b_ waits for the first only.
  std::vector<Posted> gathers;
  gathers.push_back({b_, post(b_, 31, 0)});
  gathers.push_back({a_, post(a_, 32, 1)});
  gathers.push_back({a_, post(a_, 31, 2)});
  poll_all(gathers, 20);
  gathers.push_back({b_, post(b_, 32, 3)});
  finish(gathers);
  const auto at = [&](std::size_t i, const Transport& t) {
    const auto begin =
        out[i].begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(t.rank()) * kLong);
    return std::vector<std::byte>(begin, begin + kLong);
  };
  EXPECT_EQ(at(0, a_), mine[2]);
  EXPECT_EQ(at(2, b_), mine[0]);
  EXPECT_EQ(at(3, a_), mine[1]);
  EXPECT_EQ(at(1, b_), mine[3]);
}

TEST_P(Memory, LackedOnceAnywhereLosesAndDoublesNothing) {
  std::uint64_t failing = 1;
  for (;; ++failing) {
    SCOPED_TRACE("allocation " + std::to_string(failing));
    make();
    Calls calls(failing);
    Scenario scenario(at(0), at(1), calls);
    for (int round = 0; round < 2; ++round) {
      scenario.eager_messages();
      scenario.receives_given_up_half_way();
      scenario.rendezvous();
      scenario.all_gathers();
      scenario.expect_nothing_pending();
    }
    if (HasFailure() || !calls.has_failed()) break;
  }
  EXPECT_GT(failing, 40U);
}

TEST_P(Memory, LackedInWaitDoneGivesTheOperationUp) {
  make();
  for (std::uint64_t failing = 1;; ++failing) {
    SCOPED_TRACE("allocation " + std::to_string(failing));
    std::vector<std::byte> in(8);
    const auto received = receive(at(0), 1, 1, in, Delivery::kEager);
    Calls calls(failing);
    bool failed = false;
    try {
      calls.once([&] { EXPECT_FALSE(wait_done(at(0), received, soon(0)).ok()); });
    } catch (const std::bad_alloc&) {
      failed = true;
    }
    const Status status = at(0).wait(soon(0));
    EXPECT_NE(status.message().find("pending with no rank"), std::string::npos) << status.message();
    if (!failed) break;
  }
}

TEST_P(Memory, SteadyTrafficNeedsNone) {
  make(std::size_t{1} << 14);
  const auto message = pattern(1, 1000);
  std::vector<std::byte> in(1000), bulk(1000), out(2000), others(2000);
  Calls calls(0);
  std::uint64_t warm = 0;
  for (std::uint64_t round = 0; round < 50; ++round) {
    if (round == 10) warm = calls.made();
    calls([&] {
      // The eager message and the contribution of one rank are there before they are asked for.
      const auto waits = receive(at(1), 0, 3, bulk, Delivery::kRendezvous);
      const auto eager = send(at(0), 1, 1, message, Delivery::kEager);
      const auto gather = at(0).post_all_gather(2, message, out);
      const auto copy = send(at(0), 1, 3, message, Delivery::kRendezvous);
      const auto ignored = receive(at(1), 0, 4, in, Delivery::kEager);
      for (int i = 0; i < 4; ++i) {
        at(1).poll(ignored);
        at(0).poll(gather);
      }
      at(1).cancel(ignored);
      at(0).cancel(eager);
      at(0).cancel(copy);
      const auto received = receive(at(1), 0, 1, in, Delivery::kEager);
      const auto other = at(1).post_all_gather(2, message, others);
      EXPECT_EQ(at(1).poll(received).state, TransferState::kDone);
      EXPECT_EQ(at(1).poll(waits).state, TransferState::kDone);
      EXPECT_EQ(at(1).poll(other).state, TransferState::kDone);
      EXPECT_EQ(at(0).poll(gather).state, TransferState::kDone);
    });
  }
  EXPECT_EQ(in, message);
  EXPECT_GT(warm, 0U);
  EXPECT_EQ(calls.made(), warm);
}

TEST_P(Memory, LackedWhileAGroupIsMadeLeavesNoGroup) {
  for (std::uint64_t failing = 1;; ++failing) {
    SCOPED_TRACE("allocation " + std::to_string(failing));
    Calls calls(failing);
    const TestGroup group = calls([&] { return GetParam().kind.make(num_ranks(), kSmallRing); });
    ASSERT_EQ(group.ranks.size(), static_cast<std::size_t>(num_ranks()));
    if (!calls.has_failed()) break;
  }
  std::size_t mappings = 0;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);)
    mappings += line.find("/dev/shm/swiftbalancer.") != std::string::npos ? 1 : 0;
  EXPECT_EQ(mappings, 0U);
  EXPECT_TRUE(names_of(::getpid()).empty());
}

INSTANTIATE_TEST_SUITE_P(Transports, Memory, testing::ValuesIn(group_cases({2})), case_name);

}  // namespace
}  // namespace swiftbalancer
