#pragma once
// A network in one thread under a seeded scheduler's control: every delivery is an event that
// happens when the scheduler says so, in any order, or fails. Implements Transport for each rank.

#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include <swiftbalancer/transport.hpp>

namespace swiftbalancer::simulation {

class SimNetwork {
 public:
  explicit SimNetwork(int num_ranks) : num_ranks_(num_ranks) {}
  int num_ranks() const noexcept { return num_ranks_; }

  /// One thing that may happen next: a packet reaches a rank, or a posted transfer completes or
  /// fails.
  struct Event {
    enum class Kind { kPacket, kTransfer } kind = Kind::kPacket;
    std::uint64_t tag = 0;
    int source = 0;
    int destination = 0;
  };
  std::vector<Event> possible() const {
    std::vector<Event> events;
    for (const auto& [key, message] : packets_) {
      if (!message.delivered)
        events.push_back({Event::Kind::kPacket, key.tag, key.source, key.destination});
    }
    for (const auto& [key, send] : sends_) {
      if (send.state == TransferState::kPending && is_pending(recvs_, key)) {
        events.push_back({Event::Kind::kTransfer, key.tag, key.source, key.destination});
      }
    }
    return events;
  }
  void happen(const Event& event, bool fail) {
    const Key key{event.tag, event.source, event.destination};
    if (event.kind == Event::Kind::kPacket) {
      packets_.at(key).delivered = true;
      return;
    }
    auto& send = sends_.at(key);
    auto& recv = recvs_.at(key);
    if (fail) {
      recv.state = TransferState::kFailed;
      send.state = TransferState::kDone;  // The sender may believe that all went well.
      return;
    }
    std::size_t bytes = 0;
    for (std::size_t part = 0; part < send.source.size(); ++part) {
      std::memcpy(recv.target[part].data(), send.source[part].data(), send.source[part].size());
      bytes += send.source[part].size();
    }
    send.bytes = recv.bytes = bytes;
    send.state = recv.state = TransferState::kDone;
  }

 private:
  friend class SimTransport;
  struct Key {
    std::uint64_t tag;
    int source;
    int destination;
    auto operator<=>(const Key&) const = default;
  };
  struct Message {
    std::vector<std::byte> bytes;
    bool delivered = false;
  };
  struct Transfer {
    TransferState state = TransferState::kPending;
    std::size_t bytes = 0;
    std::vector<std::span<const std::byte>> source;
    std::vector<std::span<std::byte>> target;
  };
  static bool is_pending(const std::map<Key, Transfer>& transfers, const Key& key) {
    const auto found = transfers.find(key);
    return found != transfers.end() && found->second.state == TransferState::kPending;
  }

  int num_ranks_;
  std::map<Key, Message> packets_;
  std::map<Key, Transfer> sends_;
  std::map<Key, Transfer> recvs_;
};

class SimTransport final : public Transport {
 public:
  SimTransport(SimNetwork& network, int rank) : network_(network), rank_(rank) {}
  int rank() const noexcept override { return rank_; }
  int num_ranks() const noexcept override { return network_.num_ranks_; }
  TransportCapabilities capabilities() const noexcept override { return {}; }

  TransportHandle post_all_gather(std::uint64_t tag, std::span<const std::byte> mine,
                                  std::span<std::byte> out) override {
    for (int peer = 0; peer < network_.num_ranks_; ++peer) {
      // Frozen when posted: the bytes are copied here (rule 2).
      network_.packets_[{tag, rank_, peer}] = {{mine.begin(), mine.end()}, peer == rank_};
    }
    operations_[++next_] = {Operation::Kind::kGather, {tag, rank_, rank_}, out, mine.size()};
    return {next_};
  }
  TransportHandle post_send(int peer, std::uint64_t tag,
                            std::span<const std::span<const std::byte>> parts, Delivery) override {
    const SimNetwork::Key key{tag, rank_, peer};
    network_.sends_[key] = {TransferState::kPending, 0, {parts.begin(), parts.end()}, {}};
    operations_[++next_] = {Operation::Kind::kSend, key, {}, 0};
    return {next_};
  }
  TransportHandle post_recv(int peer, std::uint64_t tag,
                            std::span<const std::span<std::byte>> parts, Delivery) override {
    const SimNetwork::Key key{tag, peer, rank_};
    network_.recvs_[key] = {TransferState::kPending, 0, {}, {parts.begin(), parts.end()}};
    operations_[++next_] = {Operation::Kind::kRecv, key, {}, 0};
    return {next_};
  }
  TransferStatus poll(TransportHandle handle) override {
    const auto found = operations_.find(handle.id);
    if (found == operations_.end()) return {TransferState::kFailed, 0};
    const Operation& operation = found->second;
    if (operation.kind == Operation::Kind::kGather) return poll_gather(found);
    auto& transfers = operation.kind == Operation::Kind::kSend ? network_.sends_ : network_.recvs_;
    const auto& transfer = transfers.at(operation.key);
    const TransferStatus status{transfer.state, transfer.bytes};
    if (status.state != TransferState::kPending) forget(found);
    return status;
  }
  void cancel(TransportHandle handle) override {
    const auto found = operations_.find(handle.id);
    if (found != operations_.end()) forget(found);
  }
  Status wait(std::chrono::steady_clock::time_point) override { return {}; }
  void wake() noexcept override {}
  std::vector<int> lost_peers() override { return {}; }

 private:
  struct Operation {
    enum class Kind { kGather, kSend, kRecv } kind;
    SimNetwork::Key key;
    std::span<std::byte> out;
    std::size_t each = 0;
  };
  using Found = std::map<std::uint64_t, Operation>::iterator;

  TransferStatus poll_gather(Found found) {
    const Operation& operation = found->second;
    for (int peer = 0; peer < network_.num_ranks_; ++peer) {
      const auto message = network_.packets_.find({operation.key.tag, peer, rank_});
      if (message == network_.packets_.end() || !message->second.delivered) return {};
    }
    for (int peer = 0; peer < network_.num_ranks_; ++peer) {
      const auto message = network_.packets_.find({operation.key.tag, peer, rank_});
      std::ranges::copy(message->second.bytes,
                        operation.out.begin() + static_cast<std::ptrdiff_t>(operation.each) * peer);
      network_.packets_.erase(message);
    }
    const std::size_t bytes = operation.out.size();
    operations_.erase(found);
    return {TransferState::kDone, bytes};
  }
  void forget(Found found) {
    if (found->second.kind == Operation::Kind::kSend) network_.sends_.erase(found->second.key);
    if (found->second.kind == Operation::Kind::kRecv) network_.recvs_.erase(found->second.key);
    operations_.erase(found);
  }

  SimNetwork& network_;
  int rank_;
  std::uint64_t next_ = 0;
  std::map<std::uint64_t, Operation> operations_;
};

}  // namespace swiftbalancer::simulation
