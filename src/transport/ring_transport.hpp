#pragma once
// The transport over byte rings, for ranks in threads and in processes alike; thread.cpp and
// shm.cpp only say where the region lies. Bytes move in the owner's calls: posting pushes messages,
// poll() and wait() push and take, messages of all peers before bulk data of any. One pass moves a
// bounded amount, and between passes wait() looks at wake-ups, finished operations and its
// deadline: a packet waits for one pass, however much bulk data flows. Frames of one ring are taken
// only while an operation needs them or the sender runs out of space, so that a message usually
// goes straight from the ring into the buffer of its receive. One thread per instance; only wake()
// may come from another.
//
// Eager: pushed at once; begun without a receive it is kept on the heap. Rendezvous: the receive
// sends a request with a serial of its own; the sender pushes pieces only for a request it holds,
// and the receiver copies them itself. So cancelling touches nobody's memory: pieces of unknown
// serials are dropped.
//
// Memory: whatever a later step needs is reserved where it is posted or where its first frame is
// taken, so that pushing, finishing and cancelling cannot fail. Where a reservation fails
// (std::bad_alloc), the post has not happened or the frame is still in its ring: the call can be
// repeated. Capacities up to 1 MiB are kept, so that steady traffic of messages up to that size
// allocates nothing.

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <swiftbalancer/transport.hpp>

#include "transport/byte_ring.hpp"
#include "transport/process_identity.hpp"
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
  std::vector<int> awaited_peers() const override;

 private:
  // How often a waiting rank looks whether the processes of its peers still run.
  static constexpr std::chrono::milliseconds kLookAfterPeers{100};

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
    std::uint64_t seen_pass = 0;       // passes_ when it was posted or last polled
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
  // A whole message that nobody has asked for yet.
  struct Unexpected {
    FrameKind kind = FrameKind::kEager;
    std::uint64_t tag = 0;
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
    std::vector<Unexpected> unexpected;  // the first num_unexpected; then buffers to be used again
    std::size_t num_unexpected = 0;
    enum class Ring { kNone, kCounted, kNow } ring = Ring::kNone;  // owed to the peer
    ProcessWatch watch;

    bool needs_messages() const noexcept {
      return !eager_recvs.empty() || !rendezvous_sends.empty() || gathers_missing != 0;
    }
    bool has_pending() const noexcept {
      return needs_messages() || !rendezvous_recvs.empty() || !eager_sends.empty();
    }
  };
  // What a pass may still move.
  class Budget {
   public:
    explicit Budget(std::size_t bytes) : left_(bytes) {}
    bool spent() const noexcept { return left_ == 0; }
    void spend_frame(std::size_t length) noexcept;

   private:
    std::size_t left_;
  };
  struct Corruption {
    int rank = 0;
    const char* what = nullptr;  // nullptr: none
  };

  // Operations (ring_transport.cpp).
  OpIndex free_slot();
  void begin(OpIndex index, OpKind kind, int peer, std::uint64_t tag) noexcept;
  TransportHandle handle_of(OpIndex index) const noexcept;
  bool find(TransportHandle handle, OpIndex& index) const noexcept;
  void check_peer(int peer, const char* what) const;
  Peer& peer(int rank) noexcept { return peers_[static_cast<std::size_t>(rank)]; }
  Peer& peer_of(const Operation& op) noexcept { return peer(op.peer); }
  void finish(OpIndex index, TransferState state, std::size_t bytes) noexcept;
  void free_operation(OpIndex index) noexcept;
  void make_room_for_begun(Peer& from, std::uint64_t tag, std::size_t bytes);
  void adopt_unexpected(OpIndex index, Peer& from) noexcept;
  void forget_unexpected(Peer& from, std::size_t position) noexcept;
  std::span<const std::span<std::byte>> targets_of(const Operation& op, const Peer& from) noexcept;

  // Giving up (ring_cancel.cpp).
  void detach(OpIndex index) noexcept;
  void detach_gather(OpIndex index) noexcept;
  void keep_partial(Peer& from) noexcept;
  void give_back_request(Peer& to, const Request& request) noexcept;

  // The order of the work (ring_pass.cpp).
  bool pass();
  bool pass_messages();
  bool pass_bulk();
  void pay_ring(Peer& to) noexcept;
  void corrupt(const Peer& from, const char* what) noexcept;

  // Taking (ring_take.cpp).
  bool take(Peer& from, RingReader& reader, Lane lane, Budget& budget);
  void take_frame(Peer& from, RingReader& reader, const FrameHeader& header);
  void take_piece(Peer& from, RingReader& reader, const FrameHeader& header);
  void begin_message(Peer& from, const FrameHeader& header);
  std::optional<OpIndex> receiver_of(const Peer& from, const FrameHeader& header) const noexcept;
  bool accept(OpIndex index, Peer& from, std::size_t bytes) noexcept;
  void end_message(Peer& from) noexcept;
  void end_delivery(OpIndex index, Peer& from, std::size_t bytes) noexcept;
  void end_gather_if_complete(OpIndex index) noexcept;
  void take_bulk(Peer& from, RingReader& reader, const FrameHeader& header) noexcept;
  void take_request(Peer& from, const FrameHeader& header);
  void take_unrequest(Peer& from, const FrameHeader& header) noexcept;
  void match_request(Peer& to, OpIndex index) noexcept;

  // Pushing (ring_push.cpp).
  bool push_messages(Peer& to, Budget& budget) noexcept;
  bool push_control(Peer& to, Budget& budget) noexcept;
  bool push_eager(Peer& to, Budget& budget) noexcept;
  bool push_bulk(Peer& to, Budget& budget) noexcept;
  bool push_frame(Peer& to, RingWriter& writer, const FrameHeader& header,
                  std::span<const std::span<const std::byte>> parts, Budget& budget) noexcept;
  void push_messages_and_ring(Peer& to) noexcept;

  // Sleeping (ring_wait.cpp).
  void sleep(std::chrono::steady_clock::time_point deadline);
  void read_states() noexcept;
  bool is_over() noexcept;
  Status outcome();
  std::uint32_t rings_to_wait_for() const noexcept;
  bool waits_in_vain(Peer& p) noexcept;
  Status timeout() const;
  Status loss();
  void look_after_peers() noexcept;

  // Constant after construction.
  const std::shared_ptr<Region> region_;
  const int rank_;
  const bool multi_process_;
  const std::size_t max_piece_;
  const ProcessIdentity process_;  // our own

  // Owner's thread only.
  std::vector<Peer> peers_;  // by rank, own rank included
  std::vector<Operation> operations_;
  std::vector<OpIndex> free_;
  std::vector<OpIndex> gathers_;  // in post order
  std::span<std::byte> slice_;    // targets_of() an all-gather
  std::size_t num_pending_ = 0;
  std::uint64_t next_request_ = 1;
  std::uint64_t passes_ = 0;
  int next_for_messages_;   // rank that the next pass begins with
  int next_for_bulk_;       // likewise, two for each rank: taking from it, pushing to it
  std::vector<bool> gone_;  // as last read
  std::chrono::steady_clock::time_point next_look_;  // after the peers' processes
  // Operations finished since wait() last returned and not reported by poll() either. An operation
  // belongs to the count while its finished_in equals the round.
  std::size_t news_ = 0;
  std::uint64_t news_round_ = 1;
  Corruption corruption_;  // sticky: the group's memory makes no sense

  // Any thread.
  RankBlock& self_;
  std::atomic<bool> woken_{false};
};

}  // namespace swiftbalancer::ring
