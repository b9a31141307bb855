// Watching and steering a run at work, with ranks as threads and as processes.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <numeric>

#include "engine/run_control.hpp"
#include "engine_serve/support.hpp"
#include "io/placement_file.hpp"
#include "io/temporary_folder.hpp"

namespace swiftbalancer::engine::testing {
namespace {

using swiftbalancer::testing::TemporaryFolder;
using ::testing::HasSubstr;

// Keeps the snapshots, and asks for a mode once it has seen `ask_after` of them.
class Watcher final : public RunControl {
 public:
  explicit Watcher(std::size_t ask_after, BalancingMode mode)
      : pipe_(make_pipe()), ask_after_(ask_after), mode_(mode) {}
  int fd() const override { return pipe_.read.get(); }
  std::vector<BalancingMode> take_modes() override {
    char byte = 0;
    EXPECT_EQ(read(pipe_.read.get(), &byte, 1), 1);
    return {mode_};
  }
  void on_start(const RunRecord& run) override { initial = run.initial; }
  void on_snapshot(const RunSnapshot& snapshot) override {
    snapshots.push_back(snapshot);
    if (snapshots.size() == ask_after_) {
      EXPECT_EQ(write(pipe_.write.get(), "", 1), 1);
    }
  }
  std::vector<RunSnapshot> snapshots;
  Placement initial;

 private:
  Pipe pipe_;
  std::size_t ask_after_;
  BalancingMode mode_;
};

class Control : public ::testing::TestWithParam<TransportKind> {
 protected:
  static ServeOptions balanced(RunControl& control) {
    ServeOptions options = small_run(4);
    options.transport = GetParam();
    options.traffic.steps_per_segment = 60;
    options.balancer.policy = "stress";
    options.balancer.rebalance_interval = 2;
    options.balancer.window_assignments = 64;
    options.control = &control;
    return options;
  }
};

INSTANTIATE_TEST_SUITE_P(Launchers, Control,
                         ::testing::Values(TransportKind::kThread, TransportKind::kShm),
                         [](const ::testing::TestParamInfo<TransportKind>& launcher) {
                           return launcher.param == TransportKind::kThread ? "threads"
                                                                           : "processes";
                         });

TEST_P(Control, SnapshotsAddUpToTheRecordOfTheRun) {
  Watcher watcher(0, BalancingMode::kOn);
  const RunRecord run = serve(balanced(watcher));
  ASSERT_GT(watcher.snapshots.size(), 3U);
  std::vector<CommitRecord> commits;
  std::size_t ended = 0;
  std::int64_t tokens = 0;
  std::uint64_t step = 0;
  for (const RunSnapshot& snapshot : watcher.snapshots) {
    EXPECT_GT(snapshot.step, step);
    step = snapshot.step;
    EXPECT_GE(snapshot.tokens, tokens);
    tokens = snapshot.tokens;
    EXPECT_EQ(snapshot.num_ranks, 4);
    ended += snapshot.generations.size();
    commits.insert(commits.end(), snapshot.commits.begin(), snapshot.commits.end());
    for (const double imbalance : snapshot.layer_imbalance) {
      EXPECT_GE(imbalance, 1.0);
      EXPECT_LE(imbalance, 4.0);
    }
  }
  const RunSnapshot& last = watcher.snapshots.back();
  EXPECT_EQ(last.step, run.steps);
  EXPECT_EQ(last.tokens, run.tokens);
  for (const std::int64_t layer : last.layer_tokens) EXPECT_EQ(layer, run.tokens * run.model.top_k);
  EXPECT_EQ(last.waits.for_packets, run.waits.for_packets);
  EXPECT_EQ(ended, static_cast<std::size_t>(std::count_if(
                       run.generations.begin(), run.generations.end(),
                       [](const GenerationRecord& g) { return g.finished_step != 0; })));
  ASSERT_GT(commits.size(), 0U);
  ASSERT_EQ(commits.size(), run.commits.size());
  EXPECT_EQ(placement_after(watcher.initial, commits), placement_after(run.initial, run.commits));
  const auto moves = std::accumulate(run.commits.begin(), run.commits.end(), std::uint64_t{0},
                                     [](std::uint64_t sum, const CommitRecord& c) {
                                       return sum + static_cast<std::uint64_t>(c.moves);
                                     });
  EXPECT_EQ(last.balancing.moves, moves);
}

TEST_P(Control, AModeAskedForIsAgreedAndNothingMovesAfterAPause) {
  Watcher watcher(2, BalancingMode::kPaused);
  const RunRecord run = serve(balanced(watcher));
  EXPECT_EQ(run.balancing.mode, BalancingMode::kPaused);
  const auto paused =
      std::find_if(watcher.snapshots.begin(), watcher.snapshots.end(),
                   [](const RunSnapshot& s) { return s.balancing.mode == BalancingMode::kPaused; });
  ASSERT_NE(paused, watcher.snapshots.end());
  EXPECT_EQ(watcher.snapshots.front().balancing.mode, BalancingMode::kOn);
  for (const GenerationRecord& generation : run.generations)
    EXPECT_LE(generation.opened_step, paused->step);
  EXPECT_GT(run.steps, paused->step + 20) << "too short a run to tell";
}

TEST_P(Control, AGivenPlacementIsServedFromTheFirstStepOn) {
  Watcher watcher(0, BalancingMode::kOn);
  ServeOptions options = balanced(watcher);
  const RunRecord cold = serve(options);
  options.balancer.policy = "static";
  options.verify_slots = true;
  const TemporaryFolder folder;
  options.placement_file = folder.file("placement.json");
  EXPECT_FALSE(cold.warm_start);
  io::PlacementFile file{cold.shape, placement_after(cold.initial, cold.commits), {}};
  ASSERT_NE(file.placement, cold.initial);
  folder.write("placement.json", io::format_placement(file));
  const RunRecord warm = serve(options);
  EXPECT_TRUE(warm.warm_start);
  EXPECT_EQ(warm.initial, file.placement);
  EXPECT_EQ(warm.outputs, cold.outputs);
  EXPECT_TRUE(warm.commits.empty());
}

TEST(WarmStart, OfTheSameTrafficMovesNothing) {
  const TemporaryFolder folder;
  ServeOptions options = small_run(4);
  options.traffic.domains = {"python"};
  options.traffic.steps_per_segment = 100;
  options.traffic.arrivals_per_step = 2;
  options.balancer.policy = "swift";
  options.placement_file = folder.file("placement.json");
  const auto moves = [](const RunRecord& run) {
    return std::accumulate(run.commits.begin(), run.commits.end(), 0,
                           [](int sum, const CommitRecord& c) { return sum + c.moves; });
  };
  const RunRecord cold = serve(options);
  ASSERT_GT(moves(cold), 0);
  folder.write("placement.json",
               io::format_placement({cold.shape, placement_after(cold.initial, cold.commits), {}}));
  EXPECT_EQ(moves(serve(options)), 0);
}

TEST(WarmStart, RefusesThePlacementOfAnotherCluster) {
  const TemporaryFolder folder;
  ServeOptions options = small_run(4);
  options.placement_file = folder.file("placement.json");
  const auto message = [&](ShapeOptions shape) -> std::string {
    const io::PlacementFile file{shape, Placement::initial(ClusterShape(shape)), {}};
    folder.write("placement.json", io::format_placement(file));
    try {
      serve(options);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  ShapeOptions shape = {
      .num_moe_layers = 6, .num_logical_experts = 64, .num_ranks = 8, .num_slots = 80};
  EXPECT_THAT(message(shape), HasSubstr("num_ranks 8, this run has 4"));
  shape.num_ranks = 4;
  shape.num_moe_layers = 58;
  EXPECT_THAT(message(shape), HasSubstr("num_moe_layers 58, this run has"));
  shape.num_moe_layers = 6;
  shape.num_slots = 72;
  EXPECT_THAT(message(shape), HasSubstr("num_slots 72, this run has 80"));
  folder.write("placement.json", "{}");
  EXPECT_THROW(serve(options), Error);
}

}  // namespace
}  // namespace swiftbalancer::engine::testing
