#include "engine/rank_process.hpp"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>

#include "engine/corrupting_transport.hpp"

namespace swiftbalancer::engine {
namespace {

// What a rank waits for a notice beyond the time in which the parent finds late ranks.
constexpr std::chrono::seconds kNoticeGrace{10};

// @returns false when others were lost before all were done.
bool wait_for_release(MembershipInbox& inbox, int released) {
  while (!inbox.changed()) {
    pollfd fds[] = {{released, POLLIN, 0}, {inbox.fd(), POLLIN, 0}};
    if (poll(fds, 2, -1) > 0 && fds[0].revents != 0) return true;
  }
  return false;
}

// In front of the balancer's transports of a rank whose packets the run is to corrupt.
class PacketFault {
 public:
  PacketFault(const RunPlan& plan, int rank)
      : wanted_(std::ranges::any_of(plan.options.faults, [rank](const Fault& fault) {
          return fault.kind == FaultKind::kCorrupt && fault.rank == rank;
        })) {}
  std::unique_ptr<Transport> in_front_of(std::unique_ptr<Transport> transport) {
    return wanted_ ? make_corrupting_transport(std::move(transport), now_) : std::move(transport);
  }
  void strike() { now_ = true; }

 private:
  bool wanted_;
  std::atomic<bool> now_{false};
};

void add_recovery(const RunPlan& plan, MembershipInbox& inbox, FrameWriter& frames,
                  PacketFault& fault, RankContext& context) {
  context.stepped = [&](std::uint64_t step) {
    frames.write({.kind = FrameKind::kStep, .step = step}, std::string());
  };
  context.resumed = [&](std::uint64_t first_step) {
    frames.write({.kind = FrameKind::kResumed, .step = first_step}, std::to_string(inbox.number()));
  };
  context.membership_changes = [&] { return inbox.changed(); };
  context.answered = [&](std::span<const Output> outputs) {
    RankRecord part;
    for (const Output& output : outputs) {
      part.output_requests.push_back(output.request);
      part.outputs.push_back(output.tokens);
    }
    frames.write({.kind = FrameKind::kAnswers}, encode(part));
  };
  const auto limit = 2 * plan.options.balancer.deadline + kNoticeGrace;
  context.next_membership = [&inbox, &frames, &fault, limit] {
    frames.write({.kind = FrameKind::kWaiting, .step = inbox.number()}, std::string());
    Membership membership = inbox.next(limit);
    membership.balancer = fault.in_front_of(std::move(membership.balancer));
    frames.write({.kind = FrameKind::kOpened, .step = inbox.number()}, std::string());
    return membership;
  };
}

}  // namespace

bool survives_losses(const RunPlan& plan) { return plan.options.device == DeviceKind::kNone; }

void run_rank_process(const RunPlan& plan, int rank, const GroupNames& groups, FrameWriter& frames,
                      FrameReader& notices, int released) {
  int exit_code = 0;
  try {
    MembershipInbox inbox(rank, notices);
    PacketFault fault(plan, rank);  // outlives the transports
    RankContext context;
    context.rank = rank;
    context.joins = groups.exchange.empty();
    if (!context.joins) {
      context.exchange = open_shm_transport(groups.exchange, rank);
      context.balancer = fault.in_front_of(open_shm_transport(groups.balancer, rank));
      frames.write({.kind = FrameKind::kOpened}, std::string());
    }
    context.progress = [&](std::uint64_t step, const std::string& line) {
      frames.write({.kind = FrameKind::kProgress, .step = step}, line);
    };
    context.log = [&](const std::string& line) { frames.write({.kind = FrameKind::kLog}, line); };
    context.receive = [&](const FrameHandler& handle) {
      inbox.read([&](const FrameHeader& header, std::span<const std::byte> content) {
        if (header.kind == FrameKind::kCorrupt) fault.strike();
        handle(header, content);
      });
    };
    if (plan.options.control != nullptr) {
      context.snapshot = [&](const RankSnapshot& snapshot) {
        frames.write({.kind = FrameKind::kSnapshot}, encode(snapshot));
      };
    }
    if (survives_losses(plan)) add_recovery(plan, inbox, frames, fault, context);
    context.deliver = [&](const RankRecord& record) {
      frames.write({.kind = FrameKind::kRecord, .step = inbox.number()}, encode(record));
      return wait_for_release(inbox, released);
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

}  // namespace swiftbalancer::engine
