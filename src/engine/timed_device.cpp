#include "engine/timed_device.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <deque>
#include <numeric>
#include <optional>
#include <string_view>
#include <utility>

#include <swiftbalancer/error.hpp>

#include "engine/copy_timetable.hpp"

namespace swiftbalancer::engine {
namespace {

enum class Term : std::uint8_t {
  kAttention,
  kDispatch,
  kExpertTokens,
  kExpertWeights,
  kCombine,
  kHead,
  kStepBarrier,
  kBalancerCalls,
  kInstall,
  kPacketStall,
  kCopySlowdown,
  kBarrierWait
};
constexpr std::array<std::string_view, 12> kTermNames = {
    "attention", "dispatch",     "expert_tokens", "expert_weights",
    "combine",   "head",         "step_barrier",  "balancer_calls",
    "install",   "packet_stall", "copy_slowdown", "barrier_wait"};

constexpr double kLongestSeconds = 1e9;

// The one place where a duration becomes a whole number.
std::int64_t to_ns(double seconds) {
  if (!(seconds < kLongestSeconds)) {
    throw Error(ErrorCode::kInvalidArgument,
                "a single virtual charge of " + std::to_string(seconds) +
                    " s exceeds 1e9 s; check the hardware profile and token_scale");
  }
  return std::llround(seconds * 1e9);
}

[[noreturn]] void reject(const std::string& message) {
  throw Error(ErrorCode::kInvalidArgument, "timed device: " + message);
}

void validate(const ClusterShape& shape, int rank, const TimedDeviceOptions& options) {
  const int num_ranks = shape.num_ranks();
  if (rank < 0 || rank >= num_ranks)
    reject("rank " + std::to_string(rank) + " is not in [0, " + std::to_string(num_ranks) + ")");
  if (options.token_scale < 1)
    reject("token_scale is " + std::to_string(options.token_scale) + "; it must be at least 1");
  if (options.packet_interval < 1) reject("packet_interval is 0; it must be at least 1");
  if (options.packet_lag < 1) reject("packet_lag is 0; it must be at least 1");
  const auto& capacities = options.staging_capacity_per_rank;
  if (capacities.size() != static_cast<std::size_t>(num_ranks)) {
    reject(std::to_string(capacities.size()) + " staging capacities for " +
           std::to_string(num_ranks) + " ranks; give one for each");
  }
  const int smallest = *std::ranges::min_element(capacities);
  if (smallest < 1)
    reject("a staging capacity is " + std::to_string(smallest) +
           "; every rank needs at least 1 buffer");
}

}  // namespace

struct TimedDevice::Impl {
  Impl(const HardwareProfile& hardware, const ClusterShape& cluster, int own_rank,
       const TimedDeviceOptions& device_options);

  double value(const char* constant) const { return profile.value(constant); }
  std::array<std::int64_t, kNumLinks> copy_durations() const;
  std::int64_t packet_duration() const;
  bool spans_nodes() const { return shape.num_nodes() > 1; }

  void charge(Term term, std::int64_t ns) {
    *term_ns[static_cast<std::size_t>(term)] += ns;
    now += ns;
  }
  void wait_for(std::span<const std::int64_t> clocks);
  std::int64_t wait_for_packets(std::uint64_t step);
  void apply(const BalancerEvent& event);
  void install(const CommitUnit& unit);
  void transfer(Term term, double bytes_per_row, std::span<const int> rows_to,
                std::span<const int> rows_from);
  double scaled(std::int64_t tokens) const {
    return static_cast<double>(tokens) * static_cast<double>(options.token_scale);
  }

  const HardwareProfile profile;
  const ClusterShape& shape;
  const int rank;
  const TimedDeviceOptions options;
  CopyTimetable timetable;
  const std::int64_t packet_ns;    // from the last rank's end_step until every rank has all packets
  const std::int64_t planning_ns;  // from opening a generation until its plan is held

  std::int64_t now = 0;
  std::int64_t step_start = 0;  // agreed: equal on all ranks
  std::uint64_t current_step = 0;
  std::uint64_t last_set = 0;  // step of the packet set used last
  std::deque<std::int64_t>
      latest_ends;  // latest clock over all ranks at the end of the last packet_lag steps
  std::optional<std::int64_t> opened;  // agreed clock at which the open generation was opened
  std::map<std::string, std::int64_t> terms;
  std::array<std::int64_t*, kTermNames.size()> term_ns{};
};

TimedDevice::Impl::Impl(const HardwareProfile& hardware, const ClusterShape& cluster, int own_rank,
                        const TimedDeviceOptions& device_options)
    : profile(hardware),
      shape(cluster),
      rank((validate(cluster, own_rank, device_options), own_rank)),
      options(device_options),
      timetable(shape, copy_durations(), options.staging_capacity_per_rank),
      packet_ns(packet_duration()),
      planning_ns(to_ns(profile.value("observe_loads") + profile.value("plan_" + options.policy))) {
  for (std::size_t term = 0; term < kTermNames.size(); ++term)
    term_ns[term] = &terms[std::string(kTermNames[term])];
}

// Within a rank every byte is read and written once by the same memory.
std::array<std::int64_t, kNumLinks> TimedDevice::Impl::copy_durations() const {
  const double bytes = value("expert_bytes");
  const double share = value("copy_link_share");
  return {to_ns(2.0 * bytes / value("hbm_bandwidth")),
          to_ns(value("link_latency") + bytes / (share * value("link_bandwidth"))),
          to_ns(value("node_link_latency") + bytes / (share * value("node_link_bandwidth")))};
}

// Each rank receives the packets of all others over one link. Across nodes the slower link counts
// for all, so that the moment is the same on every rank.
std::int64_t TimedDevice::Impl::packet_duration() const {
  if (shape.num_ranks() == 1) return 0;
  const double bytes =
      (static_cast<double>(options.packet_bytes) + value("packet_overhead_bytes")) *
      static_cast<double>(shape.num_ranks() - 1);
  return to_ns(value(spans_nodes() ? "node_link_latency" : "link_latency") +
               bytes / value(spans_nodes() ? "node_link_bandwidth" : "link_bandwidth"));
}

// All ranks must leave a barrier at the same clock: a maximum without this rank's clock would send
// it back in time.
void TimedDevice::Impl::wait_for(std::span<const std::int64_t> clocks) {
  if (clocks.size() != static_cast<std::size_t>(shape.num_ranks())) {
    reject(std::to_string(clocks.size()) + " clocks for " + std::to_string(shape.num_ranks()) +
           " ranks");
  }
  const std::int64_t latest = *std::ranges::max_element(clocks);
  if (latest < now) {
    reject("the latest clock " + std::to_string(latest) + " ns lies before that of rank " +
           std::to_string(rank) + ", " + std::to_string(now) + " ns");
  }
  charge(Term::kBarrierWait, latest - now);
}

std::int64_t TimedDevice::Impl::wait_for_packets(std::uint64_t step) {
  if (step <= options.packet_lag || (step - options.packet_lag) % options.packet_interval != 0)
    return 0;
  last_set = step - options.packet_lag;
  const std::int64_t stall = std::max<std::int64_t>(0, latest_ends.front() + packet_ns - now);
  charge(Term::kPacketStall, stall);
  return stall;
}

void TimedDevice::Impl::apply(const BalancerEvent& event) {
  switch (event.kind) {
    case BalancerEventKind::kOpened:
      opened = step_start;
      return;
    case BalancerEventKind::kAdopted:
      opened.reset();
      timetable.adopt(*event.plan);
      return;
    case BalancerEventKind::kClosed:
      opened.reset();
      return;
    case BalancerEventKind::kCommitted:
      install(event.plan->units[event.unit]);
      timetable.finish_unit(event.unit);
      return;
    case BalancerEventKind::kDropped:
      timetable.finish_unit(event.unit);
      return;
    case BalancerEventKind::kRetired:
      timetable.retire();
      return;
    case BalancerEventKind::kPlannersReset:
    case BalancerEventKind::kBalancingOff:
      return;
  }
}

void TimedDevice::Impl::install(const CommitUnit& unit) {
  const auto received = std::ranges::count_if(unit.copies, [this](const ExpertCopy& copy) {
    return shape.rank_of_slot(copy.destination_slot) == rank;
  });
  const double per_expert = options.install_mode == InstallMode::kSwap
                                ? value("install_swap_per_expert")
                                : 2.0 * value("expert_bytes") / value("hbm_bandwidth");
  charge(Term::kInstall,
         to_ns(value("install_tables_per_unit") + static_cast<double>(received) * per_expert));
}

// Both links and both directions run side by side; the slowest decides. A copy under way takes its
// share of the direction and link that it uses.
void TimedDevice::Impl::transfer(Term term, double bytes_per_row, std::span<const int> rows_to,
                                 std::span<const int> rows_from) {
  const auto num_ranks = static_cast<std::size_t>(shape.num_ranks());
  if (rows_to.size() != num_ranks || rows_from.size() != num_ranks) {
    reject("rows to " + std::to_string(rows_to.size()) + " and from " +
           std::to_string(rows_from.size()) + " ranks; there are " + std::to_string(num_ranks));
  }
  if (num_ranks == 1) return;
  std::array<std::int64_t, kNumLinks> out{};
  std::array<std::int64_t, kNumLinks> in{};
  for (int peer = 0; peer < shape.num_ranks(); ++peer) {
    const auto link = static_cast<std::size_t>(link_between(shape, rank, peer));
    out[link] += rows_to[static_cast<std::size_t>(peer)];
    in[link] += rows_from[static_cast<std::size_t>(peer)];
  }
  const double left = 1.0 - value("copy_link_share");
  double alone = 0.0;
  double slowed = 0.0;
  for (const auto& [link, constant] : {std::pair{Link::kLink, "link_bandwidth"},
                                       std::pair{Link::kNodeLink, "node_link_bandwidth"}}) {
    const double egress =
        scaled(out[static_cast<std::size_t>(link)]) * bytes_per_row / value(constant);
    const double ingress =
        scaled(in[static_cast<std::size_t>(link)]) * bytes_per_row / value(constant);
    alone = std::max({alone, egress, ingress});
    slowed = std::max({slowed, timetable.sending(rank, link, now) ? egress / left : egress,
                       timetable.receiving(rank, link, now) ? ingress / left : ingress});
  }
  const double latency = value(spans_nodes() ? "node_link_latency" : "link_latency");
  const std::int64_t alone_ns = to_ns(latency + alone);
  const std::int64_t slowed_ns = to_ns(latency + slowed);
  charge(term, alone_ns);
  charge(Term::kCopySlowdown, slowed_ns - alone_ns);
}

TimedDevice::TimedDevice(const HardwareProfile& profile, const ClusterShape& shape, int rank,
                         const TimedDeviceOptions& options)
    : impl_(std::make_unique<Impl>(profile, shape, rank, options)) {}
TimedDevice::~TimedDevice() = default;

std::int64_t TimedDevice::now_ns() const noexcept { return impl_->now; }

std::int64_t TimedDevice::begin_step(std::uint64_t step, std::span<const std::int64_t> clocks) {
  Impl& device = *impl_;
  if (step != device.current_step + 1) {
    reject("begin_step(" + std::to_string(step) + ") after step " +
           std::to_string(device.current_step) + "; steps go up by one");
  }
  device.wait_for(clocks);
  device.current_step = step;
  device.latest_ends.push_back(device.now);
  if (device.latest_ends.size() > device.options.packet_lag) device.latest_ends.pop_front();
  if (device.shape.num_ranks() > 1)
    device.charge(Term::kStepBarrier, to_ns(device.value("step_barrier")));
  const std::int64_t stall = device.wait_for_packets(step);
  device.step_start = device.now;
  return stall;
}

void TimedDevice::on_events(std::uint64_t step, std::span<const BalancerEvent> events) {
  Impl& device = *impl_;
  if (step != device.current_step || device.now != device.step_start) {
    reject("on_events(" + std::to_string(step) + ") must follow begin_step of that step at once");
  }
  device.charge(Term::kBalancerCalls, to_ns(device.value("begin_step_call")));
  for (const BalancerEvent& event : events) device.apply(event);
  if (!events.empty()) device.timetable.update(device.step_start);
}

void TimedDevice::attention(int num_tokens, std::int64_t context) {
  if (num_tokens == 0) return;
  Impl& device = *impl_;
  const double compute =
      device.scaled(num_tokens) * device.value("attention_flops_per_token") / device.value("flops");
  const double memory =
      (device.value("attention_weight_bytes") +
       device.scaled(context) * device.value("attention_bytes_per_context_token")) /
      device.value("hbm_bandwidth");
  device.charge(Term::kAttention,
                to_ns(device.value("kernel_overhead") + std::max(compute, memory)));
}

std::int64_t TimedDevice::dispatch(std::span<const int> rows_to, std::span<const int> rows_from) {
  impl_->transfer(Term::kDispatch, impl_->value("dispatch_bytes_per_row"), rows_to, rows_from);
  return impl_->now;
}

void TimedDevice::arrive(std::span<const std::int64_t> clocks) { impl_->wait_for(clocks); }

void TimedDevice::experts(std::span<const std::uint32_t> tokens_per_slot) {
  Impl& device = *impl_;
  const auto num_tokens =
      std::accumulate(tokens_per_slot.begin(), tokens_per_slot.end(), std::int64_t{0});
  const auto activated =
      std::ranges::count_if(tokens_per_slot, [](std::uint32_t tokens) { return tokens > 0; });
  const double compute =
      device.scaled(num_tokens) * device.value("expert_flops_per_token") / device.value("flops");
  const double memory =
      static_cast<double>(activated) * device.value("expert_bytes") / device.value("hbm_bandwidth");
  device.charge(compute > memory ? Term::kExpertTokens : Term::kExpertWeights,
                to_ns(device.value("kernel_overhead") + std::max(compute, memory)));
}

std::int64_t TimedDevice::combine(std::span<const int> rows_to, std::span<const int> rows_from) {
  impl_->transfer(Term::kCombine, impl_->value("combine_bytes_per_row"), rows_to, rows_from);
  return impl_->now;
}

void TimedDevice::head(int num_tokens) {
  if (num_tokens == 0) return;
  Impl& device = *impl_;
  const double compute =
      device.scaled(num_tokens) * device.value("head_flops_per_token") / device.value("flops");
  const double memory = device.value("head_weight_bytes") / device.value("hbm_bandwidth");
  device.charge(Term::kHead, to_ns(device.value("kernel_overhead") + std::max(compute, memory)));
}

void TimedDevice::balancer_calls(int num_layers) {
  Impl& device = *impl_;
  device.charge(Term::kBalancerCalls,
                to_ns(static_cast<double>(num_layers) * device.value("record_call") +
                      device.value("end_step_call")));
}

WorkerProgress TimedDevice::visible() const {
  const Impl& device = *impl_;
  WorkerProgress progress;
  progress.observed_step = device.last_set;
  progress.plan_ready = device.opened && *device.opened + device.planning_ns <= device.now;
  progress.staged_cursor = device.timetable.staged_cursor(device.rank, device.now);
  return progress;
}

const std::map<std::string, std::int64_t>& TimedDevice::terms() const noexcept {
  return impl_->terms;
}

}  // namespace swiftbalancer::engine
