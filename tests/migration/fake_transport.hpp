#pragma once
// A network in memory for tests: rendezvous transfers between ranks of one thread, which a rule
// delivers, holds, leaves half done or fails one by one. Everything posted is recorded. Misuse of
// the Transport contract throws std::logic_error.

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <vector>

#include <swiftbalancer/transport.hpp>

namespace swiftbalancer::testing {

enum class Fate { kDeliver, kHold, kHalf, kFailBoth, kFailSend, kFailReceive };

struct Transfer {
  int sender = 0;
  int receiver = 0;
  std::uint64_t tag = 0;
};

struct Post {
  bool is_send = false;
  Transfer transfer;
};

class FakeNetwork {
 public:
  explicit FakeNetwork(int num_ranks);
  Transport& transport(int rank) { return *endpoints_[static_cast<std::size_t>(rank)]; }

  /// Asked at every poll of an operation whose counterpart is posted.
  std::function<Fate(const Transfer&)> rule = [](const Transfer&) { return Fate::kDeliver; };
  std::vector<Post> posts;
  int polls = 0;
  bool can_cancel = true;

  std::size_t num_open() const { return operations_.size(); }
  std::size_t num_open_sends(int rank, int peer) const;

 private:
  struct Operation {
    bool is_send;
    Transfer transfer;
    std::vector<std::span<std::byte>> parts;
    TransferStatus status{};
  };
  class Endpoint;

  TransportHandle post(bool is_send, Transfer transfer, std::vector<std::span<std::byte>> parts);
  TransferStatus poll(std::uint64_t id);
  void settle(Operation& operation);
  Operation* counterpart(const Operation& operation);

  std::vector<std::unique_ptr<Transport>> endpoints_;
  std::map<std::uint64_t, Operation> operations_;
  std::uint64_t next_id_ = 1;
};

}  // namespace swiftbalancer::testing
