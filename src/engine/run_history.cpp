#include "engine/run_history.hpp"

#include <algorithm>
#include <string>

#include "engine/recovery.hpp"

namespace swiftbalancer::engine {

void RunHistory::announced(std::uint32_t number, const std::vector<int>& members) {
  memberships_.push_back({number, 0, members});
}

std::vector<std::int32_t> RunHistory::entered(std::uint32_t number, std::uint64_t first_step) {
  const auto found = std::ranges::find(memberships_, number, &MembershipRecord::number);
  if (found == memberships_.end()) return {};
  found->first_step = first_step;
  return found->live_ranks;
}

void RunHistory::check_slots(const ClusterShape& shape, const std::vector<int>& members) const {
  int slots = 0;
  for (const int rank : members) slots += shape.slots_per_rank(rank);
  if (slots >= shape.num_logical_experts()) return;
  const LossRecord& loss = losses_.back();
  throw Error(ErrorCode::kUnavailable, "rank " + std::to_string(loss.rank) + " " + loss.how +
                                           " at step " + std::to_string(loss.step) + ": the " +
                                           std::to_string(slots) + " slots left cannot hold " +
                                           std::to_string(shape.num_logical_experts()) +
                                           " experts; serve with more redundant experts");
}

void RunHistory::throw_no_way_on(std::uint64_t step, const Error& error) const {
  const std::string cause =
      losses_.empty() ? "packets were lost"
                      : "rank " + std::to_string(losses_.back().rank) + " " + losses_.back().how;
  throw Error(error.code(), cause + " at step " + std::to_string(step) +
                                ", and the ranks left cannot go on: " + error.what());
}

void RunHistory::throw_cause_of(std::vector<RankFailure> failures) const {
  const bool noticed_only = std::ranges::all_of(failures, [](const RankFailure& failure) {
    return !failure.died && lost_others(failure.code);
  });
  if (noticed_only) {
    for (const LossRecord& loss : losses_) {
      failures.push_back(
          {loss.rank, ErrorCode::kPeerLost, loss.how + ": the others could not go on", true});
    }
  }
  throw_cause(failures);
}

void RunHistory::move_to(RanksResult& result) {
  std::erase_if(memberships_, [](const MembershipRecord& each) { return each.first_step == 0; });
  result.memberships = std::move(memberships_);
  result.losses = std::move(losses_);
}

}  // namespace swiftbalancer::engine
