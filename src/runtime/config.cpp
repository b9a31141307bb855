#include "runtime/config.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <sstream>
#include <string>
#include <string_view>

#include "protocol/packet.hpp"

namespace swiftbalancer {
namespace {

[[noreturn]] void refuse(const char* key, const std::string& value, const std::string& allowed) {
  throw Error(ErrorCode::kInvalidArgument,
              std::string(key) + " is " + value + "; allowed: " + allowed);
}

void require_positive(const char* key, std::uint64_t value) {
  if (value == 0) refuse(key, "0", "at least 1");
}

void require_up_to(const char* key, std::uint64_t value, std::uint64_t most, const char* unit) {
  require_positive(key, value);
  if (value > most) {
    refuse(key, std::to_string(value), "1 to " + std::to_string(most) + " " + unit);
  }
}

// So long that nobody waits for it, and clocks still count it.
void require_deadline(const char* key, std::chrono::milliseconds value) {
  constexpr std::chrono::milliseconds kMost = std::chrono::hours(24 * 366);
  if (value.count() >= 1 && value <= kMost) return;
  refuse(key, std::to_string(value.count()) + " ms",
         "at least 1 ms, at most " + std::to_string(kMost.count()) + " ms, a year");
}

// Counters of a packet's window hold 32 bits: more steps than these fill them.
constexpr std::uint64_t kMostPacketInterval = 1'000'000;
// Each step of it costs memory for a packet set.
constexpr std::uint64_t kMostPacketLag = 1000;
// More tokens than are ever served, and the planner still counts in multiples of it.
constexpr std::int64_t kMostWindowAssignments = 1'000'000'000'000'000;

// The first set that can carry the hash of a plan is packet_lag steps behind the one that opened
// its generation; nor can a set before tell that its units are staged, of the one that adopted it.
void require_sets(const char* key, std::uint64_t sets, const BalancerConfig& config) {
  const std::uint64_t interval = config.packet_interval;
  const std::uint64_t least = (config.packet_lag + interval - 1) / interval;
  const std::uint64_t most = std::numeric_limits<std::uint64_t>::max() / interval;
  if (sets >= least && sets <= most) return;
  refuse(key, std::to_string(sets),
         std::to_string(least) + " to " + std::to_string(most) +
             " packet sets; with fewer, no plan comes in time (packet_lag / packet_interval)");
}

// Text of any length and content as a part of one line, of bounded length. What is not shown counts
// by its digest.
std::string shown(std::string_view value) {
  constexpr std::size_t kMostShown = 200;
  constexpr char kHex[] = "0123456789abcdef";
  std::string line;
  std::size_t at = 0;
  for (; at < value.size() && line.size() < kMostShown; ++at) {
    const auto letter = static_cast<unsigned char>(value[at]);
    if (letter >= ' ' && letter <= '~' && letter != '\\') {
      line += value[at];
    } else {
      line += {'\\', 'x', kHex[letter / 16], kHex[letter % 16]};
    }
  }
  if (at == value.size()) return line;
  return line + "... (" + std::to_string(value.size()) + " characters, digest " +
         std::to_string(checksum_of(std::as_bytes(std::span(value)))) + ")";
}

std::string exact(double value) {
  std::ostringstream text;
  text.precision(std::numeric_limits<double>::max_digits10);
  text << value;
  return text.str();
}

std::string limits_text(const PlanLimits& limits) {
  std::uint64_t speeds = limits.rank_speeds.size(), pinned = limits.pinned_experts.size();
  for (const double speed : limits.rank_speeds)
    speeds = mix(speeds, std::bit_cast<std::uint64_t>(speed));
  for (const int expert : limits.pinned_experts)
    pinned = mix(pinned, static_cast<std::uint64_t>(expert));
  std::ostringstream lines;
  lines << "max_moves_per_rebalance " << limits.max_moves_per_rebalance << '\n'
        << "max_bytes_per_rebalance " << limits.max_bytes_per_rebalance << '\n'
        << "max_bytes_per_rank " << limits.max_bytes_per_rank << '\n'
        << "max_rank_moves " << limits.max_rank_moves << '\n'
        << "max_replicas " << limits.max_replicas << '\n'
        << "rank_speeds (digest) " << speeds << '\n'
        << "pinned_experts (digest) " << pinned << '\n';
  if (limits.gate) {
    lines << "cost gate: seconds_per_imbalance " << exact(limits.gate->seconds_per_imbalance)
          << ", seconds_per_move " << exact(limits.gate->seconds_per_move) << ", horizon_steps "
          << exact(limits.gate->horizon_steps) << '\n';
  } else {
    lines << "cost gate: none\n";
  }
  return lines.str();
}

}  // namespace

void validate(const BalancerConfig& config, const ClusterShape& shape) {
  require_positive("rebalance_interval", config.rebalance_interval);
  require_up_to("packet_interval", config.packet_interval, kMostPacketInterval, "steps");
  require_up_to("packet_lag", config.packet_lag, kMostPacketLag, "steps");
  require_sets("max_open_sets", config.max_open_sets, config);
  require_sets("max_active_sets", config.max_active_sets, config);
  require_positive("copy_bytes_per_step", config.copy_bytes_per_step);
  require_positive("staging_bytes", config.staging_bytes);
  if (!std::isfinite(config.imbalance_trigger) || config.imbalance_trigger < 1.0) {
    refuse("imbalance_trigger", std::to_string(config.imbalance_trigger),
           "1.0 or more (max / mean), finite");
  }
  if (!std::isfinite(config.min_gain) || config.min_gain < 0.0)
    refuse("min_gain", std::to_string(config.min_gain), "0 or more, finite");
  if (config.window_assignments <= 0 || config.window_assignments > kMostWindowAssignments) {
    refuse("window_assignments", std::to_string(config.window_assignments),
           "at least 1, at most " + std::to_string(kMostWindowAssignments));
  }
  check_plan_limits(config.limits, config.policy, shape);
  require_deadline("deadline", config.deadline);
  const bool by_shares_alone =
      !config.locality_first && config.decode_dispatch == DispatchObjective::kTokens;
  if (config.table_kind == TableKind::kDraw && !by_shares_alone) {
    refuse("table_kind", "draw",
           "fixed with locality_first or decode_dispatch: a draw goes by the shares alone");
  }
  if (config.planner_restarts < 0)
    refuse("planner_restarts", std::to_string(config.planner_restarts), "0 or more");
  require_deadline("planner_deadline", config.planner_deadline);
}

BalancerConfig with_safe_log(const BalancerConfig& config) {
  BalancerConfig safe = config;
  if (!config.log) return safe;
  safe.log = [log = config.log](const std::string& line) noexcept {
    try {
      log(line);
    } catch (...) {
      // There is nobody to tell.
    }
  };
  return safe;
}

PlannerConfig planner_config(const BalancerConfig& config, const ClusterShape& first_shape,
                             std::span<const int> live_ranks,
                             std::span<const std::size_t> expert_bytes) {
  PlannerConfig planner;
  planner.policy = config.policy;
  planner.max_moves_per_layer = config.max_moves_per_layer;
  planner.imbalance_trigger = config.imbalance_trigger;
  planner.min_gain = config.min_gain;
  planner.window_assignments = config.window_assignments;
  planner.locality_first = config.locality_first;
  planner.limits = config.limits;
  planner.expert_bytes.assign(expert_bytes.begin(), expert_bytes.end());
  if (!config.limits.rank_speeds.empty()) {
    planner.limits.rank_speeds.clear();
    for (const int rank : live_ranks)
      planner.limits.rank_speeds.push_back(
          config.limits.rank_speeds[static_cast<std::size_t>(rank)]);
  }
  if (planner.limits.gate) {
    // Fewer ranks carry the same tokens: each more of them.
    planner.limits.gate->seconds_per_imbalance *=
        static_cast<double>(first_shape.num_ranks()) / static_cast<double>(live_ranks.size());
  }
  return planner;
}

ConfigText config_text(const BalancerConfig& config, const ClusterShape& shape,
                       const Placement* served,
                       std::span<const std::vector<std::size_t>> part_bytes) {
  std::ostringstream lines;
  lines << "build swiftbalancer " << SWIFTBALANCER_VERSION << ", protocol " << kProtocolVersion
        << '\n';
  lines << "policy " << shown(config.policy) << '\n'
        << "control_mode "
        << (config.control_mode == ControlMode::kLeader ? "leader" : "replicated") << '\n'
        << "rebalance_interval " << config.rebalance_interval << '\n'
        << "imbalance_trigger " << exact(config.imbalance_trigger) << '\n'
        << "min_gain " << exact(config.min_gain) << '\n'
        << "max_moves_per_layer " << config.max_moves_per_layer << '\n'
        << limits_text(config.limits) << "window_assignments " << config.window_assignments << '\n'
        << "locality_first " << (config.locality_first ? "yes" : "no") << '\n'
        << "decode_dispatch "
        << (config.decode_dispatch == DispatchObjective::kTokens ? "tokens" : "activated_experts")
        << '\n'
        << "table_kind " << (config.table_kind == TableKind::kDraw ? "draw" : "fixed") << '\n'
        << "install_mode " << (config.install_mode == InstallMode::kSwap ? "swap" : "copy") << '\n'
        << "staging_bytes " << config.staging_bytes << '\n'
        << "packet_interval " << config.packet_interval << '\n'
        << "packet_lag " << config.packet_lag << '\n'
        << "max_open_sets " << config.max_open_sets << '\n'
        << "max_active_sets " << config.max_active_sets << '\n'
        << "copy_bytes_per_step " << config.copy_bytes_per_step << '\n'
        << "num_moe_layers " << shape.num_moe_layers() << '\n'
        << "num_logical_experts " << shape.num_logical_experts() << '\n'
        << "num_expert_groups " << shape.num_expert_groups() << '\n'
        << "num_ranks " << shape.num_ranks() << '\n'
        << "num_slots " << shape.num_slots() << '\n';
  std::uint64_t ranks = 0, sizes = 0, placement = 0;
  for (int rank = 0; rank < shape.num_ranks(); ++rank) {
    ranks = mix(ranks, static_cast<std::uint64_t>(shape.slots_per_rank(rank)));
    ranks = mix(ranks, static_cast<std::uint64_t>(shape.node_of_rank(rank)));
  }
  for (const std::vector<std::size_t>& layer : part_bytes) {
    for (std::size_t bytes : layer) sizes = mix(sizes, bytes);
  }
  for (int layer = 0; served != nullptr && layer < shape.num_moe_layers(); ++layer) {
    for (std::int32_t expert : served->layer(layer))
      placement = mix(placement, static_cast<std::uint64_t>(expert));
  }
  lines << "slots_and_nodes_of_ranks (digest) " << ranks << '\n'
        << "expert_bytes (digest) " << sizes << '\n';
  if (served != nullptr) lines << "placement (digest) " << placement << '\n';
  lines << "checkpoint " << shown(config.checkpoint) << '\n';
  ConfigText result;
  const std::string text = lines.str();
  if (text.size() >= sizeof result.text) {
    throw Error(ErrorCode::kInternal, "the text of the configuration has " +
                                          std::to_string(text.size()) + " bytes, more than " +
                                          std::to_string(sizeof result.text - 1));
  }
  text.copy(result.text, text.size());
  return result;
}

std::string first_difference(const ConfigText& one, const ConfigText& other) {
  const auto lines_of = [](const ConfigText& config) {
    std::istringstream text(std::string(config.text, strnlen(config.text, sizeof config.text)));
    std::vector<std::string> lines;
    for (std::string line; std::getline(text, line);) lines.push_back(line);
    return lines;
  };
  constexpr std::size_t kMostSaid = 300;
  const auto a = lines_of(one), b = lines_of(other);
  for (std::size_t i = 0; i < std::max(a.size(), b.size()); ++i) {
    const std::string left = i < a.size() ? a[i] : "nothing",
                      right = i < b.size() ? b[i] : "nothing";
    if (left != right) {
      return "\"" + left.substr(0, kMostSaid) + "\" on the one, \"" + right.substr(0, kMostSaid) +
             "\" on the other";
    }
  }
  return "";
}

}  // namespace swiftbalancer
