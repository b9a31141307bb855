#pragma once
// One rank's transport over a SimNetwork.

#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "simulation/sim_call.hpp"
#include "simulation/sim_network.hpp"

namespace swiftbalancer::simulation {

class SimTransport final : public Transport {
 public:
  /// @param call that waits on this transport, and none after it has ended; null: nobody waits.
  SimTransport(SimNetwork& network, int rank, SimCall* call = nullptr)
      : network_(network), rank_(rank), call_(call) {
    network_.open(rank);
  }
  // The fence: with the transport all its transfers are gone.
  ~SimTransport() override {
    for (const auto& [id, operation] : operations_) network_.forget(*operation);
    network_.close(rank_);
  }
  int rank() const noexcept override { return rank_; }
  int num_ranks() const noexcept override { return network_.num_ranks(); }
  TransportCapabilities capabilities() const noexcept override {
    return {false, network_.can_cancel()};
  }
  TransportHandle post_all_gather(std::uint64_t tag, std::span<const std::byte> mine,
                                  std::span<std::byte> out) override {
    SimOperation& gather = add({.kind = SimOperation::Kind::kGather, .tag = tag, .target = {out}});
    network_.post_gather(gather, mine);
    return {next_};
  }
  TransportHandle post_send(int peer, std::uint64_t tag,
                            std::span<const std::span<const std::byte>> parts,
                            Delivery delivery) override {
    if (delivery == Delivery::kEager) {
      network_.post_message(add({.kind = SimOperation::Kind::kSend, .peer = peer, .tag = tag}),
                            parts);
    } else {
      SimOperation& copy = add({.kind = SimOperation::Kind::kCopyOut, .peer = peer, .tag = tag});
      copy.source.assign(parts.begin(), parts.end());
      network_.post_copy(copy);
    }
    return {next_};
  }
  TransportHandle post_recv(int peer, std::uint64_t tag,
                            std::span<const std::span<std::byte>> parts,
                            Delivery delivery) override {
    const bool eager = delivery == Delivery::kEager;
    SimOperation& receive =
        add({.kind = eager ? SimOperation::Kind::kReceive : SimOperation::Kind::kCopyIn,
             .peer = peer,
             .tag = tag});
    receive.target.assign(parts.begin(), parts.end());
    eager ? network_.post_receive(receive) : network_.post_copy(receive);
    return {next_};
  }
  TransferStatus poll(TransportHandle handle) override {
    const auto found = operations_.find(handle.id);
    if (found == operations_.end()) return {TransferState::kFailed, 0};
    if (found->second->state == TransferState::kPending) network_.empty_rings(rank_);
    TransferStatus status{found->second->state, found->second->bytes};
    if (found->second->kind == SimOperation::Kind::kGather && network_.gather_fails(rank_))
      status = {TransferState::kFailed, 0};
    if (status.state == TransferState::kPending) return status;
    any_done_ = true;
    remove(found);
    return status;
  }
  void cancel(TransportHandle handle) override {
    const auto found = operations_.find(handle.id);
    if (found == operations_.end()) return;
    if (!network_.can_cancel()) network_.break_contract("cancel on a transport that cannot");
    remove(found);
  }
  Status wait(std::chrono::steady_clock::time_point deadline) override {
    if (call_ != nullptr) {
      // Each exchange has a deadline of its own.
      const bool begun_anew = deadline > call_->deadline();
      if (begun_anew != std::exchange(any_done_, false) && waited_)
        network_.break_contract(begun_anew ? "a deadline is put off though nothing was exchanged"
                                           : "an exchange has the deadline of the one before");
      waited_ = true;
      return call_->wait(deadline);
    }
    if (!network_.waits_in_vain(rank_)) return {};
    return {ErrorCode::kPeerLost, "a peer is lost"};
  }
  void wake() noexcept override {}
  std::vector<int> lost_peers() override {
    std::vector<int> lost;
    for (int peer = 0; peer < num_ranks(); ++peer)
      if (network_.is_dead(peer)) lost.push_back(peer);
    return lost;
  }
  std::vector<int> awaited_peers() const override { return {}; }

 private:
  using Operations = std::map<std::uint64_t, std::unique_ptr<SimOperation>>;

  SimOperation& add(SimOperation&& operation) {
    operation.rank = rank_;
    auto& added = operations_[++next_];
    added = std::make_unique<SimOperation>(std::move(operation));
    return *added;
  }
  void remove(Operations::iterator found) {
    network_.forget(*found->second);
    operations_.erase(found);
  }

  SimNetwork& network_;
  const int rank_;
  SimCall* const call_;
  bool waited_ = false;
  bool any_done_ = false;  // since the last wait
  std::uint64_t next_ = 0;
  Operations operations_;
};

}  // namespace swiftbalancer::simulation
