// Time from end_step to the posting of that step's packet, with and without copies: ranks are
// processes over shared memory, each with a Balancer, whose engine threads make steps of a fixed
// length. Posted means that the worker has called post_all_gather. Three figures, since on fewer
// cores than threads the scheduler takes most of the time:
//   posting_us  by the clock;
//   worker_us   CPU time that the worker spent meanwhile: what the packet waited for its other
//   work; waking_us   what a thread of each rank that does nothing but wait to be woken at every
//   end_step
//               takes to wake, in a run of its own: the scheduler's part.
// Prints one JSON object.
//
//   build/release/bin/packet_bench [name=value ...], names and defaults below

#include <pthread.h>
#include <semaphore.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <map>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include <swiftbalancer/balancer.hpp>

namespace swiftbalancer {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kMostSteps = 1 << 17;
constexpr int kMostRanks = 64;
constexpr std::uint64_t kWarmUp = 200;  // steps that are not counted

std::map<std::string, int, std::less<>> settings = {
    {"ranks", 8},           {"steps", 5000},      {"step_us", 1000},   {"layers", 4},
    {"slots_per_rank", 64}, {"expert_kib", 1024}, {"staging_mib", 128}};

struct Measured {
  std::uint32_t count = 0;
  float microseconds[kMostSteps];
};

/// What a rank reports, in memory shared with the parent.
struct RankReport {
  Measured posting, worker, waking;
  std::uint64_t migrated_bytes = 0;
  double seconds = 0;
  bool ok = false;
};

struct Shared {
  std::atomic<int> finished{0};
  RankReport ranks[kMostRanks];
};

void add(Measured& measured, Clock::duration time) {
  if (measured.count == kMostSteps) return;
  measured.microseconds[measured.count++] = std::chrono::duration<float, std::micro>(time).count();
}

Clock::duration cpu_time(clockid_t clock) {
  timespec now{};
  ::clock_gettime(clock, &now);
  return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
}

/// When steps ended, as the engine thread hands it to one other thread.
class Ends {
 public:
  /// The other thread says who it is; until then its CPU time is not known.
  void is_reached_here() {
    clockid_t clock = 0;
    if (::pthread_getcpuclockid(::pthread_self(), &clock) == 0) clock_ = clock;
  }
  void step_ends(bool counts) {
    const clockid_t clock = clock_;
    at_[ended_.load(std::memory_order_relaxed) % kSlots] = {
        counts, clock == 0 ? Clock::duration() : cpu_time(clock), Clock::now()};
    ended_.fetch_add(1, std::memory_order_release);
  }
  void reached(Measured& time, Measured* own_time) {
    if (reached_ == ended_.load(std::memory_order_acquire)) return;  // before the first step
    const End& end = at_[reached_++ % kSlots];
    if (!end.counts) return;
    add(time, Clock::now() - end.at);
    if (own_time != nullptr) add(*own_time, cpu_time(CLOCK_THREAD_CPUTIME_ID) - end.cpu);
  }

 private:
  struct End {
    bool counts = false;
    Clock::duration cpu{};
    Clock::time_point at;
  };
  static constexpr std::uint64_t kSlots = 64;
  End at_[kSlots];
  std::atomic<clockid_t> clock_{0};
  std::atomic<std::uint64_t> ended_{0};
  std::uint64_t reached_ = 0;
};

/// Notes when all-gathers are posted.
class TimedTransport final : public Transport {
 public:
  TimedTransport(std::unique_ptr<Transport> inner, Ends& ends, RankReport& report)
      : inner_(std::move(inner)), ends_(ends), report_(report) {}
  int rank() const noexcept override { return inner_->rank(); }
  int num_ranks() const noexcept override { return inner_->num_ranks(); }
  TransportCapabilities capabilities() const noexcept override { return inner_->capabilities(); }
  TransportHandle post_all_gather(std::uint64_t tag, std::span<const std::byte> mine,
                                  std::span<std::byte> out) override {
    ends_.reached(report_.posting, &report_.worker);
    return inner_->post_all_gather(tag, mine, out);
  }
  TransportHandle post_send(int peer, std::uint64_t tag,
                            std::span<const std::span<const std::byte>> parts,
                            Delivery delivery) override {
    return inner_->post_send(peer, tag, parts, delivery);
  }
  TransportHandle post_recv(int peer, std::uint64_t tag,
                            std::span<const std::span<std::byte>> parts,
                            Delivery delivery) override {
    return inner_->post_recv(peer, tag, parts, delivery);
  }
  TransferStatus poll(TransportHandle handle) override { return inner_->poll(handle); }
  void cancel(TransportHandle handle) override { inner_->cancel(handle); }
  Status wait(Clock::time_point deadline) override { return inner_->wait(deadline); }
  void wake() noexcept override { inner_->wake(); }
  std::vector<int> lost_peers() override { return inner_->lost_peers(); }
  std::vector<int> awaited_peers() const override { return inner_->awaited_peers(); }

 private:
  std::unique_ptr<Transport> inner_;
  Ends& ends_;
  RankReport& report_;
};

/// Waits to be woken, and for nothing else.
class Probe {
 public:
  explicit Probe(Measured& measured) : measured_(measured) {
    sem_init(&semaphore_, 0, 0);
    thread_ = std::jthread([this](const std::stop_token& stop) {
      while (true) {
        sem_wait(&semaphore_);
        if (stop.stop_requested()) return;
        ends_.reached(measured_, nullptr);
      }
    });
  }
  ~Probe() {
    thread_.request_stop();
    sem_post(&semaphore_);
  }
  Probe(const Probe&) = delete;
  Probe& operator=(const Probe&) = delete;
  void step_ends(bool counts) {
    ends_.step_ends(counts);
    sem_post(&semaphore_);
  }

 private:
  Measured& measured_;
  Ends ends_;
  sem_t semaphore_;
  std::jthread thread_;
};

void* map(std::size_t bytes, int flags) {
  void* memory =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_POPULATE | flags, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  return memory;
}

struct Load {
  bool copies = false;
  bool probe = false;
};

ClusterShape shape_of_run() {
  const int ranks = settings["ranks"], slots = settings["slots_per_rank"];
  return ClusterShape({.num_moe_layers = settings["layers"],
                       .num_logical_experts = ranks * slots * 7 / 8,
                       .num_ranks = ranks,
                       .num_slots = ranks * slots});
}

BalancerConfig config_of(const Load& load, Ends& ends) {
  BalancerConfig config;
  config.policy = load.copies ? "stress" : "static";
  config.rebalance_interval = 1;
  config.window_assignments = 1;
  config.staging_bytes = static_cast<std::size_t>(settings["staging_mib"]) << 20;
  config.thread_init = [&ends] { ends.is_reached_here(); };
  return config;
}

void register_weights(Balancer& balancer) {
  const std::size_t bytes = static_cast<std::size_t>(settings["expert_kib"]) << 10;
  for (int layer = 0; layer < settings["layers"]; ++layer) {
    for (int slot = 0; slot < settings["slots_per_rank"]; ++slot) {
      const WeightPart part{static_cast<std::byte*>(map(bytes, MAP_PRIVATE)), bytes};
      balancer.register_weights(layer, slot, {&part, 1});
    }
  }
}

void run_steps(Balancer& balancer, const Load& load, Ends& ends, RankReport& report) {
  const std::vector<std::uint32_t> counts(static_cast<std::size_t>(settings["slots_per_rank"]), 40);
  std::unique_ptr<Probe> probe;
  if (load.probe) probe = std::make_unique<Probe>(report.waking);
  const std::chrono::microseconds length(settings["step_us"]);
  const auto steps = static_cast<std::uint64_t>(settings["steps"]) + kWarmUp;
  const auto start = Clock::now();
  auto next = start;
  for (std::uint64_t step = 1; step <= steps; ++step) {
    const Status begun = balancer.begin_step({step, Phase::kDecode});
    if (!begun.ok()) throw Error(begun.code(), begun.message());
    for (int layer = 0; layer < settings["layers"]; ++layer) balancer.record(layer, counts);
    next = std::max(next + length, Clock::now());
    std::this_thread::sleep_until(next);
    const bool counts_now = step > kWarmUp;
    if (probe) probe->step_ends(counts_now);
    ends.step_ends(counts_now);
    if (const Status ended = balancer.end_step(); !ended.ok())
      throw Error(ended.code(), ended.message());
  }
  report.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  report.migrated_bytes = balancer.stats().migrated_bytes;
}

void run_rank(int rank, const std::string& group, const Load& load, Shared& shared) {
  RankReport& report = shared.ranks[rank];
  Ends ends;
  const ClusterShape shape = shape_of_run();
  Balancer balancer(
      shape, config_of(load, ends),
      std::make_unique<TimedTransport>(open_shm_transport(group, rank), ends, report));
  register_weights(balancer);
  balancer.start(Placement::initial(shape));
  run_steps(balancer, load, ends, report);
  report.ok = true;
  ++shared.finished;  // the others may still need packets of this rank's worker
  while (shared.finished < settings["ranks"])
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

void print_percentiles(const char* name, const Shared& shared, Measured RankReport::* what) {
  std::vector<float> all;
  for (int rank = 0; rank < settings["ranks"]; ++rank) {
    const Measured& measured = shared.ranks[rank].*what;
    all.insert(all.end(), measured.microseconds, measured.microseconds + measured.count);
  }
  std::ranges::sort(all);
  const auto at = [&](double part) {
    return all.empty() ? 0.0
                       : all[static_cast<std::size_t>(part * static_cast<double>(all.size() - 1))];
  };
  std::printf(
      "\"%s\": {\"count\": %zu, \"p50\": %.1f, \"p99\": %.1f, \"p99.9\": %.1f, \"max\": %.1f}",
      name, all.size(), at(0.5), at(0.99), at(0.999), at(1.0));
}

void run(const char* name, const Load& load) {
  auto* shared = new (map(sizeof(Shared), MAP_SHARED)) Shared;
  {
    const ShmGroup group("swiftbalancer." + std::to_string(::getpid()) + "." + name,
                         settings["ranks"]);
    std::fflush(nullptr);
    for (int rank = 0; rank < settings["ranks"]; ++rank) {
      if (::fork() != 0) continue;
      try {
        run_rank(rank, group.name(), load, *shared);
      } catch (const std::exception& error) {
        std::fprintf(stderr, "rank %d: %s\n", rank, error.what());
        ++shared->finished;
      }
      ::_exit(0);
    }
    while (::wait(nullptr) > 0) {
    }
  }
  double seconds = 0, copied = 0;
  for (int rank = 0; rank < settings["ranks"]; ++rank) {
    if (!shared->ranks[rank].ok) throw Error(ErrorCode::kInternal, "a rank failed");
    seconds = std::max(seconds, shared->ranks[rank].seconds);
    copied = std::max(copied, static_cast<double>(shared->ranks[rank].migrated_bytes));
  }
  std::printf(",\n  \"%s\": {\"seconds\": %.1f, \"copied_mib_per_s\": %.0f,\n    ", name, seconds,
              copied / seconds / (1 << 20));
  print_percentiles("posting_us", *shared, &RankReport::posting);
  std::printf(",\n    ");
  print_percentiles("worker_us", *shared, &RankReport::worker);
  if (load.probe) {
    std::printf(",\n    ");
    print_percentiles("waking_us", *shared, &RankReport::waking);
  }
  std::printf("}");
  ::munmap(shared, sizeof(Shared));
}

void set(std::string_view argument) {
  const std::size_t equals = argument.find('=');
  const auto setting = settings.find(argument.substr(0, equals));
  int value = 0;
  const std::string_view text = equals == argument.npos ? "" : argument.substr(equals + 1);
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  if (setting == settings.end() || parsed.ec != std::errc() || value < 1)
    throw Error(ErrorCode::kInvalidArgument, "not understood: " + std::string(argument));
  setting->second = value;
}

}  // namespace
}  // namespace swiftbalancer

int main(int argc, char** argv) try {
  using namespace swiftbalancer;
  for (int i = 1; i < argc; ++i) set(argv[i]);
  std::printf("{\"cores\": %u", std::thread::hardware_concurrency());
  for (const auto& [name, value] : settings) std::printf(", \"%s\": %d", name.c_str(), value);
  run("without_copies", {});
  run("with_copies", {.copies = true});
  run("with_copies_and_probe", {.copies = true, .probe = true});
  std::printf("\n}\n");
} catch (const std::exception& error) {
  std::fprintf(stderr, "packet_bench: %s\n", error.what());
  return 1;
}
