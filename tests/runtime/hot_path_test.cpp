// Zero heap allocations and zero system calls in the four engine calls when nothing is due:
// counted, not assumed. Allocations through operator new; system calls of the engine thread through
// a seccomp filter that traps every one.

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include <gtest/gtest.h>

#include "allocations.hpp"
#include "runtime/hand_cluster.hpp"
#include "runtime/threads_cluster.hpp"

namespace {

volatile sig_atomic_t trapped_calls = 0;

void count_trapped_call(int) { trapped_calls = trapped_calls + 1; }

// From now on every system call of this thread but rt_sigreturn and exit_group raises SIGSYS.
bool trap_system_calls() {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_rt_sigreturn, 2, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog filter{sizeof program / sizeof program[0], program};
  struct sigaction action = {};
  action.sa_handler = count_trapped_call;
  return sigaction(SIGSYS, &action, nullptr) == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

}  // namespace

namespace swiftbalancer {
namespace {

using testing_support::allocations;
using testing_support::HandCluster;
using testing_support::make_shape;
using testing_support::RankUnderTest;

constexpr int kOk = 0, kNoFilter = 3, kAllocated = 4, kCalledTheSystem = 5, kFailed = 6,
              kCounterBlind = 7;

void one_step(Balancer& balancer, std::uint64_t step, std::span<const std::uint32_t> counts,
              bool& ok, std::int64_t& sum) {
  ok &= balancer.begin_step({step, Phase::kDecode, false}).ok();
  for (int layer = 0; layer < 8; ++layer) {
    sum += balancer.dispatch_table(layer).slot(layer, static_cast<std::uint32_t>(step));
    if (const DrawTable* draws = balancer.draw_table(layer))
      sum += draws->slot(layer, static_cast<std::uint32_t>(step), balancer.rank());
    balancer.record(layer, counts);
  }
  ok &= balancer.end_step().ok();
}

// Without destructors: they would call the system.
[[noreturn]] void finish(int code) {
  while (true) syscall(SYS_exit_group, code);
}

// In a child process: the filter cannot be taken off again.
[[noreturn]] void measure() {
  BalancerConfig config;
  config.packet_interval = 1000;  // nothing is due in the steps measured
  RankUnderTest under_test(make_shape(8, 64, 1, 80), config,
                           std::move(make_thread_transports(1)[0]));
  const std::vector<std::uint32_t> counts(80, 3);
  bool ok = true;
  std::int64_t sum = 0;
  one_step(under_test.balancer, 1, counts, ok, sum);
  if (!trap_system_calls()) finish(kNoFilter);
  const std::uint64_t before = allocations.made;
  for (std::uint64_t step = 2; step < 900; ++step)
    one_step(under_test.balancer, step, counts, ok, sum);
  if (allocations.made != before) finish(kAllocated);
  if (trapped_calls != 0) finish(kCalledTheSystem);
  if (!ok || sum == 0) finish(kFailed);
  // The counters see what they are there to see.
  const auto* probe = new int(1);
  syscall(SYS_getppid);
  const bool seen = allocations.made == before + 1 && trapped_calls == 1;
  (void)probe;
  finish(seen ? kOk : kCounterBlind);
}

TEST(HotPath, NeitherAllocatesNorCallsTheSystemWhenNothingIsDue) {
  const pid_t child = fork();
  if (child == 0) measure();
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status)) << "ended by signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), kOk)
      << "3 no seccomp, 4 allocated, 5 called the system, 6 a call failed, 7 counters blind";
}

// ---- When packets are due, plans are adopted and units are committed ----

struct Watched {
  std::uint64_t allocations = 0, most_units = 0, commits = 0;
  bool ok = true;
};

// Counts what the four calls allocate; the workers' share is theirs.
Watched watch(HandCluster& cluster, std::uint64_t num_steps) {
  Watched watched;
  std::uint64_t before = 0;
  cluster.on_calls = [&](bool begins) {
    if (begins) {
      before = allocations.made;
    } else {
      watched.allocations += allocations.made - before;
    }
  };
  for (std::uint64_t step = 0; step < num_steps; ++step) {
    watched.ok &= cluster.make_step().ok();
    for (const BalancerEvent& event : cluster.core(0).events()) {
      if (event.kind == BalancerEventKind::kAdopted)
        watched.most_units = std::max<std::uint64_t>(watched.most_units, event.plan->units.size());
    }
  }
  watched.commits = cluster.core(0).stats().units_committed;
  return watched;
}

BalancerConfig moving_config() {
  BalancerConfig config;
  config.policy = "stress";
  config.rebalance_interval = 1;
  config.table_kind = TableKind::kDraw;
  return config;
}

TEST(HotPath, AllocatesNothingWhenPlansAreCommittedAlsoAfterTenBillionSteps) {
  for (std::uint64_t first : {std::uint64_t{0}, std::uint64_t{10'000'000'000}}) {
    HandCluster cluster(make_shape(8, 64, 2, 80), moving_config(), first);
    const Watched watched = watch(cluster, 400);
    EXPECT_TRUE(watched.ok);
    EXPECT_EQ(watched.allocations, 0U) << "from step " << first + 1;
    EXPECT_GT(watched.commits, 0U);
  }
}

// Pools of one buffer: a plan has as many units as experts that move.
TEST(HotPath, AllocatesNothingWhereAPlanHasHundredsOfUnits) {
  BalancerConfig config = moving_config();
  config.staging_bytes = HandCluster::kExpertBytes;
  HandCluster cluster(make_shape(40, 64, 2, 80), config);
  const Watched watched = watch(cluster, 100);
  EXPECT_TRUE(watched.ok);
  EXPECT_EQ(watched.allocations, 0U);
  EXPECT_GE(watched.most_units, 200U);
}

TEST(HotPath, AllocatesNothingInAMillionSteps) {
  BalancerConfig config = moving_config();
  config.rebalance_interval = 16;
  HandCluster cluster(make_shape(1, 4, 1, 6), config);
  const Watched watched = watch(cluster, 1'000'000);
  EXPECT_TRUE(watched.ok);
  EXPECT_EQ(watched.allocations, 0U);
  EXPECT_GT(cluster.core(0).stats().generations_opened, 10'000U);
}

}  // namespace
}  // namespace swiftbalancer
