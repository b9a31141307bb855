#pragma once
// How a rank learns who is left after others were lost: notices come down its pipe, each with new
// groups that join the live ranks. Engine thread of one rank.

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <swiftbalancer/transport.hpp>

#include "engine/rank_pipe.hpp"

namespace swiftbalancer::engine {

/// What the parent says when the live ranks change.
struct MembershipNotice {
  std::uint32_t number = 0;        ///< 0: all ranks, as the run began.
  std::uint64_t step = 0;          ///< The last one reported before the change.
  std::vector<int> live_ranks;     ///< Numbers of the first shape, ascending.
  std::string exchange, balancer;  ///< Names of the groups, sized for the live ranks.
};

std::string encode(const MembershipNotice& notice);
/// @throws Error kInternal: not a notice.
MembershipNotice decode_membership_notice(std::span<const std::byte> bytes);

/// What a rank goes on with.
struct Membership {
  std::vector<int> live_ranks;
  std::unique_ptr<Transport> exchange, balancer;
};

/// Whether an error tells that other ranks are gone, or the way to them.
bool lost_others(ErrorCode code);
/// Whether a change of membership has come to nothing and another follows. A rank that joins and
/// was started differently is refused by all: it ends, and the others go on.
/// @throws Error: the status is any other failure.
bool try_others(const Status& status);

class MembershipInbox {
 public:
  MembershipInbox(int rank, FrameReader& frames) : rank_(rank), frames_(frames) {}

  /// Hands out what has come, notices apart; does not wait.
  void read(const FrameHandler& handle);
  /// Number of the membership that the rank is in.
  std::uint32_t number() const noexcept { return number_; }
  int fd() const noexcept { return frames_.fd(); }
  /// A notice newer than number() is here.
  bool changed();
  /// Waits for a newer notice, opens its transports and enters it. Notices that are out of date
  /// when they are read are passed over.
  /// @throws Error kPeerLost: this rank is not among the live ones; kTimeout: no notice came.
  Membership next(std::chrono::milliseconds limit);

 private:
  void take();

  int rank_;
  FrameReader& frames_;
  std::uint32_t number_ = 0;
  MembershipNotice newest_;
  std::vector<std::pair<FrameHeader, std::vector<std::byte>>> kept_;
};

}  // namespace swiftbalancer::engine
