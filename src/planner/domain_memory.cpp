#include "planner/domain_memory.hpp"

#include <algorithm>
#include <cmath>
#include <span>

#include "planner/layer_problem.hpp"

namespace swiftbalancer {
namespace {

// Chi-square distance below which two samples are of one domain: domains differ by 0.17 to 2, parts
// of one by up to 0.1 (tests/planner/data), most by 0.02.
constexpr double kSameDomain = 0.05;
// ... and so much nearer than the next one.
constexpr double kMargin = 0.05;
// More noise than this says nothing of either.
constexpr double kMostNoise = 0.2;
constexpr double kTokensPerExpertToRemember = 32.0;
constexpr double kMostTokensPerExpert = 4096.0;  // then a domain follows its latest visits
constexpr double kMemoryDeviations = 3.0;
constexpr double kMemoryFloor = 0.25;  // of the mean load; below it experts weigh less

double mean_tokens(const ExpertLoad& load) {
  double sum = 0.0;
  for (int layer = 0; layer < load.num_moe_layers(); ++layer)
    sum += static_cast<double>(total(load.layer(layer)));
  return sum / load.num_moe_layers();
}

}  // namespace

DomainMemory::DomainMemory(int num_moe_layers, int num_logical_experts)
    : num_moe_layers_(num_moe_layers), experts_(static_cast<std::size_t>(num_logical_experts)) {}

DomainMemory::Fit DomainMemory::fit(const ExpertLoad& load, double dispersion,
                                    const std::vector<double>& shares, double tokens) const {
  const auto count = static_cast<double>(experts_);
  const double floor = kMemoryFloor / count;
  Fit fit;
  int live = 0;
  for (int layer = 0; layer < num_moe_layers_; ++layer) {
    const auto now = load.layer(layer);
    const double n = static_cast<double>(total(now));
    if (n <= 0.0) continue;
    const double* expected = shares.data() + static_cast<std::size_t>(layer) * experts_;
    double measured = 0.0, variance = 0.0;
    for (std::size_t expert = 0; expert < experts_; ++expert) {
      const double off = static_cast<double>(now[expert]) / n - expected[expert];
      const double weight = 1.0 / (expected[expert] + floor);
      measured += off * off * weight;
      variance += expected[expert] * (1.0 - expected[expert]) * weight;
    }
    const double noise = variance * (dispersion / n + (tokens > 0.0 ? 1.0 / tokens : 0.0));
    fit.distance += measured - noise;
    fit.noise += noise;
    ++live;
  }
  if (live == 0) return fit;
  fit.distance /= live;
  fit.noise /= live;
  fit.uncertainty = kMemoryDeviations * fit.noise * std::sqrt(2.0 * dispersion / (live * count));
  return fit;
}

// The nearest, if it is near and no other is nearly as near.
std::optional<std::size_t> DomainMemory::recognise(const std::vector<Fit>& fits) const {
  std::optional<std::size_t> nearest;
  for (std::size_t domain = 0; domain < fits.size(); ++domain) {
    if (!nearest || fits[domain].distance < fits[*nearest].distance) nearest = domain;
  }
  if (!nearest || fits[*nearest].noise > kMostNoise ||
      fits[*nearest].distance + fits[*nearest].uncertainty > kSameDomain)
    return std::nullopt;
  for (std::size_t domain = 0; domain < fits.size(); ++domain) {
    if (domain != *nearest && fits[domain].distance < fits[*nearest].distance + kMargin)
      return std::nullopt;
  }
  return nearest;
}

void DomainMemory::remember(const ExpertLoad& load, double dispersion) {
  const auto count = static_cast<double>(experts_);
  const double tokens = mean_tokens(load) / dispersion;
  if (tokens < kTokensPerExpertToRemember * count) return;
  ++time_;
  std::optional<std::size_t> known;
  double nearest = kSameDomain;
  for (std::size_t domain = 0; domain < domains_.size(); ++domain) {
    const double distance =
        fit(load, dispersion, domains_[domain].shares, domains_[domain].tokens).distance;
    if (distance >= nearest) continue;
    nearest = distance;
    known = domain;
  }
  if (!known && domains_.size() == kMostDomains) {
    known = static_cast<std::size_t>(std::ranges::min_element(domains_, {}, &Domain::last_seen) -
                                     domains_.begin());
    domains_[*known].tokens = 0.0;
  }
  if (!known) {
    known = domains_.size();
    domains_.push_back(
        {std::vector<double>(static_cast<std::size_t>(num_moe_layers_) * experts_, 1.0 / count)});
  }
  Domain& domain = domains_[*known];
  const double kept = std::min(domain.tokens, kMostTokensPerExpert * count);
  const double part = tokens / (kept + tokens);
  for (int layer = 0; layer < num_moe_layers_; ++layer) {
    const auto now = load.layer(layer);
    const double n = static_cast<double>(total(now));
    if (n <= 0.0) continue;
    double* shares = domain.shares.data() + static_cast<std::size_t>(layer) * experts_;
    for (std::size_t expert = 0; expert < experts_; ++expert)
      shares[expert] += part * (static_cast<double>(now[expert]) / n - shares[expert]);
  }
  domain.tokens = kept + tokens;
  domain.last_seen = time_;
}

// The mean of the remembered domains and of a uniform one, which stands for those not seen yet.
std::vector<double> DomainMemory::long_run() const {
  const std::size_t size = static_cast<std::size_t>(num_moe_layers_) * experts_;
  std::vector<double> shares(size, 1.0 / static_cast<double>(experts_));
  for (const Domain& domain : domains_) {
    for (std::size_t i = 0; i < size; ++i) shares[i] += domain.shares[i];
  }
  for (double& share : shares) share /= static_cast<double>(domains_.size() + 1);
  return shares;
}

// A distribution that lies about `distance` from shares q is as one drawn from a Dirichlet
// distribution with parameters k q, k = experts / distance, whose posterior mean adds k tokens of q
// to what was counted.
Expectation DomainMemory::expect(const ExpertLoad& load, double dispersion) const {
  std::vector<Fit> fits;
  for (const Domain& domain : domains_)
    fits.push_back(fit(load, dispersion, domain.shares, domain.tokens));
  const auto count = static_cast<double>(experts_);
  if (const auto domain = recognise(fits)) {
    const double distance = std::max(0.0, fits[*domain].distance) + fits[*domain].uncertainty;
    return {domains_[*domain].shares, std::min(domains_[*domain].tokens, count / distance), true};
  }
  Expectation expectation{long_run(), 0.0, false};
  const Fit far = fit(load, dispersion, expectation.shares, 0.0);
  expectation.tokens = count / std::max(kSameDomain, far.distance + far.uncertainty);
  return expectation;
}

}  // namespace swiftbalancer
