// Throughput of the shared-memory transport by number of ranks and size of rings: every rank, a
// process, sends bulk data to every other one and receives as much. Shows what the default size of
// rings costs. Prints one JSON object.
//
//   build/release/bin/ring_bench

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <swiftbalancer/transport.hpp>

namespace swiftbalancer {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kMessageBytes = std::size_t{1} << 20;
constexpr std::size_t kBytesPerRank = std::size_t{256} << 20;  // sent by each, at least
constexpr int kRepeats = 3;

struct Setting {
  int num_ranks;
  std::size_t ring_bytes;  // 0: the default
};

constexpr Setting kSettings[] = {
    {2, 0},        {2, 1 << 14}, {2, 1 << 12},  {8, 0},  {8, 1 << 14},  {16, 0},
    {16, 1 << 17}, {32, 0},      {32, 1 << 17}, {64, 0}, {64, 1 << 17},
};

/// One round: a message to every other rank, and one from each.
void exchange(Transport& t, std::uint64_t round, std::span<const std::byte> out,
              std::vector<std::vector<std::byte>>& in) {
  std::vector<TransportHandle> handles;
  for (int step = 1; step < t.num_ranks(); ++step) {
    const int peer = (t.rank() + step) % t.num_ranks();
    const std::span<std::byte> target(in[static_cast<std::size_t>(peer)]);
    handles.push_back(t.post_recv(peer, round, {&target, 1}, Delivery::kRendezvous));
    handles.push_back(t.post_send(peer, round, {&out, 1}, Delivery::kRendezvous));
  }
  const auto deadline = Clock::now() + std::chrono::minutes(2);
  while (true) {
    std::erase_if(handles, [&](TransportHandle handle) {
      return t.poll(handle).state != TransferState::kPending;
    });
    if (handles.empty()) return;
    if (const Status status = t.wait(deadline); !status.ok())
      throw Error(status.code(), status.message());
  }
}

void meet(Transport& t, std::uint64_t tag) {
  const std::vector<std::byte> mine(8);
  std::vector<std::byte> out(8 * static_cast<std::size_t>(t.num_ranks()));
  const Status met =
      wait_done(t, t.post_all_gather(tag, mine, out), Clock::now() + std::chrono::minutes(2));
  if (!met.ok()) throw Error(met.code(), met.message());
}

std::uint64_t rounds_of(int num_ranks) {
  const auto peers = static_cast<std::size_t>(num_ranks - 1);
  return std::max<std::size_t>(2, kBytesPerRank / (peers * kMessageBytes));
}

double run_rank(const std::string& group, int rank) {
  const auto t = open_shm_transport(group, rank);
  const std::vector<std::byte> out(kMessageBytes, std::byte{1});
  std::vector<std::vector<std::byte>> in(static_cast<std::size_t>(t->num_ranks()),
                                         std::vector<std::byte>(kMessageBytes));
  exchange(*t, 0, out, in);
  meet(*t, 0);
  const auto start = Clock::now();
  const std::uint64_t rounds = rounds_of(t->num_ranks());
  for (std::uint64_t round = 1; round <= rounds; ++round) exchange(*t, round, out, in);
  meet(*t, 1);
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// GiB/s received by all ranks together.
double run(const Setting& setting) {
  void* memory =
      ::mmap(nullptr, sizeof(double), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  double& seconds = *static_cast<double*>(memory);  // of rank 0
  seconds = 0;
  const ShmGroup group("swiftbalancer." + std::to_string(::getpid()) + ".rings", setting.num_ranks,
                       {setting.ring_bytes});
  for (int rank = 0; rank < setting.num_ranks; ++rank) {
    if (::fork() != 0) continue;
    try {
      const double taken = run_rank(group.name(), rank);
      if (rank == 0) seconds = taken;
    } catch (const std::exception& error) {
      std::fprintf(stderr, "rank %d: %s\n", rank, error.what());
    }
    ::_exit(0);
  }
  while (::wait(nullptr) > 0) {
  }
  if (seconds == 0) throw Error(ErrorCode::kInternal, "a rank failed");
  const double messages = static_cast<double>(rounds_of(setting.num_ranks)) * setting.num_ranks *
                          (setting.num_ranks - 1);
  const double result = messages * static_cast<double>(kMessageBytes) / (1 << 30) / seconds;
  ::munmap(memory, sizeof(double));
  return result;
}

}  // namespace
}  // namespace swiftbalancer

int main() try {
  using namespace swiftbalancer;
  std::printf("{\"cores\": %u, \"runs\": [", std::thread::hardware_concurrency());
  const char* separator = "";
  for (const Setting& setting : kSettings) {
    double best = 0;
    for (int repeat = 0; repeat < kRepeats; ++repeat) best = std::max(best, run(setting));
    std::printf("%s\n  {\"ranks\": %d, \"ring_bytes\": %zu, \"gib_per_s\": %.2f}", separator,
                setting.num_ranks, setting.ring_bytes, best);
    std::fflush(stdout);
    separator = ",";
  }
  std::printf("\n]}\n");
} catch (const std::exception& error) {
  std::fprintf(stderr, "ring_bench: %s\n", error.what());
  return 1;
}
