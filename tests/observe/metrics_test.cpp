#include "observe/metrics.hpp"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <swiftbalancer/error.hpp>

namespace swiftbalancer::observe {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

int port_of(const MetricsEndpoint& endpoint) {
  return std::stoi(endpoint.address().substr(endpoint.address().rfind(':') + 1));
}

std::string scrape(const MetricsEndpoint& endpoint) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port_of(endpoint)));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  const std::string request = "GET /metrics HTTP/1.0\r\n\r\n";
  EXPECT_EQ(send(fd, request.data(), request.size(), 0), std::ssize(request));
  std::string answer;
  char bytes[4096];
  for (ssize_t n = 0; (n = recv(fd, bytes, sizeof bytes, 0)) > 0;)
    answer.append(bytes, static_cast<std::size_t>(n));
  close(fd);
  return answer;
}

MetricsSnapshot snapshot_at(std::uint64_t step, double moves) {
  MetricsSnapshot snapshot;
  snapshot.steps = step;
  snapshot.layer_tokens = {10.0 * static_cast<double>(step), 0.0};
  snapshot.layer_imbalance = {1.25, 0.0};
  snapshot.moves = moves;
  snapshot.migrated_bytes = 100 * moves;
  snapshot.mode = "on";
  return snapshot;
}

TEST(Metrics, CountersGoOnFromRunToRun) {
  MetricsEndpoint endpoint(0, {"on", "paused"});
  endpoint.begin_run("static", "tiny", "shm");
  endpoint.update(snapshot_at(16, 0));
  endpoint.update(snapshot_at(40, 3));
  endpoint.begin_run("swift", "tiny", "shm");
  EXPECT_THAT(scrape(endpoint), HasSubstr("swiftbalancer_steps_total 40\n"));
  MetricsSnapshot last = snapshot_at(5, 4);
  last.rebalances = {{"committed", 0.004}, {"committed", 0.2}, {"too_late", 2.0}};
  last.mode = "paused";
  last.healthy = false;
  last.plan_step = 3;
  last.failures = 2;
  endpoint.update(last);
  const std::string text = scrape(endpoint);
  for (const char* line :
       {"swiftbalancer_steps_total 45\n", "swiftbalancer_moves_total 7\n",
        "swiftbalancer_migrated_bytes_total{transport=\"shm\"} 700\n",
        "swiftbalancer_expert_load_tokens_total{layer=\"0\"} 450\n",
        "swiftbalancer_balancedness_ratio{layer=\"0\"} 0.8\n",
        "swiftbalancer_imbalance_ratio{kind=\"achieved\"} 1.25\n",
        "swiftbalancer_rebalances_total{result=\"committed\"} 2\n",
        "swiftbalancer_rebalances_total{result=\"too_late\"} 1\n",
        "swiftbalancer_rebalance_duration_seconds_count 3\n",
        "swiftbalancer_rebalance_duration_seconds_bucket{le=\"0.005\"} 1\n",
        "swiftbalancer_failures_total 2\n", "swiftbalancer_worker_healthy 0\n",
        "swiftbalancer_mode{mode=\"paused\"} 1\n", "swiftbalancer_mode{mode=\"on\"} 0\n",
        "swiftbalancer_plan_age_steps 2\n"})
    EXPECT_THAT(text, HasSubstr(line));
  EXPECT_THAT(text, HasSubstr("policy=\"swift\""));
  EXPECT_THAT(text, Not(HasSubstr("policy=\"static\""))) << "the run before is still shown";
  // Nothing is known of a layer without tokens.
  EXPECT_THAT(text, Not(HasSubstr("balancedness_ratio{layer=\"1\"}")));
}

TEST(Metrics, APortInUseIsRefusedByItsNumber) {
  const MetricsEndpoint first(0, {"on"});
  try {
    const MetricsEndpoint second(port_of(first), {"on"});
    FAIL() << "two endpoints on one port";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_THAT(error.what(), HasSubstr("port " + std::to_string(port_of(first))));
  }
}

}  // namespace
}  // namespace swiftbalancer::observe
