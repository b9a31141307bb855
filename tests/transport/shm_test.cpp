// What only ranks in processes can show: fork, kill, names in /dev/shm, permissions, no CPU while
// waiting.
#include <algorithm>
#include <csignal>
#include <ctime>
#include <filesystem>
#include <functional>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "transport/conformance.hpp"

namespace swiftbalancer {
namespace {

namespace fs = std::filesystem;

std::string name_for(const std::string& rest, pid_t pid = ::getpid()) {
  return "swiftbalancer." + std::to_string(pid) + "." + rest;
}

std::vector<std::string> names_of(pid_t pid) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator("/dev/shm")) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("swiftbalancer." + std::to_string(pid) + ".")) names.push_back(name);
  }
  return names;
}

/// A forked rank. Its body returns what went wrong, or nothing.
class Child {
 public:
  explicit Child(const std::function<std::string()>& body) {
    std::fflush(nullptr);  // or the child prints it again
    pid_ = ::fork();
    if (pid_ != 0) return;
    std::string error;
    try {
      error = body();
    } catch (const std::exception& e) {
      error = e.what();
    }
    if (!error.empty()) std::fprintf(stderr, "child: %s\n", error.c_str());
    ::_exit(error.empty() ? 0 : 1);
  }
  ~Child() {
    if (pid_ > 0) kill();
  }
  Child(Child&& other) noexcept : pid_(std::exchange(other.pid_, 0)) {}
  pid_t pid() const { return pid_; }
  int join() {
    int status = 0;
    ::waitpid(std::exchange(pid_, 0), &status, 0);
    return status;
  }
  void kill() {
    ::kill(pid_, SIGKILL);
    join();
  }

 private:
  pid_t pid_ = 0;
};

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

TEST(Shm, NamesAKilledRankToItsPeersOnceItIsMarkedLost) {
  constexpr int kRanks = 3;
  ShmGroup group(name_for("killed"), kRanks);
  const auto wait_for_rank_2 = [&](int rank) -> std::string {
    const auto t = open_shm_transport(group.name(), rank);
    std::vector<std::byte> mine(8), out(8 * kRanks);
    if (Status s = wait_done(*t, t->post_all_gather(1, mine, out), soon()); !s.ok())
      return s.message();
    const Status status = wait_done(*t, t->post_all_gather(2, mine, out), soon());
    if (status.code() != ErrorCode::kPeerLost)
      return "expected kPeerLost, got: " + status.message();
    if (status.message().find("rank 2 (died)") == std::string::npos)
      return "does not name the rank: " + status.message();
    return t->lost_peers().empty() ? "no lost peers" : "";
  };
  Child victim([&]() -> std::string {
    const auto t = open_shm_transport(group.name(), 2);
    std::vector<std::byte> mine(8), out(8 * kRanks);
    if (Status s = wait_done(*t, t->post_all_gather(1, mine, out), soon()); !s.ok())
      return s.message();
    ::raise(SIGKILL);
    return {};
  });
  Child first([&] { return wait_for_rank_2(0); });
  Child second([&] { return wait_for_rank_2(1); });
  EXPECT_TRUE(WIFSIGNALED(victim.join()));
  group.mark_lost(2);
  EXPECT_EQ(first.join(), 0);
  EXPECT_EQ(second.join(), 0);
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

TEST(Shm, FullMemoryIsAnErrorAndLeavesNoName) {
  // More than any machine has: 256 ranks with rings of 1 GiB are 128 TiB.
  expect_error(ErrorCode::kIo, "smaller rings",
               [] { ShmGroup huge(name_for("huge"), 256, {std::size_t{1} << 30}); });
  EXPECT_TRUE(names_of(::getpid()).empty());
}

TEST(Shm, RemovesTheGroupsOfKilledCreatorsOnly) {
  ShmGroup mine(name_for("mine"), 1);
  Child creator([]() -> std::string {
    ShmGroup group(name_for("left"), 1);
    ::raise(SIGKILL);
    return {};
  });
  const pid_t pid = creator.pid();
  creator.join();
  ASSERT_EQ(names_of(pid), std::vector<std::string>{name_for("left", pid)});
  const auto removed = remove_stale_shm_groups();
  EXPECT_NE(std::find(removed.begin(), removed.end(), name_for("left", pid)), removed.end());
  EXPECT_TRUE(names_of(pid).empty());
  EXPECT_EQ(names_of(::getpid()).size(), 1U);
}

}  // namespace
}  // namespace swiftbalancer
