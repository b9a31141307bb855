#include "runtime/plan_exchange.hpp"

#include <utility>

#include "runtime/plan_bytes.hpp"

namespace swiftbalancer {
namespace {

// Below the packets' tags (bit 62) and the copies' (bit 63).
constexpr std::uint64_t kPlanTag = std::uint64_t{1} << 61;

}  // namespace

void PlanExchange::open(const GenerationId& generation) {
  if (leads()) {
    owed_ = generation;
    return;
  }
  Transfer& receive = receives_.emplace_back();
  receive.generation = generation;
  receive.bytes.resize(most_plan_bytes(shape_));
  receive.target = {receive.bytes};
  receive.handle =
      transport_.post_recv(0, kPlanTag | generation.step, receive.target, Delivery::kEager);
}

void PlanExchange::send(const Plan& plan) {
  std::vector<std::byte> bytes(most_plan_bytes(shape_));
  bytes.resize(encode_plan(owed_, plan, shape_, bytes));
  send_bytes(std::move(bytes));
}

void PlanExchange::close() {
  if (leads() && owed_) send_bytes({});
}

void PlanExchange::send_bytes(std::vector<std::byte> bytes) {
  for (int peer = 1; peer < transport_.num_ranks(); ++peer) {
    Transfer& sent = sends_.emplace_back();
    sent.generation = owed_;
    sent.bytes = bytes;
    sent.source = {sent.bytes};
    sent.handle = transport_.post_send(peer, kPlanTag | owed_.step, sent.source, Delivery::kEager);
  }
  owed_ = {};
}

std::optional<PlanExchange::Message> PlanExchange::poll() {
  std::erase_if(sends_, [this](const Transfer& sent) {
    return transport_.poll(sent.handle).state != TransferState::kPending;
  });
  if (receives_.empty()) return std::nullopt;
  const TransferStatus status = transport_.poll(receives_.front().handle);
  if (status.state == TransferState::kPending) return std::nullopt;
  const Transfer received = std::move(receives_.front());
  receives_.pop_front();
  Message message{received.generation, std::nullopt, {}};
  if (status.state == TransferState::kFailed) {
    message.status = {ErrorCode::kTransport, "the leader's plan did not arrive"};
  } else if (status.bytes > 0) {
    Plan plan;
    message.status = decode_plan(std::span(received.bytes).first(status.bytes), received.generation,
                                 shape_, plan);
    if (message.status.ok()) message.plan = std::move(plan);
  }
  return message;
}

}  // namespace swiftbalancer
