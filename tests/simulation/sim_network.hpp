#pragma once
// A network in one thread under a seeded scheduler's control: bytes move when the scheduler says
// so, or never, or wrongly. One network per membership, as engines make new communicators.
//
// Messages (eager): each ordered pair of ranks has a lane. With rings a lane is a queue that flows
// in order through a ring of bounded size, which the receiver empties when it polls; without, any
// message may overtake any other. Copies (rendezvous) move in pieces, straight from the sender's
// memory to the receiver's, so that memory that is used too early is seen in the bytes.
//
// The transport's own contract is checked here: a send's memory does not change while it is posted,
// no two receives share memory, and nothing is cancelled where that is impossible.

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <vector>

#include <swiftbalancer/transport.hpp>

namespace swiftbalancer::simulation {

/// A posted operation; its SimTransport owns it, the network holds it while it is pending.
struct SimOperation {
  enum class Kind : std::uint8_t { kGather, kSend, kReceive, kCopyOut, kCopyIn };
  Kind kind = Kind::kGather;
  TransferState state = TransferState::kPending;
  int rank = 0;
  int peer = 0;  ///< Not of a gather.
  std::uint64_t tag = 0;
  std::size_t bytes = 0;  ///< Once done.

  std::vector<std::span<std::byte>> target{};        ///< Gather, receives.
  std::vector<std::span<const std::byte>> source{};  ///< Copies out.
  std::vector<std::byte> posted{};                   ///< Copies out: the source as it was posted.
  std::size_t moved = 0;                             ///< Copies in.
  std::uint64_t mate = 0;  ///< Copies in: serial of the copy out that is under way.
  std::uint64_t serial = 0;
  bool sent = false;        ///< Copies out: all is there; the sender does not know yet.
  bool stuck = false;       ///< Copies out.
  bool timed_out = false;   ///< Copies in: the copy out has failed.
  std::vector<bool> got{};  ///< Gather, by rank.
  int missing = 0;          ///< Gather: contributions to come.
  int unsent = 0;           ///< Gather: peers that this rank's contribution is not on its way to.
};

class SimNetwork {
 public:
  struct Options {
    int num_ranks = 1;
    bool can_cancel = true;
    bool slow_senders = false;
    std::size_t ring_bytes = 0;
  };
  explicit SimNetwork(const Options& options);
  int num_ranks() const noexcept { return options_.num_ranks; }
  bool can_cancel() const noexcept { return options_.can_cancel; }
  /// What was done against the transport's contract, or "".
  const std::string& broken() const noexcept { return broken_; }
  void break_contract(const std::string& how) { broken_ = how; }

  // --- Scheduler ---
  struct Event {
    enum class Kind : std::uint8_t { kMessage, kCopy, kSenderLearns, kTimeout };
    Kind kind = Kind::kMessage;
    std::size_t lane = 0;   ///< kMessage, kCopy.
    std::size_t place = 0;  ///< kMessage: in its lane's queue; else in the list of those waiting.
    std::uint64_t tag = 0;  ///< kMessage.
    bool gather = false;    ///< kMessage.
  };
  enum class Fate : std::uint8_t {
    kGood,
    kReceiveFails,  ///< kCopy; the sender may believe that all went well.
    kSendFails,     ///< kCopy; the receiver learns by and by.
    kDamaged,       ///< kMessage: one bit is wrong.
    kLost,          ///< kMessage: its receive fails.
    kStuck,         ///< kCopy: does not move until free_stuck_copies().
  };
  /// Something that can happen now.
  std::optional<Event> pick(std::mt19937_64& random);
  void happen(const Event& event, Fate fate);
  void free_stuck_copies();
  /// The gather that this rank polls next fails.
  void fail_gather(int rank) { gather_fails_[index(rank)] = true; }
  bool gather_fails(int rank);
  /// Failures so far, of whatever kind.
  int num_faults() const noexcept { return num_faults_; }
  /// A rank's process is gone. What is in a ring arrives; without rings a part of what was sent.
  void die(int rank, std::mt19937_64& random);
  bool is_dead(int rank) const { return states_[index(rank)] == State::kDead; }
  /// A peer has died or closed, nothing of it is under way any more, and this rank waits for it.
  bool waits_in_vain(int rank) const;
  /// Of this rank's transport, without gathers.
  int num_operations(int rank) const;
  bool is_open(int rank) const { return states_[index(rank)] == State::kOpen; }
  /// A message with this tag has been sent, and its receive has not been polled since it came.
  bool is_under_way(int sender, int receiver, std::uint64_t tag) const;

  // --- SimTransport ---
  void open(int rank);
  void close(int rank);
  void post_gather(SimOperation& gather, std::span<const std::byte> mine);
  void post_message(SimOperation& send, std::span<const std::span<const std::byte>> parts);
  void post_receive(SimOperation& receive);
  void post_copy(SimOperation& copy);
  /// What has come for this rank is taken out of its rings.
  void empty_rings(int rank);
  /// The operation is given up: nothing touches its memory any more.
  void forget(SimOperation& operation);

 private:
  enum class State : std::uint8_t { kNotYet, kOpen, kClosed, kDead };
  struct Message {
    std::uint64_t tag = 0;
    bool gather = false;
    bool lost = false;
    std::vector<std::byte> bytes{};
    std::span<const std::byte> memory{};  // as posted: must not change until it is pushed
    SimOperation* operation = nullptr;    // until it is pushed
    std::size_t pushed = 0;
  };
  struct Lane {
    int sender = 0, receiver = 0;
    std::deque<Message> queue;  // not wholly taken yet
    std::size_t ring_used = 0;
    std::vector<Message> arrived;             // before their receives
    std::vector<SimOperation*> receives;      // before their messages
    std::vector<SimOperation*> out, in;       // copies, in post order
    bool may_flow = false, may_copy = false;  // is among the candidates
  };

  static std::size_t index(int value) { return static_cast<std::size_t>(value); }
  Lane& lane(int sender, int receiver) {
    return lanes_[index(sender) * index(options_.num_ranks) + index(receiver)];
  }
  const Lane& lane(int sender, int receiver) const {
    return lanes_[index(sender) * index(options_.num_ranks) + index(receiver)];
  }
  bool has_rings() const noexcept { return options_.ring_bytes > 0; }

  // Messages (sim_network.cpp).
  void send(Lane& to, Message message);
  void push(Lane& through);
  void is_pushed(Message& message);
  void take(Lane& from);
  void arrive(Lane& through, Message&& message);
  void deliver(SimOperation& to, const Message& message, int sender);
  void end_gather_if_complete(SimOperation& gather);
  void damage(Message& message);
  void drop_unsent(Lane& from);

  // Copies (sim_copies.cpp).
  struct Pair {
    SimOperation* out = nullptr;
    SimOperation* in = nullptr;
  };
  Pair next_pair(const Lane& in) const;
  void copy(Lane& through, Fate fate);
  void move_piece(SimOperation& out, SimOperation& in);
  void check_receive(const SimOperation& copy);

  void consider_flow(Lane& considered);
  void consider_copy(Lane& considered);

  const Options options_;
  std::vector<Lane> lanes_;                          // [sender][receiver]
  std::vector<State> states_;                        // by rank
  std::vector<std::vector<SimOperation*>> gathers_;  // by rank
  std::vector<bool> gather_fails_;                   // by rank
  struct Candidate {
    Event::Kind kind;
    std::size_t lane;
  };
  std::vector<Candidate> candidates_;           // lanes in which something may be possible
  std::vector<const SimOperation*> unfetched_;  // receives that are done
  std::vector<SimOperation*> learners_;         // copies out that are done, to be learnt
  std::vector<SimOperation*> timeouts_;         // copies in whose sends have failed
  std::uint64_t next_serial_ = 1;
  int num_faults_ = 0;
  std::string broken_;
};

}  // namespace swiftbalancer::simulation
