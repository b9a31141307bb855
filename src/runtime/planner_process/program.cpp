#include "runtime/planner_process/program.hpp"

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <swiftbalancer/error.hpp>

#include "runtime/plan_bytes.hpp"
#include "runtime/planner_process/channel.hpp"
#include "runtime/planner_process/child.hpp"
#include "runtime/planner_process/messages.hpp"

namespace swiftbalancer {
namespace {

namespace messages = planner_messages;
using Kind = PlannerMessageKind;

// It looks so often whether its parent is still there, should the kernel not have told it.
constexpr std::chrono::seconds kLongestIdle{1};

class PlannerProgram {
 public:
  explicit PlannerProgram(std::unique_ptr<PlannerChannel> channel) : channel_(std::move(channel)) {
    send(Kind::kReady, {});
  }

  void run(pid_t parent) {
    while (::getppid() == parent) {
      const bool moved = channel_->pump();
      if (!channel_->fault().empty())
        throw Error(ErrorCode::kTransport, "its parent " + channel_->fault());
      while (const auto message = channel_->receive()) hear(*message);
      if (job_) {
        plan_one_layer();
      } else if (!moved) {
        channel_->wait(std::chrono::steady_clock::now() + kLongestIdle);
      }
    }
  }

 private:
  void send(Kind kind, std::vector<std::byte> content) {
    channel_->send({kind, life_, std::move(content)});
  }

  void hear(const PlannerMessage& message) {
    if (message.kind == Kind::kRestart) return restart(message);
    if (!planner_) throw Error(ErrorCode::kTransport, "its parent asks before it has begun");
    switch (message.kind) {
      case Kind::kCommitted: {
        const messages::Committed committed = messages::decode_committed(message.content, *shape_);
        return planner_->on_committed(committed.moe_layer_id, committed.placement,
                                      committed.shares);
      }
      case Kind::kRebalancing:
        return planner_->on_rebalancing(messages::decode_rebalancing(message.content));
      case Kind::kObserve: {
        const messages::Observe observe = messages::decode_observe(message.content, *shape_);
        planner_->observe(observe.load, observe.phase);
        return send(Kind::kObserved,
                    messages::encode_observed({observe.step, planner_->wants_rebalance()}));
      }
      case Kind::kOpen:
        return open(message);
      case Kind::kClose:
        return job_.reset();
      default:
        throw Error(ErrorCode::kTransport, "its parent sent a message that makes no sense");
    }
  }

  void restart(const PlannerMessage& message) {
    const messages::Restart restart = messages::decode_restart(message.content);
    job_.reset();
    life_ = message.life;
    shape_ = restart.shape;
    planner_ = std::make_unique<Planner>(*shape_, restart.config);
    planner_->on_served(restart.served, false);
  }

  void open(const PlannerMessage& message) {
    std::span<const std::byte> rest;
    generation_ = messages::decode_generation(message.content, rest);
    try {
      job_ = planner_->begin_plan(generation_.step);
    } catch (const std::bad_alloc&) {
      throw;
    } catch (const std::exception& error) {
      failed(error.what());
    }
  }

  // A failure ends the generation, as it does in the worker's thread; only want of memory ends the
  // program, which begins with less when it is started again.
  void plan_one_layer() {
    try {
      if (!job_->advance()) return send(Kind::kWorking, messages::encode_generation(generation_));
      send_plan(job_->take());
      job_.reset();
    } catch (const std::bad_alloc&) {
      throw;
    } catch (const std::exception& error) {
      failed(error.what());
    }
  }

  void send_plan(const Plan& plan) {
    std::vector<std::byte> content(most_plan_bytes(*shape_));
    content.resize(encode_plan(generation_, plan, *shape_, content));
    send(Kind::kPlan, messages::encode_generation(generation_, content));
  }

  void failed(const std::string& why) {
    job_.reset();
    const std::string line = messages::printable(std::as_bytes(std::span(why)));
    send(Kind::kFailed, messages::encode_generation(generation_, std::as_bytes(std::span(line))));
  }

  std::unique_ptr<PlannerChannel> channel_;
  std::uint32_t life_ = 0;
  std::optional<ClusterShape> shape_;
  std::unique_ptr<Planner> planner_;
  std::unique_ptr<PlanJob> job_;
  GenerationId generation_;
};

// When memory runs out on this machine, the kernel is to take this process, not its parent.
void offer_to_be_killed_first() {
  constexpr char kFirst[] = "1000";
  const int file = ::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (file < 0) return;  // Without /proc there is nothing to be done.
  if (::write(file, kFirst, sizeof kFirst - 1) < 0) {
    // Not allowed: it competes as any other process.
  }
  ::close(file);
}

void limit_memory(std::size_t bytes) {
  if (bytes == 0) return;
  const rlimit limit{bytes, bytes};
  if (::setrlimit(RLIMIT_AS, &limit) != 0)
    throw Error(ErrorCode::kIo, std::string("cannot limit memory: ") + std::strerror(errno));
}

}  // namespace

int run_planner_program(int descriptor, pid_t parent, std::size_t max_memory_bytes) noexcept {
  try {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    offer_to_be_killed_first();
    auto channel = PlannerChannel::open(descriptor);
    limit_memory(max_memory_bytes);
    PlannerProgram(std::move(channel)).run(parent);
    return kPlannerExitParentGone;
  } catch (const std::bad_alloc&) {
    std::fputs("swiftbalancer-planner: out of memory\n", stderr);
    return kPlannerExitOutOfMemory;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "swiftbalancer-planner: %s\n", error.what());
    return kPlannerExitFailed;
  }
}

}  // namespace swiftbalancer
