#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "engine/sampling.hpp"
#include "engine_serve/support.hpp"

namespace swiftbalancer::engine::testing {
namespace {

using ::testing::HasSubstr;

ModelInfo model_info() {
  ModelInfo info;
  info.max_positions = 1024;
  return info;
}

TrafficOptions options() { return small_run(1).traffic; }

std::string error_of(const TrafficOptions& bad, ErrorCode expected) {
  try {
    make_traffic(bad, model_info());
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), expected);
    return error.what();
  }
  ADD_FAILURE() << "was to be refused";
  return "";
}

std::string text(const Request& request) { return {request.prompt.begin(), request.prompt.end()}; }

TEST(Traffic, ChangesDomainFromSegmentToSegment) {
  TrafficOptions o = options();
  o.steps_per_segment = 10;
  o.arrivals_per_step = 0.5;
  const Traffic traffic = make_traffic(o, model_info());
  ASSERT_EQ(traffic.requests.size(), 15U);
  ASSERT_EQ(traffic.segments.size(), 3U);
  EXPECT_EQ(traffic.segments[1].domain, "man_zh");
  EXPECT_EQ(traffic.segments[1].first_step, 11U);
  EXPECT_EQ(traffic.requests[0].arrival_step, 1U);
  EXPECT_EQ(traffic.requests[1].arrival_step, 3U);
  EXPECT_EQ(traffic.requests[4].segment, 0);
  EXPECT_EQ(traffic.requests[5].segment, 1);
  EXPECT_EQ(traffic.requests[5].arrival_step, 11U);
  EXPECT_EQ(traffic.last_arrival_step, 29U);
}

TEST(Traffic, KeepsLengthsInRangeAndCountsThem) {
  const TrafficOptions o = options();
  const Traffic traffic = make_traffic(o, model_info());
  std::int64_t total = 0;
  for (const Request& request : traffic.requests) {
    const int length = static_cast<int>(request.prompt.size());
    total += length;
    EXPECT_GE(length, o.min_prompt_tokens);
    EXPECT_LE(length, o.max_prompt_tokens);
    EXPECT_GE(request.max_output_tokens, o.min_output_tokens);
    EXPECT_LE(request.max_output_tokens, o.max_output_tokens);
  }
  EXPECT_EQ(total, traffic.prompt_tokens);
}

TEST(Traffic, ContentDependsOnSeedIdAndDomainOnly) {
  TrafficOptions more = options();
  more.num_requests = 40;
  more.arrivals_per_step = 8;  // other arrival steps
  more.domains = {"python"};
  TrafficOptions fewer = more;
  fewer.num_requests = 5;
  fewer.arrivals_per_step = 1;
  const Traffic a = make_traffic(more, model_info()), b = make_traffic(fewer, model_info());
  for (std::size_t i = 0; i < b.requests.size(); ++i)
    EXPECT_EQ(text(a.requests[i]), text(b.requests[i]));
  more.seed += 1;
  EXPECT_NE(text(make_traffic(more, model_info()).requests[0]), text(a.requests[0]));
  EXPECT_NE(text(a.requests[0]), text(a.requests[1]));
}

TEST(Traffic, ExcerptsBeginAtACharacter) {
  TrafficOptions o = options();
  o.domains = {"man_ja"};
  for (const Request& request : make_traffic(o, model_info()).requests) {
    EXPECT_NE(static_cast<unsigned>(request.prompt.front()) & 0xC0U, 0x80U);
  }
}

TEST(Traffic, RefusesWhatItCannotServe) {
  const auto with = [](auto change, ErrorCode code = ErrorCode::kInvalidArgument) {
    TrafficOptions o = options();
    change(o);
    return error_of(o, code);
  };
  EXPECT_THAT(with([](auto& o) { o.domains = {"klingon"}; }),
              HasSubstr("it has c_headers, english"));
  EXPECT_THAT(with([](auto& o) { o.domains.clear(); }), HasSubstr("domains is empty"));
  EXPECT_THAT(with([](auto& o) { o.arrivals_per_step = 0; }), HasSubstr("arrivals_per_step"));
  EXPECT_THAT(with([](auto& o) { o.steps_per_segment = -3; }),
              HasSubstr("steps_per_segment is -3"));
  EXPECT_THAT(with([](auto& o) { o.num_requests = -1; }), HasSubstr("num_requests is -1"));
  EXPECT_THAT(with([](auto& o) {
                o.num_requests = 0;
                o.arrivals_per_step = 1e6;
                o.steps_per_segment = 1'000'000;
              }),
              HasSubstr("more than 100000000 requests"));
  EXPECT_THAT(with([](auto& o) { o.min_prompt_tokens = 0; }), HasSubstr("prompt tokens from 0"));
  EXPECT_THAT(with([](auto& o) { o.max_output_tokens = 1; }),
              HasSubstr("output tokens from 2 to 1"));
  EXPECT_THAT(with([](auto& o) { o.max_prompt_tokens = 1020; }), HasSubstr("1024 positions"));
  EXPECT_THAT(with([](auto& o) { o.prompts_file = "/nowhere.json"; }, ErrorCode::kIo),
              HasSubstr("/nowhere.json"));
}

TEST(Traffic, RefusesAFileThatHoldsNoPrompts) {
  const std::string path = ::testing::TempDir() + "prompts_broken.json";
  for (const char* content : {"[1, 2]", "{\"python\": 3}", "{\"python\": [3]}", "{"}) {
    std::ofstream(path) << content;
    TrafficOptions o = options();
    o.prompts_file = path;
    EXPECT_THAT(error_of(o, ErrorCode::kIo), HasSubstr(path)) << content;
  }
}

TEST(Sampling, GreedyTakesTheBestAndTheFirstOfEquals) {
  std::vector<float> logits{0.0F, 2.0F, 2.0F, 1.0F};
  EXPECT_EQ(choose_token(logits, options(), 0, 0), 1);
}

TEST(Sampling, DrawsInProportionAndAlwaysTheSameForOneKey) {
  TrafficOptions o = options();
  o.sampling = Sampling::kTemperature;
  o.temperature = 0.5;
  const double expected = 1.0 / (1.0 + std::exp(-2.0));  // logits 1 and 0 at temperature 0.5
  int ones = 0;
  constexpr int kDraws = 20'000;
  for (int position = 0; position < kDraws; ++position) {
    std::vector<float> logits{0.0F, 1.0F}, again{0.0F, 1.0F};
    const std::int32_t token = choose_token(logits, o, 7, position);
    EXPECT_EQ(choose_token(again, o, 7, position), token);
    ones += token;
  }
  EXPECT_NEAR(static_cast<double>(ones) / kDraws, expected, 0.01);
}

}  // namespace
}  // namespace swiftbalancer::engine::testing
