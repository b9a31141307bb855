#include "engine/scheduler.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "engine_serve/support.hpp"

namespace swiftbalancer::engine::testing {
namespace {

class SchedulerTest : public ::testing::Test {
 protected:
  // Plays the forward pass: grows no cache, the hidden rows are zero.
  void finish(Scheduler& scheduler, const Batch& batch) {
    hidden_.assign(static_cast<std::size_t>(batch.num_tokens()) *
                       static_cast<std::size_t>(model_->info().hidden_size),
                   0.0F);
    scheduler.finish(hidden_);
  }
  std::unique_ptr<Model> model_ = load_model(small_run(1).model);
  Traffic traffic_ = make_traffic(small_run(1).traffic, model_->info());
  std::vector<float> hidden_;
};

TEST_F(SchedulerTest, RunsEveryTokenOnceWithinItsRoomAndEndsWithAllAnswered) {
  constexpr int kRoom = 20;
  Scheduler scheduler(*model_, traffic_, kRoom);
  scheduler.share(0, 1, 2);
  std::int64_t prefilled = 0, yielded = 0;
  std::uint64_t step = 0;
  bool mixed = false;
  while (scheduler.has_work()) {
    const Batch& batch = scheduler.plan(++step);
    ASSERT_LE(batch.num_tokens(), kRoom);
    ASSERT_EQ(static_cast<int>(batch.tokens.size()), batch.num_tokens());
    mixed = mixed || (batch.prefill_tokens > 0 && batch.decode_tokens > 0);
    prefilled += batch.prefill_tokens;
    yielded += batch.num_yields;
    finish(scheduler, batch);
    ASSERT_LT(step, 10'000U);
  }
  std::int64_t prompts = 0, outputs = 0;
  std::vector<int> answered;
  for (const Request& request : traffic_.requests)
    prompts += request.id % 2 == 1 ? static_cast<std::int64_t>(request.prompt.size()) : 0;
  for (const Output& output : scheduler.outputs()) {
    EXPECT_EQ(output.request % 2, 1);
    answered.push_back(output.request);
    outputs += static_cast<std::int64_t>(output.tokens.size());
  }
  std::sort(answered.begin(), answered.end());
  EXPECT_EQ(std::unique(answered.begin(), answered.end()), answered.end());
  EXPECT_EQ(answered.size(), traffic_.requests.size() / 2);
  EXPECT_EQ(prefilled, prompts);
  EXPECT_EQ(yielded, outputs);
  EXPECT_TRUE(mixed) << "prefill and decode were to share a step";
}

TEST_F(SchedulerTest, CutsAPromptThatIsLongerThanTheRoom) {
  Scheduler scheduler(*model_, traffic_, 5);
  scheduler.share(0, 0, 1);
  const auto& prompt = traffic_.requests[0].prompt;
  ASSERT_GT(prompt.size(), 5U);
  const Batch& first = scheduler.plan(1);
  ASSERT_EQ(first.sequences.size(), 1U);
  EXPECT_EQ(first.tokens, std::vector<std::int32_t>(prompt.begin(), prompt.begin() + 5));
  EXPECT_EQ(first.num_yields, 0);
  EXPECT_EQ(first.context, 1 + 2 + 3 + 4 + 5);
  finish(scheduler, first);
  const Batch& second = scheduler.plan(2);
  EXPECT_EQ(second.sequences[0].first_position, 5);
  EXPECT_EQ(second.tokens[0], prompt[5]);
}

TEST_F(SchedulerTest, WaitsForRequestsThatHaveNotArrived) {
  traffic_.requests.resize(1);
  traffic_.requests[0].arrival_step = 3;
  Scheduler scheduler(*model_, traffic_, 64);
  scheduler.share(0, 0, 1);
  EXPECT_EQ(scheduler.plan(1).num_tokens(), 0);
  EXPECT_TRUE(scheduler.has_work());
  EXPECT_EQ(scheduler.plan(2).num_tokens(), 0);
  EXPECT_GT(scheduler.plan(3).num_tokens(), 0);
}

// Ranks 0 and 1 of 2, then 1 alone: what had arrived at rank 0 is gone with it, all else is served.
TEST_F(SchedulerTest, TakesOverWhatIsStillToCome) {
  constexpr std::uint64_t kLost = 4;
  Scheduler scheduler(*model_, traffic_, 64);
  scheduler.share(0, 1, 2);
  std::uint64_t step = 0;
  while (step < kLost) finish(scheduler, scheduler.plan(++step));
  static_cast<void>(scheduler.plan(kLost + 1));  // given up before anybody began it
  scheduler.abandon();
  scheduler.share(kLost, 0, 1);
  while (scheduler.has_work()) {
    finish(scheduler, scheduler.plan(++step));
    ASSERT_LT(step, 10'000U);
  }
  std::vector<int> answered, expected;
  for (const Output& output : scheduler.outputs()) answered.push_back(output.request);
  for (const Request& request : traffic_.requests) {
    if (request.id % 2 == 1 || request.arrival_step > kLost) expected.push_back(request.id);
  }
  std::sort(answered.begin(), answered.end());
  EXPECT_EQ(answered, expected);
}

}  // namespace
}  // namespace swiftbalancer::engine::testing
