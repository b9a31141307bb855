// Configuration files of the tool: Settings::load with a setting of every kind.

#include "fuzz_target.hpp"
#include "settings.hpp"

using namespace swiftbalancer;

namespace {

struct Values {
  int ranks = 4;
  std::uint64_t interval = 64;
  std::int64_t window = 4096;
  double trigger = 1.1;
  std::string policy = "swift";
  std::vector<std::string> domains{"code", "prose"};
  bool verify = false;
  std::size_t transport = 0;
  tool::Settings settings;

  Values() {
    settings.integer("num_ranks", ranks, 1, 256, "");
    settings.integer("rebalance_interval", interval, 1, 1'000'000, "");
    settings.integer("window_assignments", window, 1, std::int64_t{1} << 40, "");
    settings.number("imbalance_trigger", trigger, 1.0, 1e9, "");
    settings.text("policy", policy, "");
    settings.list("domains", domains, "");
    settings.flag("verify_slots", verify, "");
    settings.choice(
        "transport", {"thread", "shm"}, [this](std::size_t i) { transport = i; },
        [this] { return transport; }, "");
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const fuzz::InputFile input("input.yaml");
  static const fuzz::InputFile output("output.yaml");
  input.write(fuzz::text_of(data, size));
  fuzz::accepted([&] {
    Values values;
    values.settings.load(input.path());
    fuzz::expect(values.ranks >= 1 && values.ranks <= 256 && values.interval >= 1 &&
                     values.trigger >= 1.0 && !values.policy.empty() && values.transport < 2,
                 "values are allowed ones");
    // JSON is YAML: what was used can be used again.
    const std::string record = values.settings.to_json();
    output.write(record);
    Values again;
    again.settings.load(output.path());
    fuzz::expect(again.settings.to_json() == record, "settings come back as they were recorded");
  });
  return 0;
}
