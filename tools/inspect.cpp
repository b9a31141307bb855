// `swiftbalancer inspect`: finds out what a file or folder is and shows it.

#include <algorithm>
#include <filesystem>
#include <map>

#include <fmt/format.h>

#include <swiftbalancer/error.hpp>

#include "command.hpp"
#include "engine/model.hpp"
#include "io/checkpoint.hpp"
#include "io/load_file.hpp"
#include "io/placement_file.hpp"
#include "io/text_file.hpp"
#include "observe/report.hpp"

namespace swiftbalancer::tool {
namespace {

constexpr std::size_t kMostTensors = 24;

void show_tensors(const io::Checkpoint& checkpoint) {
  std::map<std::string, std::size_t> bytes_by_dtype;
  std::size_t bytes = 0;
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    bytes_by_dtype[tensor.dtype_name] += tensor.bytes.size();
    bytes += tensor.bytes.size();
  }
  fmt::print("{} tensors, {:.1f} MB:", checkpoint.tensors().size(),
             static_cast<double>(bytes) * 1e-6);
  for (const auto& [dtype, dtype_bytes] : bytes_by_dtype)
    fmt::print(" {} {:.1f} MB", dtype, static_cast<double>(dtype_bytes) * 1e-6);
  fmt::print("\n");
}

void show_folder(const std::string& path) {
  show_tensors(io::Checkpoint::open(path));
  const auto model = engine::load_model(path);
  const engine::ModelInfo& info = model->info();
  std::size_t expert_bytes = 0;
  for (const auto& part : model->expert_parts(0, 0)) expert_bytes += part.size();
  fmt::print("checkpoint {}, family {}\n", path, info.family);
  fmt::print("{:<22}{}, of them {} MoE\n", "layers", info.num_layers, info.num_moe_layers);
  fmt::print("{:<22}{} a layer, top {}, {} bytes each\n", "experts", info.num_logical_experts,
             info.top_k, expert_bytes);
  fmt::print("{:<22}{}\n", "hidden size", info.hidden_size);
  fmt::print("{:<22}{}\n", "vocabulary", info.vocab_size);
  fmt::print("{:<22}{}\n", "positions", info.max_positions);
}

void show_safetensors(const std::string& path) {
  const io::Checkpoint checkpoint = io::Checkpoint::open(path);
  show_tensors(checkpoint);
  std::size_t shown = 0;
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    if (shown++ == kMostTensors) {
      fmt::print("... and {} more\n", checkpoint.tensors().size() - kMostTensors);
      return;
    }
    fmt::print("{:<6}{:<20}{}\n", tensor.dtype_name,
               fmt::format("[{}]", fmt::join(tensor.shape, ", ")), name);
  }
}

void show_placement(const std::string& path, const std::string& text) {
  const io::PlacementFile file = io::parse_placement(path, text);
  const ClusterShape shape(file.shape);
  fmt::print("placement {}: {} layers of {} experts on {} slots, {} ranks, {} nodes, {} shares\n\n",
             path, shape.num_moe_layers(), shape.num_logical_experts(), shape.num_slots(),
             shape.num_ranks(), shape.num_nodes(), file.shares.empty() ? "even" : "planned");
  fmt::print("{:>5}{:>22}{:>14}{:>22}\n", "layer", "experts with replicas", "most replicas",
             "same-rank duplicates");
  for (int layer = 0; layer < shape.num_moe_layers(); ++layer) {
    const auto slots = file.placement.layer(layer);
    const auto replicas = replica_count(slots, shape.num_logical_experts());
    fmt::print("{:>5}{:>22}{:>14}{:>22}\n", layer,
               std::ranges::count_if(replicas, [](int count) { return count > 1; }),
               *std::ranges::max_element(replicas), count_same_rank_duplicates(slots, shape));
  }
}

void show_loads(const std::string& path) {
  const auto windows = io::read_loads(path);
  fmt::print("loads {}: {} windows, {} layers of {} experts\n\n", path, windows.size(),
             windows.front().num_moe_layers(), windows.front().num_logical_experts());
  fmt::print("{:>7}{:>16}{:>36}\n", "window", "tokens a layer",
             "hottest expert / mean, worst layer");
  for (std::size_t w = 0; w < windows.size(); ++w) {
    double worst = 0.0, total = 0.0;
    for (int layer = 0; layer < windows[w].num_moe_layers(); ++layer) {
      double sum = 0.0, most = 0.0;
      for (const std::int64_t tokens : windows[w].layer(layer)) {
        sum += static_cast<double>(tokens);
        most = std::max(most, static_cast<double>(tokens));
      }
      total += sum;
      if (sum > 0.0) worst = std::max(worst, most * windows[w].num_logical_experts() / sum);
    }
    fmt::print("{:>7}{:>16.0f}{:>36.2f}\n", w, total / windows[w].num_moe_layers(), worst);
  }
}

class InspectCommand final : public Command {
 public:
  std::string_view name() const override { return "inspect"; }
  std::string_view summary() const override { return "Show what a file or folder holds"; }
  std::string_view examples() const override {
    return "  swiftbalancer inspect data/models/tiny_qwen3_moe\n"
           "  swiftbalancer inspect placement.json\n"
           "  swiftbalancer inspect out/run.json";
  }
  std::string_view operand() const override { return "PATH"; }
  std::string_view operand_help() const override {
    return "Checkpoint folder, .safetensors file, placement, run.json, or loads (.npy or JSON)";
  }
  void declare(Settings&) override {}

  void run(const Settings&, const std::string& path, const std::string&) override {
    std::error_code error;
    if (!std::filesystem::exists(path, error))
      throw Error(ErrorCode::kIo, path + ": there is no such file or folder");
    if (std::filesystem::is_directory(path, error)) return show_folder(path);
    if (path.ends_with(".safetensors")) return show_safetensors(path);
    const std::string text = io::read_text_file(path);
    if (text.find("\"swiftbalancer.run\"") != std::string::npos) {
      fmt::print("{}\n", observe::render_table(text));
      return;
    }
    if (io::is_placement(text)) return show_placement(path, text);
    if (text.starts_with("\x93NUMPY") || path.ends_with(".json")) return show_loads(path);
    throw Error(ErrorCode::kIo, path +
                                    ": is nothing that can be shown: a checkpoint folder, a "
                                    ".safetensors file, a placement, "
                                    "a run.json, or loads");
  }
};

}  // namespace

std::unique_ptr<Command> make_inspect_command() { return std::make_unique<InspectCommand>(); }

}  // namespace swiftbalancer::tool
