// `swiftbalancer compare`: two placements, what it takes to go from one to the other, and how they
// balance given loads.

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <optional>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <swiftbalancer/error.hpp>
#include <swiftbalancer/placement.hpp>

#include "command.hpp"
#include "formats/placement_format.hpp"
#include "load_settings.hpp"
#include "placement_figures.hpp"
#include "shape_settings.hpp"

namespace swiftbalancer::tool {
namespace {

using Json = nlohmann::ordered_json;

struct Difference {
  std::vector<int> moves_of_layer;          // [num_moe_layers]
  std::vector<std::int64_t> moves_to_rank;  // [num_ranks] over all layers
  std::int64_t moves = 0;
  int changed_layers = 0;
};

std::vector<std::int32_t> own_experts(std::span<const std::int32_t> slots,
                                      const ClusterShape& shape, int rank) {
  const auto first = slots.begin() + shape.first_slot(rank);
  std::vector<std::int32_t> experts(first, first + shape.slots_per_rank(rank));
  std::ranges::sort(experts);
  const auto rest = std::ranges::unique(experts);
  experts.erase(rest.begin(), rest.end());
  return experts;
}

Difference difference(const ClusterShape& shape, const Placement& from, const Placement& to) {
  Difference result;
  result.moves_to_rank.assign(static_cast<std::size_t>(shape.num_ranks()), 0);
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    int moves = 0;
    for (int rank = 0; rank < shape.num_ranks(); ++rank) {
      const auto before = own_experts(from.layer(layer), shape, rank);
      const auto after = own_experts(to.layer(layer), shape, rank);
      std::vector<std::int32_t> gained;
      std::ranges::set_difference(after, before, std::back_inserter(gained));
      moves += static_cast<int>(gained.size());
      result.moves_to_rank[static_cast<std::size_t>(rank)] +=
          static_cast<std::int64_t>(gained.size());
    }
    result.moves_of_layer.push_back(moves);
    result.moves += moves;
    result.changed_layers += moves > 0 ? 1 : 0;
  }
  return result;
}

// One of the two placements.
struct Side {
  std::string path{};
  io::PlacementFile file{};
  const formats::PlacementFormat* format = nullptr;
  int same_rank_duplicates = 0;
  std::optional<PlacementFigures> even;    // with loads
  std::optional<PlacementFigures> shares;  // with loads, if the file has shares
};

class CompareCommand final : public Command {
 public:
  std::string_view name() const override { return "compare"; }
  std::string_view summary() const override {
    return "Show what lies between two placements: moves, bytes, balance";
  }
  std::string_view examples() const override {
    return "  swiftbalancer compare placement.json next.json --loads loads.npy --window 4\n"
           "  swiftbalancer compare expert_map.json eplb.yaml --expert-bytes 44040192 --json\n"
           "  swiftbalancer compare a.npy b.npy --num-ranks 32";
  }
  std::string_view operand() const override { return "FROM"; }
  std::string_view operand_help() const override { return "Placement of any known format"; }

  void declare(Settings& settings) override {
    settings.operand_text("TO", to_, "Placement of any known format");
    loads_.declare(settings);
    shape_.declare_slots(settings);
    settings.integer("expert_bytes", expert_bytes_, 0, 1'000'000'000'000,
                     "Bytes of an expert's weights; 0: count moves alone");
    settings.flag("json", json_, "One line of JSON in place of the table");
  }

  void run(const Settings& settings, const std::string& from, const std::string&) override {
    for (const char* key : {"window", "sum"}) {
      if (settings.given(key) && !loads_.given()) {
        throw Error(ErrorCode::kInvalidArgument,
                    fmt::format("{} is given, which chooses from --loads; give those too", key));
      }
    }
    if (loads_.given()) loads_.read();
    std::optional<ExpertLoad> load;
    if (loads_.given()) load = loads_.chosen();
    Side sides[] = {read(settings, from, load), read(settings, to_, load)};
    check_same_cluster(sides[0], sides[1]);
    const ClusterShape shape(sides[0].file.shape);
    for (Side& side : sides) judge(shape, load, side);
    const Difference moves = difference(shape, sides[0].file.placement, sides[1].file.placement);
    check_bytes(moves);
    if (json_) {
      print_json(moves, sides);
    } else {
      print_table(shape, moves, sides);
    }
  }

 private:
  Side read(const Settings& settings, const std::string& path,
            const std::optional<ExpertLoad>& load) const {
    Side side;
    side.path = path;
    const int experts = load ? load->num_logical_experts() : 0;
    side.file = formats::read_placement(path, shape_.facts(settings, experts), &side.format);
    if (load && load->num_moe_layers() != side.file.shape.num_moe_layers) {
      throw Error(
          ErrorCode::kInvalidArgument,
          fmt::format("{} has {} layers, {} has {}: they must be of one model", path,
                      side.file.shape.num_moe_layers, loads_.file(), load->num_moe_layers()));
    }
    return side;
  }

  static void check_same_cluster(const Side& a, const Side& b) {
    const auto differ = [&](const char* what, const std::string& in_a, const std::string& in_b) {
      if (in_a == in_b) return;
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("{} has {} {}, {} has {}: they cannot be compared", a.path, what,
                              in_a, b.path, in_b));
    };
    const ShapeOptions &x = a.file.shape, &y = b.file.shape;
    differ("num_moe_layers", std::to_string(x.num_moe_layers), std::to_string(y.num_moe_layers));
    differ("num_logical_experts", std::to_string(x.num_logical_experts),
           std::to_string(y.num_logical_experts));
    differ("num_ranks", std::to_string(x.num_ranks), std::to_string(y.num_ranks));
    differ("slots_per_rank", fmt::format("{}", fmt::join(x.slots_per_rank, ",")),
           fmt::format("{}", fmt::join(y.slots_per_rank, ",")));
    if (!a.file.model.empty() && !b.file.model.empty()) differ("model", a.file.model, b.file.model);
  }

  void check_bytes(const Difference& moves) const {
    constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
    if (expert_bytes_ == 0 || moves.moves <= kMost / expert_bytes_) return;
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("--expert-bytes is {}: the bytes of {} moves are more than can be "
                            "counted; use a larger unit",
                            expert_bytes_, moves.moves));
  }

  static void judge(const ClusterShape& shape, const std::optional<ExpertLoad>& load, Side& side) {
    side.same_rank_duplicates = same_rank_duplicates(shape, side.file.placement);
    if (!load) return;
    side.even = figures_of(shape, ServedState::even(side.file.placement, shape), *load);
    if (!side.file.shares.empty()) {
      side.shares = figures_of(shape, served_state(side.file, shape), *load);
    }
  }

  void print_json(const Difference& moves, std::span<const Side> sides) const {
    const auto layers = static_cast<double>(moves.moves_of_layer.size());
    Json json{{"moves", moves.moves},
              {"moves_per_layer", static_cast<double>(moves.moves) / layers},
              {"moves_worst_layer", *std::ranges::max_element(moves.moves_of_layer)},
              {"changed_layers", moves.changed_layers},
              {"moves_to_rank", moves.moves_to_rank}};
    if (expert_bytes_ > 0) {
      json["bytes"] = moves.moves * expert_bytes_;
      Json& bytes = json["bytes_to_rank"];
      for (const std::int64_t count : moves.moves_to_rank) bytes.push_back(count * expert_bytes_);
    }
    for (std::size_t i = 0; i < sides.size(); ++i) {
      const Side& side = sides[i];
      Json& figures = json[i == 0 ? "from" : "to"];
      figures = {{"file", side.path},
                 {"format", side.format->name},
                 {"same_rank_duplicates", side.same_rank_duplicates}};
      const auto add = [&](const char* dispatch, const std::optional<PlacementFigures>& values) {
        if (!values) return;
        figures[std::string("imbalance_mean_") + dispatch] = values->imbalance.mean_over_layers;
        figures[std::string("imbalance_worst_") + dispatch] = values->imbalance.worst_layer;
      };
      add("even", side.even);
      add("split", side.shares);
    }
    // File names may be in another encoding; JSON is UTF-8.
    fmt::print("{}\n", json.dump(-1, ' ', false, Json::error_handler_t::replace));
  }

  void print_table(const ClusterShape& shape, const Difference& moves,
                   std::span<const Side> sides) const {
    for (std::size_t i = 0; i < sides.size(); ++i) {
      fmt::print("{:<6}{} ({})\n", i == 0 ? "from" : "to", sides[i].path, sides[i].format->name);
    }
    fmt::print("{} layers of {} experts on {} slots, {} ranks\n\n", shape.num_moe_layers(),
               shape.num_logical_experts(), shape.num_slots(), shape.num_ranks());
    fmt::print("moves: {} in {} of {} layers, {:.2f} a layer, {} in the worst\n", moves.moves,
               moves.changed_layers, shape.num_moe_layers(),
               static_cast<double>(moves.moves) / shape.num_moe_layers(),
               *std::ranges::max_element(moves.moves_of_layer));
    const std::int64_t most = *std::ranges::max_element(moves.moves_to_rank);
    fmt::print("moves to a rank: {:.2f} on average, {} to the one with most\n",
               static_cast<double>(moves.moves) / shape.num_ranks(), most);
    if (expert_bytes_ > 0) {
      const double mega = static_cast<double>(expert_bytes_) * 1e-6;
      fmt::print("bytes to a rank: {:.1f} MB on average, {:.1f} MB to the one with most\n",
                 mega * static_cast<double>(moves.moves) / shape.num_ranks(),
                 mega * static_cast<double>(most));
    }
    fmt::print("\n{:<36}{:>9}{:>9}\n", "", "from", "to");
    fmt::print("{:<36}{:>9}{:>9}\n", "same-rank duplicates", sides[0].same_rank_duplicates,
               sides[1].same_rank_duplicates);
    if (!loads_.given()) return;
    fmt::print("imbalance on the {} of {}\n", loads_.description(), loads_.file());
    const auto row = [](const char* name, const std::optional<PlacementFigures>& from,
                        const std::optional<PlacementFigures>& to, double OverLayers::* measure) {
      const auto cell = [measure](const std::optional<PlacementFigures>& figures) {
        return figures ? fmt::format("{:.4f}", figures->imbalance.*measure) : std::string("-");
      };
      fmt::print("{:<36}{:>9}{:>9}\n", name, cell(from), cell(to));
    };
    const Side &a = sides[0], &b = sides[1];
    row("  even, mean over layers", a.even, b.even, &OverLayers::mean_over_layers);
    row("  even, worst layer", a.even, b.even, &OverLayers::worst_layer);
    row("  by the file's shares, mean", a.shares, b.shares, &OverLayers::mean_over_layers);
    row("  by the file's shares, worst layer", a.shares, b.shares, &OverLayers::worst_layer);
  }

  std::string to_;
  LoadSettings loads_;
  ShapeSettings shape_;
  std::int64_t expert_bytes_ = 0;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_compare_command() { return std::make_unique<CompareCommand>(); }

}  // namespace swiftbalancer::tool
