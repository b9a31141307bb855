#include "runtime/plan_exchange.hpp"

#include <new>
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
  Transfer receive;
  receive.generation = generation;
  receive.bytes.resize(most_plan_bytes(shape_));
  receives_.push_back(std::move(receive));
  try {
    Transfer& posted = receives_.back();
    posted.target = {posted.bytes};
    posted.handle =
        transport_.post_recv(0, kPlanTag | generation.step, posted.target, Delivery::kEager);
  } catch (...) {
    receives_.pop_back();
    throw;
  }
}

void PlanExchange::send(const Plan& plan) {
  std::vector<std::byte> bytes(most_plan_bytes(shape_));
  bytes.resize(encode_plan(owed_, plan, shape_, bytes));
  enqueue(bytes);
}

void PlanExchange::close() {
  if (leads() && owed_) enqueue({});
}

// All or none: what is enqueued is posted, now or when the next message is looked for.
void PlanExchange::enqueue(const std::vector<std::byte>& bytes) {
  const std::size_t before = sends_.size();
  try {
    for (int peer = 1; peer < transport_.num_ranks(); ++peer) {
      Transfer& sent = sends_.emplace_back();
      sent.generation = owed_;
      sent.peer = peer;
      sent.bytes = bytes;
      sent.source = {sent.bytes};
    }
  } catch (...) {
    while (sends_.size() > before) sends_.pop_back();
    throw;
  }
  owed_ = {};
  post_sends();
}

void PlanExchange::post_sends() {
  for (Transfer& sent : sends_) {
    if (sent.handle) continue;
    sent.handle = transport_.post_send(sent.peer, kPlanTag | sent.generation.step, sent.source,
                                       Delivery::kEager);
  }
}

std::optional<PlanExchange::Message> PlanExchange::poll() {
  post_sends();
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
    try {
      Plan plan;
      message.status = decode_plan(std::span(received.bytes).first(status.bytes),
                                   received.generation, shape_, plan);
      if (message.status.ok()) message.plan = std::move(plan);
    } catch (const std::bad_alloc&) {
      message.status = {ErrorCode::kInternal, "out of memory"};
    }
  }
  return message;
}

}  // namespace swiftbalancer
