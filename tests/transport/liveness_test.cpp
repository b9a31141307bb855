// Ranks whose processes end without a word, and groups that killed creators leave: told from
// processes that run, also where process ids come back or belong to another pid namespace.
#include <algorithm>
#include <cstring>
#include <fstream>
#include <thread>

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "transport/conformance.hpp"
#include "transport/processes.hpp"
#include "transport/region.hpp"

namespace swiftbalancer {
namespace {

using Ranks = std::vector<int>;

bool contains(const Ranks& ranks, int rank) {
  return std::find(ranks.begin(), ranks.end(), rank) != ranks.end();
}

/// A second mapping of a group, to write into what it says about processes.
std::unique_ptr<ring::Region> open_region(const std::string& name) {
  const int file = ::open(("/dev/shm/" + name).c_str(), O_RDWR);
  struct stat info{};
  ::fstat(file, &info);
  const auto bytes = static_cast<std::size_t>(info.st_size);
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  ::close(file);
  return std::make_unique<ring::Region>(ring::Mapping(memory, bytes), "test");
}

/// Opens a rank, takes part in an all-gather with tag 1 and waits to be killed.
Child rank_until_killed(const std::string& group, int rank) {
  return Child([&]() -> std::string {
    const auto t = open_shm_transport(group, rank);
    std::vector<std::byte> mine(8), out(8 * static_cast<std::size_t>(t->num_ranks()));
    const Status status = wait_done(*t, t->post_all_gather(1, mine, out), soon());
    if (!status.ok()) return status.message();
    while (true) ::pause();
  });
}

/// Takes part in that all-gather, then waits for a rank in vain.
std::string expect_loss(const std::string& group, int rank, int lost) {
  const auto t = open_shm_transport(group, rank);
  std::vector<std::byte> mine(8), out(8 * static_cast<std::size_t>(t->num_ranks()));
  if (Status s = wait_done(*t, t->post_all_gather(1, mine, out), soon()); !s.ok())
    return s.message();
  const Status status = wait_done(*t, t->post_all_gather(2, mine, out), soon());
  if (status.code() != ErrorCode::kPeerLost) return "expected kPeerLost, got: " + status.message();
  if (status.message().find("rank " + std::to_string(lost) + " (died)") == std::string::npos)
    return "does not name the rank: " + status.message();
  return contains(t->lost_peers(), lost) ? "" : "lost_peers() does not name it";
}

void gather_once(Transport& t) {
  std::vector<std::byte> mine(8), out(8 * static_cast<std::size_t>(t.num_ranks()));
  const Status status = wait_done(t, t.post_all_gather(1, mine, out), soon());
  ASSERT_TRUE(status.ok()) << status.message();
}

/// Until these ranks have taken what a rank sends them for an all-gather: from then on it may die.
void until_sent(const std::string& group, int sender, std::initializer_list<int> receivers) {
  const auto region = open_region(group);
  const auto deadline = soon();
  for (const int receiver : receivers) {
    const auto& taken = region->ring(sender, receiver, ring::kMessages).head;
    while (taken == 0 && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
  }
}

TEST(Liveness, KilledRankIsNoticedByEveryPeerThoughNobodyTells) {
  for (const bool waited_for : {false, true}) {  // else it stays a zombie
    SCOPED_TRACE(waited_for);
    ShmGroup group(name_for("killed"), 4);
    Child victim = rank_until_killed(group.name(), 2);
    const auto here = open_shm_transport(group.name(), 3);
    Child first([&] { return expect_loss(group.name(), 0, 2); });
    Child second([&] { return expect_loss(group.name(), 1, 2); });
    gather_once(*here);
    until_sent(group.name(), 2, {0, 1});
    ::kill(victim.pid(), SIGKILL);
    if (waited_for) victim.join();
    std::vector<std::byte> in(8);
    const Status status = wait_done(*here, receive(*here, 2, 7, in, Delivery::kRendezvous), soon());
    EXPECT_EQ(status.code(), ErrorCode::kPeerLost) << status.message();
    EXPECT_NE(status.message().find("rank 2 (died)"), std::string::npos) << status.message();
    EXPECT_TRUE(contains(here->lost_peers(), 2));
    // Its contribution to the others' second all-gather.
    std::vector<std::byte> mine(8), out(32);
    EXPECT_EQ(wait_done(*here, here->post_all_gather(2, mine, out), soon()).code(),
              ErrorCode::kPeerLost);
    EXPECT_EQ(first.join(), 0);
    EXPECT_EQ(second.join(), 0);
  }
}

TEST(Liveness, MarkedRankIsNamedAtOnce) {
  ShmGroup group(name_for("marked"), 2);
  const auto here = open_shm_transport(group.name(), 0),
             other = open_shm_transport(group.name(), 1);
  EXPECT_EQ(here->lost_peers(), Ranks{});
  group.mark_lost(1);
  EXPECT_EQ(here->lost_peers(), Ranks{1});
}

TEST(Liveness, RanksThatRunOrHaveNotOpenedOrShareAProcessAreNotLost) {
  ShmGroup group(name_for("runs"), 4);
  const auto here = open_shm_transport(group.name(), 0),
             beside = open_shm_transport(group.name(), 1);
  Child running([&]() -> std::string {
    const auto t = open_shm_transport(group.name(), 2);
    std::vector<std::byte> message(8);
    static_cast<void>(send(*t, 0, 1, message, Delivery::kEager));
    while (true) ::pause();
  });
  std::vector<std::byte> in(8);
  ASSERT_TRUE(wait_done(*here, receive(*here, 2, 1, in, Delivery::kEager), soon()).ok());
  for (int looks = 0; looks < 3; ++looks) EXPECT_EQ(here->lost_peers(), Ranks{});
}

// A process that has the id of the one that died, but began at another time.
TEST(Liveness, ProcessIdThatCameBackDoesNotHideADeath) {
  ShmGroup group(name_for("reuse"), 2);
  Child successor = rank_until_killed(group.name(), 1);
  const auto here = open_shm_transport(group.name(), 0);
  const auto region = open_region(group.name());
  const auto deadline = soon();
  while (region->rank(1).pid_namespace == 0 && std::chrono::steady_clock::now() < deadline)
    std::this_thread::yield();
  --region->rank(1).start_time;  // before anybody has looked at it
  EXPECT_EQ(here->lost_peers(), Ranks{1});
}

TEST(Liveness, RankOfAnotherNamespaceIsLeftToDeadlines) {
  for (const bool other_time : {false, true}) {
    ShmGroup group(name_for("elsewhere"), 2);
    Child other = rank_until_killed(group.name(), 1);
    const auto here = open_shm_transport(group.name(), 0);
    gather_once(*here);
    const auto region = open_region(group.name());
    (other_time ? region->rank(1).time_namespace : region->rank(1).pid_namespace) += 1;
    other.kill();
    EXPECT_EQ(here->lost_peers(), Ranks{});
    std::vector<std::byte> in(8);
    const auto received = receive(*here, 1, 2, in, Delivery::kEager);
    EXPECT_EQ(here->wait(soon(1)).code(), ErrorCode::kTimeout);
    group.mark_lost(1);
    EXPECT_EQ(here->wait(soon()).code(), ErrorCode::kPeerLost);
    here->cancel(received);
  }
}

/// Runs `body` as the first process of a pid namespace of its own, in a forked child.
/// @returns what the child returned; "skip: ..." where this is not permitted.
std::string in_new_namespace(const std::function<std::string()>& body) {
  if (::unshare(CLONE_NEWPID | CLONE_NEWNS) != 0)
    return std::string("skip: unshare: ") + std::strerror(errno);
  if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
    return std::string("skip: mount: ") + std::strerror(errno);
  Child first([&]() -> std::string {
    if (::mount("proc", "/proc", "proc", 0, nullptr) != 0) ::_exit(77);
    return body();
  });
  const int status = first.join();
  if (WIFEXITED(status) && WEXITSTATUS(status) == 77) return "skip: /proc cannot be mounted";
  return status == 0 || WIFSIGNALED(status) ? "" : "the inner process failed";
}

/// @returns whether namespaces can be made here; says why not.
bool namespaces_permitted(std::string& why) {
  int pipe_ends[2];
  if (::pipe(pipe_ends) != 0) return false;
  Child child([&]() -> std::string {
    const std::string said = in_new_namespace([] { return std::string(); });
    return ::write(pipe_ends[1], said.data(), said.size()) < 0 ? "write" : "";
  });
  child.join();
  ::close(pipe_ends[1]);
  char said[200] = {};
  const ssize_t bytes = ::read(pipe_ends[0], said, sizeof said - 1);
  ::close(pipe_ends[0]);
  why = said;
  return bytes == 0;
}

TEST(Liveness, RankInAContainerIsNeitherLostWhileItRunsNorJudgedByItsProcessId) {
  std::string why;
  if (!namespaces_permitted(why)) GTEST_SKIP() << why;
  ShmGroup group(name_for("container"), 2);
  const auto here = open_shm_transport(group.name(), 0);
  Child container([&] {
    return in_new_namespace([&]() -> std::string {
      const auto t = open_shm_transport(group.name(), 1);
      // The other one's process id is none of this namespace.
      if (!t->lost_peers().empty()) return "the outer rank looks lost";
      std::vector<std::byte> mine(8), out(16);
      const Status status = wait_done(*t, t->post_all_gather(1, mine, out), soon());
      if (!status.ok()) return status.message();
      ::_exit(0);  // without a word; a first process cannot kill itself
    });
  });
  gather_once(*here);
  EXPECT_EQ(container.join(), 0);
  EXPECT_EQ(here->lost_peers(), Ranks{});
}

/// Without pidfd_open: on old kernels, and where a container's filter forbids it.
std::string forbid_pidfds() {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_pidfd_open, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog filter{sizeof program / sizeof program[0], program};
  const bool done = ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
                    ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
  return done ? "" : std::string("no filter: ") + std::strerror(errno);
}

TEST(Liveness, IsSeenWithoutPidfdsToo) {
  for (const bool waited_for : {false, true}) {
    SCOPED_TRACE(waited_for);
    ShmGroup group(name_for("nopidfd"), 3);
    Child victim = rank_until_killed(group.name(), 2);
    Child other = rank_until_killed(group.name(), 1);
    Child looks([&]() -> std::string {
      if (std::string error = forbid_pidfds(); !error.empty()) return error;
      return expect_loss(group.name(), 0, 2);
    });
    until_sent(group.name(), 2, {0, 1});
    ::kill(victim.pid(), SIGKILL);
    if (waited_for) victim.join();
    EXPECT_EQ(looks.join(), 0);
  }
}

// ---- Groups that killed creators leave ----

bool exists(const std::string& name) { return std::filesystem::exists("/dev/shm/" + name); }

bool removes(const std::string& name) {
  const auto removed = remove_stale_shm_groups();
  const bool said = std::find(removed.begin(), removed.end(), name) != removed.end();
  EXPECT_EQ(said, !exists(name));
  return said;
}

/// The name of a group whose creator was killed.
std::string left_by_killed_creator(const char* rest) {
  Child creator([&]() -> std::string {
    ShmGroup group(name_for(rest), 1);
    ::raise(SIGKILL);
    return {};
  });
  const pid_t pid = creator.pid();
  creator.join();
  return name_for(rest, pid);
}

void edit_header(const std::string& name, const std::function<void(ring::RegionHeader&)>& edit) {
  std::fstream file("/dev/shm/" + name, std::ios::in | std::ios::out | std::ios::binary);
  ring::RegionHeader header;
  file.read(reinterpret_cast<char*>(&header), sizeof header);
  edit(header);
  file.seekp(0);
  file.write(reinterpret_cast<const char*>(&header), sizeof header);
  ASSERT_TRUE(file.good());
}

TEST(StaleGroups, OfKilledCreatorsAreRemovedThoseOfRunningOnesStay) {
  ShmGroup mine(name_for("mine"), 1);
  const std::string left = left_by_killed_creator("left");
  ASSERT_TRUE(exists(left));
  EXPECT_TRUE(removes(left));
  EXPECT_TRUE(exists(mine.name()));
}

TEST(StaleGroups, AreJudgedByTheirCreatorNotByTheProcessIdInTheirName) {
  const std::string left = left_by_killed_creator("named");
  const std::string ours = name_for("named");  // as if our process id were that of the creator
  std::filesystem::rename("/dev/shm/" + left, "/dev/shm/" + ours);
  EXPECT_TRUE(removes(ours));
  ShmGroup running(left, 1);
  EXPECT_FALSE(removes(running.name()));
}

TEST(StaleGroups, ProcessIdThatCameBackDoesNotKeepThem) {
  ShmGroup mine(name_for("reuse"), 1);
  edit_header(mine.name(), [](ring::RegionHeader& header) { --header.creator.start_time; });
  EXPECT_TRUE(removes(mine.name()));
}

TEST(StaleGroups, OfOtherNamespacesStay) {
  const std::string left = left_by_killed_creator("elsewhere");
  edit_header(left, [](ring::RegionHeader& header) { ++header.creator.pid_namespace; });
  EXPECT_FALSE(removes(left));
  edit_header(left, [](ring::RegionHeader& header) {
    --header.creator.pid_namespace;
    ++header.creator.time_namespace;
  });
  EXPECT_FALSE(removes(left));
  edit_header(left, [](ring::RegionHeader& header) { --header.creator.time_namespace; });
  EXPECT_TRUE(removes(left));
}

TEST(StaleGroups, OfAContainerStayWhateverRunsUnderItsProcessId) {
  std::string why;
  if (!namespaces_permitted(why)) GTEST_SKIP() << why;
  const std::string name = "swiftbalancer.2147483000.container";  // no such process here
  Child container([&] {
    return in_new_namespace([&]() -> std::string {
      ShmGroup group(name, 1);
      ::_exit(0);
    });
  });
  EXPECT_EQ(container.join(), 0);
  ASSERT_TRUE(exists(name));
  EXPECT_FALSE(removes(name));
  std::filesystem::remove("/dev/shm/" + name);
}

TEST(StaleGroups, CreatorKilledWhileItMadeTheGroupIsKnownFromTheStart) {
  const std::string left = left_by_killed_creator("making");
  edit_header(left, [](ring::RegionHeader& header) {
    ring::RegionHeader unfinished = ring::Region::unfinished_header();
    unfinished.creator = header.creator;
    header = unfinished;
  });
  ASSERT_EQ(::truncate(("/dev/shm/" + left).c_str(), sizeof(ring::RegionHeader)), 0);
  EXPECT_THROW(open_shm_transport(left, 0), Error);
  EXPECT_TRUE(removes(left));
}

TEST(StaleGroups, FilesThatDoNotSayWhoMadeThemStay) {
  const std::string left = left_by_killed_creator("unknown");
  const std::string path = "/dev/shm/" + left;
  const auto stays = [&](const char* what) { EXPECT_FALSE(removes(left)) << what; };
  edit_header(left, [](ring::RegionHeader& header) { header.creator.pid_namespace = 0; });
  stays("creator not known to itself");
  edit_header(left, [](ring::RegionHeader& header) { header.version = 1; });
  stays("an older version");
  edit_header(left, [](ring::RegionHeader& header) { header.magic ^= 1; });
  stays("not ours");
  ASSERT_EQ(::truncate(path.c_str(), 20), 0);
  stays("too short");
  ASSERT_EQ(::truncate(path.c_str(), 0), 0);
  stays("empty");
  std::filesystem::remove(path);
  std::filesystem::create_directory(path);
  stays("a folder");
  std::filesystem::remove(path);
  std::filesystem::create_symlink("/dev/null", path);
  stays("a link");
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace swiftbalancer
