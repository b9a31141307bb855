#include "simulation/sim_network.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

namespace swiftbalancer::simulation {
namespace {

// In a ring a message takes room for a header, too.
constexpr std::size_t kHeaderBytes = 16;

std::size_t room(const std::vector<std::byte>& bytes) { return bytes.size() + kHeaderBytes; }

}  // namespace

SimNetwork::SimNetwork(const Options& options)
    : options_(options),
      lanes_(index(options.num_ranks) * index(options.num_ranks)),
      states_(index(options.num_ranks), State::kNotYet),
      gathers_(states_.size()),
      gather_fails_(states_.size(), false) {
  for (int sender = 0; sender < options.num_ranks; ++sender) {
    for (int receiver = 0; receiver < options.num_ranks; ++receiver) {
      lane(sender, receiver).sender = sender;
      lane(sender, receiver).receiver = receiver;
    }
  }
}

// ---- What can happen ----

void SimNetwork::consider_flow(Lane& considered) {
  if (std::exchange(considered.may_flow, true)) return;
  candidates_.push_back(
      {Event::Kind::kMessage, static_cast<std::size_t>(&considered - lanes_.data())});
}

void SimNetwork::consider_copy(Lane& considered) {
  if (std::exchange(considered.may_copy, true)) return;
  candidates_.push_back(
      {Event::Kind::kCopy, static_cast<std::size_t>(&considered - lanes_.data())});
}

std::optional<SimNetwork::Event> SimNetwork::pick(std::mt19937_64& random) {
  while (true) {
    const std::size_t all = candidates_.size() + learners_.size() + timeouts_.size();
    if (all == 0) return std::nullopt;
    std::size_t chosen = random() % all;
    if (chosen < learners_.size())
      return Event{.kind = Event::Kind::kSenderLearns, .place = chosen};
    chosen -= learners_.size();
    if (chosen < timeouts_.size()) return Event{.kind = Event::Kind::kTimeout, .place = chosen};
    chosen -= timeouts_.size();
    const Candidate candidate = candidates_[chosen];
    Lane& found = lanes_[candidate.lane];
    Event event{.kind = candidate.kind, .lane = candidate.lane};
    if (candidate.kind == Event::Kind::kCopy) {
      if (next_pair(found).out != nullptr) return event;
      found.may_copy = false;
    } else if (!found.queue.empty() && found.ring_used < std::max(options_.ring_bytes, 1UL)) {
      if (!has_rings()) event.place = random() % found.queue.size();
      while (has_rings() && event.place < found.queue.size() &&
             found.queue[event.place].pushed == room(found.queue[event.place].bytes))
        ++event.place;
      if (event.place < found.queue.size()) {
        event.tag = found.queue[event.place].tag;
        event.gather = found.queue[event.place].gather;
        return event;
      }
      found.may_flow = false;
    } else {
      found.may_flow = false;
    }
    candidates_[chosen] = candidates_.back();
    candidates_.pop_back();
  }
}

void SimNetwork::happen(const Event& event, Fate fate) {
  if (fate != Fate::kGood && fate != Fate::kStuck) ++num_faults_;
  if (event.kind == Event::Kind::kCopy) return copy(lanes_[event.lane], fate);
  if (event.kind != Event::Kind::kMessage) {
    auto& waiting = event.kind == Event::Kind::kTimeout ? timeouts_ : learners_;
    SimOperation& operation = *waiting[event.place];
    waiting.erase(waiting.begin() + static_cast<std::ptrdiff_t>(event.place));
    operation.state =
        event.kind == Event::Kind::kTimeout ? TransferState::kFailed : TransferState::kDone;
    return;
  }
  Lane& through = lanes_[event.lane];
  Message& message = through.queue[event.place];
  if (fate == Fate::kLost) message.lost = true;
  if (fate == Fate::kDamaged) damage(message);
  if (has_rings()) return push(through);
  Message moved = std::move(message);
  through.queue.erase(through.queue.begin() + static_cast<std::ptrdiff_t>(event.place));
  arrive(through, std::move(moved));
}

void SimNetwork::damage(Message& message) {
  if (message.bytes.empty()) return;
  // Which bit is all the same: the checksums are tested elsewhere. It varies with the tag.
  const std::size_t bit = message.tag * 2654435761U % (message.bytes.size() * 8);
  message.bytes[bit / 8] ^= static_cast<std::byte>(1U << bit % 8);
  message.memory = {};
}

bool SimNetwork::gather_fails(int rank) {
  if (!gather_fails_[index(rank)]) return false;
  ++num_faults_;
  gather_fails_[index(rank)] = false;
  return true;
}

// ---- Messages ----

void SimNetwork::send(Lane& to, Message message) {
  if (states_[index(to.sender)] == State::kDead) return;
  to.queue.push_back(std::move(message));
  // Without rings the network has it all at once.
  if (!has_rings()) is_pushed(to.queue.back());
  consider_flow(to);
}

// In order, as far as there is room.
void SimNetwork::push(Lane& through) {
  for (Message& message : through.queue) {
    if (through.ring_used == options_.ring_bytes) return;
    const std::size_t moved =
        std::min(options_.ring_bytes - through.ring_used, room(message.bytes) - message.pushed);
    message.pushed += moved;
    through.ring_used += moved;
    if (message.pushed == room(message.bytes)) is_pushed(message);
  }
}

void SimNetwork::is_pushed(Message& message) {
  if (!message.memory.empty() && !std::ranges::equal(message.memory, message.bytes))
    break_contract("memory of a message changed while it was posted");
  message.memory = {};
  SimOperation* operation = std::exchange(message.operation, nullptr);
  if (operation == nullptr) return;
  if (operation->kind == SimOperation::Kind::kGather) {
    --operation->unsent;
    end_gather_if_complete(*operation);
  } else {
    operation->state = TransferState::kDone;
    operation->bytes = message.bytes.size();
  }
}

void SimNetwork::take(Lane& from) {
  if (from.ring_used == 0) return;
  from.ring_used = 0;
  while (!from.queue.empty() && from.queue.front().pushed == room(from.queue.front().bytes)) {
    Message message = std::move(from.queue.front());
    from.queue.pop_front();
    arrive(from, std::move(message));
  }
  if (!from.queue.empty()) consider_flow(from);
}

void SimNetwork::empty_rings(int rank) {
  if (!has_rings()) return;
  for (int peer = 0; peer < options_.num_ranks; ++peer) take(lane(peer, rank));
}

void SimNetwork::arrive(Lane& through, Message&& message) {
  auto& waiting = message.gather ? gathers_[index(through.receiver)] : through.receives;
  const auto found = std::ranges::find_if(waiting, [&](const SimOperation* each) {
    return each->tag == message.tag && !(message.gather && each->got[index(through.sender)]);
  });
  if (found == waiting.end()) {
    through.arrived.push_back(std::move(message));
    return;
  }
  SimOperation& operation = **found;
  if (!message.gather) waiting.erase(found);
  deliver(operation, message, through.sender);
}

void SimNetwork::deliver(SimOperation& to, const Message& message, int sender) {
  if (to.kind == SimOperation::Kind::kGather) {
    std::memcpy(to.target[0].data() + index(sender) * message.bytes.size(), message.bytes.data(),
                message.bytes.size());
    to.got[index(sender)] = true;
    --to.missing;
    return end_gather_if_complete(to);
  }
  unfetched_.push_back(&to);
  if (message.lost || message.bytes.size() > to.target[0].size()) {
    to.state = TransferState::kFailed;
    return;
  }
  std::ranges::copy(message.bytes, to.target[0].begin());
  to.state = TransferState::kDone;
  to.bytes = message.bytes.size();
}

void SimNetwork::end_gather_if_complete(SimOperation& gather) {
  if (gather.missing != 0 || gather.unsent != 0) return;
  std::erase(gathers_[index(gather.rank)], &gather);
  gather.state = TransferState::kDone;
  gather.bytes = gather.target[0].size();
}

void SimNetwork::post_gather(SimOperation& gather, std::span<const std::byte> mine) {
  gather.got.assign(states_.size(), false);
  gather.missing = gather.unsent = options_.num_ranks - 1;
  gather.got[index(gather.rank)] = true;
  std::ranges::copy(
      mine, gather.target[0].begin() + gather.rank * static_cast<std::ptrdiff_t>(mine.size()));
  gathers_[index(gather.rank)].push_back(&gather);
  for (int peer = 0; peer < options_.num_ranks; ++peer) {
    if (peer == gather.rank) continue;
    send(lane(gather.rank, peer), {.tag = gather.tag,
                                   .gather = true,
                                   .bytes = {mine.begin(), mine.end()},
                                   .memory = mine,
                                   .operation = &gather});
    Lane& back = lane(peer, gather.rank);
    const auto early = std::ranges::find_if(
        back.arrived, [&](const Message& each) { return each.gather && each.tag == gather.tag; });
    if (early == back.arrived.end()) continue;
    const Message message = std::move(*early);
    back.arrived.erase(early);
    deliver(gather, message, peer);
  }
  end_gather_if_complete(gather);
}

void SimNetwork::post_message(SimOperation& post,
                              std::span<const std::span<const std::byte>> parts) {
  Message message{.tag = post.tag, .operation = &post};
  for (const auto& part : parts)
    message.bytes.insert(message.bytes.end(), part.begin(), part.end());
  if (parts.size() == 1) message.memory = parts[0];
  send(lane(post.rank, post.peer), std::move(message));
}

void SimNetwork::post_receive(SimOperation& receive) {
  Lane& from = lane(receive.peer, receive.rank);
  const auto early = std::ranges::find_if(
      from.arrived, [&](const Message& each) { return !each.gather && each.tag == receive.tag; });
  if (early == from.arrived.end()) {
    from.receives.push_back(&receive);
    return;
  }
  const Message message = std::move(*early);
  from.arrived.erase(early);
  deliver(receive, message, receive.peer);
}

bool SimNetwork::is_under_way(int sender, int receiver, std::uint64_t tag) const {
  const Lane& through = lane(sender, receiver);
  const auto has_tag = [tag](const Message& each) { return each.tag == tag; };
  const auto brings_it = [&](const SimOperation* done) {
    return done->rank == receiver && done->peer == sender && done->tag == tag;
  };
  return std::ranges::any_of(through.queue, has_tag) ||
         std::ranges::any_of(through.arrived, has_tag) ||
         std::ranges::any_of(unfetched_, brings_it);
}

// ---- Ranks ----

void SimNetwork::open(int rank) { states_[index(rank)] = State::kOpen; }

// What is not in a ring yet lay in memory that goes.
void SimNetwork::close(int rank) {
  if (states_[index(rank)] == State::kDead) return;
  states_[index(rank)] = State::kClosed;
  for (int peer = 0; peer < options_.num_ranks; ++peer) drop_unsent(lane(rank, peer));
}

void SimNetwork::drop_unsent(Lane& from) {
  if (!has_rings()) return;
  std::erase_if(from.queue,
                [](const Message& message) { return message.pushed < room(message.bytes); });
}

void SimNetwork::die(int rank, std::mt19937_64& random) {
  for (int peer = 0; peer < options_.num_ranks; ++peer) {
    Lane& from = lane(rank, peer);
    drop_unsent(from);
    if (!has_rings()) std::erase_if(from.queue, [&](const Message&) { return random() % 2 == 0; });
  }
  states_[index(rank)] = State::kDead;
}

bool SimNetwork::waits_in_vain(int rank) const {
  for (int peer = 0; peer < options_.num_ranks; ++peer) {
    const State state = states_[index(peer)];
    const Lane &from = lane(peer, rank), &to = lane(rank, peer);
    if ((state != State::kDead && state != State::kClosed) || !from.queue.empty()) continue;
    const auto waits = [peer](const SimOperation* gather) { return !gather->got[index(peer)]; };
    const auto is_posted = [](const Message& message) { return message.operation != nullptr; };
    if (!from.receives.empty() || !from.in.empty() || !to.out.empty() ||
        std::ranges::any_of(gathers_[index(rank)], waits) ||
        std::ranges::any_of(to.queue, is_posted))
      return true;
  }
  return false;
}

int SimNetwork::num_operations(int rank) const {
  std::size_t count = 0;
  for (int peer = 0; peer < options_.num_ranks; ++peer) {
    const Lane &from = lane(peer, rank), &to = lane(rank, peer);
    count += from.receives.size() + from.in.size() + to.out.size();
  }
  return static_cast<int>(count);
}

void SimNetwork::forget(SimOperation& operation) {
  const bool gather = operation.kind == SimOperation::Kind::kGather;
  if (gather && operation.state == TransferState::kDone) return;
  if (gather) std::erase(gathers_[index(operation.rank)], &operation);
  for (int peer = 0; peer < options_.num_ranks; ++peer) {
    if (!gather && peer != operation.peer) continue;
    Lane &from = lane(peer, operation.rank), &to = lane(operation.rank, peer);
    if (operation.kind == SimOperation::Kind::kReceive) std::erase(from.receives, &operation);
    if (operation.kind == SimOperation::Kind::kCopyIn) std::erase(from.in, &operation);
    if (operation.kind == SimOperation::Kind::kCopyOut) std::erase(to.out, &operation);
    for (Message& message : to.queue) {
      if (message.operation != &operation) continue;
      message.operation = nullptr;
      message.memory = {};
    }
  }
  std::erase(unfetched_, &operation);
  std::erase(learners_, &operation);
  std::erase(timeouts_, &operation);
}

}  // namespace swiftbalancer::simulation
