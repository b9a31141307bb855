#pragma once
// One format of placement files under fuzzing: what is read is written and read again, the same.

#include "formats/placement_format.hpp"
#include "fuzz_target.hpp"

namespace swiftbalancer::fuzz {

inline void placement_round_trip(const char* name, const std::string& text) {
  const formats::PlacementFormat& format = formats::placement_format(name);
  formats::PlacementFacts facts;
  facts.num_ranks = 2;
  accepted([&] {
    const io::PlacementFile file = format.parse("input", text, facts);
    validate(file.placement, ClusterShape(file.shape));
    const std::string written = format.format(file);
    expect(format.recognises(written), "a format recognises what it writes");
    facts.model_layer_ids = file.model_layer_ids;
    const io::PlacementFile again = format.parse("output", written, facts);
    expect(again.placement == file.placement && format.format(again) == written,
           "a placement comes back as it was written");
  });
}

}  // namespace swiftbalancer::fuzz
