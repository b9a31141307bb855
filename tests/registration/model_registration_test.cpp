#include <swiftbalancer/model_registration.hpp>

#include <climits>
#include <stdexcept>
#include <string>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/threads_cluster.hpp"

namespace swiftbalancer {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Pair;
using testing_support::make_shape;
using testing_support::RankUnderTest;
using testing_support::run_ranks;

const std::string kTinyModel =
    std::string(SWIFTBALANCER_SOURCE_DIR) + "/data/models/tiny_qwen3_moe/config.json";

std::string deepseek(const std::string& model_type, const std::string& more = "") {
  return R"({"model_type": ")" + model_type +
         R"(", "num_hidden_layers": 5, "first_k_dense_replace": 2, "n_routed_experts": 8)" + more +
         "}";
}

// A balancer of one rank, for what needs no cluster.
void with_balancer(const ClusterShape& shape,
                   const std::function<void(RankUnderTest& under_test)>& body) {
  run_ranks(shape, {}, [&](RankUnderTest& under_test, int) { body(under_test); });
}

std::pair<ErrorCode, std::string> error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return {error.code(), error.what()};
  }
  return {ErrorCode::kOk, "nothing thrown"};
}

// What registering on a balancer of 3 MoE layers and 8 experts ends in.
std::pair<ErrorCode, std::string> refusal_of(const std::string& config) {
  std::pair<ErrorCode, std::string> result;
  with_balancer(make_shape(3, 8, 1, 9), [&](RankUnderTest& under_test) {
    result = error_of([&] { ModelRegistration(under_test.balancer, config); });
  });
  return result;
}

constexpr std::uint64_t kMaxSteps = 50'000;

// Serves until something was committed, and ends between two packets. @returns tokens per layer and
// local slot; the counts name both, so that a mixed up one shows.
std::vector<std::int64_t> serve_over_commits(Balancer& balancer, std::uint64_t& step) {
  const auto slots = static_cast<std::size_t>(balancer.shape().slots_per_rank(balancer.rank()));
  const int layers = balancer.shape().num_moe_layers();
  std::vector<std::int64_t> sums(static_cast<std::size_t>(layers) * slots);
  std::vector<std::uint32_t> counts(slots);
  const std::uint64_t commits = balancer.stats().units_committed;
  // Commits fall into the same steps on all ranks, and so does the end.
  while (balancer.stats().units_committed < commits + 4 || step % 3 != 1) {
    balancer.begin_step({++step, Phase::kDecode, false}).throw_if_failed();
    for (int layer = 0; layer < layers; ++layer) {
      for (std::size_t slot = 0; slot < slots; ++slot) {
        counts[slot] = static_cast<std::uint32_t>(1 + static_cast<std::size_t>(layer) * 100 +
                                                  slot * 7 + step % 5);
        sums[static_cast<std::size_t>(layer) * slots + slot] += counts[slot];
      }
      balancer.record(layer, counts);
    }
    balancer.end_step().throw_if_failed();
    if (step > kMaxSteps) throw std::runtime_error("nothing is committed");
  }
  return sums;
}

TEST(ModelRegistration, LoadsAddUpOverStepsPacketsAndCommitsUntilCleared) {
  BalancerConfig config;
  config.policy = "stress";  // Commits as often as it can.
  config.rebalance_interval = 1;
  config.packet_interval = 3;  // Some tokens are in no packet yet when the loads are read.
  run_ranks(make_shape(6, 64, 2, 69), config, [](RankUnderTest& under_test, int) {
    auto model = ModelRegistration::from_file(under_test.balancer, kTinyModel);
    const auto other = ModelRegistration::from_file(under_test.balancer, kTinyModel);
    EXPECT_EQ(model.num_moe_layers(), 6);
    EXPECT_EQ(model.num_dense_layers(), 0);
    std::uint64_t step = 0;
    const auto before = serve_over_commits(under_test.balancer, step);
    EXPECT_EQ(model.get_all_moe_loads(), before);
    model.clear_all_moe_loads();
    const auto late = ModelRegistration::from_file(under_test.balancer, kTinyModel);
    EXPECT_EQ(model.get_all_moe_loads(), std::vector<std::int64_t>(before.size(), 0));
    auto after = serve_over_commits(under_test.balancer, step);
    EXPECT_EQ(model.get_all_moe_loads(), after);
    EXPECT_EQ(late.get_all_moe_loads(), after);
    // What one registration clears, another still sees.
    for (std::size_t i = 0; i < after.size(); ++i) after[i] += before[i];
    EXPECT_EQ(other.get_all_moe_loads(), after);
  });
}

TEST(ModelRegistration, MapsFollowWhatIsServed) {
  BalancerConfig config;
  config.policy = "stress";
  config.rebalance_interval = 1;
  const ClusterShape shape = make_shape(6, 64, 2, 70);
  run_ranks(shape, config, [&](RankUnderTest& under_test, int rank) {
    const auto model = ModelRegistration::from_file(under_test.balancer, kTinyModel);
    const auto initial = model.get_all_expert_map(6);
    std::uint64_t step = 0;
    serve_over_commits(under_test.balancer, step);
    EXPECT_NE(model.get_all_expert_map(6), initial);
    const Placement& placement = under_test.balancer.placement();
    const auto all = model.get_all_expert_map(6);
    const auto first_two = model.get_all_expert_map(2);
    EXPECT_TRUE(std::ranges::equal(first_two, std::span(all).first(2 * 64)));
    for (int layer = 0; layer < 6; ++layer) {
      const auto local = model.get_expert_map(layer);
      const auto physical = model.get_log2phy_map(layer);
      EXPECT_TRUE(std::ranges::equal(
          local, std::span(all).subspan(static_cast<std::size_t>(layer) * 64, 64)));
      for (std::size_t expert = 0; expert < 64; ++expert) {
        EXPECT_EQ(placement.layer(layer)[static_cast<std::size_t>(physical[expert])],
                  static_cast<std::int32_t>(expert));
        // A rank that holds the expert sends to its own slot.
        EXPECT_EQ(local[expert] >= 0, shape.rank_of_slot(physical[expert]) == rank);
      }
    }
  });
}

TEST(ModelRegistration, DenseLayersInFrontShiftLayerIdsAndNothingElse) {
  const ClusterShape shape = make_shape(3, 8, 1, 9);
  for (const char* family : {"deepseek_v2", "deepseek_v3"}) {
    with_balancer(shape, [&](RankUnderTest& under_test) {
      const ModelRegistration model(under_test.balancer, deepseek(family));
      EXPECT_EQ(model.num_moe_layers(), 3);
      EXPECT_EQ(model.num_dense_layers(), 2);
      const auto& placement = under_test.balancer.placement();
      const auto all = model.get_all_expert_map(3);
      for (int layer = 0; layer < 3; ++layer) {
        const auto expected = expert_map(placement.layer(layer), shape, 0);
        EXPECT_EQ(model.get_expert_map(2 + layer), expected);
        EXPECT_EQ(model.get_log2phy_map(2 + layer), log2phy(placement.layer(layer), shape, 0));
        EXPECT_TRUE(std::ranges::equal(
            expected, std::span(all).subspan(static_cast<std::size_t>(layer) * 8, 8)));
      }
      const auto expert_map_of = [&](int id) {
        return error_of([&] { model.get_expert_map(id); });
      };
      const std::string allowed =
          " of this " + std::string(family) + " model; MoE layers are 2 to 4";
      EXPECT_THAT(expert_map_of(1),
                  Pair(ErrorCode::kInvalidArgument, "layer_id 1 is a dense layer" + allowed));
      for (int id : {5, -1, INT_MAX, INT_MIN}) {
        EXPECT_THAT(expert_map_of(id),
                    Pair(ErrorCode::kInvalidArgument,
                         "layer_id " + std::to_string(id) + " is no layer" + allowed));
      }
      EXPECT_EQ(error_of([&] { model.get_log2phy_map(0); }).first, ErrorCode::kInvalidArgument);
      for (int layers : {0, -1, 4}) {
        EXPECT_THAT(error_of([&] { model.get_all_expert_map(layers); }),
                    Pair(ErrorCode::kInvalidArgument, HasSubstr("allows 1 to 3")));
      }
    });
  }
}

TEST(ModelRegistration, OtherFamiliesAreRefusedWithTheListOfFamilies) {
  EXPECT_THAT(
      refusal_of(R"({"model_type": "mixtral", "num_local_experts": 8})"),
      Pair(ErrorCode::kUnsupported, AllOf(HasSubstr("\"mixtral\""), HasSubstr("not supported"),
                                          HasSubstr("deepseek_v2, deepseek_v3, qwen3_moe"))));
}

TEST(ModelRegistration, DenseLayersInBetweenAreRefused) {
  EXPECT_THAT(refusal_of(deepseek("deepseek_v3", R"(, "moe_layer_freq": 2)")),
              Pair(ErrorCode::kUnsupported, HasSubstr("moe_layer_freq is 2")));
  const std::string qwen =
      R"({"model_type": "qwen3_moe", "num_hidden_layers": 3, "num_experts": 8, )";
  EXPECT_THAT(refusal_of(qwen + R"("mlp_only_layers": [1]})"),
              Pair(ErrorCode::kUnsupported, HasSubstr("mlp_only_layers is [1]")));
  EXPECT_THAT(refusal_of(qwen + R"("decoder_sparse_step": 2})"),
              Pair(ErrorCode::kUnsupported, HasSubstr("decoder_sparse_step is 2")));
  EXPECT_EQ(refusal_of(qwen + R"("decoder_sparse_step": 1})").first, ErrorCode::kOk);
  EXPECT_EQ(refusal_of(deepseek("deepseek_v3", R"(, "moe_layer_freq": 1)")).first, ErrorCode::kOk);
}

TEST(ModelRegistration, AnotherModelThanTheBalancersIsRefusedWithBothValues) {
  EXPECT_THAT(
      refusal_of(R"({"model_type": "qwen3_moe", "num_hidden_layers": 5, "num_experts": 8})"),
      Pair(ErrorCode::kInvalidArgument,
           HasSubstr("the model has 5 MoE layers, the balancer's shape 3")));
  EXPECT_THAT(
      refusal_of(R"({"model_type": "qwen3_moe", "num_hidden_layers": 3, "num_experts": 6})"),
      Pair(ErrorCode::kInvalidArgument,
           HasSubstr("the model has 6 experts (num_experts), the balancer's shape 8")));
  EXPECT_THAT(refusal_of(R"({"model_type": "deepseek_v2", "num_hidden_layers": 3,
                             "first_k_dense_replace": 3, "n_routed_experts": 8})"),
              Pair(ErrorCode::kInvalidArgument, HasSubstr("first_k_dense_replace is 3")));
  EXPECT_THAT(refusal_of(R"({"model_type": "deepseek_v2", "num_hidden_layers": 3})"),
              Pair(ErrorCode::kInvalidArgument, HasSubstr("first_k_dense_replace is missing")));
}

TEST(ModelRegistration, MapsAreNotThereBeforeTheStart) {
  const ClusterShape shape = make_shape(3, 8, 1, 9);
  const Balancer balancer(shape, {}, std::move(make_thread_transports(1)[0]));
  const ModelRegistration model(balancer, deepseek("deepseek_v3"));
  EXPECT_EQ(error_of([&] { model.get_expert_map(2); }).first, ErrorCode::kInvalidState);
  EXPECT_EQ(model.get_all_moe_loads(), std::vector<std::int64_t>(3 * 9, 0));
}

}  // namespace
}  // namespace swiftbalancer
