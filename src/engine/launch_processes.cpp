// Ranks as forked processes over shared memory, and the parent that watches them.

#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <optional>

#include "engine/interrupt.hpp"
#include "engine/launch.hpp"
#include "engine/rank_pipe.hpp"

namespace swiftbalancer::engine {
namespace {

using Clock = std::chrono::steady_clock;

// How long the other ranks have to say what they saw after one has failed.
constexpr std::chrono::seconds kGrace{3};

std::string group_name(const char* purpose) {
  static std::atomic<int> count{0};
  return "swiftbalancer." + std::to_string(getpid()) + "." + std::to_string(count++) + "." +
         purpose;
}

// 16 ranks must fit the 64 MB of /dev/shm that containers have by default: the rings of a pair of
// ranks take four times ring_bytes here (two groups of two lanes), 32 KiB make 32 MiB of them.
RingOptions rings_for(int num_ranks) {
  return {.ring_bytes = num_ranks > 8 ? std::size_t{1} << 15 : std::size_t{1} << 17};
}

struct Groups {
  explicit Groups(int num_ranks)
      : exchange(group_name("exchange"), num_ranks, rings_for(num_ranks)),
        balancer(group_name("balancer"), num_ranks, rings_for(num_ranks)) {}
  ShmGroup exchange, balancer;
};

// The life of a rank's process. `released` reads as ended when the parent lets it go, or is gone.
[[noreturn]] void child_main(const RunPlan& plan, int rank, const Groups& groups,
                             FrameWriter& frames, FrameReader& notices, int released) {
  int exit_code = 0;
  try {
    RankContext context;
    context.rank = rank;
    context.exchange = open_shm_transport(groups.exchange.name(), rank);
    context.balancer = open_shm_transport(groups.balancer.name(), rank);
    frames.write({.kind = FrameKind::kOpened}, std::string());
    if (rank == 0) {
      context.progress = [&](std::uint64_t step, const std::string& line) {
        frames.write({.kind = FrameKind::kProgress, .step = step}, line);
      };
      context.log = [&](const std::string& line) { frames.write({.kind = FrameKind::kLog}, line); };
    }
    context.receive = [&](const FrameHandler& handle) { notices.read(handle); };
    if (plan.options.control != nullptr) {
      context.snapshot = [&](const RankSnapshot& snapshot) {
        frames.write({.kind = FrameKind::kSnapshot}, encode(snapshot));
      };
    }
    context.deliver = [&](const RankRecord& record) {
      frames.write({.kind = FrameKind::kRecord}, encode(record));
      char byte = 0;
      while (read(released, &byte, 1) < 0 && errno == EINTR) {
      }
    };
    run_rank(plan, std::move(context));
  } catch (const Error& error) {
    frames.write({.kind = FrameKind::kError, .code = error.code()}, std::string(error.what()));
    exit_code = 1;
  } catch (const std::exception& error) {
    frames.write({.kind = FrameKind::kError, .code = ErrorCode::kInternal},
                 std::string(error.what()));
    exit_code = 1;
  }
  _exit(exit_code);
}

class Supervisor {
 public:
  Supervisor(const RunPlan& plan, const ProgressLine& progress)
      : plan_(plan),
        progress_(progress),
        groups_(plan.shape->num_ranks()),
        release_(make_pipe()),
        desk_(plan.options.control, plan.shape->num_ranks()) {}
  ~Supervisor() { kill_all(); }

  std::vector<RankRecord> run() {
    for (int rank = 0; rank < plan_.shape->num_ranks(); ++rank) start(rank);
    release_.read.close();
    while (num_running_ > 0) watch();
    if (!failures_.empty()) throw_cause(failures_);
    std::vector<RankRecord> records;
    for (Child& child : children_) records.push_back(std::move(*child.record));
    return records;
  }

 private:
  struct Child {
    pid_t pid = 0;
    FrameReader frames;
    bool running = true;
    std::optional<RankRecord> record;
    std::optional<RankFailure> error;  // as it said itself
  };

  void start(int rank);
  void watch();
  void handle(int rank, const FrameHeader& header, std::span<const std::byte> content);
  void ended(int rank);
  void fail(RankFailure failure);
  int timeout_ms() const;
  void kill_all() noexcept;

  const RunPlan& plan_;
  const ProgressLine& progress_;
  InterruptScope interrupt_;
  Groups groups_;
  Pipe release_;
  ControlDesk desk_;
  std::vector<Child> children_;
  int num_running_ = 0, num_opened_ = 0, num_records_ = 0;
  std::uint64_t last_step_ = 0;
  std::vector<RankFailure> failures_;
  Clock::time_point kill_at_{};  // once something has failed
};

void Supervisor::start(int rank) {
  Pipe pipe = make_pipe();
  FrameReader notices = desk_.connect(rank);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0)
    throw Error(ErrorCode::kIo, std::string("cannot start rank ") + std::to_string(rank) + ": " +
                                    std::strerror(errno));
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    InterruptScope::ignore_in_child();
    release_.write.close();
    FrameWriter frames(std::move(pipe.write));
    child_main(plan_, rank, groups_, frames, notices, release_.read.get());
  }
  children_.push_back({pid, FrameReader(std::move(pipe.read)), true, std::nullopt, std::nullopt});
  ++num_running_;
}

int Supervisor::timeout_ms() const {
  if (failures_.empty()) return -1;
  const auto left =
      std::chrono::duration_cast<std::chrono::milliseconds>(kill_at_ - Clock::now()).count();
  return static_cast<int>(std::max<std::int64_t>(0, left));
}

void Supervisor::watch() {
  std::vector<pollfd> fds{{interrupt_.fd(), POLLIN, 0}, {desk_.fd(), POLLIN, 0}};
  std::vector<int> ranks{-1, -1};
  for (std::size_t rank = 0; rank < children_.size(); ++rank) {
    if (!children_[rank].running) continue;
    fds.push_back({children_[rank].frames.fd(), POLLIN, 0});
    ranks.push_back(static_cast<int>(rank));
  }
  const int ready = poll(fds.data(), fds.size(), timeout_ms());
  if (const int signal = interrupt_.received(); signal != 0) {
    throw Error(ErrorCode::kUnavailable,
                std::string("interrupted (") + strsignal(signal) + "): all ranks have been ended");
  }
  if (ready == 0) return kill_all();
  if (ready < 0) return;  // interrupted by a signal that is not ours
  if (fds[1].revents != 0) desk_.serve();
  for (std::size_t i = 2; i < fds.size(); ++i) {
    if (fds[i].revents == 0) continue;
    const int rank = ranks[i];
    const auto on_frame = [&](const FrameHeader& header, std::span<const std::byte> content) {
      handle(rank, header, content);
    };
    if (!children_[static_cast<std::size_t>(rank)].frames.read(on_frame)) ended(rank);
  }
}

void Supervisor::handle(int rank, const FrameHeader& header, std::span<const std::byte> content) {
  Child& child = children_[static_cast<std::size_t>(rank)];
  const auto text = [&] {
    return std::string(reinterpret_cast<const char*>(content.data()), content.size());
  };
  switch (header.kind) {
    case FrameKind::kOpened:
      // Nobody needs the names any more: what dies from here on cannot leave them behind.
      if (++num_opened_ == plan_.shape->num_ranks()) {
        groups_.exchange.unlink();
        groups_.balancer.unlink();
      }
      break;
    case FrameKind::kProgress:
      last_step_ = header.step;
      if (progress_) progress_(last_step_, text());
      break;
    case FrameKind::kLog:
      if (progress_) progress_(last_step_, text());
      break;
    case FrameKind::kSnapshot:
      desk_.on_snapshot(content);
      break;
    case FrameKind::kRecord:
      child.record = decode_rank_record(content);
      if (++num_records_ == plan_.shape->num_ranks()) release_.write.close();
      break;
    case FrameKind::kError:
      child.error = RankFailure{rank, header.code, text()};
      break;
    case FrameKind::kMode:  // goes the other way only
      break;
  }
}

void Supervisor::ended(int rank) {
  Child& child = children_[static_cast<std::size_t>(rank)];
  int status = 0;
  while (waitpid(child.pid, &status, 0) < 0 && errno == EINTR) {
  }
  child.running = false;
  --num_running_;
  if (child.error) return fail(*child.error);
  if (WIFSIGNALED(status)) {
    const int signal = WTERMSIG(status);
    return fail({rank, ErrorCode::kPeerLost,
                 "was killed by signal " + std::to_string(signal) + " (" + strsignal(signal) +
                     "): the run has been ended",
                 true});
  }
  if (!child.record) fail({rank, ErrorCode::kInternal, "ended without a result", true});
}

void Supervisor::fail(RankFailure failure) {
  desk_.lose(failure.rank);
  // Peers stop waiting for it; those that are done are let go.
  groups_.exchange.mark_lost(failure.rank);
  groups_.balancer.mark_lost(failure.rank);
  release_.write.close();
  if (failures_.empty()) kill_at_ = Clock::now() + kGrace;
  failures_.push_back(std::move(failure));
}

void Supervisor::kill_all() noexcept {
  for (Child& child : children_) {
    if (!child.running) continue;
    kill(child.pid, SIGKILL);
    while (waitpid(child.pid, nullptr, 0) < 0 && errno == EINTR) {
    }
    child.running = false;
    --num_running_;
  }
}

}  // namespace

std::vector<RankRecord> run_processes(const RunPlan& plan, const ProgressLine& progress) {
  return Supervisor(plan, progress).run();
}

}  // namespace swiftbalancer::engine
