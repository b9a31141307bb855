#include "runtime/planner_process/process_planning.hpp"

#include <algorithm>
#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include <swiftbalancer/error.hpp>

#include "runtime/guarded_planning.hpp"
#include "runtime/plan_bytes.hpp"
#include "runtime/planner_process/channel.hpp"
#include "runtime/planner_process/child.hpp"
#include "runtime/planner_process/messages.hpp"

namespace swiftbalancer {
namespace {

namespace messages = planner_messages;
using Clock = std::chrono::steady_clock;
using MessageKind = PlannerMessageKind;

constexpr std::chrono::milliseconds kFirstPause{100};

class ProcessPlanMaker final : public PlanMaker {
 public:
  ProcessPlanMaker(PlannerConfig config, ProcessPlanningOptions options)
      : config_(std::move(config)), options_(std::move(options)) {}

  void restart(const ClusterShape& shape, const ServedState& served) override {
    forget();
    shape_ = shape;
    ++life_;
    most_answer_bytes_ = std::max(most_answer_bytes_, messages::most_answer_bytes(shape));
    if (channel_) channel_->limit_message_bytes(most_answer_bytes_);
    send(MessageKind::kRestart, messages::encode_restart(shape, config_, served));
  }

  void on_committed(int moe_layer_id, std::span<const std::int32_t> placement,
                    std::span<const std::uint32_t> shares) override {
    send(MessageKind::kCommitted, messages::encode_committed(moe_layer_id, placement, shares));
  }

  void on_rebalancing(bool rebalancing) override {
    send(MessageKind::kRebalancing, messages::encode_rebalancing(rebalancing));
  }

  void observe(std::uint64_t step, const ExpertLoad& load, Phase phase, PlanAnswers&) override {
    send(MessageKind::kObserve, messages::encode_observe(step, load, phase));
    unanswered_.push_back(step);
  }

  void open(const GenerationId& generation, PlanAnswers&) override {
    send(MessageKind::kOpen, messages::encode_generation(generation));
    open_ = generation;
    advances_ = 0;
  }

  void close() override {
    send(MessageKind::kClose, {});
    open_ = {};
  }

  bool advance(PlanAnswers& answers) override {
    const Clock::time_point now = options_.clock();
    if (leaving_ && leaving_->ended()) leaving_.reset();
    if (!child_) return start_if_due(now);
    const bool moved = channel_->pump();
    try {
      while (auto message = channel_->receive()) {
        if (hear(*message, answers)) quiet_since_ = now;
      }
    } catch (const Error& error) {
      throw PlannerLost(std::string("is ended: ") + error.what());
    }
    check_that_it_lives(now);
    return moved;
  }

  void abandon(std::optional<std::chrono::milliseconds> pause) noexcept override {
    if (child_) child_->kill();
    if (child_) leaving_ = std::move(child_);
    channel_.reset();
    ready_ = running_ = false;
    // A loss while the next one waits to be started does not put that off.
    if (pause && !std::exchange(waits_to_start_, true)) start_at_ = options_.clock() + *pause;
    off_ = !pause;
    forget();
  }

  bool must_be_polled() const noexcept override { return child_ && owes(); }
  bool running() const noexcept override { return running_; }
  int restarts() const noexcept override { return restarts_; }

 private:
  // Whether the program has something to answer or to take.
  bool owes() const noexcept {
    return !ready_ || !unanswered_.empty() || static_cast<bool>(open_) ||
           channel_->unsent_bytes() != 0;
  }

  void send(MessageKind kind, std::vector<std::byte> content) {
    PlannerMessage message{kind, life_, std::move(content)};
    if (channel_ && !owes()) quiet_since_ = options_.clock();
    if (channel_) return channel_->send(std::move(message));
    early_bytes_ += message.content.size();
    early_.push_back(std::move(message));
  }

  bool start_if_due(Clock::time_point now) {
    if (off_) return false;
    if (early_bytes_ > options_.max_unsent_bytes) throw PlannerLost("was not up in time");
    if (leaving_ || now < start_at_) return false;
    if (started_) ++restarts_;
    started_ = true;
    waits_to_start_ = false;
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
      throw PlannerLost(std::string("could not be started: ") + error.what());
    }
    return true;
  }

  // @returns whether it is a sign of life: a program that repeats itself is as good as stuck.
  bool hear(const PlannerMessage& message, PlanAnswers& answers) {
    if (message.kind == MessageKind::kReady && !ready_) return ready_ = running_ = true;
    if (message.life != life_) return false;  // An answer from before the last restart().
    switch (message.kind) {
      case MessageKind::kObserved:
        return hear_observed(message.content, answers);
      case MessageKind::kPlan:
      case MessageKind::kFailed:
        return hear_end_of_plan(message, answers);
      case MessageKind::kWorking:
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

  bool hear_observed(std::span<const std::byte> content, PlanAnswers& answers) {
    const messages::Observed observed = messages::decode_observed(content);
    if (unanswered_.empty() || unanswered_.front() != observed.step)
      throw Error(ErrorCode::kTransport, "it answered what it was not asked");
    unanswered_.pop_front();
    answers.observed(observed.step, observed.wants_rebalance);
    return true;
  }

  bool hear_end_of_plan(const PlannerMessage& message, PlanAnswers& answers) {
    std::span<const std::byte> rest;
    const GenerationId generation = messages::decode_generation(message.content, rest);
    if (generation != open_ || !open_) return false;  // Closed meanwhile.
    if (message.kind == MessageKind::kFailed) {
      answers.failed(messages::printable(rest).c_str());
    } else {
      Plan plan;
      decode_plan(rest, generation, *shape_, plan).throw_if_failed();
      answers.planned(std::move(plan));
    }
    open_ = {};
    return true;
  }

  void check_that_it_lives(Clock::time_point now) {
    if (!channel_->fault().empty()) throw PlannerLost(channel_->fault() + ": ended");
    if (child_->ended()) throw PlannerLost(child_->how_it_ended());
    if (!owes()) quiet_since_ = now;
    if (now - quiet_since_ >= options_.deadline) {
      throw PlannerLost("said nothing for " + std::to_string(options_.deadline.count()) +
                        " ms: ended");
    }
    if (channel_->unsent_bytes() > options_.max_unsent_bytes) {
      throw PlannerLost("does not keep up, " + std::to_string(channel_->unsent_bytes()) +
                        " bytes wait for it: ended");
    }
  }

  // What was asked and not answered.
  void forget() noexcept {
    unanswered_.clear();
    open_ = {};
    early_.clear();
    early_bytes_ = 0;
  }

  // Constant after construction.
  const PlannerConfig config_;
  const ProcessPlanningOptions options_;

  // What it was asked.
  std::optional<ClusterShape> shape_;
  std::uint32_t life_ = 0;                // counts restart()
  std::size_t most_answer_bytes_ = 0;     // of any shape so far: old answers may be under way
  std::deque<std::uint64_t> unanswered_;  // steps observed
  GenerationId open_;                     // not yet answered
  int advances_ = 0;                      // of it
  std::deque<PlannerMessage> early_;      // for the next child
  std::size_t early_bytes_ = 0;

  // The program.
  std::unique_ptr<PlannerChild> child_;
  std::unique_ptr<PlannerChannel> channel_;  // while there is a child
  std::unique_ptr<PlannerChild> leaving_;    // killed, not yet gone
  bool started_ = false;
  bool waits_to_start_ = false;  // start_at_ is that of the next child
  bool ready_ = false;           // the child is up
  bool running_ = true;          // for health: not, from a loss until the next child is up
  bool off_ = false;             // never again
  int restarts_ = 0;
  Clock::time_point start_at_ = Clock::time_point::min();
  Clock::time_point quiet_since_;
};

}  // namespace

std::unique_ptr<Planning> make_process_planning(const PlannerConfig& config,
                                                ProcessPlanningOptions options) {
  if (options.deadline.count() <= 0) {
    throw Error(ErrorCode::kInvalidArgument, "planner_deadline is " +
                                                 std::to_string(options.deadline.count()) +
                                                 " ms; allowed: at least 1 ms");
  }
  make_policy(config.policy);
  options.program = find_planner_program(options.program);
  GuardOptions guard{
      .name = "planner process", .max_restarts = options.max_restarts, .first_pause = kFirstPause};
  return make_guarded_planning(std::make_unique<ProcessPlanMaker>(config, std::move(options)),
                               std::move(guard));
}

}  // namespace swiftbalancer
