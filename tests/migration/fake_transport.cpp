#include "fake_transport.hpp"

#include <algorithm>

namespace swiftbalancer::testing {
namespace {

std::size_t total_bytes(const std::vector<std::span<std::byte>>& parts) {
  std::size_t sum = 0;
  for (const auto& part : parts) sum += part.size();
  return sum;
}

void copy_bytes(const std::vector<std::span<std::byte>>& from,
                const std::vector<std::span<std::byte>>& to, std::size_t bytes) {
  std::vector<std::byte> message;
  for (const auto& part : from) message.insert(message.end(), part.begin(), part.end());
  message.resize(bytes);
  std::size_t done = 0;
  for (const auto& part : to) {
    const std::size_t now = std::min(part.size(), message.size() - done);
    std::copy_n(message.begin() + static_cast<std::ptrdiff_t>(done), now, part.begin());
    done += now;
  }
}

}  // namespace

class FakeNetwork::Endpoint final : public Transport {
 public:
  Endpoint(FakeNetwork& network, int rank, int num_ranks)
      : network_(network), rank_(rank), num_ranks_(num_ranks) {}
  int rank() const noexcept override { return rank_; }
  int num_ranks() const noexcept override { return num_ranks_; }
  TransportCapabilities capabilities() const noexcept override {
    return {false, network_.can_cancel};
  }

  TransportHandle post_all_gather(std::uint64_t, std::span<const std::byte>,
                                  std::span<std::byte>) override {
    throw std::logic_error("expert copies gather nothing");
  }
  TransportHandle post_send(int peer, std::uint64_t tag,
                            std::span<const std::span<const std::byte>> parts,
                            Delivery delivery) override {
    std::vector<std::span<std::byte>> memory;  // read only, as the operation is a send
    for (const auto& part : parts)
      memory.emplace_back(const_cast<std::byte*>(part.data()), part.size());
    return post(true, {rank_, peer, tag}, std::move(memory), delivery);
  }
  TransportHandle post_recv(int peer, std::uint64_t tag,
                            std::span<const std::span<std::byte>> parts,
                            Delivery delivery) override {
    return post(false, {peer, rank_, tag}, {parts.begin(), parts.end()}, delivery);
  }
  TransferStatus poll(TransportHandle handle) override { return network_.poll(handle.id); }
  void cancel(TransportHandle handle) override {
    if (network_.operations_.erase(handle.id) == 0)
      throw std::logic_error("cancel of a handle that is forgotten");
  }
  Status wait(std::chrono::steady_clock::time_point) override { return {}; }
  void wake() noexcept override {}
  std::vector<int> lost_peers() override { return {}; }
  std::vector<int> awaited_peers() const override { return {}; }

 private:
  TransportHandle post(bool is_send, Transfer transfer, std::vector<std::span<std::byte>> parts,
                       Delivery delivery) {
    if (delivery != Delivery::kRendezvous)
      throw std::logic_error("bulk data that is not rendezvous");
    return network_.post(is_send, transfer, std::move(parts));
  }

  FakeNetwork& network_;
  int rank_;
  int num_ranks_;
};

FakeNetwork::FakeNetwork(int num_ranks) {
  for (int rank = 0; rank < num_ranks; ++rank) {
    endpoints_.push_back(std::make_unique<Endpoint>(*this, rank, num_ranks));
  }
}

std::size_t FakeNetwork::num_open_sends(int rank, int peer) const {
  return static_cast<std::size_t>(
      std::count_if(operations_.begin(), operations_.end(), [&](const auto& entry) {
        const Operation& operation = entry.second;
        return operation.is_send && operation.transfer.sender == rank &&
               operation.transfer.receiver == peer;
      }));
}

TransportHandle FakeNetwork::post(bool is_send, Transfer transfer,
                                  std::vector<std::span<std::byte>> parts) {
  for (const auto& [id, other] : operations_) {
    const Transfer& known = other.transfer;
    if (other.is_send == is_send && known.sender == transfer.sender &&
        known.receiver == transfer.receiver && known.tag == transfer.tag) {
      throw std::logic_error("a tag is used twice at a time");
    }
  }
  posts.push_back({is_send, transfer});
  operations_.emplace(next_id_, Operation{is_send, transfer, std::move(parts), {}});
  return {next_id_++};
}

FakeNetwork::Operation* FakeNetwork::counterpart(const Operation& operation) {
  for (auto& [id, other] : operations_) {
    if (other.is_send != operation.is_send && other.transfer.sender == operation.transfer.sender &&
        other.transfer.receiver == operation.transfer.receiver &&
        other.transfer.tag == operation.transfer.tag &&
        other.status.state == TransferState::kPending) {
      return &other;
    }
  }
  return nullptr;
}

void FakeNetwork::settle(Operation& operation) {
  Operation* other = counterpart(operation);
  if (other == nullptr) return;
  Operation& send = operation.is_send ? operation : *other;
  Operation& receive = operation.is_send ? *other : operation;
  const std::size_t bytes = total_bytes(send.parts);
  Fate fate = rule(operation.transfer);
  if (bytes > total_bytes(receive.parts)) fate = Fate::kFailReceive;
  switch (fate) {
    case Fate::kHold:
      return;
    case Fate::kHalf:
      copy_bytes(send.parts, receive.parts, bytes / 2);
      return;
    case Fate::kDeliver:
    case Fate::kFailSend:
      copy_bytes(send.parts, receive.parts, bytes);
      break;
    case Fate::kFailBoth:
    case Fate::kFailReceive:
      break;
  }
  send.status = {fate == Fate::kFailBoth || fate == Fate::kFailSend ? TransferState::kFailed
                                                                    : TransferState::kDone,
                 bytes};
  receive.status = {fate == Fate::kFailBoth || fate == Fate::kFailReceive ? TransferState::kFailed
                                                                          : TransferState::kDone,
                    bytes};
}

TransferStatus FakeNetwork::poll(std::uint64_t id) {
  ++polls;
  const auto found = operations_.find(id);
  if (found == operations_.end()) throw std::logic_error("poll of a handle that is forgotten");
  if (found->second.status.state == TransferState::kPending) settle(found->second);
  const TransferStatus status = found->second.status;
  if (status.state != TransferState::kPending) operations_.erase(found);
  return status;
}

}  // namespace swiftbalancer::testing
