#include "migration/transfer_drain.hpp"

#include <algorithm>
#include <utility>

#include "migration/copy_tag.hpp"

namespace swiftbalancer {

TransferDrain::~TransferDrain() {
  for (const LeftOver& receive : receives_) {
    if (receive.buffer >= 0) pool_.release(receive.buffer);
  }
}

void TransferDrain::add_send(LeftOver&& send) {
  LeftOver& added = sends_.emplace_back(std::move(send));
  if (!added.handle)
    added.handle = transport_.post_send(added.peer, added.tag, added.source, Delivery::kRendezvous);
}

void TransferDrain::post_owed(std::span<const std::vector<std::size_t>> part_bytes) {
  for (LeftOver& receive : receives_) {
    if (receive.handle) continue;
    const auto buffer = pool_.grant();
    if (!buffer) return;
    receive.buffer = *buffer;
    const auto& sizes = part_bytes[static_cast<std::size_t>(receive.moe_layer_id)];
    const PartPointers& memory = pool_.parts(receive.buffer);
    for (std::size_t part = 0; part < sizes.size(); ++part)
      receive.target.emplace_back(memory[part], sizes[part]);
    receive.handle =
        transport_.post_recv(receive.peer, receive.tag, receive.target, Delivery::kRendezvous);
  }
}

void TransferDrain::poll() {
  const auto is_over = [this](LeftOver& left) {
    if (!left.handle || transport_.poll(left.handle).state == TransferState::kPending) return false;
    if (left.buffer >= 0) pool_.release(left.buffer);
    return true;
  };
  std::erase_if(receives_, is_over);
  std::erase_if(sends_, is_over);
}

bool TransferDrain::holds_back(std::uint64_t generation_step, int moe_layer_id) const noexcept {
  const auto older = [&](const LeftOver& left) {
    return holds_back(left, generation_step, moe_layer_id);
  };
  return std::ranges::any_of(receives_, older) || std::ranges::any_of(sends_, older);
}

void TransferDrain::give_up(std::uint64_t generation_step, int moe_layer_id) noexcept {
  for (std::vector<LeftOver>* ends : {&receives_, &sends_}) {
    for (LeftOver& left : *ends) left.given_up |= holds_back(left, generation_step, moe_layer_id);
  }
}

bool TransferDrain::gave_up(int moe_layer_id, std::uint64_t unit_tag) const noexcept {
  const auto hopeless = [&](const LeftOver& left) {
    return (left.given_up && left.moe_layer_id == moe_layer_id) ||
           without_copy(left.tag) == without_copy(unit_tag);
  };
  return std::ranges::any_of(receives_, hopeless) || std::ranges::any_of(sends_, hopeless);
}

}  // namespace swiftbalancer
