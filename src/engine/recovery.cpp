#include "engine/recovery.hpp"

#include <poll.h>

#include <algorithm>
#include <sstream>

namespace swiftbalancer::engine {

std::string encode(const MembershipNotice& notice) {
  std::ostringstream text;
  text << notice.number << ' ' << notice.step << ' ' << notice.exchange << ' ' << notice.balancer;
  for (const int rank : notice.live_ranks) text << ' ' << rank;
  return text.str();
}

MembershipNotice decode_membership_notice(std::span<const std::byte> bytes) {
  std::istringstream text(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  MembershipNotice notice;
  text >> notice.number >> notice.step >> notice.exchange >> notice.balancer;
  for (int rank = 0; text >> rank;) notice.live_ranks.push_back(rank);
  if (notice.live_ranks.empty())
    throw Error(ErrorCode::kInternal, "a notice of a new membership is cut off");
  return notice;
}

bool lost_others(ErrorCode code) {
  return code == ErrorCode::kPeerLost || code == ErrorCode::kTimeout ||
         code == ErrorCode::kTransport;
}

bool try_others(const Status& status) {
  if (lost_others(status.code()) || status.code() == ErrorCode::kInvalidArgument) return true;
  status.throw_if_failed();
  return false;
}

void MembershipInbox::take() {
  frames_.read([&](const FrameHeader& header, std::span<const std::byte> content) {
    if (header.kind == FrameKind::kMembership) {
      newest_ = decode_membership_notice(content);
    } else {
      kept_.emplace_back(header, std::vector<std::byte>(content.begin(), content.end()));
    }
  });
}

void MembershipInbox::read(const FrameHandler& handle) {
  take();
  for (const auto& [header, content] : kept_) handle(header, content);
  kept_.clear();
}

bool MembershipInbox::changed() {
  take();
  return newest_.number > number_;
}

Membership MembershipInbox::next(std::chrono::milliseconds limit) {
  using Clock = std::chrono::steady_clock;
  const auto until = Clock::now() + limit;
  while (true) {
    while (!changed()) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()).count();
      if (left <= 0) throw Error(ErrorCode::kTimeout, "no new membership was announced");
      pollfd fd{frames_.fd(), POLLIN, 0};
      poll(&fd, 1, static_cast<int>(std::min<std::int64_t>(left, 60'000)));
    }
    number_ = newest_.number;
    const auto found = std::ranges::find(newest_.live_ranks, rank_);
    if (found == newest_.live_ranks.end()) {
      throw Error(ErrorCode::kPeerLost,
                  "was declared lost at step " + std::to_string(newest_.step) + ": fenced");
    }
    const int member = static_cast<int>(found - newest_.live_ranks.begin());
    try {
      Membership membership{newest_.live_ranks, nullptr, nullptr};
      membership.exchange = open_shm_transport(newest_.exchange, member);
      membership.balancer = open_shm_transport(newest_.balancer, member);
      return membership;
    } catch (const Error&) {
      // Removed already: a newer notice is under way, or none comes and that ends the wait.
    }
  }
}

}  // namespace swiftbalancer::engine
