// Recorded loads: io::read_loads, .npy and JSON.

#include <nlohmann/json.hpp>

#include "fuzz_target.hpp"
#include "io/load_file.hpp"

using namespace swiftbalancer;

namespace {

std::string written(const std::vector<ExpertLoad>& windows) {
  nlohmann::json json = nlohmann::json::array();
  for (const ExpertLoad& load : windows) {
    nlohmann::json& layers = json.emplace_back(nlohmann::json::array());
    for (int layer = 0; layer < load.num_moe_layers(); ++layer) {
      const auto tokens = load.layer(layer);
      layers.push_back(std::vector<std::int64_t>(tokens.begin(), tokens.end()));
    }
  }
  return json.dump();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const fuzz::InputFile input("loads");
  static const fuzz::InputFile output("loads.json");
  input.write(fuzz::text_of(data, size));
  fuzz::accepted([&] {
    const std::vector<ExpertLoad> windows = io::read_loads(input.path());
    fuzz::expect(!windows.empty(), "there is a window");
    output.write(written(windows));
    fuzz::expect(io::read_loads(output.path()) == windows, "loads come back as they were written");
  });
  return 0;
}
