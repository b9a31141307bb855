#include "engine/corrupting_transport.hpp"

#include <map>
#include <utility>

namespace swiftbalancer::engine {
namespace {

class CorruptingTransport final : public Transport {
 public:
  CorruptingTransport(std::unique_ptr<Transport> inner, std::atomic<bool>& corrupt)
      : inner_(std::move(inner)), corrupt_(corrupt) {}
  int rank() const noexcept override { return inner_->rank(); }
  int num_ranks() const noexcept override { return inner_->num_ranks(); }
  TransportCapabilities capabilities() const noexcept override { return inner_->capabilities(); }
  TransportHandle post_all_gather(std::uint64_t tag, std::span<const std::byte> mine,
                                  std::span<std::byte> out) override {
    const TransportHandle handle = inner_->post_all_gather(tag, mine, out);
    gathers_[handle.id] = out;
    return handle;
  }
  TransportHandle post_send(int peer, std::uint64_t tag,
                            std::span<const std::span<const std::byte>> parts,
                            Delivery delivery) override {
    return inner_->post_send(peer, tag, parts, delivery);
  }
  TransportHandle post_recv(int peer, std::uint64_t tag,
                            std::span<const std::span<std::byte>> parts,
                            Delivery delivery) override {
    return inner_->post_recv(peer, tag, parts, delivery);
  }
  TransferStatus poll(TransportHandle handle) override {
    const TransferStatus status = inner_->poll(handle);
    if (status.state == TransferState::kPending) return status;
    const auto gather = gathers_.extract(handle.id);
    if (gather && status.state == TransferState::kDone && corrupt_.exchange(false))
      change_a_byte(gather.mapped());
    return status;
  }
  void cancel(TransportHandle handle) override {
    gathers_.erase(handle.id);
    inner_->cancel(handle);
  }
  Status wait(std::chrono::steady_clock::time_point deadline) override {
    return inner_->wait(deadline);
  }
  void wake() noexcept override { inner_->wake(); }
  std::vector<int> lost_peers() override { return inner_->lost_peers(); }
  std::vector<int> awaited_peers() const override { return inner_->awaited_peers(); }

 private:
  // In the middle of the contribution of the next rank.
  void change_a_byte(std::span<std::byte> gathered) const {
    const std::size_t each = gathered.size() / static_cast<std::size_t>(num_ranks());
    const auto peer = static_cast<std::size_t>((rank() + 1) % num_ranks());
    gathered[peer * each + each / 2] ^= std::byte{1};
  }

  std::unique_ptr<Transport> inner_;
  std::atomic<bool>& corrupt_;
  std::map<std::uint64_t, std::span<std::byte>> gathers_;
};

}  // namespace

std::unique_ptr<Transport> make_corrupting_transport(std::unique_ptr<Transport> transport,
                                                     std::atomic<bool>& corrupt) {
  return std::make_unique<CorruptingTransport>(std::move(transport), corrupt);
}

}  // namespace swiftbalancer::engine
