#include "migration/transfer_drain.hpp"

#include <algorithm>
#include <utility>

#include "migration/copy_tag.hpp"

namespace swiftbalancer {

TransferDrain::~TransferDrain() {
  for (const LeftOver& receive : receives_) {
    if (receive.buffer >= 0 && !receive.over) pool_.release(receive.buffer);
  }
}

void TransferDrain::reserve(std::size_t num_receives, std::size_t num_sends) {
  receives_.reserve(receives_.size() + num_receives);
  sends_.reserve(sends_.size() + num_sends);
}

void TransferDrain::post_owed(std::span<const std::vector<std::size_t>> part_bytes) {
  for (LeftOver& receive : receives_) {
    if (receive.handle) continue;
    if (receive.buffer < 0) receive.buffer = pool_.grant().value_or(-1);
    if (receive.buffer < 0) return;
    const auto& sizes = part_bytes[static_cast<std::size_t>(receive.moe_layer_id)];
    const PartPointers& memory = pool_.parts(receive.buffer);
    receive.target.clear();
    for (std::size_t part = 0; part < sizes.size(); ++part)
      receive.target.emplace_back(memory[part], sizes[part]);
    receive.handle =
        transport_.post_recv(receive.peer, receive.tag, receive.target, Delivery::kRendezvous);
  }
}

// Each end is asked once after it is done, also where the transport lacks memory in between.
void TransferDrain::poll() {
  for (LeftOver& send : sends_) {
    if (!send.handle)
      send.handle = transport_.post_send(send.peer, send.tag, send.source, Delivery::kRendezvous);
  }
  for (std::vector<LeftOver>* ends : {&receives_, &sends_}) {
    for (LeftOver& left : *ends) {
      if (left.over || !left.handle) continue;
      left.over = transport_.poll(left.handle).state != TransferState::kPending;
      if (left.over && left.buffer >= 0) pool_.release(left.buffer);
    }
    std::erase_if(*ends, [](const LeftOver& left) { return left.over; });
  }
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
