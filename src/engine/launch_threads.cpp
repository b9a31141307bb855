// Ranks as threads of this process. What they tell, and are told, goes through pipes as with
// processes, so that everything else happens on the thread that called serve().

#include <poll.h>

#include <algorithm>
#include <memory>
#include <thread>

#include "engine/launch.hpp"
#include "runtime/mutex.hpp"

namespace swiftbalancer::engine {
namespace {

// Collects what the threads bring and lets those that are done go together.
class Collector {
 public:
  /// @param frames closed for good when all ranks are done.
  Collector(int num_ranks, std::unique_ptr<FrameWriter>& frames)
      : frames_(frames), records_(static_cast<std::size_t>(num_ranks)) {}

  void deliver(const RankRecord& record) {
    const MutexLock lock(mutex_);
    records_[static_cast<std::size_t>(record.rank)] = record;
    count_one();
    while (done_ < records_.size()) all_done_.wait(mutex_);
  }
  void fail(RankFailure failure) {
    const MutexLock lock(mutex_);
    failures_.push_back(std::move(failure));
    count_one();
  }
  // After all threads have been joined.
  std::vector<RankRecord> take() {
    const MutexLock lock(mutex_);
    if (!failures_.empty()) throw_cause(failures_);
    return std::move(records_);
  }

 private:
  void count_one() SWIFTBALANCER_REQUIRES(mutex_) {
    if (++done_ < records_.size()) return;
    frames_.reset();
    all_done_.notify_all();
  }
  std::unique_ptr<FrameWriter>& frames_;
  Mutex mutex_;
  ConditionVariable all_done_;
  std::size_t done_ SWIFTBALANCER_GUARDED_BY(mutex_) = 0;
  std::vector<RankRecord> records_ SWIFTBALANCER_GUARDED_BY(mutex_);
  std::vector<RankFailure> failures_ SWIFTBALANCER_GUARDED_BY(mutex_);
};

// Lines come from rank 0's engine thread, which counts the steps, and from its worker.
class Reporter {
 public:
  explicit Reporter(const ProgressLine& progress) : progress_(progress) {}
  void report(std::uint64_t step, const std::string& line) {
    const MutexLock lock(mutex_);
    last_step_ = std::max(last_step_, step);
    progress_(last_step_, line);
  }

 private:
  Mutex mutex_;
  const ProgressLine& progress_ SWIFTBALANCER_GUARDED_BY(mutex_);
  std::uint64_t last_step_ SWIFTBALANCER_GUARDED_BY(mutex_) = 0;
};

void run_thread(const RunPlan& plan, RankContext context, Collector& collector) {
  const int rank = context.rank;
  try {
    run_rank(plan, std::move(context));
  } catch (const Error& error) {
    collector.fail({rank, error.code(), error.what()});
  } catch (const std::exception& error) {
    collector.fail({rank, ErrorCode::kInternal, error.what()});
  }
}

// Until all ranks are done.
void watch(ControlDesk& desk, FrameReader& frames) {
  const auto on_frame = [&](const FrameHeader&, std::span<const std::byte> content) {
    desk.on_snapshot(content);
  };
  while (true) {
    pollfd fds[] = {{frames.fd(), POLLIN, 0}, {desk.fd(), POLLIN, 0}};
    if (poll(fds, 2, -1) < 0) continue;  // interrupted by a signal
    if (fds[1].revents != 0) desk.serve();
    if (fds[0].revents != 0 && !frames.read(on_frame)) return;
  }
}

}  // namespace

void throw_cause(const std::vector<RankFailure>& failures) {
  const auto noticed_only = [](const RankFailure& f) {
    return f.code == ErrorCode::kPeerLost || f.code == ErrorCode::kTimeout ||
           f.code == ErrorCode::kTransport;
  };
  auto cause =
      std::find_if(failures.begin(), failures.end(), [](const RankFailure& f) { return f.died; });
  if (cause == failures.end()) {
    cause = std::find_if(failures.begin(), failures.end(),
                         [&](const RankFailure& f) { return !noticed_only(f); });
  }
  if (cause == failures.end()) cause = failures.begin();
  // A bad value is the caller's on every rank alike.
  if (cause->code == ErrorCode::kInvalidArgument) throw Error(cause->code, cause->message);
  throw Error(cause->code,
              "rank " + std::to_string(cause->rank) + (cause->died ? " " : ": ") + cause->message);
}

RanksResult run_threads(const RunPlan& plan, const ProgressLine& progress) {
  const int num_ranks = plan.shape->num_ranks();
  auto exchanges = make_thread_transports(num_ranks);
  auto balancers = make_thread_transports(num_ranks);
  ControlDesk desk(plan.options.control, num_ranks);
  Pipe pipe = make_pipe();
  FrameReader snapshots(std::move(pipe.read));
  auto frames = std::make_unique<FrameWriter>(std::move(pipe.write));
  Collector collector(num_ranks, frames);
  Reporter reporter(progress);
  std::vector<FrameReader> notices;  // outlive the ranks: one that is done can still be told
  for (int rank = 0; rank < num_ranks; ++rank) notices.push_back(desk.connect(rank));
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < num_ranks; ++rank) {
    RankContext context;
    context.rank = rank;
    context.exchange = std::move(exchanges[static_cast<std::size_t>(rank)]);
    context.balancer = std::move(balancers[static_cast<std::size_t>(rank)]);
    context.deliver = [&collector](const RankRecord& record) {
      collector.deliver(record);
      return true;
    };
    context.receive = [&from = notices[static_cast<std::size_t>(rank)]](
                          const FrameHandler& handle) { from.read(handle); };
    if (plan.options.control != nullptr) {
      context.snapshot = [&frames](const RankSnapshot& snapshot) {
        frames->write({.kind = FrameKind::kSnapshot}, encode(snapshot));
      };
    }
    if (rank == 0 && progress) {
      context.progress = [&reporter](std::uint64_t step, const std::string& line) {
        reporter.report(step, line);
      };
      context.log = [&reporter](const std::string& line) { reporter.report(0, line); };
    }
    threads.emplace_back(
        [&plan, &collector, moved = std::make_shared<RankContext>(std::move(context))] {
          run_thread(plan, std::move(*moved), collector);
        });
  }
  watch(desk, snapshots);
  threads.clear();  // joins
  return {collector.take(), {}, {}, {}};
}

}  // namespace swiftbalancer::engine
