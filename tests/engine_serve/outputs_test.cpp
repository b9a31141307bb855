// The output of a request does not depend on how it was served.

#include <gtest/gtest.h>

#include "engine_serve/support.hpp"

namespace swiftbalancer::engine::testing {
namespace {

const Outputs& greedy_reference() {
  static const Outputs outputs = local_outputs(small_run(1));
  return outputs;
}

struct OutputsCase {
  std::string name;
  int num_ranks;
  TransportKind transport;
};

class ServeOutputs : public ::testing::TestWithParam<OutputsCase> {};

TEST_P(ServeOutputs, EqualAPlainLocalForward) {
  ServeOptions options = small_run(GetParam().num_ranks);
  options.transport = GetParam().transport;
  const RunRecord run = serve(options);
  EXPECT_EQ(run.outputs, greedy_reference());
  EXPECT_TRUE(run.healthy) << run.health_reason;
}

INSTANTIATE_TEST_SUITE_P(Ranks, ServeOutputs,
                         ::testing::Values(OutputsCase{"thread_1", 1, TransportKind::kThread},
                                           OutputsCase{"thread_2", 2, TransportKind::kThread},
                                           OutputsCase{"thread_3", 3, TransportKind::kThread},
                                           OutputsCase{"thread_16", 16, TransportKind::kThread},
                                           OutputsCase{"shm_1", 1, TransportKind::kShm},
                                           OutputsCase{"shm_2", 2, TransportKind::kShm},
                                           OutputsCase{"shm_3", 3, TransportKind::kShm},
                                           OutputsCase{"shm_16", 16, TransportKind::kShm}),
                         [](const auto& param) { return param.param.name; });

TEST(ServeOutputsDigest, DependsOnOutputsOnly) {
  const RunRecord two = serve(small_run(2));
  const RunRecord three = serve(small_run(3));
  ServeOptions other_seed = small_run(2);
  other_seed.traffic.seed = 2;
  EXPECT_EQ(two.output_digest, three.output_digest);
  EXPECT_NE(two.output_digest, serve(other_seed).output_digest);
  EXPECT_EQ(two.output_digest.size(), 32U);
}

TEST(ServeOutputsChunks, ArePrefilledWithTheSameResult) {
  for (const int tokens : {1, 7, 500}) {
    ServeOptions options = small_run(2);
    options.max_batch_tokens = tokens;
    EXPECT_EQ(serve(options).outputs, greedy_reference()) << tokens << " tokens a step";
  }
}

TEST(ServeOutputsSampled, AreTheSameOnAnyNumberOfRanks) {
  ServeOptions options = small_run(1);
  options.traffic.sampling = Sampling::kTemperature;
  options.traffic.temperature = 1.3;
  const Outputs expected = local_outputs(options);
  EXPECT_NE(expected, greedy_reference());
  for (const int num_ranks : {1, 3, 8}) {
    options.num_ranks = num_ranks;
    options.transport = num_ranks == 8 ? TransportKind::kShm : TransportKind::kThread;
    EXPECT_EQ(serve(options).outputs, expected) << num_ranks << " ranks";
  }
}

}  // namespace
}  // namespace swiftbalancer::engine::testing
