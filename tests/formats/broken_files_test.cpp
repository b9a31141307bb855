// Placement files that are damaged or contradict themselves: refused, with file and place.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include <swiftbalancer/error.hpp>

#include "formats/placement_format.hpp"
#include "io/npy.hpp"
#include "io/temporary_folder.hpp"

namespace swiftbalancer::formats {
namespace {

using ::testing::HasSubstr;

PlacementFacts two_ranks() {
  PlacementFacts facts;
  facts.num_ranks = 2;
  return facts;
}

// The message, or "nothing".
std::string refusal(const std::string& text, const PlacementFacts& facts = two_ranks()) {
  static const testing::TemporaryFolder folder;
  try {
    read_placement(folder.write("p", text), facts);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kIo) << error.what();
    EXPECT_THAT(error.what(), HasSubstr(folder.file("p")));
    EXPECT_EQ(std::string_view(error.what()).find('\n'), std::string_view::npos) << error.what();
    return error.what();
  }
  return "nothing";
}

io::PlacementFile sample() {
  io::PlacementFile file;
  file.shape = {.num_moe_layers = 2, .num_logical_experts = 3, .num_ranks = 2, .num_slots = 4};
  file.placement = Placement::initial(ClusterShape(file.shape));
  return file;
}

TEST(BrokenPlacement, AFileCutAtAnyByteIsRefusedInEveryFormat) {
  for (const PlacementFormat& format : placement_formats()) {
    const std::string text = format.format(sample());
    ASSERT_EQ(refusal(text), "nothing") << format.name;
    // What ends the last line is nothing that can be missed.
    const std::size_t needed =
        format.name == "npy" ? text.size() : text.find_last_not_of(" \n") + 1;
    for (std::size_t size = 0; size < needed; ++size)
      EXPECT_NE(refusal(text.substr(0, size)), "nothing") << format.name << " " << size;
  }
}

TEST(BrokenPlacement, AByteChangedInOurOwnFormatIsNoticed) {
  const std::string text = placement_format("swiftbalancer").format(sample());
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == ' ' || text[i] == '\n') continue;  // Space is not content.
    std::string changed = text;
    changed[i] = changed[i] == '0' ? '1' : '0';
    EXPECT_NE(refusal(changed), "nothing") << i << ": " << changed;
  }
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(BrokenPlacement, OurOwnFormatIsHeldAgainstItself) {
  const std::string good = placement_format("swiftbalancer").format(sample());
  const auto expect = [&](const char* from, const char* to, const char* mentioned) {
    EXPECT_THAT(refusal(replaced(good, from, to)), HasSubstr(mentioned));
  };
  expect("\"format_version\": 2", "\"format_version\": 1", "format_version 1");
  expect("swiftbalancer.placement", "swiftbalancer.plan", "'swiftbalancer.plan'");
  expect("\"num_ranks\": 2", "\"num_ranks\": 2, \"num_ranks\": 2", "\"num_ranks\" is given twice");
  expect("\"num_ranks\": 2", "\"num_rank\": 2", "unknown key \"num_rank\"");
  expect("\"num_ranks\": 2", "\"num_ranks\": -2", "num_ranks is -2");
  expect("\"num_ranks\": 2", "\"num_ranks\": 3", "slots_per_rank has 2 items; 3 are needed");
  expect("\"num_moe_layers\": 2", "\"num_moe_layers\": 1000000000", "1000000000 are needed");
  expect("\"slots_per_rank\": [2,2]", "\"slots_per_rank\": [1000000000,1000000000]",
         "2000000000 are needed");
  expect("\"node_of_rank\": [0,0]", "\"node_of_rank\": [0,1000]", "names node 1000");
  expect("\"num_logical_experts\": 3", "\"num_logical_experts\": 9", "fewer than the 9");
  expect("\"num_expert_groups\": 1", "\"num_expert_groups\": 2", "must divide");
  expect("[\n    [0,", "[\n    [2,", "no slot for expert 0");
  expect("[\n    [0,", "[\n    [3,", "holds expert 3; allowed are 0 to 2");
  expect("\"checksum\": \"", "\"checksum\": \"0", "the content gives");
  expect(",\n  \"checksum\"", "\n  ,\"check\"", "unknown key");
}

TEST(BrokenPlacement, FilesOfOtherEnginesAreHeldAgainstTheirFormat) {
  const auto device = [](const char* experts) {
    return std::string(R"({"device_id": 0, "device_expert": )") + experts + "}";
  };
  const auto map = [&](const std::string& devices) {
    return R"({"moe_layer_count": 1, "layer_list": [{"layer_id": 0, "device_count": 1,
              "device_list": [)" +
           devices + "]}]}";
  };
  const struct {
    std::string text;
    const char* mentioned;
  } cases[] = {
      {R"({"moe_layer_count": 2, "layer_list": []})", "layer_list has 0 items; 2 are needed"},
      {R"({"moe_layer_count": 0, "layer_list": []})", "layer_list is empty"},
      {R"({"moe_layer_count": 1, "layer_list": [{"layer_id": 0, "device_count": 0,
           "device_list": []}]})",
       "device_list is empty"},
      {map(device("[0, 1, 0]")), "device_expert names expert 0 twice"},
      {map(device("[0, 2]")), "fewer than the 3"},
      {map(device("[0, -1]")), "device_list[0].device_expert[1] is -1"},
      {map(device("[0, 1.5]")), "device_expert[1] is 1.5"},
      {map(device("[0, 99999999999]")), "99999999999"},
      {map(device("[]")), "no slot"},
      {map(device("7")), "device_expert is 7; a list is needed"},
      {map(R"({"device_id": 1, "device_expert": [0]})"), "device_id is 1; the list has 1 items"},
      {map(R"({"device_id": 0, "device_id": 0, "device_expert": [0]})"), "given twice"},
      {map(R"({"device_id": 0, "device_expert": [0], "x": 1})"), "unknown key \"x\""},
      {map(R"({"device_id": 0})"), "no key device_expert"},
      {R"({"physical_to_logical_map": [[0, 1], [0, 1, 0]]})", "layer 1 has 3 slots"},
      {R"({"physical_to_logical_map": []})", "no layer"},
      {R"({"physical_to_logical_map": [[0, 1, 0]]})", "3 slots do not divide over 2 ranks"},
      {R"({"physical_to_logical_map": [[0, -1]]})", "physical_to_logical_map[0][1] is -1"},
      {R"({"physical_to_logical_map": [[0, 0, 2, 2]]})", "no slot for expert 1"},
      {R"({"physical_to_logical_map": [[0, 1]], "logical_count": [[1, 2]]})", "unknown key"},
      {R"({"physical_to_logical_map": {"0": [0, 1]}})", "a list is needed"},
      {R"([{"physical_to_logical_map": 1}])", "is not a JSON object"},
      {"num_slots: 2\nnum_slots: 2\n", "p:2: key 'num_slots' is given twice"},
      {"num_slots: 2\nslots: 2\n", "p:2: unknown key 'slots'"},
      {"num_slots: two\n", "p:1: num_slots is 'two'"},
      {"num_slots: [2]\n", "p:1: a list is not expected"},
      {"num_slots:\n", "num_slots is ''"},
      {"- num_slots\n", "a list is not expected"},
      {"num_slots", "lines"},
      {"num_slots: 2\n", "no initial_global_assignments"},
      {"initial_global_assignments: {0: [0]}\n#num_slots", "no key num_slots"},
      {"num_slots: 2\ninitial_global_assignments:\n  0: [0, 1]\n  0: [0, 1]\n",
       "p:4: layer 0 is given twice"},
      {"num_slots: 2\ninitial_global_assignments:\n  first: [0, 1]\n", "'first'"},
      {"num_slots: 2\ninitial_global_assignments:\n  0: 7\n", "a list of experts is needed"},
      {"num_slots: 2\ninitial_global_assignments: [0, 1]\n", "a list is not expected"},
      {"num_slots: 2\ninitial_global_assignments:\n  0: [0, {}]\n", "an object is not expected"},
      {"num_slots: 2\ninitial_global_assignments:\n  0: [0, 1, 0]\n", "layer 0 has 3 experts"},
      {"num_slots: 2\ninitial_global_assignments:\n  0: [0, x]\n", "an expert of layer 0 is 'x'"},
      {"num_slots: 2\ninitial_global_assignments:\n  0: &a [0, 1]\n  1: *a\n", "aliases"},
      {"num_slots: 2\n---\nnum_slots: 2\n", "second document"},
      {"num_slots: 2\n\tx: [\n", "is not YAML"},
      {"hello", "no known format"},
      {"", "no known format"},
  };
  for (const auto& c : cases) EXPECT_THAT(refusal(c.text), HasSubstr(c.mentioned)) << c.text;
}

TEST(BrokenPlacement, NumpyPlacementsHoldExpertsOnly) {
  const auto file = [](std::vector<std::int64_t> shape, std::vector<std::int32_t> values) {
    return io::format_npy(shape, values);
  };
  EXPECT_EQ(refusal(file({1, 4}, {0, 1, 2, 0})), "nothing");
  EXPECT_THAT(refusal(file({4}, {0, 1, 2, 0})), HasSubstr("1 dimensions"));
  EXPECT_THAT(refusal(file({1, 1, 4}, {0, 1, 2, 0})), HasSubstr("3 dimensions"));
  EXPECT_THAT(refusal(file({0, 4}, {})), HasSubstr("neither of them 0"));
  EXPECT_THAT(refusal(file({2, 2}, {0, 1, 1, -1})), HasSubstr("value -1 of layer and slot [1, 1]"));
  EXPECT_THAT(refusal(file({1, 4}, {0, 1, 3, 0})), HasSubstr("no slot for expert 2"));
}

TEST(BrokenPlacement, WhatIsAskedForMustBeWhatTheFileHas) {
  const std::string own = placement_format("swiftbalancer").format(sample());
  const std::string npy = placement_format("npy").format(sample());
  const auto with = [](auto change) {
    PlacementFacts facts = two_ranks();
    change(facts);
    return facts;
  };
  using Facts = PlacementFacts;
  EXPECT_THAT(refusal(npy, {}), HasSubstr("give --num-ranks"));
  EXPECT_THAT(refusal(own, with([](Facts& f) { f.num_ranks = 4; })), HasSubstr("num_ranks 2"));
  EXPECT_THAT(refusal(own, with([](Facts& f) { f.num_logical_experts = 4; })),
              HasSubstr("a placement of 3 experts; the loads have 4"));
  EXPECT_THAT(refusal(npy, with([](Facts& f) { f.num_logical_experts = 2; })),
              HasSubstr("holds expert 2; allowed are 0 to 1"));
  EXPECT_THAT(refusal(npy, with([](Facts& f) { f.num_redundant_experts = 2; })),
              HasSubstr("num_redundant_experts 1, but 2"));
  EXPECT_THAT(refusal(own, with([](Facts& f) { f.slots_per_rank = {3, 1}; })),
              HasSubstr("slots_per_rank"));
  EXPECT_THAT(refusal(npy, with([](Facts& f) { f.slots_per_rank = {3, 2}; })),
              HasSubstr("has 4 slots a layer; the ranks have 5"));
  EXPECT_THAT(refusal(npy, with([](Facts& f) { f.node_of_rank = {0, 1, 1}; })),
              HasSubstr("node_of_rank has 3 entries for 2 ranks"));
  EXPECT_THAT(refusal(npy, with([](Facts& f) { f.num_nodes = 3; })), HasSubstr("num_nodes is 3"));
  EXPECT_THAT(refusal(own, with([](Facts& f) { f.num_expert_groups = 2; })),
              HasSubstr("must divide"));
  EXPECT_THAT(refusal(own, with([](Facts& f) { f.model_layer_ids = {1}; })),
              HasSubstr("1 model layers for 2 MoE layers"));
  EXPECT_THAT(refusal(own, with([](Facts& f) { f.model_layer_ids = {4, 3}; })),
              HasSubstr("ascending"));
  EXPECT_THAT(refusal(placement_format("sglang").format(sample()),
                      with([](Facts& f) { f.model_layer_ids = {1, 2}; })),
              HasSubstr("--model-layers names layer 2"));
  io::PlacementFile named = sample();
  named.model = "a";
  EXPECT_THAT(refusal(placement_format("swiftbalancer").format(named),
                      with([](Facts& f) { f.model = "b"; })),
              HasSubstr("of model 'a', not of 'b'"));
}

}  // namespace
}  // namespace swiftbalancer::formats
