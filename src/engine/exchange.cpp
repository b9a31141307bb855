#include "engine/exchange.hpp"

#include <algorithm>
#include <array>
#include <cstring>

namespace swiftbalancer::engine {
namespace {

// Kinds of messages, the low bits of a tag.
constexpr std::uint64_t kStep = 0, kDispatch = 1, kCombine = 2;

template <typename T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span<const T>(&value, 1));
}
template <typename T>
std::span<std::byte> writable_bytes_of(T& value) {
  return std::as_writable_bytes(std::span<T>(&value, 1));
}

}  // namespace

Phase phase_of(std::span<const StepHeader> headers) noexcept {
  bool prefills = false, decodes = false;
  for (const StepHeader& header : headers) {
    prefills |= header.num_prefill_tokens > 0;
    decodes |= header.num_tokens > header.num_prefill_tokens;
  }
  return prefills == decodes ? Phase::kMixed : prefills ? Phase::kPrefill : Phase::kDecode;
}

ExpertExchange::ExpertExchange(const ClusterShape& shape, const ModelInfo& model,
                               Transport& transport, std::chrono::milliseconds deadline)
    : shape_(shape),
      transport_(transport),
      deadline_(deadline),
      width_(static_cast<std::size_t>(model.hidden_size)),
      top_k_(static_cast<std::size_t>(model.top_k)),
      rank_(transport.rank()) {
  const auto num_ranks = static_cast<std::size_t>(shape.num_ranks());
  headers_.resize(num_ranks);
  peers_.resize(num_ranks);
  rows_to_.resize(num_ranks);
  rows_from_.resize(num_ranks);
  clocks_.resize(num_ranks);
  tickets_.resize(static_cast<std::size_t>(shape.num_moe_layers()) *
                  static_cast<std::size_t>(shape.num_logical_experts()));
  tokens_per_slot_.resize(static_cast<std::size_t>(shape.slots_per_rank(rank_)));
  slot_begin_.resize(tokens_per_slot_.size() + 1);
  pending_.reserve(2 * num_ranks);
}

Status ExpertExchange::gather(std::uint64_t tag, std::int64_t mine, std::span<std::int64_t> out) {
  pending_.clear();
  pending_.push_back(
      {transport_.post_all_gather(tag, bytes_of(mine), std::as_writable_bytes(out)), -1, true});
  return wait_all("the start values");
}

Status ExpertExchange::open_step(std::uint64_t step, const StepHeader& mine) {
  step_ = step;
  layer_ = 0;
  const auto out = std::as_writable_bytes(std::span<StepHeader>(headers_));
  pending_.clear();
  pending_.push_back({transport_.post_all_gather(tag(kStep), bytes_of(mine), out), -1, true});
  return wait_all("the step header");
}

Status ExpertExchange::dispatch(int moe_layer_id, const Routing& routing, DispatchView table,
                                std::int64_t clock_ns, const DrawTable* draws) {
  layer_ = moe_layer_id;
  choose(moe_layer_id, routing, table, draws);
  const Status status = receive_rows(clock_ns);
  if (status.ok()) group_by_slot();
  return status;
}

void ExpertExchange::count_locality(LocalityRecord& locality) const noexcept {
  const int node = shape_.node_of_rank(rank_);
  for (int to = 0; to < shape_.num_ranks(); ++to) {
    const int rows = rows_to_[static_cast<std::size_t>(to)];
    locality.rows += rows;
    locality.own_rank += to == rank_ ? rows : 0;
    locality.own_node += shape_.node_of_rank(to) == node ? rows : 0;
  }
}

void ExpertExchange::choose(int moe_layer_id, const Routing& routing, DispatchView table,
                            const DrawTable* draws) {
  const auto experts = static_cast<std::size_t>(shape_.num_logical_experts());
  std::uint32_t* tickets = tickets_.data() + static_cast<std::size_t>(moe_layer_id) * experts;
  for (Peer& to : peers_) {
    to.slots.clear();
    to.rows.clear();
  }
  choices_.clear();
  for (std::size_t i = 0; i < routing.topk_ids.size(); ++i) {
    const std::int32_t expert = routing.topk_ids[i];
    const std::uint32_t ticket = tickets[expert]++;
    const std::int32_t slot =
        draws != nullptr ? draws->slot(expert, ticket, rank_) : table.slot(expert, ticket);
    const int owner = shape_.rank_of_slot(slot);
    Peer& to = peer(owner);
    choices_.push_back({owner, static_cast<int>(to.slots.size())});
    to.slots.push_back(slot - shape_.first_slot(owner));
    const float* row = routing.expert_input.data() + i / top_k_ * width_;
    to.rows.insert(to.rows.end(), row, row + width_);
  }
}

// Own rows stay where they are: received_slots() and received_row() read them from there.
Status ExpertExchange::receive_rows(std::int64_t clock_ns) {
  pending_.clear();
  for (int from = 0; from < shape_.num_ranks(); ++from) {
    if (from == rank_) continue;
    Peer& p = peer(from);
    const std::size_t most_rows = headers_[static_cast<std::size_t>(from)].num_tokens * top_k_;
    p.received.resize(std::max(
        p.received.size(),
        sizeof(MessageHeader) + most_rows * (sizeof(std::int32_t) + width_ * sizeof(float))));
    const std::array<std::span<std::byte>, 1> parts{p.received};
    pending_.push_back(
        {transport_.post_recv(from, tag(kDispatch), parts, Delivery::kEager), from, true});
  }
  for (int step = 1; step < shape_.num_ranks(); ++step) {
    const int to = (rank_ + step) % shape_.num_ranks();
    Peer& p = peer(to);
    p.out_header = {clock_ns, static_cast<std::uint32_t>(p.slots.size())};
    const std::array<std::span<const std::byte>, 3> parts{bytes_of(p.out_header),
                                                          std::as_bytes(std::span(p.slots)),
                                                          std::as_bytes(std::span(p.rows))};
    pending_.push_back(
        {transport_.post_send(to, tag(kDispatch), parts, Delivery::kEager), to, false});
  }
  if (Status status = wait_all("dispatched rows"); !status.ok()) return status;
  for (const Pending& done : pending_) {
    if (!done.receive) continue;
    if (Status status = check_message(done.peer, done.bytes); !status.ok()) return status;
    std::memcpy(&peer(done.peer).in_header, peer(done.peer).received.data(), sizeof(MessageHeader));
  }
  peer(rank_).in_header = {clock_ns, static_cast<std::uint32_t>(peer(rank_).slots.size())};
  for (std::size_t r = 0; r < peers_.size(); ++r) {
    clocks_[r] = peers_[r].in_header.clock_ns;
    rows_to_[r] = static_cast<int>(peers_[r].slots.size());
    rows_from_[r] = static_cast<int>(peers_[r].in_header.num_rows);
  }
  return {};
}

Status ExpertExchange::check_message(int from, std::size_t bytes) const {
  MessageHeader header;
  const auto& received = peer(from).received;
  if (bytes >= sizeof header) std::memcpy(&header, received.data(), sizeof header);
  const std::size_t expected =
      sizeof header + header.num_rows * (sizeof(std::int32_t) + width_ * sizeof(float));
  if (bytes == expected) return {};
  return {ErrorCode::kInternal, "step " + std::to_string(step_) + ": rows from rank " +
                                    std::to_string(from) + " have " + std::to_string(bytes) +
                                    " bytes, expected " + std::to_string(expected)};
}

std::span<const std::int32_t> ExpertExchange::received_slots(int from) const noexcept {
  const Peer& p = peer(from);
  if (from == rank_) return p.slots;
  return {reinterpret_cast<const std::int32_t*>(p.received.data() + sizeof(MessageHeader)),
          p.in_header.num_rows};
}

const float* ExpertExchange::received_row(const RowRef& ref) const noexcept {
  const Peer& p = peer(ref.peer);
  const std::size_t offset = static_cast<std::size_t>(ref.row) * width_;
  if (ref.peer == rank_) return p.rows.data() + offset;
  const std::size_t start = sizeof(MessageHeader) + p.in_header.num_rows * sizeof(std::int32_t);
  return reinterpret_cast<const float*>(p.received.data() + start) + offset;
}

void ExpertExchange::group_by_slot() {
  std::fill(tokens_per_slot_.begin(), tokens_per_slot_.end(), 0U);
  std::size_t total = 0;
  for (int from = 0; from < shape_.num_ranks(); ++from) {
    for (const std::int32_t slot : received_slots(from))
      ++tokens_per_slot_[static_cast<std::size_t>(slot)];
    const std::size_t rows = peer(from).in_header.num_rows;
    peer(from).results_out.resize(rows * width_);
    total += rows;
  }
  order_.resize(total);
  slot_begin_[0] = 0;
  for (std::size_t s = 0; s < tokens_per_slot_.size(); ++s)
    slot_begin_[s + 1] = slot_begin_[s] + tokens_per_slot_[s];
  // Filled from the back, so that slot_begin_[s + 1] comes down to the beginning of slot s; then
  // moved over by one.
  for (int from = shape_.num_ranks() - 1; from >= 0; --from) {
    const auto slots = received_slots(from);
    for (std::size_t row = slots.size(); row-- > 0;) {
      order_[--slot_begin_[static_cast<std::size_t>(slots[row]) + 1]] = {from,
                                                                         static_cast<int>(row)};
    }
  }
  std::copy(slot_begin_.begin() + 1, slot_begin_.end(), slot_begin_.begin());
  slot_begin_.back() = total;
}

Status ExpertExchange::combine(std::int64_t clock_ns) {
  pending_.clear();
  for (int from = 0; from < shape_.num_ranks(); ++from) {
    Peer& p = peer(from);
    if (from == rank_) continue;
    p.results_in.resize(p.slots.size() * width_);
    const std::array<std::span<std::byte>, 2> parts{
        writable_bytes_of(p.in_header), std::as_writable_bytes(std::span(p.results_in))};
    pending_.push_back(
        {transport_.post_recv(from, tag(kCombine), parts, Delivery::kEager), from, true});
  }
  for (int step = 1; step < shape_.num_ranks(); ++step) {
    const int to = (rank_ + step) % shape_.num_ranks();
    Peer& p = peer(to);
    p.out_header = {clock_ns, 0};
    const std::array<std::span<const std::byte>, 2> parts{bytes_of(p.out_header),
                                                          std::as_bytes(std::span(p.results_out))};
    pending_.push_back(
        {transport_.post_send(to, tag(kCombine), parts, Delivery::kEager), to, false});
  }
  if (Status status = wait_all("results"); !status.ok()) return status;
  peer(rank_).results_in.swap(peer(rank_).results_out);
  peer(rank_).in_header.clock_ns = clock_ns;
  for (std::size_t r = 0; r < peers_.size(); ++r) clocks_[r] = peers_[r].in_header.clock_ns;
  expert_output_.clear();
  for (const RowRef& choice : choices_) {
    expert_output_.push_back(peer(choice.peer).results_in.data() +
                             static_cast<std::size_t>(choice.row) * width_);
  }
  return {};
}

// Leaves pending_ as it was, with the bytes of each message, until the next exchange posts.
Status ExpertExchange::wait_all(const char* what) {
  const auto until = std::chrono::steady_clock::now() + deadline_;
  const auto where = [&] {
    return "step " + std::to_string(step_) + ", layer " + std::to_string(layer_) +
           ", waiting for " + what;
  };
  Status waited;
  while (true) {
    bool all_done = true;
    for (Pending& op : pending_) {
      if (op.done) continue;
      const TransferStatus status = transport_.poll(op.handle);
      if (status.state == TransferState::kFailed) {
        op.done = true;
        cancel_all();
        return {ErrorCode::kTransport,
                where() + ": a message with rank " + std::to_string(op.peer) + " failed"};
      }
      op.done = status.state == TransferState::kDone;
      op.bytes = status.bytes;
      all_done = all_done && op.done;
    }
    if (all_done) return {};
    if (!waited.ok()) break;
    waited = transport_.wait(until);  // after a failure everything is polled once more
  }
  std::string missing;
  for (const Pending& op : pending_) {
    if (!op.done && op.receive && op.peer >= 0)
      missing += (missing.empty() ? "; missing: rank " : ", ") + std::to_string(op.peer);
  }
  cancel_all();
  return {waited.code(), where() + ": " + waited.message() + missing};
}

void ExpertExchange::cancel_all() {
  for (const Pending& op : pending_) {
    if (!op.done) transport_.cancel(op.handle);
  }
  pending_.clear();
}

}  // namespace swiftbalancer::engine
