#pragma once
// A call of the product that blocks, as an engine makes it: in a thread of its own, which takes
// turns with the scheduler, so that one of the two runs at any time and a seed still gives one run.
// The call gives its turn back wherever it waits; how a wait ends is the scheduler's choice.

#include <chrono>
#include <exception>
#include <functional>
#include <semaphore>
#include <stdexcept>
#include <thread>
#include <utility>

#include <swiftbalancer/error.hpp>

namespace swiftbalancer::simulation {

class SimCall {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  explicit SimCall(std::function<Status(SimCall&)> body)
      : body_(std::move(body)), thread_([this] { run(); }) {}
  /// The rank dies: whatever the call waits for fails.
  ~SimCall() {
    cancelled_ = true;
    while (!ended_) turn();
  }
  SimCall(const SimCall&) = delete;
  SimCall& operator=(const SimCall&) = delete;

  // --- Scheduler ---
  /// Lets the call go on until it waits again or ends.
  /// @param outcome of the wait that it is in. @returns whether the call has ended.
  /// @throws what the call has thrown.
  bool resume(Status outcome = {}) {
    outcome_ = std::move(outcome);
    turn();
    if (thrown_ != nullptr) std::rethrow_exception(std::exchange(thrown_, nullptr));
    return ended_;
  }
  const Status& status() const noexcept { return status_; }

  // --- The call's thread ---
  Status wait(TimePoint deadline) {
    deadline_ = deadline;
    give_back();
    if (cancelled_) return {ErrorCode::kPeerLost, "this rank dies"};
    return std::exchange(outcome_, {});
  }
  /// Something takes long.
  void pause() {
    give_back();
    if (cancelled_) throw std::runtime_error("this rank dies");
  }
  /// Of the last wait.
  TimePoint deadline() const noexcept { return deadline_; }

 private:
  void run() {
    mine_.acquire();
    try {
      status_ = body_(*this);
    } catch (...) {
      thrown_ = std::current_exception();
    }
    ended_ = true;
    schedulers_.release();
  }
  void turn() {
    mine_.release();
    schedulers_.acquire();
  }
  void give_back() {
    schedulers_.release();
    mine_.acquire();
  }

  // Whose turn it is may read and write all of this.
  const std::function<Status(SimCall&)> body_;
  Status outcome_, status_;
  TimePoint deadline_{};
  std::exception_ptr thrown_;
  bool cancelled_ = false;
  bool ended_ = false;
  std::binary_semaphore mine_{0}, schedulers_{0};
  std::jthread thread_;
};

}  // namespace swiftbalancer::simulation
