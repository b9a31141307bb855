#include "runtime/planner_process/process_planning.hpp"

#include <algorithm>
#include <deque>
#include <utility>
#include <vector>

#include <swiftbalancer/error.hpp>

#include "runtime/plan_bytes.hpp"
#include "runtime/planner_process/channel.hpp"
#include "runtime/planner_process/child.hpp"
#include "runtime/planner_process/messages.hpp"

namespace swiftbalancer {
namespace {

namespace messages = planner_messages;
using Clock = std::chrono::steady_clock;
using Kind = PlannerMessageKind;

constexpr std::chrono::milliseconds kFirstPause{100};
constexpr std::chrono::milliseconds kLongestPause{10'000};

std::chrono::milliseconds pause_before(int restart) {
  constexpr int kDoublings = 7;  // that reach the longest
  return std::min(kLongestPause, kFirstPause * (1 << std::min(restart - 1, kDoublings)));
}

void require(bool condition, const std::string& message) {
  if (!condition) throw Error(ErrorCode::kInvalidArgument, message);
}

class ProcessPlanning final : public Planning {
 public:
  ProcessPlanning(PlannerConfig config, ProcessPlanningOptions options)
      : config_(std::move(config)), options_(std::move(options)) {
    require(
        options_.max_restarts >= 0,
        "planner_restarts is " + std::to_string(options_.max_restarts) + "; allowed: 0 or more");
    require(options_.deadline.count() > 0, "planner_deadline is " +
                                               std::to_string(options_.deadline.count()) +
                                               " ms; allowed: at least 1 ms");
    make_policy(config_.policy);
    options_.program = find_planner_program(options_.program);
  }

  void restart(const ClusterShape& shape, const ServedState& served) override {
    if (off_) return;
    forget();
    shape_ = shape;
    served_ = served;
    has_state_ = true;
    ++life_;
    most_answer_bytes_ = std::max(most_answer_bytes_, messages::most_answer_bytes(shape));
    if (channel_) channel_->limit_message_bytes(most_answer_bytes_);
    send(Kind::kRestart, messages::encode_restart(shape, config_, served));
  }

  void on_served(const ServedState& served, bool rebalancing) override {
    if (!has_state_) return;
    auto changed = messages::encode_served(served_, served, rebalancing);
    served_ = served;
    send(Kind::kServed, std::move(changed));
  }

  void observe(std::uint64_t step, const ExpertLoad& load, Phase phase) override {
    if (!has_state_) {
      ++ignored_;
      return;
    }
    send(Kind::kObserve, messages::encode_observe(step, load, phase));
    unanswered_.push_back(step);
  }

  void open(const GenerationId& generation) override {
    if (has_state_) send(Kind::kOpen, messages::encode_generation(generation));
    open_ = generation;
    advances_ = 0;
    if (!has_state_) fail_open({});  // Why was told when it was lost.
  }

  void close() override {
    if (has_state_) send(Kind::kClose, {});
    open_ = {};
  }

  bool advance() override {
    const Clock::time_point now = options_.clock();
    if (leaving_ && leaving_->ended()) leaving_.reset();
    if (!child_) return start_if_due(now);
    const bool moved = channel_->pump();
    try {
      while (auto message = channel_->receive()) {
        if (hear(*message)) quiet_since_ = now;
      }
    } catch (const Error& error) {
      return lose(std::string("is ended: ") + error.what(), now);
    }
    return !lose_if_gone(now) && moved;
  }

  std::optional<PlanningEvent> next_event() override {
    if (events_.empty()) return std::nullopt;
    PlanningEvent event = std::move(events_.front());
    events_.pop_front();
    return event;
  }

  bool must_be_polled() const noexcept override { return child_ && owes(); }
  bool running() const noexcept override { return running_; }
  int restarts() const noexcept override { return restarts_; }
  std::uint64_t ignored() const noexcept override { return ignored_; }

 private:
  // Whether the program has something to answer or to take.
  bool owes() const noexcept {
    return !ready_ || !unanswered_.empty() || static_cast<bool>(open_) ||
           channel_->unsent_bytes() != 0;
  }

  void send(Kind kind, std::vector<std::byte> content) {
    PlannerMessage message{kind, life_, std::move(content)};
    if (channel_ && !owes()) quiet_since_ = options_.clock();
    if (channel_) return channel_->send(std::move(message));
    early_bytes_ += message.content.size();
    early_.push_back(std::move(message));
  }

  bool start_if_due(Clock::time_point now) {
    if (!off_ && early_bytes_ > options_.max_unsent_bytes) lose("was not up in time", now);
    if (off_ || leaving_ || now < start_at_) return false;
    if (started_) ++restarts_;
    started_ = true;
    try {
      auto channel = PlannerChannel::create();
      child_ = std::make_unique<PlannerChild>(options_.program, channel->descriptor(),
                                              options_.max_memory_bytes);
      channel->close_descriptor();
      channel->limit_message_bytes(most_answer_bytes_);
      for (PlannerMessage& message : std::exchange(early_, {})) channel->send(std::move(message));
      early_bytes_ = 0;
      channel_ = std::move(channel);
      quiet_since_ = now;
    } catch (const Error& error) {
      lose(std::string("could not be started: ") + error.what(), now);
    }
    return true;
  }

  // @returns whether it is a sign of life: a program that repeats itself is as good as stuck.
  bool hear(const PlannerMessage& message) {
    if (message.kind == Kind::kReady && !ready_) return ready_ = running_ = true;
    if (message.life != life_) return false;  // An answer from before the last restart().
    switch (message.kind) {
      case Kind::kObserved:
        return hear_observed(message.content);
      case Kind::kPlan:
      case Kind::kFailed:
        return hear_end_of_plan(message);
      case Kind::kWorking:
        return hear_working(message.content);
      default:
        throw Error(ErrorCode::kTransport, "it sent a message that makes no sense");
    }
  }

  bool hear_working(std::span<const std::byte> content) {
    std::span<const std::byte> rest;
    if (messages::decode_generation(content, rest) != open_ || !open_) return false;
    if (++advances_ > most_advances(*shape_))
      throw Error(ErrorCode::kTransport, "it plans on without an end");
    return true;
  }

  bool hear_observed(std::span<const std::byte> content) {
    const messages::Observed observed = messages::decode_observed(content);
    if (unanswered_.empty() || unanswered_.front() != observed.step)
      throw Error(ErrorCode::kTransport, "it answered what it was not asked");
    unanswered_.pop_front();
    PlanningEvent event;
    event.step = observed.step;
    event.wants_rebalance = observed.wants_rebalance;
    events_.push_back(std::move(event));
    return true;
  }

  bool hear_end_of_plan(const PlannerMessage& message) {
    std::span<const std::byte> rest;
    const GenerationId generation = messages::decode_generation(message.content, rest);
    if (generation != open_ || !open_) return false;  // Closed meanwhile.
    if (message.kind == Kind::kFailed) {
      fail_open(messages::printable(rest));
      return true;
    }
    PlanningEvent event;
    event.kind = PlanningEvent::Kind::kPlan;
    event.generation = generation;
    decode_plan(rest, generation, *shape_, event.plan).throw_if_failed();
    open_ = {};
    events_.push_back(std::move(event));
    return true;
  }

  bool lose_if_gone(Clock::time_point now) {
    if (!channel_->fault().empty()) return lose(channel_->fault() + ": ended", now);
    if (const auto how = child_->ended()) return lose(*how, now);
    if (!owes()) quiet_since_ = now;
    if (now - quiet_since_ >= options_.deadline)
      return lose("said nothing for " + std::to_string(options_.deadline.count()) + " ms: ended",
                  now);
    if (channel_->unsent_bytes() > options_.max_unsent_bytes)
      return lose("does not keep up, " + std::to_string(channel_->unsent_bytes()) +
                      " bytes wait for it: ended",
                  now);
    return false;
  }

  // Whatever state the program had is gone, and the program with it. @returns true.
  bool lose(const std::string& how, Clock::time_point now) {
    if (child_) child_->kill();
    if (child_) leaving_ = std::move(child_);
    channel_.reset();
    ready_ = running_ = false;
    PlanningEvent event;
    event.why = "planner process " + how;
    if (restarts_ < options_.max_restarts) {
      const auto pause = pause_before(restarts_ + 1);
      start_at_ = now + pause;
      event.kind = PlanningEvent::Kind::kLost;
      event.why += "; started again in " + std::to_string(pause.count()) + " ms (" +
                   std::to_string(restarts_ + 1) + " of " + std::to_string(options_.max_restarts) +
                   " times)";
    } else {
      off_ = true;
      event.kind = PlanningEvent::Kind::kOff;
      event.why += "; it was started again " + std::to_string(restarts_) +
                   " times, which is all that planner_restarts allows: balancing is off";
    }
    events_.push_back(std::move(event));
    if (open_) fail_open({});
    forget();
    has_state_ = false;
    return true;
  }

  void fail_open(std::string why) {
    PlanningEvent event;
    event.kind = PlanningEvent::Kind::kFailed;
    event.generation = std::exchange(open_, {});
    event.why = std::move(why);
    events_.push_back(std::move(event));
  }

  // What was asked and not answered.
  void forget() {
    ignored_ += unanswered_.size();
    unanswered_.clear();
    open_ = {};
    early_.clear();
    early_bytes_ = 0;
  }

  const PlannerConfig config_;
  ProcessPlanningOptions options_;
  std::optional<ClusterShape> shape_;
  ServedState served_;      // as the program knows it
  bool has_state_ = false;  // false from a loss until restart()
  std::uint32_t life_ = 0;
  std::size_t most_answer_bytes_ = 0;     // of any shape so far: old answers may be under way
  std::deque<std::uint64_t> unanswered_;  // steps observed
  GenerationId open_;
  int advances_ = 0;  // of it
  std::deque<PlanningEvent> events_;
  std::uint64_t ignored_ = 0;

  std::unique_ptr<PlannerChild> child_;
  std::unique_ptr<PlannerChannel> channel_;  // while there is a child
  std::unique_ptr<PlannerChild> leaving_;    // killed, not yet gone
  std::deque<PlannerMessage> early_;         // for the next child
  std::size_t early_bytes_ = 0;
  bool started_ = false;
  bool ready_ = false;   // the child is up
  bool running_ = true;  // for health
  bool off_ = false;
  int restarts_ = 0;
  Clock::time_point start_at_ = Clock::time_point::min();
  Clock::time_point quiet_since_;
};

}  // namespace

std::unique_ptr<Planning> make_process_planning(const PlannerConfig& config,
                                                ProcessPlanningOptions options) {
  return std::make_unique<ProcessPlanning>(config, std::move(options));
}

}  // namespace swiftbalancer
