#include "engine/record.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace swiftbalancer::engine::testing {
namespace {

using ::testing::HasSubstr;

ShapeOptions shape_options() {
  ShapeOptions options;
  options.num_moe_layers = 1;
  options.num_logical_experts = 2;
  options.num_ranks = 2;
  options.num_slots = 2;
  return options;
}

RunRecord plan() {
  RunRecord run;
  run.model.top_k = 1;
  run.shape = shape_options();
  run.initial = Placement::initial(ClusterShape(run.shape));
  run.traffic.requests.resize(2);
  run.traffic.requests[1].id = 1;
  run.memberships = {{0, 1, {0, 1}}};
  return run;
}

// Two ranks, two steps: three tokens, then one. Expert e lives on rank e.
std::vector<RankRecord> ranks() {
  std::vector<RankRecord> ranks(2);
  for (int r = 0; r < 2; ++r) {
    RankRecord& rank = ranks[static_cast<std::size_t>(r)];
    rank.rank = r;
    rank.steps = 2;
    rank.output_requests = {r};
    rank.outputs = {{65 + r, 66}};
  }
  ranks[0].tokens = {2, 0};
  ranks[1].tokens = {1, 1};
  ranks[0].routed_tokens = {1, 1, 0, 0};
  ranks[1].routed_tokens = {0, 1, 1, 0};
  ranks[0].slot_tokens = {1, 1};
  ranks[1].slot_tokens = {2, 0};
  return ranks;
}

std::string merge_error(const std::vector<RankRecord>& parts) {
  RunRecord run = plan();
  try {
    merge(parts, ClusterShape(run.shape), run);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInternal);
    return error.what();
  }
  return "";
}

TEST(RankRecordBytes, ComeBackAsTheyWere) {
  RankRecord record = ranks()[1];
  record.code = ErrorCode::kTimeout;
  record.error = "a line";
  record.step_start_ns = {0, 5, 9};
  record.critical_ns = {{"attention", 7}, {"dispatch", -1}};
  record.commits = {{4, 2, 1, 0, 3, 99, {1, 0}}};
  record.generations = {{2, 3, 4, "committed", 3, 99, 1.5, 1.25, 0.5}};
  record.balancing.dropped_samples = 6;
  record.waits = {1, 2, 3, 4, 5};
  record.healthy = false;
  record.health_reason = "why";
  const RankRecord back = decode_rank_record(encode(record));
  EXPECT_EQ(back.error, "a line");
  EXPECT_EQ(back.code, ErrorCode::kTimeout);
  EXPECT_EQ(back.slot_tokens, record.slot_tokens);
  EXPECT_EQ(back.step_start_ns, record.step_start_ns);
  EXPECT_EQ(back.critical_ns, record.critical_ns);
  EXPECT_EQ(back.outputs, record.outputs);
  ASSERT_EQ(back.commits.size(), 1U);
  EXPECT_EQ(back.commits[0].placement, record.commits[0].placement);
  EXPECT_EQ(back.commits[0].bytes, 99);
  ASSERT_EQ(back.generations.size(), 1U);
  EXPECT_EQ(back.generations[0].result, "committed");
  EXPECT_EQ(back.generations[0].imbalance_after, 1.25);
  EXPECT_EQ(back.generations[0].seconds, 0.5);
  EXPECT_EQ(back.balancing.dropped_samples, 6U);
  EXPECT_EQ(back.waits.held_ns, 5);
  EXPECT_FALSE(back.healthy);
  EXPECT_EQ(back.health_reason, "why");
}

TEST(RankSnapshotBytes, ComeBackAsTheyWere) {
  RankSnapshot snapshot;
  snapshot.rank = 3;
  snapshot.step = 32;
  snapshot.layer_tokens = {5, 6};
  snapshot.balancing.mode = BalancingMode::kPaused;
  snapshot.health_reason = "why";
  snapshot.commits = {{4, 2, 1, 0, 3, 99, {1, 0}}};
  snapshot.generations = {{2, 3, 4, "committed", 3, 99, 1.5, 1.25, 0.5}};
  const RankSnapshot back = decode_rank_snapshot(encode(snapshot));
  EXPECT_EQ(back.rank, 3);
  EXPECT_EQ(back.step, 32U);
  EXPECT_EQ(back.layer_tokens, snapshot.layer_tokens);
  EXPECT_EQ(back.balancing.mode, BalancingMode::kPaused);
  EXPECT_EQ(back.health_reason, "why");
  EXPECT_EQ(back.commits.at(0).placement, snapshot.commits[0].placement);
  EXPECT_EQ(back.generations.at(0).result, "committed");
}

TEST(RankRecordBytes, AreRefusedWhenCutOrTooLong) {
  std::vector<std::byte> bytes = encode(ranks()[0]);
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_THROW(decode_rank_record(std::span(bytes).first(length)), Error) << length;
  }
  bytes.push_back(std::byte{0});
  EXPECT_THROW(decode_rank_record(bytes), Error);
}

TEST(Merge, AddsUpWhatTheRanksSaw) {
  RunRecord run = plan();
  merge(ranks(), ClusterShape(run.shape), run);
  EXPECT_EQ(run.tokens, 4);
  EXPECT_EQ(run.output_tokens, 4);
  EXPECT_EQ(run.step_tokens, (std::vector<std::uint32_t>{3, 1}));
  EXPECT_EQ(run.slot_tokens, (std::vector<std::uint32_t>{1, 2, 1, 0}));
  EXPECT_EQ(run.expert_tokens, (std::vector<std::uint32_t>{1, 2, 1, 0}));
  EXPECT_EQ(run.outputs[1], (std::vector<std::int32_t>{66, 66}));
}

TEST(Merge, ReadsCountsUnderThePlacementOfTheirStep) {
  auto parts = ranks();
  for (RankRecord& rank : parts)
    rank.commits = {{2, 1, 0, 0, 2, 0, {1, 0}}};  // exchanged from step 2 on
  EXPECT_THAT(merge_error(parts),
              HasSubstr("step 2, layer 0: tokens recorded are not those routed"));
  std::swap(parts[0].slot_tokens[1], parts[1].slot_tokens[1]);
  EXPECT_EQ(merge_error(parts), "");
}

TEST(Merge, FindsLostTokensAndDisagreement) {
  auto lost = ranks();
  lost[1].slot_tokens[0] = 1;
  EXPECT_THAT(merge_error(lost), HasSubstr("step 1, layer 0"));
  auto miscounted = ranks();
  miscounted[0].tokens[0] = 5;
  EXPECT_THAT(merge_error(miscounted), HasSubstr("3 rows for 6 tokens"));
  auto unanswered = ranks();
  unanswered[1].outputs.clear();
  EXPECT_THAT(merge_error(unanswered), HasSubstr("request 1 was not answered"));
  auto differing = ranks();
  differing[1].commits = {{2, 1, 0, 0, 2, 0, {1, 0}}};
  EXPECT_THAT(merge_error(differing), HasSubstr("committed differently"));
}

// Rank 0 is lost from the first membership and, after it has come back, from the third.
TEST(Merge, LaysLostRequestsOnTheLossOfTheRankThatServedThem) {
  RunRecord run = plan();
  run.traffic.requests.resize(6);
  for (int id = 0; id < 6; ++id) {
    run.traffic.requests[static_cast<std::size_t>(id)].id = id;
    run.traffic.requests[static_cast<std::size_t>(id)].arrival_step =
        id < 2 ? 1 : static_cast<std::uint64_t>(id);
  }
  run.memberships = {{0, 1, {0, 1}}, {1, 2, {1}}, {2, 4, {0, 1}}};
  run.losses.assign(2, {});
  run.losses[1].membership = 2;
  std::vector<RankRecord> parts = {ranks()[1]};
  parts[0].output_requests = {1, 2, 3, 5};
  parts[0].outputs = {{65}, {66}, {67}, {68}};
  parts[0].resumed_step = 3;  // nothing is left to be compared
  parts[0].resumed_placement = {0};
  run.shape.num_logical_experts = 1;
  run.shape.num_slots = 2;
  parts[0].routed_tokens = {0, 0};
  merge(parts, ClusterShape(run.shape), run);
  EXPECT_EQ(run.losses[0].lost_requests, std::vector<std::int32_t>{0});
  EXPECT_EQ(run.losses[1].lost_requests, std::vector<std::int32_t>{4});
  parts[0].output_requests = {1, 2, 3, 4};  // 5 was rank 1's, which is there
  run.losses.assign(2, {});
  run.losses[1].membership = 2;
  try {
    merge(parts, ClusterShape(run.shape), run);
    ADD_FAILURE() << "request 5 was to be missed";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("request 5 was not answered"));
  }
}

}  // namespace
}  // namespace swiftbalancer::engine::testing
