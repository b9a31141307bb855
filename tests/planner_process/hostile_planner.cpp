// Stands in for the planner program in tests and misbehaves as SWIFTBALANCER_HOSTILE says. Started
// as the program is; runs until it is killed.

#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <string_view>

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>

#include "runtime/planner_process/channel.hpp"
#include "runtime/planner_process/child.hpp"
#include "runtime/planner_process/messages.hpp"

namespace {

using swiftbalancer::PlannerChannel;
using swiftbalancer::PlannerMessage;
using Kind = swiftbalancer::PlannerMessageKind;
namespace messages = swiftbalancer::planner_messages;

// Everything in the shared memory, again and again.
[[noreturn]] void write_noise() {
  struct stat info{};
  fstat(swiftbalancer::kPlannerDescriptor, &info);
  const auto bytes = static_cast<std::size_t>(info.st_size);
  auto* memory = static_cast<unsigned char*>(mmap(
      nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, swiftbalancer::kPlannerDescriptor, 0));
  if (memory == MAP_FAILED) _exit(9);
  std::mt19937 random(static_cast<unsigned>(getpid()));
  for (std::size_t at = 0;; at = (at + 1) % bytes)
    memory[at] = static_cast<unsigned char>(random());
}

void write_frame(const swiftbalancer::ring::FrameHeader& header) {
  struct stat info{};
  fstat(swiftbalancer::kPlannerDescriptor, &info);
  const auto bytes = static_cast<std::size_t>(info.st_size);
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
                      swiftbalancer::kPlannerDescriptor, 0);
  static const swiftbalancer::ring::Region region({memory, bytes}, "test");
  swiftbalancer::ring::RingWriter writer(region.ring(1, 0, swiftbalancer::ring::kMessages),
                                         region.ring_data(1, 0, swiftbalancer::ring::kMessages),
                                         region.ring_bytes());
  bool wish = false;
  writer.reserve(sizeof header, wish);
  writer.write(&header, sizeof header);
  writer.publish();
}

// Answers each message by `answer`, which may send.
template <typename Answer>
[[noreturn]] void talk(Answer answer) {
  const auto channel = PlannerChannel::open(swiftbalancer::kPlannerDescriptor);
  channel->send({Kind::kReady, 0, {}});
  while (true) {
    const bool moved = channel->pump();
    while (const auto message = channel->receive()) answer(*channel, *message);
    if (!moved) channel->wait(std::chrono::steady_clock::now() + std::chrono::seconds(1));
  }
}

// Whatever it is asked, it sends this.
[[noreturn]] void always_send(Kind kind, messages::Bytes content) {
  talk([&](PlannerChannel& channel, const PlannerMessage& message) {
    channel.send({kind, message.life, content});
  });
}

[[noreturn]] void send_a_wrong_plan() {
  talk([](PlannerChannel& channel, const PlannerMessage& message) {
    if (message.kind != Kind::kOpen) return;
    messages::Bytes content = message.content;  // The generation, and then no plan.
    content.resize(content.size() + 64);
    channel.send({Kind::kPlan, message.life, content});
  });
}

// Keeps both busy with answers that were never asked for.
[[noreturn]] void repeat_itself() {
  talk([](PlannerChannel& channel, const PlannerMessage& message) {
    while (message.kind == Kind::kObserve) {
      if (channel.unsent_bytes() < 1000) channel.send({Kind::kReady, message.life + 1, {}});
      channel.pump();
    }
  });
}

}  // namespace

int main() {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const char* chosen = std::getenv("SWIFTBALANCER_HOSTILE");
  const std::string_view mode = chosen == nullptr ? "" : chosen;
  using swiftbalancer::ring::FrameKind;
  if (mode == "noise") write_noise();
  if (mode == "unknown_kind") always_send(static_cast<Kind>(77), {});
  if (mode == "not_asked") always_send(Kind::kObserved, messages::encode_observed({99, true}));
  if (mode == "short_answer") always_send(Kind::kObserved, messages::Bytes(3));
  if (mode == "too_long") always_send(Kind::kFailed, messages::Bytes(std::size_t{1} << 20));
  if (mode == "wrong_plan") send_a_wrong_plan();
  if (mode == "repeats_itself") repeat_itself();
  if (mode == "long_frame") write_frame({.total = ~0ULL, .length = ~0U, .kind = FrameKind::kEager});
  if (mode == "other_frame") write_frame({.kind = FrameKind::kBulk});
  if (mode == "middle_of_message")
    write_frame({.offset = 8, .total = 8, .kind = FrameKind::kEager});
  while (true) pause();
}
