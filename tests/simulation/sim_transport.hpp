#pragma once
// Networks in one thread under a seeded scheduler's control: every delivery is an event that
// happens when the scheduler says so, in any order, or fails. Copies move in two pieces, so that
// memory that is used too early is seen in the bytes. One network per membership, as engines make
// new communicators. The transport's own contract is checked here: a send's memory does not change
// while it is posted, no two receives share memory, and nothing is cancelled where that is
// impossible.

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include <swiftbalancer/transport.hpp>

namespace swiftbalancer::simulation {

class SimNetwork {
 public:
  SimNetwork(int num_ranks, bool can_cancel, bool slow_senders)
      : num_ranks_(num_ranks), can_cancel_(can_cancel), slow_senders_(slow_senders) {}
  int num_ranks() const noexcept { return num_ranks_; }
  /// What was done against the transport's contract, or "".
  const std::string& broken() const noexcept { return broken_; }

  struct Event {
    enum class Kind { kMessage, kPiece, kSenderLearns, kTimeout } kind = Kind::kMessage;
    std::uint64_t id = 0;      ///< Of the message, or of the send.
    std::uint64_t target = 0;  ///< Of the receive.
  };
  std::vector<Event> possible() const {
    std::vector<Event> events;
    for (const auto& [id, message] : messages_)
      if (!message.delivered) events.push_back({Event::Kind::kMessage, id, 0});
    for (const auto& [id, receive] : transfers_) {
      if (receive.sends || receive.state != TransferState::kPending) continue;
      if (receive.timed_out) events.push_back({Event::Kind::kTimeout, 0, id});
      for (const auto& [send_id, send] : transfers_) {
        if (!send.sends || send.moved || send.state != TransferState::kPending ||
            !(send.key == receive.key))
          continue;
        events.push_back({Event::Kind::kPiece, send_id, id});
        break;
      }
    }
    for (const auto& [id, send] : transfers_)
      if (send.sends && send.moved && send.state == TransferState::kPending)
        events.push_back({Event::Kind::kSenderLearns, id, 0});
    return events;
  }
  enum class Fate { kGood, kReceiveFails, kSendFails };
  void happen(const Event& event, Fate fate) {
    switch (event.kind) {
      case Event::Kind::kMessage:
        messages_.at(event.id).delivered = true;
        return;
      case Event::Kind::kTimeout:
        transfers_.at(event.target).state = TransferState::kFailed;
        return;
      case Event::Kind::kSenderLearns:
        transfers_.at(event.id).state = TransferState::kDone;
        return;
      case Event::Kind::kPiece:
        return piece(transfers_.at(event.id), transfers_.at(event.target), fate);
    }
  }
  /// The gather of this rank that was posted last fails.
  void fail_gather(int rank) { gather_fails_[rank] = true; }
  /// A rank's process is gone: what it had sent arrives or not.
  void die(int rank, std::mt19937_64& random) {
    std::erase_if(messages_, [&](const auto& entry) {
      return entry.second.key.source == rank && !entry.second.delivered && random() % 2 == 0;
    });
  }

 private:
  friend class SimTransport;
  struct Key {
    std::uint64_t tag;
    int source;
    int destination;
    bool operator==(const Key&) const = default;
  };
  struct Message {
    Key key;
    std::vector<std::byte> bytes;
    bool delivered = false;
  };
  struct Transfer {
    Key key{};
    bool sends = false;
    TransferState state = TransferState::kPending;
    std::size_t pieces = 0;
    bool moved = false;      // a send whose bytes are all there; the sender does not know yet
    bool timed_out = false;  // a receive whose send has failed
    std::vector<std::span<const std::byte>> source{};
    std::vector<std::span<std::byte>> target{};
    std::vector<std::byte> posted{};  // a send's bytes when it was posted
    std::size_t bytes = 0;
  };

  static std::vector<std::byte> bytes_of(const Transfer& send) {
    std::vector<std::byte> all;
    for (const auto& part : send.source) all.insert(all.end(), part.begin(), part.end());
    return all;
  }
  void piece(Transfer& send, Transfer& receive, Fate fate) {
    if (fate == Fate::kReceiveFails) {
      receive.state = TransferState::kFailed;
      send.state = TransferState::kDone;  // The sender may believe that all went well.
      return;
    }
    if (fate == Fate::kSendFails) {
      send.state = TransferState::kFailed;
      receive.timed_out = true;
      return;
    }
    if (bytes_of(send) != send.posted)
      broken_ = "memory of a send changed while it was posted (rank " +
                std::to_string(send.key.source) + ")";
    const bool first = receive.pieces++ == 0;
    for (std::size_t part = 0; part < send.source.size(); ++part) {
      const std::size_t half = send.source[part].size() / 2;
      const std::size_t begin = first ? 0 : half;
      const std::size_t end = first ? half : send.source[part].size();
      std::memcpy(receive.target[part].data() + begin, send.source[part].data() + begin,
                  end - begin);
    }
    if (first) return;
    receive.bytes = send.bytes = send.posted.size();
    receive.state = TransferState::kDone;
    send.moved = true;
    if (!slow_senders_) send.state = TransferState::kDone;
  }
  std::uint64_t post(Transfer transfer) {
    if (transfer.sends) {
      transfer.posted = bytes_of(transfer);
    } else {
      for (const auto& [id, other] : transfers_) {
        if (other.sends || other.state != TransferState::kPending ||
            other.key.destination != transfer.key.destination)
          continue;
        if (!other.target.empty() && other.target[0].data() == transfer.target[0].data())
          broken_ =
              "two receives share memory (rank " + std::to_string(transfer.key.destination) + ")";
      }
    }
    transfers_.emplace(++next_, std::move(transfer));
    return next_;
  }
  std::map<std::uint64_t, Message>::iterator find_message(const Key& key) {
    return std::ranges::find_if(messages_,
                                [&](const auto& entry) { return entry.second.key == key; });
  }

  const int num_ranks_;
  const bool can_cancel_;
  const bool slow_senders_;
  std::uint64_t next_ = 0;
  std::map<std::uint64_t, Message> messages_;  // eager
  std::map<std::uint64_t, Transfer> transfers_;
  std::map<int, bool> gather_fails_;
  std::string broken_;
};

class SimTransport final : public Transport {
 public:
  SimTransport(SimNetwork& network, int rank) : network_(network), rank_(rank) {}
  // The fence: with the transport all its transfers are gone.
  ~SimTransport() override {
    for (const auto& [id, operation] : operations_)
      if (operation.transfer != 0) network_.transfers_.erase(operation.transfer);
  }
  int rank() const noexcept override { return rank_; }
  int num_ranks() const noexcept override { return network_.num_ranks_; }
  TransportCapabilities capabilities() const noexcept override {
    return {false, network_.can_cancel_};
  }
  TransportHandle post_all_gather(std::uint64_t tag, std::span<const std::byte> mine,
                                  std::span<std::byte> out) override {
    for (int peer = 0; peer < network_.num_ranks_; ++peer)
      send_message({tag, rank_, peer}, {mine.begin(), mine.end()}, peer == rank_);
    operations_[++next_] = {.gather = true, .key = {tag, rank_, rank_}, .out = {out}};
    return {next_};
  }
  TransportHandle post_send(int peer, std::uint64_t tag,
                            std::span<const std::span<const std::byte>> parts,
                            Delivery delivery) override {
    SimNetwork::Transfer send{.key = {tag, rank_, peer}, .sends = true};
    send.source.assign(parts.begin(), parts.end());
    if (delivery == Delivery::kEager) {
      send_message(send.key, SimNetwork::bytes_of(send), false);
      operations_[++next_] = {.sent = true, .key = send.key};
    } else {
      const auto key = send.key;
      operations_[++next_] = {.key = key, .transfer = network_.post(std::move(send))};
    }
    return {next_};
  }
  TransportHandle post_recv(int peer, std::uint64_t tag,
                            std::span<const std::span<std::byte>> parts,
                            Delivery delivery) override {
    SimNetwork::Transfer receive{.key = {tag, peer, rank_}};
    receive.target.assign(parts.begin(), parts.end());
    if (delivery == Delivery::kEager) {
      operations_[++next_] = {.key = receive.key, .out = receive.target};
    } else {
      const auto key = receive.key;
      operations_[++next_] = {.key = key, .transfer = network_.post(std::move(receive))};
    }
    return {next_};
  }
  TransferStatus poll(TransportHandle handle) override {
    const auto found = operations_.find(handle.id);
    if (found == operations_.end()) return {TransferState::kFailed, 0};
    const TransferStatus status = look(found->second);
    if (status.state != TransferState::kPending) forget(found);
    return status;
  }
  void cancel(TransportHandle handle) override {
    const auto found = operations_.find(handle.id);
    if (found == operations_.end()) return;
    if (!network_.can_cancel_) network_.broken_ = "cancel on a transport that cannot";
    forget(found);
  }
  Status wait(std::chrono::steady_clock::time_point) override { return {}; }
  void wake() noexcept override {}
  std::vector<int> lost_peers() override { return {}; }

 private:
  struct Operation {
    bool gather = false;
    bool sent = false;  // an eager send: done
    SimNetwork::Key key{};
    std::vector<std::span<std::byte>> out{};  // gather, eager receive
    std::uint64_t transfer = 0;               // rendezvous
  };

  void send_message(const SimNetwork::Key& key, std::vector<std::byte> bytes, bool delivered) {
    network_.messages_[++network_.next_] = {key, std::move(bytes), delivered};
  }
  TransferStatus look(const Operation& operation) {
    if (operation.sent) return {TransferState::kDone, 0};
    if (operation.gather) return look_at_gather(operation);
    if (operation.transfer != 0) {
      const auto& transfer = network_.transfers_.at(operation.transfer);
      return {transfer.state, transfer.bytes};
    }
    const auto message = network_.find_message(operation.key);
    if (message == network_.messages_.end() || !message->second.delivered) return {};
    const std::vector<std::byte> bytes = std::move(message->second.bytes);
    network_.messages_.erase(message);
    std::ranges::copy(bytes, operation.out.front().begin());
    return {TransferState::kDone, bytes.size()};
  }
  TransferStatus look_at_gather(const Operation& operation) {
    if (std::exchange(network_.gather_fails_[rank_], false)) return {TransferState::kFailed, 0};
    for (int peer = 0; peer < network_.num_ranks_; ++peer) {
      const auto message = network_.find_message({operation.key.tag, peer, rank_});
      if (message == network_.messages_.end() || !message->second.delivered) return {};
    }
    std::size_t at = 0;
    for (int peer = 0; peer < network_.num_ranks_; ++peer) {
      const auto message = network_.find_message({operation.key.tag, peer, rank_});
      std::ranges::copy(message->second.bytes,
                        operation.out.front().begin() + static_cast<std::ptrdiff_t>(at));
      at += message->second.bytes.size();
      network_.messages_.erase(message);
    }
    return {TransferState::kDone, at};
  }
  void forget(std::map<std::uint64_t, Operation>::iterator found) {
    if (found->second.transfer != 0) network_.transfers_.erase(found->second.transfer);
    operations_.erase(found);
  }

  SimNetwork& network_;
  int rank_;
  std::uint64_t next_ = 0;
  std::map<std::uint64_t, Operation> operations_;
};

}  // namespace swiftbalancer::simulation
