// Ranks as forked processes over shared memory, and the parent that watches them.

#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>
#include <optional>
#include <utility>

#include "engine/interrupt.hpp"
#include "engine/launch.hpp"
#include "engine/rank_groups.hpp"
#include "engine/rank_process.hpp"
#include "engine/run_history.hpp"

namespace swiftbalancer::engine {
namespace {

using Clock = std::chrono::steady_clock;

// How long the other ranks have to say what they saw after one has failed.
constexpr std::chrono::seconds kGrace{3};

bool stopped(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  std::getline(file, line);
  const auto end = line.rfind(')');
  return end != std::string::npos && end + 2 < line.size() &&
         (line[end + 2] == 'T' || line[end + 2] == 't');
}

class Supervisor {
 public:
  Supervisor(const RunPlan& plan, const ProgressLine& progress)
      : plan_(plan),
        progress_(progress),
        release_(make_pipe()),
        desk_(plan.options.control, plan.shape->num_ranks()),
        children_(static_cast<std::size_t>(plan.shape->num_ranks())),
        injector_(plan.options.faults) {
    for (int rank = 0; rank < plan.shape->num_ranks(); ++rank) members_.push_back(rank);
    groups_.make(members_);
  }
  ~Supervisor() { kill_all(); }

  RanksResult run() {
    for (const int rank : members_) start(rank, groups_.names());
    while (num_running_ > 0) {
      watch();
      for (const int rank : std::exchange(to_join_, {})) join(rank);
    }
    if (!failures_.empty()) history_.throw_cause_of(failures_);
    RanksResult result;
    for (const int rank : members_) result.records.push_back(std::move(*child(rank).record));
    history_.move_to(result);
    result.faults = injector_.report();
    return result;
  }

 private:
  struct Child {
    pid_t pid = 0;
    FrameReader frames{FileDescriptor()};
    bool running = false;
    bool lost = false;     // the others go on without it
    bool joins = false;    // and has not been taken in yet
    bool waiting = false;  // for others, in vain
    std::optional<RankRecord> record = std::nullopt;
    std::optional<RankFailure> error = std::nullopt;  // as it said itself
    RankRecord answers = {};                          // its outputs only
  };

  void start(int rank, const GroupNames& groups);
  void join(int rank);
  void watch();
  void handle(int rank, const FrameHeader& header, std::span<const std::byte> content);
  void ended(int rank);
  void fail(RankFailure failure);
  void died(int rank, std::string how);
  void lose(int rank, std::string how);
  void regroup();
  void announce();
  void on_waiting(int rank);
  void lose_late(bool only_stopped);
  void on_step(std::uint64_t step);
  void on_resumed(std::uint32_t number, std::uint64_t first_step);
  void say(const std::string& line) const {
    if (plan_.options.notice) plan_.options.notice(line);
  }
  Child& child(int rank) { return children_[static_cast<std::size_t>(rank)]; }
  int timeout_ms() const;
  void kill_all() noexcept;
  void end_process(Child& child) noexcept;

  const RunPlan& plan_;
  const ProgressLine& progress_;
  InterruptScope interrupt_;
  RankGroups groups_;
  Pipe release_;
  ControlDesk desk_;
  std::vector<Child> children_;  // [num_ranks] the latest process of each
  std::vector<int> members_;     // the live ranks, ascending
  std::vector<int> to_join_;
  std::uint32_t membership_ = 0;
  std::size_t num_opened_ = 0, num_records_ = 0;  // of this membership
  int num_running_ = 0;                           // of the members
  bool released_ = false;
  std::uint64_t last_step_ = 0;
  std::vector<RankFailure> failures_;
  Clock::time_point kill_at_{};               // once something has failed
  std::optional<Clock::time_point> late_at_;  // once somebody waits in vain
  RunHistory history_;
  FaultInjector injector_;
};

void Supervisor::start(int rank, const GroupNames& groups) {
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
    run_rank_process(plan_, rank, groups, frames, notices, release_.read.get());
  }
  child(rank) = Child();
  child(rank).pid = pid;
  child(rank).frames = FrameReader(std::move(pipe.read));
  child(rank).running = true;
  ++num_running_;
}

// The others go on undisturbed if there is no room for one more.
void Supervisor::join(int rank) {
  if (!child(rank).lost || !failures_.empty()) return;
  const std::vector<int> members = members_;
  members_.insert(std::ranges::upper_bound(members_, rank), rank);
  try {
    groups_.make(members_);
  } catch (const Error& error) {
    members_ = members;
    return say("rank " + std::to_string(rank) + " cannot join: " + error.what());
  }
  end_process(child(rank));
  start(rank, {});
  child(rank).joins = true;
  announce();
}

int Supervisor::timeout_ms() const {
  if (failures_.empty() && !late_at_) return -1;
  const auto until = failures_.empty() ? *late_at_ : kill_at_;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()).count();
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
  if (ready == 0) return failures_.empty() ? lose_late(false) : kill_all();
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
  if (child.lost) {
    if (header.kind == FrameKind::kError) say("rank " + std::to_string(rank) + " " + text());
    return;
  }
  const bool speaks = rank == members_.front();
  switch (header.kind) {
    case FrameKind::kOpened:
      // Nobody needs the names any more: what dies from here on cannot leave them behind.
      if (header.step == membership_ && ++num_opened_ == members_.size()) {
        groups_.all_opened();
      }
      break;
    case FrameKind::kProgress:
    case FrameKind::kLog:
      if (header.kind == FrameKind::kProgress && speaks)
        last_step_ = std::max(last_step_, header.step);
      if (progress_ && speaks) progress_(last_step_, text());
      break;
    case FrameKind::kStep:
      on_step(header.step);
      break;
    case FrameKind::kResumed:
      on_resumed(static_cast<std::uint32_t>(std::stoul(text())), header.step);
      break;
    case FrameKind::kAnswers: {
      const RankRecord part = decode_rank_record(content);
      auto& requests = child.answers.output_requests;
      auto& outputs = child.answers.outputs;
      requests.insert(requests.end(), part.output_requests.begin(), part.output_requests.end());
      outputs.insert(outputs.end(), part.outputs.begin(), part.outputs.end());
      break;
    }
    case FrameKind::kWaiting:
      if (header.step == membership_) on_waiting(rank);
      break;
    case FrameKind::kSnapshot:
      desk_.on_snapshot(content);
      break;
    case FrameKind::kRecord:
      if (header.step != membership_) break;
      child.record = decode_rank_record(content);
      released_ = ++num_records_ == members_.size();
      if (released_) release_.write.close();
      break;
    case FrameKind::kError:
      child.error = RankFailure{rank, header.code, text()};
      break;
    case FrameKind::kMode:  // these go the other way only
    case FrameKind::kMembership:
    case FrameKind::kCorrupt:
      break;
  }
}

void Supervisor::on_step(std::uint64_t step) {
  last_step_ = std::max(last_step_, step);
  if (plan_.options.faults.empty()) return;
  std::vector<pid_t> pids;
  for (const Child& child : children_) pids.push_back(child.running ? child.pid : 0);
  const auto act = [this](const Fault& fault) {
    const bool join = fault.kind == FaultKind::kJoin;
    if (child(fault.rank).lost != join) return false;
    if (join) to_join_.push_back(fault.rank);
    if (!join) desk_.tell(fault.rank, {.kind = FrameKind::kCorrupt}, {});
    return true;
  };
  for (const std::string& line : injector_.on_step(step, pids, act)) {
    if (progress_) progress_(last_step_, line);
  }
}

void Supervisor::on_resumed(std::uint32_t number, std::uint64_t first_step) {
  for (const int rank : history_.entered(number, first_step)) child(rank).joins = false;
}

void Supervisor::ended(int rank) {
  Child& child = children_[static_cast<std::size_t>(rank)];
  int status = 0;
  while (waitpid(child.pid, &status, 0) < 0 && errno == EINTR) {
  }
  child.running = false;
  if (child.lost) return;
  --num_running_;
  if (released_ && child.record) return;
  if (child.error && child.joins) return died(rank, "could not join: " + child.error->message);
  if (child.error) return fail(*child.error);
  if (!WIFSIGNALED(status))
    return fail({rank, ErrorCode::kInternal, "ended without a result", true});
  const int signal = WTERMSIG(status);
  died(rank, "was killed by signal " + std::to_string(signal) + " (" + strsignal(signal) + ")");
}

void Supervisor::died(int rank, std::string how) {
  if (!survives_losses(plan_) || members_.size() == 1 || !failures_.empty())
    return fail({rank, ErrorCode::kPeerLost, how + ": the run has been ended", true});
  lose(rank, std::move(how));
  regroup();
}

// From here on the others' waits for it end, and it finds itself alone if it comes back.
void Supervisor::lose(int rank, std::string how) {
  groups_.mark_lost(rank);
  child(rank).lost = true;
  if (child(rank).running) --num_running_;
  LossRecord loss;
  loss.rank = rank;
  loss.membership = membership_;
  loss.step = last_step_;
  loss.how = std::move(how);
  loss.answered_requests = std::move(child(rank).answers.output_requests);
  loss.outputs = std::move(child(rank).answers.outputs);
  history_.lost(std::move(loss));
}

void Supervisor::regroup() {
  std::erase_if(members_, [&](int rank) { return child(rank).lost; });
  history_.check_slots(*plan_.shape, members_);
  try {
    groups_.make(members_);
  } catch (const Error& error) {
    history_.throw_no_way_on(last_step_, error);
  }
  announce();
}

void Supervisor::announce() {
  ++membership_;
  history_.announced(membership_, members_);
  num_opened_ = num_records_ = 0;
  late_at_.reset();
  for (const int rank : members_) {
    child(rank).waiting = false;
    child(rank).record.reset();
  }
  const GroupNames names = groups_.names();
  const std::string notice =
      encode(MembershipNotice{membership_, last_step_, members_, names.exchange, names.balancer});
  // Lost ranks too: one that was only stopped learns what has become of it.
  for (std::size_t rank = 0; rank < children_.size(); ++rank) {
    if (!children_[rank].running) continue;
    desk_.tell(static_cast<int>(rank), {.kind = FrameKind::kMembership},
               std::as_bytes(std::span(notice)));
  }
  for (std::size_t rank = 0; rank < children_.size(); ++rank) {
    if (children_[rank].lost) desk_.lose(static_cast<int>(rank));
  }
}

// The others get as long again to say that they wait as well; a stopped one will not.
void Supervisor::on_waiting(int rank) {
  child(rank).waiting = true;
  if (!late_at_) late_at_ = Clock::now() + plan_.options.balancer.deadline;
  lose_late(true);
}

void Supervisor::lose_late(bool only_stopped) {
  bool any_silent = false, any_lost = false;
  for (const int rank : members_) {
    const Child& member = child(rank);
    if (member.waiting || member.record || !member.running) continue;
    any_silent = true;
    if (only_stopped && !stopped(member.pid)) continue;
    lose(rank, "was late");
    any_lost = true;
  }
  if (any_lost || !any_silent) regroup();
}

void Supervisor::fail(RankFailure failure) {
  desk_.lose(failure.rank);
  // Peers stop waiting for it; those that are done are let go.
  groups_.mark_lost(failure.rank);
  release_.write.close();
  if (failures_.empty()) kill_at_ = Clock::now() + kGrace;
  failures_.push_back(std::move(failure));
}

void Supervisor::kill_all() noexcept {
  for (Child& child : children_) end_process(child);
}

void Supervisor::end_process(Child& child) noexcept {
  if (!child.running) return;
  kill(child.pid, SIGKILL);
  while (waitpid(child.pid, nullptr, 0) < 0 && errno == EINTR) {
  }
  child.running = false;
  if (!child.lost) --num_running_;
}

}  // namespace

RanksResult run_processes(const RunPlan& plan, const ProgressLine& progress) {
  return Supervisor(plan, progress).run();
}

}  // namespace swiftbalancer::engine
