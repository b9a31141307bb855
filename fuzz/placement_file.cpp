// Placement files: io::parse_placement.

#include "io/placement_file.hpp"
#include "fuzz_target.hpp"

using namespace swiftbalancer;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(fuzz::text_of(data, size));
  const bool says_so = io::is_placement(text);
  const bool good = fuzz::accepted([&] {
    const io::PlacementFile file = io::parse_placement("input.json", text);
    const std::string written = io::format_placement(file);
    const io::PlacementFile again = io::parse_placement("output.json", written);
    fuzz::expect(again.placement == file.placement && again.shares == file.shares &&
                     io::format_placement(again) == written,
                 "a placement comes back as it was written");
  });
  fuzz::expect(says_so || !good, "what is read as a placement says that it is one");
  return 0;
}
