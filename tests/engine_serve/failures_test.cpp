// A run that cannot go on ends with one clear line and leaves nothing behind.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>

#include "engine/launch.hpp"
#include "engine_serve/support.hpp"
#include "wait_limit.hpp"

namespace swiftbalancer::engine::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string error_of(const ServeOptions& options, ErrorCode expected) {
  try {
    serve(options);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), expected) << error.what();
    EXPECT_THAT(error.what(), Not(HasSubstr("\n")));
    return error.what();
  }
  ADD_FAILURE() << "the run was to fail";
  return "";
}

// Processes whose parent is this one, in the order of their ranks.
std::vector<pid_t> children() {
  std::vector<pid_t> pids;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    std::ifstream file(entry.path() / "stat");
    std::string line;
    if (!std::getline(file, line)) continue;
    const auto fields = line.substr(line.rfind(')') + 2);  // "S ppid ..."
    if (std::stol(fields.substr(2)) == getpid())
      pids.push_back(static_cast<pid_t>(std::stol(line)));
  }
  std::sort(pids.begin(), pids.end());
  return pids;
}

ServeOptions long_run(int num_ranks) {
  ServeOptions options = small_run(num_ranks);
  options.transport = TransportKind::kShm;
  options.traffic.steps_per_segment = 400;
  options.balancer.deadline = swiftbalancer::testing_support::kWaitLimit;
  return options;
}

TEST(FailedRun, NamesTheRankThatWasKilledWhenItsExpertsHaveNoPlace) {
  ServeOptions options = long_run(4);  // 60 slots are left for 64 experts
  options.faults = parse_faults("kill:2@3");
  EXPECT_THAT(error_of(options, ErrorCode::kUnavailable),
              HasSubstr("rank 2 was killed by signal 9"));
  expect_nothing_left();
}

TEST(FailedRun, NamesTheRankThatWasKilledUnderATimedDevice) {
  ServeOptions options = long_run(4);
  options.num_redundant_experts = 64;
  options.device = DeviceKind::kTimed;
  options.hardware = data("hardware/h800_infiniband_deepseek_v3.yaml");
  bool done = false;
  options.progress = [&](std::uint64_t step, std::uint64_t, const std::string&) {
    if (step < 1 || done) return;
    done = true;
    const auto pids = children();
    ASSERT_EQ(pids.size(), 4U);
    kill(pids[2], SIGKILL);
  };
  EXPECT_THAT(error_of(options, ErrorCode::kPeerLost), HasSubstr("rank 2 was killed by signal 9"));
  expect_nothing_left();
}

TEST(FailedRun, CleansUpWhenInterrupted) {
  ServeOptions options = long_run(3);
  options.progress = [](std::uint64_t step, std::uint64_t, const std::string&) {
    if (step == 1) raise(SIGINT);
  };
  EXPECT_THAT(error_of(options, ErrorCode::kUnavailable), HasSubstr("interrupted"));
  expect_nothing_left();
}

TEST(FailedRun, CleansUpWhenProgressThrows) {
  ServeOptions options = long_run(3);
  options.progress = [](std::uint64_t step, std::uint64_t, const std::string&) {
    if (step == 1) throw Error(ErrorCode::kIo, "the disk is full");
  };
  EXPECT_EQ(error_of(options, ErrorCode::kIo), "the disk is full");
  expect_nothing_left();
}

TEST(FailedRun, RefusesMoreRanksThanSlots) {
  ServeOptions options = small_run(81);
  EXPECT_THAT(error_of(options, ErrorCode::kInvalidArgument), HasSubstr("81"));
}

TEST(FailedRun, RefusesBadCounts) {
  const auto with = [](auto change) {
    ServeOptions options = small_run(2);
    change(options);
    return error_of(options, ErrorCode::kInvalidArgument);
  };
  EXPECT_THAT(with([](ServeOptions& o) { o.num_ranks = 0; }), HasSubstr("num_ranks is 0"));
  EXPECT_THAT(with([](ServeOptions& o) { o.num_redundant_experts = -1; }),
              HasSubstr("num_redundant_experts is -1"));
  EXPECT_THAT(with([](ServeOptions& o) { o.max_batch_tokens = 0; }),
              HasSubstr("max_batch_tokens is 0"));
  EXPECT_THAT(with([](ServeOptions& o) { o.token_scale = 0; }), HasSubstr("token_scale is 0"));
  EXPECT_THAT(with([](ServeOptions& o) { o.balancer.policy = "magic"; }), HasSubstr("magic"));
  EXPECT_THAT(with([](ServeOptions& o) { o.device = DeviceKind::kTimed; }),
              HasSubstr("hardware profile"));
}

TEST(FailedRun, SaysABadBalancerValueWithoutNamingARank) {
  for (const auto transport : {TransportKind::kThread, TransportKind::kShm}) {
    ServeOptions options = small_run(2);
    options.transport = transport;
    options.balancer.staging_bytes = 10;
    const std::string message = error_of(options, ErrorCode::kInvalidArgument);
    EXPECT_THAT(message, HasSubstr("staging_bytes"));
    EXPECT_THAT(message, Not(HasSubstr("rank ")));
  }
  expect_nothing_left();
}

TEST(FailedRun, BlamesTheCauseNotThoseThatNoticed) {
  const RankFailure noticed{0, ErrorCode::kPeerLost, "lost rank 2", false};
  const RankFailure failed{2, ErrorCode::kInternal, "wrong bytes", false};
  const RankFailure died{3, ErrorCode::kPeerLost, "was killed", true};
  const auto message = [](const std::vector<RankFailure>& failures) -> std::string {
    try {
      throw_cause(failures);
    } catch (const Error& error) {
      return error.what();
    }
  };
  EXPECT_EQ(message({noticed, failed}), "rank 2: wrong bytes");
  EXPECT_EQ(message({noticed, failed, died}), "rank 3 was killed");
  EXPECT_EQ(message({noticed}), "rank 0: lost rank 2");
}

}  // namespace
}  // namespace swiftbalancer::engine::testing
