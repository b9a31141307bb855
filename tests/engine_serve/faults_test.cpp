// Rank processes go on when others are killed, stopped or lose their planner.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <map>
#include <random>

#include "engine_serve/support.hpp"

namespace swiftbalancer::engine::testing {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

const Outputs& undisturbed() {
  static const Outputs outputs = serve(moving_run("")).outputs;
  return outputs;
}

// Every request has the output of the undisturbed run, or had arrived at a rank before it was lost
// and is reported so.
void expect_only_reported_losses(const RunRecord& run) {
  std::vector<bool> lost(run.outputs.size());
  const auto& memberships = run.memberships;
  for (const LossRecord& loss : run.losses) {
    const auto next = std::ranges::find_if(
        memberships, [&](const MembershipRecord& each) { return each.number > loss.membership; });
    ASSERT_NE(next, memberships.end());
    for (const std::int32_t request : loss.lost_requests) {
      EXPECT_LT(run.traffic.requests[static_cast<std::size_t>(request)].arrival_step,
                next->first_step)
          << "request " << request << " was still to come";
      lost[static_cast<std::size_t>(request)] = true;
    }
  }
  ASSERT_EQ(run.outputs.size(), undisturbed().size());
  for (std::size_t i = 0; i < run.outputs.size(); ++i) {
    if (lost[i]) {
      EXPECT_TRUE(run.outputs[i].empty()) << "request " << i;
    } else {
      EXPECT_EQ(run.outputs[i], undisturbed()[i]) << "request " << i;
    }
  }
}

// One may be open and one migrate as the run ends; those that a reconfiguration cut short say so.
void expect_every_rebalance_ended(const RunRecord& run) {
  const std::size_t ended =
      run.generations.size() - std::min<std::size_t>(2, run.generations.size());
  for (std::size_t i = 0; i < ended; ++i) {
    const GenerationRecord& generation = run.generations[i];
    EXPECT_NE(generation.finished_step, 0U) << "opened in step " << generation.opened_step;
    EXPECT_NE(generation.result, "");
    EXPECT_GT(generation.seconds, 0.0);
  }
}

TEST(ServeFaults, SurvivesARankKilledWhileExpertsMove) {
  for (unsigned seed = 0; seed < 20; ++seed) {
    std::mt19937 random(seed);
    const int rank = static_cast<int>(random() % kNumMovingRanks);
    const std::string fault =
        "kill:" + std::to_string(rank) + "@" + std::to_string(2 + random() % 30);
    SCOPED_TRACE(fault);
    const RunRecord run = serve(moving_run(fault));
    ASSERT_EQ(run.losses.size(), 1U);
    EXPECT_EQ(run.losses[0].rank, rank);
    EXPECT_THAT(run.losses[0].how, HasSubstr("killed by signal 9"));
    EXPECT_EQ(run.balancing.membership, 1U);
    EXPECT_TRUE(std::ranges::any_of(run.commits, [&](const CommitRecord& commit) {
      return commit.step > run.losses[0].step + 1;
    })) << "balancing goes on";
    EXPECT_TRUE(run.healthy) << run.health_reason;
    EXPECT_THAT(run.health_reason, HasSubstr("rank " + std::to_string(rank) + " lost at step "));
    EXPECT_GE(run.balancing.failures, 1U);
    expect_every_rebalance_ended(run);
    expect_only_reported_losses(run);
    expect_nothing_left();
  }
}

// Counts over a rank's slots, after a step.
std::uint64_t tokens_received(const RunRecord& run, int rank, std::uint64_t after) {
  const ClusterShape shape(run.shape);
  const auto slots = static_cast<std::size_t>(shape.num_slots());
  const auto first_row = after * static_cast<std::size_t>(shape.num_moe_layers());
  std::uint64_t tokens = 0;
  for (std::size_t row = first_row; row < run.slot_tokens.size() / slots; ++row) {
    for (int slot = 0; slot < shape.slots_per_rank(rank); ++slot)
      tokens +=
          run.slot_tokens[row * slots + static_cast<std::size_t>(shape.first_slot(rank) + slot)];
  }
  return tokens;
}

std::ptrdiff_t num_descriptors() {
  return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {});
}

TEST(ServeFaults, GivesRequestsThatAreStillToComeToTheRanksLeft) {
  const RunRecord run = serve(moving_run("kill:1@8"));
  expect_only_reported_losses(run);
  ASSERT_EQ(run.memberships.size(), 2U);
  EXPECT_THAT(run.memberships[1].live_ranks, ::testing::ElementsAre(0, 2, 3));
  int taken_over = 0;
  for (const Request& request : run.traffic.requests) {
    taken_over +=
        request.id % kNumMovingRanks == 1 && request.arrival_step >= run.memberships[1].first_step;
  }
  EXPECT_GT(taken_over, static_cast<int>(run.losses.at(0).lost_requests.size()));
}

TEST(ServeFaults, ANewProcessTakesThePlaceOfALostRank) {
  for (const char* faults :
       {"kill:1@8,join:1@14", "kill:0@8,join:0@9", "kill:3@8,kill:2@8,join:2@16",
        "kill:2@8,join:2@12,kill:2@22,join:2@26"}) {
    SCOPED_TRACE(faults);
    ServeOptions options = moving_run(faults);
    options.verify_slots = true;
    const auto descriptors = num_descriptors();
    const RunRecord run = serve(options);
    expect_only_reported_losses(run);
    const int rank = options.faults.back().rank;
    const MembershipRecord& last = run.memberships.back();
    ASSERT_THAT(last.live_ranks, Contains(rank));
    EXPECT_GE(run.memberships.size(), 3U);
    const auto served_by_it = std::ranges::count_if(run.traffic.requests, [&](const Request& each) {
      return each.arrival_step >= last.first_step &&
             last.live_ranks[static_cast<std::size_t>(each.id) % last.live_ranks.size()] == rank;
    });
    EXPECT_GT(served_by_it, 0);
    EXPECT_GT(tokens_received(run, rank, last.first_step), 0U) << "a plan fills its slots";
    expect_nothing_left();
    EXPECT_EQ(num_descriptors(), descriptors);
  }
}

// A rank that is lost and one that joins, as somebody sees it who watches the run.
class Watcher final : public RunControl {
 public:
  int fd() const override { return -1; }
  std::vector<BalancingMode> take_modes() override { return {}; }
  void on_start(const RunRecord&) override {}
  void on_snapshot(const RunSnapshot& snapshot) override { snapshots.push_back(snapshot); }
  std::vector<RunSnapshot> snapshots;
};

TEST(ServeFaults, CountersNeverFallAndEveryRebalanceIsToldOnce) {
  ServeOptions options = moving_run("kill:0@24,join:0@60");
  options.traffic.steps_per_segment = 30;
  Watcher watcher;
  options.control = &watcher;
  const RunRecord run = serve(options);
  ASSERT_GT(watcher.snapshots.size(), 4U);
  std::vector<int> live;
  std::map<std::string, int> results;
  RunSnapshot before;
  before.layer_tokens.resize(static_cast<std::size_t>(run.model.num_moe_layers));
  for (const RunSnapshot& now : watcher.snapshots) {
    if (live.empty() || live.back() != now.num_ranks) live.push_back(now.num_ranks);
    EXPECT_GE(now.tokens, before.tokens) << "step " << now.step;
    EXPECT_GE(now.balancing.moves, before.balancing.moves) << "step " << now.step;
    EXPECT_GE(now.balancing.migrated_bytes, before.balancing.migrated_bytes);
    EXPECT_GE(now.balancing.failures, before.balancing.failures);
    EXPECT_GE(now.balancing.experts_loaded, before.balancing.experts_loaded);
    EXPECT_GE(now.balancing.dropped_samples, before.balancing.dropped_samples);
    EXPECT_GE(now.waits.for_packets, before.waits.for_packets);
    for (std::size_t layer = 0; layer < now.layer_tokens.size(); ++layer)
      EXPECT_GE(now.layer_tokens[layer], before.layer_tokens[layer]) << "step " << now.step;
    for (const GenerationRecord& each : now.generations) {
      ++results[each.result];
      EXPECT_GT(each.seconds, 0.0);
    }
    before = now;
  }
  EXPECT_THAT(live, ::testing::ElementsAre(4, 3, 4));
  std::map<std::string, int> expected;
  for (const GenerationRecord& each : run.generations) {
    if (each.finished_step != 0) ++expected[each.result];
  }
  EXPECT_EQ(results, expected);
}

TEST(ServeFaults, ACorruptedPacketIsNoticedAndNoOutputChanges) {
  for (const char* faults : {"corrupt:1@8", "corrupt:0@9", "corrupt:2@8,corrupt:3@20"}) {
    SCOPED_TRACE(faults);
    ServeOptions options = moving_run(faults);
    options.verify_slots = true;
    const RunRecord run = serve(options);
    EXPECT_TRUE(run.losses.empty());
    EXPECT_EQ(run.outputs, undisturbed());
    EXPECT_EQ(run.balancing.membership, options.faults.size()) << "the same ranks begin anew";
    EXPECT_GE(run.balancing.failures, options.faults.size());
    EXPECT_TRUE(run.healthy) << run.health_reason;
    expect_every_rebalance_ended(run);
    expect_nothing_left();
  }
}

TEST(ServeFaults, BringsNoRankThatIsThere) {
  std::vector<std::string> lines;
  ServeOptions options = moving_run("join:1@5");
  options.notice = [&](const std::string& line) { lines.push_back(line); };
  const RunRecord run = serve(options);
  EXPECT_EQ(run.balancing.membership, 0U);
  EXPECT_EQ(run.outputs, undisturbed());
  EXPECT_THAT(lines, Contains(HasSubstr("the rank was not lost")));
}

TEST(ServeFaults, SurvivesTwoRanksKilledShortlyAfterOneAnother) {
  for (const char* faults : {"kill:1@8,kill:2@8", "kill:0@8,kill:3@9", "kill:3@8,kill:0@10"}) {
    SCOPED_TRACE(faults);
    const RunRecord run = serve(moving_run(faults));
    EXPECT_EQ(run.losses.size(), 2U);
    expect_only_reported_losses(run);
    expect_nothing_left();
  }
}

TEST(ServeFaults, FencesARankThatWasStoppedAndComesBack) {
  ServeOptions options = moving_run("stop:2@6,cont:2@9");
  // Waited out once; nobody else may be that late, however slow the machine is.
  options.balancer.deadline = std::chrono::seconds(5);
  std::vector<std::string> lines;
  options.notice = [&](const std::string& line) { lines.push_back(line); };
  const RunRecord run = serve(options);
  ASSERT_EQ(run.losses.size(), 1U);
  EXPECT_EQ(run.losses[0].rank, 2);
  EXPECT_EQ(run.losses[0].how, "was late");
  expect_only_reported_losses(run);
  EXPECT_EQ(std::ranges::count_if(
                lines, [](const std::string& line) { return line.ends_with(": fenced"); }),
            1);
  EXPECT_THAT(lines, Contains(HasSubstr("rank 2 was declared lost at step ")));
  expect_nothing_left();
}

TEST(ServeFaults, LosesNothingWithAPlannerProcess) {
  ServeOptions options = moving_run("kill-planner:1@6");
  options.traffic.steps_per_segment = 80;  // it is started again after a while
  options.balancer.worker = WorkerKind::kProcess;
  options.balancer.planner_program = SWIFTBALANCER_PLANNER;
  const RunRecord run = serve(options);
  EXPECT_TRUE(run.losses.empty());
  options.faults.clear();
  EXPECT_EQ(run.outputs, serve(options).outputs);
  EXPECT_GE(run.balancing.planner_resets, 1U) << "its load history began anew";
  EXPECT_GE(run.balancing.failures, 1U);
  EXPECT_TRUE(run.healthy) << "balancing goes on, but health still says: " << run.health_reason;
  EXPECT_THAT(run.health_reason, HasSubstr("rank ")) << "what it has recovered from";
  expect_nothing_left();
}

TEST(ServeFaults, SaysThatBalancingIsOffOnceThePlannerMayNotBeStartedAgain) {
  ServeOptions options = moving_run("kill-planner:1@6");
  options.balancer.worker = WorkerKind::kProcess;
  options.balancer.planner_program = SWIFTBALANCER_PLANNER;
  options.balancer.planner_restarts = 0;
  const RunRecord run = serve(options);
  EXPECT_EQ(run.outputs, undisturbed());
  EXPECT_FALSE(run.healthy);
  EXPECT_FALSE(run.balancing.planner_running);
  EXPECT_THAT(run.balancing.dropped_samples, ::testing::Ge(run.steps - 16))
      << "no planner of rank 1 takes a load in any more";
  expect_nothing_left();
}

TEST(ServeFaults, EndsWhenTheRanksLeftCannotHoldAllExperts) {
  ServeOptions options = moving_run("kill:1@6");
  options.num_redundant_experts = 0;
  try {
    serve(options);
    ADD_FAILURE() << "the run was to fail";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnavailable);
    EXPECT_THAT(error.what(), HasSubstr("48 slots left cannot hold 64 experts"));
  }
  expect_nothing_left();
}

TEST(ServeFaults, RefusesFaultsThatMakeNoSense) {
  for (const char* text : {"kill", "kill:1", "kill:@3", "hit:1@3", "kill:1@0", "kill:-1@3",
                           "kill:1@3x", "kill:1@3,,"}) {
    EXPECT_THROW(parse_faults(text), Error) << text;
  }
  EXPECT_THROW(serve(moving_run("kill:4@3")), Error);
  EXPECT_THROW(serve(moving_run("kill-planner:1@3")), Error);
  ServeOptions threads = moving_run("kill:1@3");
  threads.transport = TransportKind::kThread;
  EXPECT_THROW(serve(threads), Error);
}

}  // namespace
}  // namespace swiftbalancer::engine::testing
