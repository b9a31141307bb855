// What only ranks in processes can show: fork, kill, names in /dev/shm, permissions, no CPU while
// waiting.
#include <algorithm>
#include <ctime>

#include <fcntl.h>
#include <sys/stat.h>

#include "transport/conformance.hpp"
#include "transport/processes.hpp"
#include "transport/region.hpp"

namespace swiftbalancer {
namespace {

namespace fs = std::filesystem;

std::string exchange_with_all(Transport& t, std::uint64_t round) {
  const auto ranks = static_cast<std::size_t>(t.num_ranks());
  const auto message = pattern(round * 64 + static_cast<std::uint64_t>(t.rank()), 700 * round);
  std::vector<std::vector<std::byte>> in(ranks, std::vector<std::byte>(message.size()));
  std::vector<TransportHandle> handles;
  for (int peer = 0; peer < t.num_ranks(); ++peer) {
    const Delivery delivery = round % 2 == 0 ? Delivery::kEager : Delivery::kRendezvous;
    handles.push_back(receive(t, peer, round, in[static_cast<std::size_t>(peer)], delivery));
    handles.push_back(send(t, peer, round, message, delivery));
  }
  for (const TransportHandle handle : handles) {
    if (const Status status = wait_done(t, handle, soon()); !status.ok()) return status.message();
  }
  for (std::size_t peer = 0; peer < ranks; ++peer) {
    if (in[peer] != pattern(round * 64 + peer, 700 * round))
      return "wrong bytes from rank " + std::to_string(peer);
  }
  return {};
}

TEST(Shm, CarriesTrafficBetweenForkedProcesses) {
  constexpr int kRanks = 5;
  ShmGroup group(name_for("fork"), kRanks, {4096});
  std::vector<Child> children;
  for (int rank = 0; rank < kRanks; ++rank) {
    children.emplace_back([&]() -> std::string {
      const auto t = open_shm_transport(group.name(), rank);
      if (!t->capabilities().multi_process) return "not for processes";
      for (std::uint64_t round = 0; round < 12; ++round) {
        if (std::string error = exchange_with_all(*t, round); !error.empty()) return error;
      }
      return {};
    });
  }
  for (Child& child : children) EXPECT_EQ(child.join(), 0);
}

TEST(Shm, WaitingBurnsNoCpu) {
  ShmGroup group(name_for("idle"), 2);
  Child child([&]() -> std::string {
    const auto t = open_shm_transport(group.name(), 0);
    std::vector<std::byte> in(8);
    const auto received = receive(*t, 1, 1, in, Delivery::kRendezvous);
    const auto cpu = [] {
      timespec now{};
      ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
      return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
    };
    const auto before = cpu();
    const Status status = t->wait(soon(500));
    const auto used = std::chrono::duration_cast<std::chrono::milliseconds>(cpu() - before).count();
    t->cancel(received);
    if (status.code() != ErrorCode::kTimeout) return "expected kTimeout, got: " + status.message();
    return used < 20 ? "" : "waiting 500 ms took " + std::to_string(used) + " ms of CPU";
  });
  EXPECT_EQ(child.join(), 0);
}

TEST(Shm, GroupIsForThisUserOnlyAndItsNameGoesWithIt) {
  const std::string name = name_for("mode");
  {
    ShmGroup group(name, 2);
    struct stat info{};
    ASSERT_EQ(::stat(("/dev/shm/" + name).c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600U);
    const auto t = open_shm_transport(name, 0);
    group.unlink();
    EXPECT_FALSE(fs::exists("/dev/shm/" + name));
    EXPECT_THROW(open_shm_transport(name, 1), Error);
  }
  {
    ShmGroup again(name, 2);
  }
  EXPECT_TRUE(names_of(::getpid()).empty());
}

TEST(Shm, ForkedCopyOfAGroupDoesNotRemoveTheName) {
  auto group = std::make_unique<ShmGroup>(name_for("copy"), 1);
  Child child([&]() -> std::string {
    group.reset();
    return {};
  });
  EXPECT_EQ(child.join(), 0);
  EXPECT_EQ(names_of(::getpid()).size(), 1U);
}

// A copy that a fork made goes: the rank is still open.
TEST(Shm, ForkedCopyOfATransportDoesNotCloseItsRank) {
  ShmGroup group(name_for("rank"), 2);
  auto ours = open_shm_transport(group.name(), 0);
  const auto peer = open_shm_transport(group.name(), 1);
  Child child([&]() -> std::string {
    ours.reset();
    return {};
  });
  EXPECT_EQ(child.join(), 0);
  EXPECT_TRUE(peer->lost_peers().empty());
  ours.reset();
  EXPECT_EQ(peer->lost_peers(), std::vector<int>{0});
}

void expect_error(ErrorCode code, const std::string& words, const std::function<void()>& body) {
  try {
    body();
    ADD_FAILURE() << "no error, expected one with: " << words;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
  }
}

TEST(Shm, RefusesWhatCannotBeWithOneClearLine) {
  const std::string name = name_for("refused");
  ShmGroup group(name, 2);
  expect_error(ErrorCode::kIo, "use another name", [&] { ShmGroup second(name, 2); });
  expect_error(ErrorCode::kIo, "cannot open", [] { open_shm_transport(name_for("none"), 0); });
  expect_error(ErrorCode::kInvalidArgument, "allowed are 0 to 1",
               [&] { open_shm_transport(name, 2); });
  expect_error(ErrorCode::kInvalidArgument, "allowed are 0 to 1",
               [&] { open_shm_transport(name, -1); });
  expect_error(ErrorCode::kInvalidArgument, "no slash", [] { ShmGroup bad("a/b", 2); });
  expect_error(ErrorCode::kInvalidArgument, "no slash", [] { open_shm_transport("", 2); });
  expect_error(ErrorCode::kInvalidArgument, "num_ranks is 0",
               [] { ShmGroup bad(name_for("zero"), 0); });
  expect_error(ErrorCode::kInvalidArgument, "ring_bytes is 3",
               [] { ShmGroup bad(name_for("ring"), 2, {3}); });
  auto t = open_shm_transport(name, 1);
  const std::string taken = "taken by process " + std::to_string(::getpid());
  expect_error(ErrorCode::kInvalidArgument, taken, [&] { open_shm_transport(name, 1); });
  t.reset();
  expect_error(ErrorCode::kInvalidArgument, "a rank opens once",
               [&] { open_shm_transport(name, 1); });
}

TEST(Shm, NeverGoesThroughALinkNorOpensWhatOthersCanReach) {
  const std::string name = name_for("link"), target = name_for("target");
  ShmGroup group(target, 1);
  fs::create_symlink("/dev/shm/" + target, "/dev/shm/" + name);
  EXPECT_THROW(open_shm_transport(name, 0), Error);
  EXPECT_THROW(ShmGroup(name, 1), Error);
  fs::remove("/dev/shm/" + name);
  ASSERT_EQ(::chmod(("/dev/shm/" + target).c_str(), 0644), 0);
  expect_error(ErrorCode::kIo, "only this user", [&] { open_shm_transport(target, 0); });
}

// With rings of one size for all it would be with the square: 64 ranks took 1 GiB.
TEST(Shm, TheMemoryOfAGroupGrowsWithTheNumberOfRanks) {
  constexpr std::size_t kMiB = std::size_t{1} << 20;
  for (const int num_ranks : {8, 16, 64, 256}) {
    const auto ranks = static_cast<std::size_t>(num_ranks);
    const std::size_t bytes = ring::Region::bytes_for(num_ranks, {});
    EXPECT_GE(bytes, ranks * 2 * kMiB) << num_ranks;
    EXPECT_LE(bytes, ranks * 3 * kMiB) << num_ranks;
  }
  EXPECT_LE(ring::Region::bytes_for(64, {}), 130 * kMiB);
  EXPECT_LE(ring::Region::bytes_for(2, {}), 2 * kMiB) << "few ranks need no more";
}

TEST(Shm, FullMemoryIsAnErrorAndLeavesNoName) {
  // More than any machine has: 256 ranks with rings of 1 GiB are 128 TiB.
  expect_error(ErrorCode::kIo, "smaller rings",
               [] { ShmGroup huge(name_for("huge"), 256, {std::size_t{1} << 30}); });
  EXPECT_TRUE(names_of(::getpid()).empty());
}

}  // namespace
}  // namespace swiftbalancer
