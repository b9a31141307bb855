#pragma once
// Remembers the distributions of domains that were served, recognises them when they come back, and
// says what the loads of a new one are likely to be before much of it was seen. Used by the
// planner; bounded, fixed-order arithmetic, so that every rank remembers the same. A planner that
// begins anew, after a reconfiguration or a crash, has forgotten them on all ranks alike.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include <swiftbalancer/load.hpp>

namespace swiftbalancer {

/// What is expected before the loads are counted, and how many independent tokens it is worth.
struct Expectation {
  std::vector<double> shares;  ///< [num_moe_layers * num_logical_experts], sums to 1 per layer.
  double tokens = 0.0;
  bool recognised = false;  ///< It is a remembered domain's, not the long-run distribution.
};

class DomainMemory {
 public:
  static constexpr std::size_t kMostDomains = 8;

  DomainMemory(int num_moe_layers, int num_logical_experts);

  /// Traffic that has come to its end. Too little of it to tell domains apart is forgotten; more of
  /// a known domain is added to it; a new one takes the place of the one not seen for longest.
  /// @param dispersion of its noise, LoadHistory::dispersion().
  void remember(const ExpertLoad& load, double dispersion);

  /// What these first loads of a domain say about the rest of it. The better they fit what is
  /// remembered, the more that is worth.
  /// Cost: one pass over [layers, experts] per remembered domain.
  Expectation expect(const ExpertLoad& load, double dispersion) const;

  std::size_t num_domains() const noexcept { return domains_.size(); }

 private:
  struct Domain {
    std::vector<double> shares;
    double tokens = 0.0;  // independent ones
    std::uint64_t last_seen = 0;
  };
  // How far loads lie from a distribution beyond their noise, mean over layers, and by how much
  // noise alone moves that figure.
  struct Fit {
    double distance = 0.0;
    double noise = 0.0;
    double uncertainty = 0.0;
  };
  Fit fit(const ExpertLoad& load, double dispersion, const std::vector<double>& shares,
          double tokens) const;
  std::optional<std::size_t> recognise(const std::vector<Fit>& fits) const;
  std::vector<double> long_run() const;

  int num_moe_layers_;
  std::size_t experts_;
  std::vector<Domain> domains_;
  std::uint64_t time_ = 0;  // domains seen
};

}  // namespace swiftbalancer
