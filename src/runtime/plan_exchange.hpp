#pragma once
// Leader mode: the plan of a generation travels from the first rank to all others as a message of
// its own; packets carry its hash only. For every generation exactly one message leaves the leader,
// so that no receive stays behind. Worker thread only.

#include <cstddef>
#include <deque>
#include <optional>
#include <vector>

#include <swiftbalancer/error.hpp>
#include <swiftbalancer/migration_plan.hpp>
#include <swiftbalancer/shape.hpp>
#include <swiftbalancer/transport.hpp>

#include "planner/planner.hpp"

namespace swiftbalancer {

class PlanExchange {
 public:
  struct Message {
    GenerationId generation;
    std::optional<Plan>
        plan;       ///< None: the leader has none, or the message is not what it should be.
    Status status;  ///< What was wrong with it.
  };

  PlanExchange(const ClusterShape& shape, Transport& transport)
      : shape_(shape), transport_(transport) {}

  /// A generation is open: others than the leader expect its message.
  void open(const GenerationId& generation);
  /// Leader: the plan of the open generation is made.
  void send(const Plan& plan);
  /// The open generation is over. A leader that has sent nothing for it says that there is nothing.
  void close();
  /// Others: the next message that has come, in order.
  std::optional<Message> poll();

 private:
  struct Transfer {
    GenerationId generation;
    int peer = 0;
    TransportHandle handle;
    std::vector<std::byte> bytes;
    std::vector<std::span<std::byte>> target;
    std::vector<std::span<const std::byte>> source;
  };
  void enqueue(const std::vector<std::byte>& bytes);
  void post_sends();
  bool leads() const noexcept { return transport_.rank() == 0; }

  const ClusterShape& shape_;
  Transport& transport_;
  GenerationId owed_;           ///< Leader: opened, nothing sent yet.
  std::deque<Transfer> sends_;  ///< Without a handle: still to be posted.
  std::deque<Transfer> receives_;
};

}  // namespace swiftbalancer
