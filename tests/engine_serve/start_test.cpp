// Ranks as processes over shared memory that were started differently are refused at the start, all
// of them, with both values.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>

#include <swiftbalancer/balancer.hpp>

#include "engine/rank_pipe.hpp"
#include "engine_serve/support.hpp"
#include "io/checkpoint_digest.hpp"
#include "io/temporary_folder.hpp"
#include "runtime/config.hpp"
#include "wait_limit.hpp"

namespace swiftbalancer::engine::testing {
namespace {

using swiftbalancer::testing::TemporaryFolder;
using ::testing::HasSubstr;

constexpr std::size_t kExpertBytes = 64;

ClusterShape two_ranks() {
  return ClusterShape(
      {.num_moe_layers = 1, .num_logical_experts = 4, .num_ranks = 2, .num_slots = 4});
}

BalancerConfig common_config() {
  BalancerConfig config;
  config.deadline = swiftbalancer::testing_support::kWaitLimit;
  return config;
}

// What a rank's start says; "started" if nothing.
std::string start(const BalancerConfig& config, std::unique_ptr<Transport> transport) {
  const ClusterShape shape = two_ranks();
  std::vector<std::byte> memory(2 * kExpertBytes);
  try {
    Balancer balancer(shape, config, std::move(transport));
    for (int slot = 0; slot < 2; ++slot) {
      const WeightPart part{memory.data() + static_cast<std::size_t>(slot) * kExpertBytes,
                            kExpertBytes};
      balancer.register_weights(0, slot, {&part, 1});
    }
    balancer.start(Placement::initial(shape));
  } catch (const Error& error) {
    return error.what();
  }
  return "started";
}

// Runs a body per rank in a process of its own. @returns what each says.
std::vector<std::string> in_processes(
    const std::function<std::string(int rank, std::unique_ptr<Transport>)>& body) {
  ShmGroup group("swiftbalancer." + std::to_string(getpid()) + ".start", 2);
  std::vector<Pipe> pipes(2);
  for (int rank = 0; rank < 2; ++rank) {
    Pipe& pipe = pipes[static_cast<std::size_t>(rank)] = make_pipe();
    if (fork() == 0) {
      const std::string said = body(rank, open_shm_transport(group.name(), rank));
      _exit(write(pipe.write.get(), said.data(), said.size()) == std::ssize(said) ? 0 : 1);
    }
    pipe.write.close();
  }
  std::vector<std::string> said;
  for (const Pipe& pipe : pipes) {
    char text[1024];
    const ssize_t length = read(pipe.read.get(), text, sizeof text);
    said.emplace_back(text, static_cast<std::size_t>(std::max<ssize_t>(0, length)));
  }
  while (waitpid(-1, nullptr, 0) > 0) {
  }
  return said;
}

std::vector<std::string> start_with(const std::function<void(BalancerConfig&)>& change_the_second) {
  return in_processes([&](int rank, std::unique_ptr<Transport> transport) {
    BalancerConfig config = common_config();
    if (rank == 1) change_the_second(config);
    return start(config, std::move(transport));
  });
}

void expect_both_say(const std::vector<std::string>& said, const std::string& one,
                     const std::string& other) {
  for (const std::string& line : said) {
    EXPECT_THAT(line, HasSubstr("rank 0 and rank 1 were started differently"));
    EXPECT_THAT(line, HasSubstr("\"" + one + "\" on the one, \"" + other + "\" on the other"));
    EXPECT_EQ(line.find('\n'), std::string::npos);
  }
  expect_nothing_left();
}

std::string digest_of(const std::filesystem::path& folder) {
  return io::checkpoint_digest(io::Checkpoint::open(folder.string()));
}

TEST(StartOfProcesses, AlikeIsNoError) {
  for (const std::string& line : start_with([](BalancerConfig&) {})) EXPECT_EQ(line, "started");
  expect_nothing_left();
}

TEST(StartOfProcesses, RefusesAnotherConfiguration) {
  const auto said = start_with([](BalancerConfig& config) { config.min_gain = 0.5; });
  expect_both_say(said, "min_gain 0.01", "min_gain 0.5");
}

TEST(StartOfProcesses, RefusesAnotherCheckpoint) {
  const std::filesystem::path shipped = data("models/tiny_qwen3_moe");
  const TemporaryFolder folder;
  const std::filesystem::path tuned = folder.file("tuned");
  std::filesystem::copy(shipped, tuned);
  for (const auto& entry : std::filesystem::directory_iterator(tuned)) {
    if (entry.path().extension() != ".safetensors") continue;
    std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
    std::uint64_t header_bytes = 0;
    file.read(reinterpret_cast<char*>(&header_bytes), sizeof header_bytes);
    const auto first = static_cast<std::streamoff>(sizeof header_bytes + header_bytes);
    std::string weights(std::filesystem::file_size(entry.path()) - static_cast<std::size_t>(first),
                        '\0');
    file.seekg(first).read(weights.data(), std::ssize(weights));
    for (char& byte : weights) byte = static_cast<char>(byte ^ 1);
    file.seekp(first).write(weights.data(), std::ssize(weights));
  }
  const std::string one = digest_of(shipped), other = digest_of(tuned);
  ASSERT_NE(one, other) << "the same tensors with other weights";
  EXPECT_EQ(one, digest_of(shipped));
  const auto said = in_processes([&](int rank, std::unique_ptr<Transport> transport) {
    BalancerConfig config = common_config();
    config.checkpoint = rank == 0 ? one : other;
    return start(config, std::move(transport));
  });
  expect_both_say(said, "checkpoint " + one, "checkpoint " + other);
}

TEST(StartOfProcesses, RefusesAnotherBuild) {
  const auto said = in_processes([](int rank, std::unique_ptr<Transport> transport) {
    if (rank == 0) return start(common_config(), std::move(transport));
    const ClusterShape shape = two_ranks();
    const Placement placement = Placement::initial(shape);
    const std::vector<std::vector<std::size_t>> part_bytes = {{kExpertBytes}};
    ConfigText mine = config_text(common_config(), shape, &placement, part_bytes);
    const std::string text = mine.text;
    const std::string changed = "build of next year" + text.substr(text.find('\n'));
    mine = {};
    changed.copy(mine.text, sizeof mine.text - 1);
    std::vector<ConfigText> all(2);
    const auto handle = transport->post_all_gather(0, std::as_bytes(std::span(&mine, 1)),
                                                   std::as_writable_bytes(std::span(all)));
    const auto limit =
        std::chrono::steady_clock::now() + swiftbalancer::testing_support::kWaitLimit;
    return wait_done(*transport, handle, limit).ok() ? std::string() : "no peer";
  });
  EXPECT_THAT(said[0], HasSubstr("started differently: \"build swiftbalancer "));
  EXPECT_THAT(said[0], HasSubstr("\"build of next year\" on the other"));
  EXPECT_EQ(said[1], "");
  expect_nothing_left();
}

TEST(StartOfProcesses, AServeNamesTheCheckpointThatItOpened) {
  const ServeOptions options = small_run(2);
  EXPECT_EQ(serve(options).checkpoint, digest_of(options.model));
}

}  // namespace
}  // namespace swiftbalancer::engine::testing
