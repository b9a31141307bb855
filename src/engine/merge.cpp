// Merging the ranks' records into the record of the run, with the checks that hold for every run.

#include <algorithm>
#include <cstdio>

#include "engine/record.hpp"
#include "engine/run_control.hpp"

namespace swiftbalancer::engine {
namespace {

[[noreturn]] void broken(const std::string& message) { throw Error(ErrorCode::kInternal, message); }

// The loss of the rank that served a request, or null if that rank was not lost.
LossRecord* loss_of(const Request& request, RunRecord& run) {
  const auto next = std::ranges::find_if(run.memberships, [&](const MembershipRecord& each) {
    return each.first_step > request.arrival_step;
  });
  const MembershipRecord& served = *std::prev(next);
  const std::int32_t rank =
      served.live_ranks[static_cast<std::size_t>(request.id) % served.live_ranks.size()];
  const auto loss = std::ranges::find_if(run.losses, [&](const LossRecord& each) {
    return each.rank == rank && each.membership >= served.number;
  });
  return loss == run.losses.end() ? nullptr : &*loss;
}

void merge_outputs(std::span<const RankRecord> ranks, RunRecord& run) {
  run.outputs.assign(run.traffic.requests.size(), {});
  for (const RankRecord& rank : ranks) {
    for (std::size_t i = 0; i < rank.outputs.size(); ++i) {
      run.outputs.at(static_cast<std::size_t>(rank.output_requests[i])) = rank.outputs[i];
    }
  }
  for (const LossRecord& loss : run.losses) {
    for (std::size_t i = 0; i < loss.outputs.size(); ++i)
      run.outputs.at(static_cast<std::size_t>(loss.answered_requests[i])) = loss.outputs[i];
  }
  for (const Request& request : run.traffic.requests) {
    const auto& output = run.outputs[static_cast<std::size_t>(request.id)];
    run.output_tokens += static_cast<std::int64_t>(output.size());
    if (!output.empty()) continue;
    LossRecord* loss = loss_of(request, run);
    if (loss == nullptr) broken("request " + std::to_string(request.id) + " was not answered");
    loss->lost_requests.push_back(request.id);
  }
}

// FNV-1a, twice with different starts.
std::string digest(const std::vector<std::vector<std::int32_t>>& outputs) {
  constexpr std::uint64_t kPrime = 0x100000001b3ULL;
  std::uint64_t low = 0xcbf29ce484222325ULL, high = 0x6c62272e07bb0142ULL;
  const auto add = [&](std::uint64_t value) {
    for (int shift = 0; shift < 32; shift += 8) {
      const std::uint64_t byte = (value >> shift) & 0xffU;
      low = (low ^ byte) * kPrime;
      high = (high ^ (byte + 1)) * kPrime;
    }
  };
  for (const auto& tokens : outputs) {
    add(tokens.size());
    for (const std::int32_t token : tokens) add(static_cast<std::uint32_t>(token));
  }
  char hex[33];
  std::snprintf(hex, sizeof hex, "%016llx%016llx", static_cast<unsigned long long>(high),
                static_cast<unsigned long long>(low));
  return hex;
}

void merge_counts(std::span<const RankRecord> ranks, const ClusterShape& shape, RunRecord& run) {
  const auto rows =
      static_cast<std::size_t>(run.steps) * static_cast<std::size_t>(shape.num_moe_layers());
  const auto slots = static_cast<std::size_t>(shape.num_slots());
  const auto experts = static_cast<std::size_t>(shape.num_logical_experts());
  run.step_tokens.assign(run.steps, 0);
  run.slot_tokens.assign(rows * slots, 0);
  run.expert_tokens.assign(rows * experts, 0);
  for (const RankRecord& rank : ranks) {
    for (std::size_t s = 0; s < run.steps; ++s) run.step_tokens[s] += rank.tokens[s];
    for (std::size_t i = 0; i < run.expert_tokens.size(); ++i)
      run.expert_tokens[i] += rank.routed_tokens[i];
    const auto first = static_cast<std::size_t>(shape.first_slot(rank.rank));
    const auto count = static_cast<std::size_t>(shape.slots_per_rank(rank.rank));
    for (std::size_t row = 0; row < rows; ++row) {
      std::copy_n(rank.slot_tokens.data() + row * count, count,
                  run.slot_tokens.data() + row * slots + first);
    }
  }
  for (const std::uint32_t tokens : run.step_tokens) run.tokens += tokens;
}

// Recorded = routed: under the placement of each step, the slots of every expert received what was
// routed to it.
void check_conservation(const ClusterShape& shape, const RunRecord& run, Placement placement,
                        std::uint64_t first_step) {
  const auto layers = static_cast<std::size_t>(shape.num_moe_layers());
  const auto slots = static_cast<std::size_t>(shape.num_slots());
  const auto experts = static_cast<std::size_t>(shape.num_logical_experts());
  std::vector<std::uint32_t> received(experts);
  auto commit = std::find_if(run.commits.begin(), run.commits.end(),
                             [&](const CommitRecord& c) { return c.step >= first_step; });
  for (std::uint64_t step = first_step; step <= run.steps; ++step) {
    const auto first = commit;
    while (commit != run.commits.end() && commit->step == step) ++commit;
    placement = placement_after(std::move(placement), {first, commit});
    for (std::size_t layer = 0; layer < layers; ++layer) {
      const std::size_t row = (step - 1) * layers + layer;
      const auto held = placement.layer(static_cast<int>(layer));
      std::fill(received.begin(), received.end(), 0U);
      for (std::size_t p = 0; p < slots; ++p) {
        const std::uint32_t tokens = run.slot_tokens[row * slots + p];
        if (held[p] != kEmptySlot) {
          received[static_cast<std::size_t>(held[p])] += tokens;
        } else if (tokens != 0) {
          broken("step " + std::to_string(step) + ", layer " + std::to_string(layer) + ", slot " +
                 std::to_string(p) + " is empty and received tokens");
        }
      }
      if (!std::equal(received.begin(), received.end(),
                      run.expert_tokens.begin() + static_cast<std::ptrdiff_t>(row * experts))) {
        broken("step " + std::to_string(step) + ", layer " + std::to_string(layer) +
               ": tokens recorded are not those routed");
      }
      std::uint64_t total = 0;
      for (const std::uint32_t tokens : received) total += tokens;
      if (total !=
          std::uint64_t{run.step_tokens[step - 1]} * static_cast<std::uint64_t>(run.model.top_k)) {
        broken("step " + std::to_string(step) + ", layer " + std::to_string(layer) + ": " +
               std::to_string(total) + " rows for " + std::to_string(run.step_tokens[step - 1]) +
               " tokens");
      }
    }
  }
}

// The same in the slots of the live ranks, from the placement that they resumed with.
void check_since_resumed(std::span<const RankRecord> ranks, const ClusterShape& shape,
                         const RunRecord& run) {
  ShapeOptions options = run.shape;
  options.num_ranks = static_cast<int>(ranks.size());
  std::vector<RankRecord> members(ranks.begin(), ranks.end());
  for (std::size_t i = 0; i < members.size(); ++i) {
    options.slots_per_rank.push_back(shape.slots_per_rank(members[i].rank));
    members[i].rank = static_cast<std::int32_t>(i);
  }
  options.num_slots = 0;
  options.num_nodes = 1;
  const ClusterShape live(options);
  Placement placement(live.num_moe_layers(), live.num_slots());
  const auto& resumed = ranks.front().resumed_placement;
  const auto width = static_cast<std::size_t>(live.num_slots());
  for (int layer = 0; layer < live.num_moe_layers(); ++layer) {
    std::copy_n(
        resumed.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(layer) * width),
        width, placement.layer(layer).begin());
  }
  RunRecord counted;
  counted.model = run.model;
  counted.steps = run.steps;
  counted.commits = run.commits;
  merge_counts(members, live, counted);
  check_conservation(live, counted, std::move(placement), ranks.front().resumed_step);
}

void check_agreement(std::span<const RankRecord> ranks) {
  const auto same = [](const CommitRecord& a, const CommitRecord& b) {
    return a.step == b.step && a.generation == b.generation && a.unit == b.unit &&
           a.moe_layer_id == b.moe_layer_id && a.placement == b.placement;
  };
  // What was committed on the way to a new membership is logged by those that had not yet.
  const auto since = [](const RankRecord& rank) {
    const auto from = std::ranges::find_if(
        rank.commits, [&](const CommitRecord& c) { return c.step >= rank.resumed_step; });
    return std::span<const CommitRecord>(from, rank.commits.end());
  };
  const RankRecord& first = ranks.front();
  for (const RankRecord& rank : ranks) {
    if (rank.steps != first.steps || rank.step_start_ns != first.step_start_ns) {
      broken("rank " + std::to_string(rank.rank) + " and rank 0 made different steps");
    }
    if (rank.resumed_step != first.resumed_step ||
        rank.resumed_placement != first.resumed_placement ||
        !std::ranges::equal(since(rank), since(first), same)) {
      broken("rank " + std::to_string(rank.rank) + " and rank 0 committed differently");
    }
  }
}

void merge_health_and_waits(const RankRecord& rank, bool first, RunRecord& run) {
  run.waits.for_packets += rank.waits.for_packets;
  run.waits.for_plans += rank.waits.for_plans;
  run.waits.for_copies += rank.waits.for_copies;
  run.waits.wait_ns = std::max(run.waits.wait_ns, rank.waits.wait_ns);
  run.waits.held_ns = std::max(run.waits.held_ns, rank.waits.held_ns);
  run.locality.rows += rank.locality.rows;
  run.locality.own_rank += rank.locality.own_rank;
  run.locality.own_node += rank.locality.own_node;
  add_balancing(rank.balancing, first, run.balancing);
  run.verified_commits += rank.verified_commits;
  for (const auto& [term, ns] : rank.critical_ns) run.critical_ns[term] += ns;
  add_health(rank.rank, rank.healthy, rank.health_reason, run.healthy, run.health_reason);
}

}  // namespace

Placement placement_after(Placement placement, std::span<const CommitRecord> commits) {
  for (const CommitRecord& commit : commits) {
    std::copy(commit.placement.begin(), commit.placement.end(),
              placement.layer(commit.moe_layer_id).begin());
  }
  return placement;
}

void merge(std::span<const RankRecord> ranks, const ClusterShape& shape, RunRecord& run) {
  check_agreement(ranks);
  run.steps = ranks.front().steps;
  run.decode_steps = ranks.front().decode_steps;
  const RankRecord& oldest = *std::ranges::min_element(ranks, {}, &RankRecord::first_step);
  run.commits = oldest.commits;
  run.generations = oldest.generations;
  run.counted_since.assign(static_cast<std::size_t>(shape.num_ranks()), 0);
  for (const RankRecord& rank : ranks)
    run.counted_since[static_cast<std::size_t>(rank.rank)] = rank.first_step;
  const auto& starts = ranks.front().step_start_ns;
  for (std::size_t s = 0; s + 1 < starts.size(); ++s)
    run.step_time_ns.push_back(starts[s + 1] - starts[s]);
  for (const RankRecord& rank : ranks) merge_health_and_waits(rank, &rank == &ranks.front(), run);
  merge_outputs(ranks, run);
  run.output_digest = digest(run.outputs);
  for (const auto& output : run.outputs)
    run.request_digests.push_back(output.empty() ? std::string() : digest({output}));
  merge_counts(ranks, shape, run);
  if (ranks.front().resumed_placement.empty())
    return check_conservation(shape, run, run.initial, 1);
  check_since_resumed(ranks, shape, run);
}

}  // namespace swiftbalancer::engine
