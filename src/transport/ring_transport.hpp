#pragma once
// The transport over byte rings, for ranks in threads and in processes alike; thread.cpp and
// shm.cpp only say where the region lies. Bytes move in the owner's calls: posting pushes what
// fits, poll() and wait() push and take. Frames of one ring are taken only while an operation needs
// them or the sender runs out of space, so that a message usually goes straight from the ring into
// the buffer of its receive. One thread per instance; only wake() may come from another.
//
// Eager: pushed at once; begun without a receive it is kept on the heap. Rendezvous: the receive
// sends a request with a serial of its own; the sender pushes pieces only for a request it holds,
// and the receiver copies them itself. So cancelling touches nobody's memory: pieces of unknown
// serials are dropped.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <swiftbalancer/transport.hpp>

#include "transport/byte_ring.hpp"
#include "transport/region.hpp"

namespace swiftbalancer::ring {

class RingTransport final : public Transport {
 public:
  /// Takes a free rank. @throws Error kInvalidArgument: rank taken or out of range; `name` says of
  /// what.
  RingTransport(std::shared_ptr<Region> region, int rank, const std::string& name,
                bool multi_process);
  ~RingTransport() override;

  int rank() const noexcept override { return rank_; }
  int num_ranks() const noexcept override { return region_->num_ranks(); }
  TransportCapabilities capabilities() const noexcept override {
    return {.multi_process = multi_process_, .cancel = true};
  }
  TransportHandle post_all_gather(std::uint64_t tag, std::span<const std::byte> mine,
                                  std::span<std::byte> out) override;
  TransportHandle post_send(int peer, std::uint64_t tag,
                            std::span<const std::span<const std::byte>> parts,
                            Delivery delivery) override;
  TransportHandle post_recv(int peer, std::uint64_t tag,
                            std::span<const std::span<std::byte>> parts,
                            Delivery delivery) override;
  TransferStatus poll(TransportHandle handle) override;
  void cancel(TransportHandle handle) override;
  Status wait(std::chrono::steady_clock::time_point deadline) override;
  void wake() noexcept override;
  std::vector<int> lost_peers() override;

 private:
  using OpIndex = std::uint32_t;
  enum class OpKind : std::uint8_t {
    kFree,
    kSendEager,
    kSendRendezvous,
    kRecvEager,
    kRecvRendezvous,
    kGather
  };

  struct Operation {
    OpKind kind = OpKind::kFree;
    TransferState state = TransferState::kPending;
    bool matched = false;  // kRecvEager: a message is arriving; kSendRendezvous: holds a request
    int peer = 0;
    std::uint32_t generation = 1;  // tells handles of the same slot apart
    std::uint64_t tag = 0;
    std::uint64_t request = 0;         // rendezvous: serial of the request
    std::size_t request_capacity = 0;  // kSendRendezvous: of the receive
    std::uint64_t finished_in = 0;     // news_round_ when it was done or failed
    std::size_t total = 0;             // bytes to send, or capacity; kGather: of one contribution
    std::size_t moved = 0;             // rendezvous: so far; when done: the bytes to report
    std::vector<std::span<const std::byte>> sources;
    std::vector<std::span<std::byte>> targets;
    std::vector<bool> contributed;  // kGather: by rank
    int missing = 0;                // kGather: contributions to come
    int unsent = 0;  // kGather: peers that do not have all of this rank's contribution
  };
  // An eager message or contribution on its way out.
  struct Outgoing {
    OpIndex op = 0;
    FrameKind kind = FrameKind::kEager;
    std::uint64_t serial = 0;
    std::size_t offset = 0;
  };
  // The message whose pieces are arriving from a peer; there is at most one.
  struct Incoming {
    enum class To { kNothing, kOperation, kHeap, kDropped };
    To to = To::kNothing;
    OpIndex op = 0;
    FrameHeader first;
    std::size_t received = 0;
    std::vector<std::byte> heap;
  };
  struct Unexpected {
    FrameKind kind;
    std::uint64_t tag;
    std::vector<std::byte> bytes;
  };
  struct Request {
    std::uint64_t tag, serial;
    std::size_t capacity;
  };
  struct Peer {
    Peer(const Region& region, int self, int other);
    int rank;
    RankBlock* block;
    RingWriter out, bulk_out;
    RingReader in, bulk_in;
    // Sending side, in post order.
    std::vector<FrameHeader> control;
    std::vector<Outgoing> eager_sends;
    std::vector<OpIndex> rendezvous_sends;
    std::vector<Request> requests;  // of the peer, not yet matched by a send
    std::uint64_t next_serial = 1;
    // Receiving side, in post order.
    std::vector<OpIndex> eager_recvs;
    std::vector<OpIndex> rendezvous_recvs;
    int gathers_missing = 0;  // posted all-gathers without this peer's contribution
    Incoming incoming;
    std::vector<Unexpected> unexpected;
    enum class Ring { kNone, kCounted, kNow } ring = Ring::kNone;  // owed to the peer

    bool needs_messages() const noexcept {
      return !eager_recvs.empty() || !rendezvous_sends.empty() || gathers_missing != 0;
    }
    bool has_pending() const noexcept {
      return needs_messages() || !rendezvous_recvs.empty() || !eager_sends.empty();
    }
  };

  // Operations (ring_transport.cpp).
  OpIndex new_operation(OpKind kind, int peer, std::uint64_t tag);
  TransportHandle handle_of(OpIndex index) const noexcept;
  bool find(TransportHandle handle, OpIndex& index) const noexcept;
  void check_peer(int peer, const char* what) const;
  Peer& peer(int rank) noexcept { return peers_[static_cast<std::size_t>(rank)]; }
  Peer& peer_of(const Operation& op) noexcept { return peer(op.peer); }
  void finish(OpIndex index, TransferState state, std::size_t bytes);
  void free_operation(OpIndex index);
  void detach(OpIndex index);
  void detach_gather(OpIndex index);
  void keep_partial(Peer& from);
  void give_back_request(Peer& to, const Request& request);
  void adopt_unexpected(OpIndex index, Peer& from);
  std::span<const std::span<std::byte>> targets_of(const Operation& op, const Peer& from);

  // Progress (ring_progress.cpp).
  bool progress();
  bool take(Peer& from, RingReader& reader, Lane lane);
  void take_frame(Peer& from, RingReader& reader, const FrameHeader& header);
  void take_piece(Peer& from, RingReader& reader, const FrameHeader& header);
  void begin_message(Peer& from, const FrameHeader& header);
  bool accept(OpIndex index, Peer& from, std::size_t bytes);
  void end_message(Peer& from);
  void end_delivery(OpIndex index, Peer& from, std::size_t bytes);
  void end_gather_if_complete(OpIndex index);
  void take_bulk(Peer& from, RingReader& reader, const FrameHeader& header);
  void take_request(Peer& from, const FrameHeader& header);
  void take_unrequest(Peer& from, const FrameHeader& header);
  void match_request(Peer& to, OpIndex index);
  bool push(Peer& to);
  bool push_control(Peer& to);
  bool push_eager(Peer& to);
  bool push_bulk(Peer& to);
  bool push_frame(Peer& to, RingWriter& writer, const FrameHeader& header,
                  std::span<const std::span<const std::byte>> parts);
  void push_and_ring(Peer& to);
  void pay_ring(Peer& to);
  void corrupt(const Peer& from, const char* what);

  // Sleeping (ring_wait.cpp).
  bool settle(Status& result);
  std::uint32_t rings_to_wait_for() const;
  bool waits_in_vain(const Peer& p) const;
  std::string pending_ranks(bool lost_only) const;

  std::shared_ptr<Region> region_;
  const int rank_;
  const bool multi_process_;
  const std::size_t max_piece_;
  RankBlock& self_;
  std::vector<Peer> peers_;  // by rank, own rank included
  std::vector<Operation> operations_;
  std::vector<OpIndex> free_;
  std::vector<OpIndex> gathers_;  // in post order
  std::span<std::byte> slice_;    // targets_of() an all-gather
  std::size_t num_pending_ = 0;
  std::uint64_t next_request_ = 1;
  std::vector<bool> gone_;   // as last read
  std::uint64_t moves_ = 0;  // how often bytes moved in wait()
  // Operations finished since wait() last returned and not reported by poll() either. An operation
  // belongs to the count while its finished_in equals the round.
  std::size_t news_ = 0;
  std::uint64_t news_round_ = 1;
  Status failed_;  // sticky: the group's memory makes no sense
  std::atomic<bool> woken_{false};
};

}  // namespace swiftbalancer::ring
