// Placements written in every format and read again, and files as other engines have them.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <numeric>

#include <swiftbalancer/dispatch_table.hpp>
#include <swiftbalancer/error.hpp>

#include "formats/placement_format.hpp"
#include "io/temporary_folder.hpp"

namespace swiftbalancer::formats {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Any placement of a small cluster whose ranks have as many slots and no expert twice.
io::PlacementFile any_placement() {
  io::PlacementFile file;
  ShapeOptions& shape = file.shape;
  shape.num_moe_layers = *rc::gen::inRange(1, 4);
  shape.num_ranks = *rc::gen::inRange(1, 5);
  const int per_rank = *rc::gen::inRange(1, 5);
  shape.num_slots = shape.num_ranks * per_rank;
  shape.num_logical_experts = *rc::gen::inRange(per_rank, shape.num_slots + 1);
  shape.slots_per_rank.assign(static_cast<std::size_t>(shape.num_ranks), per_rank);
  shape.node_of_rank.assign(static_cast<std::size_t>(shape.num_ranks), 0);
  const ClusterShape checked(shape);
  file.placement = Placement::initial(checked);
  std::vector<std::int32_t> names(static_cast<std::size_t>(shape.num_logical_experts));
  for (int layer = 0; layer < shape.num_moe_layers; ++layer) {
    std::iota(names.begin(), names.end(), 0);
    const auto order = *rc::gen::container<std::vector<std::uint32_t>>(
        names.size(), rc::gen::arbitrary<std::uint32_t>());
    std::ranges::sort(names, {}, [&](std::int32_t e) {
      return std::pair(order[static_cast<std::size_t>(e)], e);
    });
    for (std::int32_t& expert : file.placement.layer(layer))
      expert = names[static_cast<std::size_t>(expert)];
  }
  return file;
}

PlacementFacts facts_of(const io::PlacementFile& file) {
  PlacementFacts facts;
  facts.num_ranks = file.shape.num_ranks;
  facts.num_logical_experts = file.shape.num_logical_experts;
  facts.model_layer_ids = file.model_layer_ids;
  return facts;
}

io::PlacementFile written_and_read(const PlacementFormat& format, const io::PlacementFile& file,
                                   const PlacementFacts& facts) {
  static const testing::TemporaryFolder folder;
  const PlacementFormat* found = nullptr;
  io::PlacementFile read =
      read_placement(folder.write("placement", format.format(file)), facts, &found);
  EXPECT_EQ(found, &format);
  return read;
}

RC_GTEST_PROP(PlacementFormats, EveryOneGivesBackWhatWasWritten, ()) {
  io::PlacementFile file = any_placement();
  if (*rc::gen::arbitrary<bool>()) {
    int layer = *rc::gen::inRange(1, 4);
    for (int i = 0; i < file.shape.num_moe_layers; ++i, layer += *rc::gen::inRange(1, 4))
      file.model_layer_ids.push_back(layer);
  }
  for (const PlacementFormat& format : placement_formats()) {
    const io::PlacementFile read = written_and_read(format, file, facts_of(file));
    RC_ASSERT(read.placement == file.placement);
    RC_ASSERT(read.shape.slots_per_rank == file.shape.slots_per_rank);
    RC_ASSERT(read.shape.node_of_rank == file.shape.node_of_rank);
    RC_ASSERT(read.shape.num_slots == file.shape.num_slots);
    RC_ASSERT(read.shape.num_logical_experts == file.shape.num_logical_experts);
    RC_ASSERT(read.model_layer_ids == file.model_layer_ids);
    RC_ASSERT(read.shares.empty());
  }
}

io::PlacementFile uneven_placement() {
  io::PlacementFile file;
  file.shape = {.num_moe_layers = 2,
                .num_logical_experts = 4,
                .num_ranks = 3,
                .num_slots = 7,
                .num_nodes = 2,
                .num_expert_groups = 2,
                .slots_per_rank = {3, 2, 2},
                .node_of_rank = {0, 1, 0}};
  const ClusterShape shape(file.shape);
  file.placement = Placement::initial(shape);
  return file;
}

TEST(PlacementFormats, OurOwnKeepsEverything) {
  io::PlacementFile file = uneven_placement();
  for (int layer = 0; layer < 2; ++layer)
    file.shares.push_back(even_shares(file.placement.layer(layer), 4));
  file.model = "deepseek \"v3\" \xff";
  file.model_layer_ids = {3, 7};
  const io::PlacementFile read =
      written_and_read(placement_format("swiftbalancer"), file, PlacementFacts{});
  EXPECT_EQ(read.placement, file.placement);
  EXPECT_EQ(read.shares, file.shares);
  EXPECT_EQ(read.model, "deepseek \"v3\" \xEF\xBF\xBD");  // JSON is UTF-8.
  EXPECT_EQ(read.model_layer_ids, file.model_layer_ids);
  EXPECT_EQ(read.shape.slots_per_rank, file.shape.slots_per_rank);
  EXPECT_EQ(read.shape.node_of_rank, file.shape.node_of_rank);
  EXPECT_EQ(read.shape.num_expert_groups, 2);
  EXPECT_EQ(read.shape.num_nodes, 2);
}

TEST(PlacementFormats, WhatAFormatCannotHoldIsNotWritten) {
  for (const char* name : {"vllm-ascend", "sglang", "tensorrt-llm"}) {
    try {
      placement_format(name).format(uneven_placement());
      ADD_FAILURE() << name;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
      EXPECT_THAT(error.what(), HasSubstr("rank 0 has 3, rank 1 has 2"));
    }
  }
  io::PlacementFile twice;
  twice.shape = {.num_moe_layers = 1, .num_logical_experts = 2, .num_ranks = 2, .num_slots = 4};
  twice.placement = Placement(1, 4);
  std::ranges::copy(std::vector{0, 0, 1, 0}, twice.placement.layer(0).begin());
  EXPECT_THROW(placement_format("vllm-ascend").format(twice), Error);
  EXPECT_NO_THROW(placement_format("sglang").format(twice));
}

TEST(PlacementFormats, UnevenSlotsOfANumpyFileComeFromTheFacts) {
  const io::PlacementFile file = uneven_placement();
  PlacementFacts facts;
  facts.num_ranks = 3;
  facts.slots_per_rank = {3, 2, 2};
  facts.node_of_rank = {0, 1, 0};
  facts.num_expert_groups = 2;
  const io::PlacementFile read = written_and_read(placement_format("npy"), file, facts);
  EXPECT_EQ(read.placement, file.placement);
  EXPECT_EQ(read.shape.node_of_rank, file.shape.node_of_rank);
  EXPECT_EQ(read.shape.num_expert_groups, 2);
}

io::PlacementFile read_text(const std::string& text, const PlacementFacts& facts) {
  const testing::TemporaryFolder folder;
  return read_placement(folder.write("placement", text), facts);
}

// The sample of vllm-ascend's own unit test, devices and keys in another order.
TEST(PlacementFormats, ReadsAnExpertMapOfVllmAscend) {
  const io::PlacementFile file = read_text(R"({
    "layer_list": [
        {"device_list": [
            {"device_expert": [6, 1, 4, 7, 2], "device_id": 1},
            {"device_id": 0, "device_expert": [7, 2, 0, 3, 5]}],
         "layer_id": 0, "device_count": 2}],
    "moe_layer_count": 1})",
                                           {});
  EXPECT_EQ(file.shape.num_logical_experts, 8);
  EXPECT_EQ(file.shape.num_ranks, 2);
  EXPECT_THAT(file.placement.layer(0), ElementsAre(7, 2, 0, 3, 5, 6, 1, 4, 7, 2));
}

TEST(PlacementFormats, TakesTheMoeLayersOfASglangMapThatHasDenseOnesToo) {
  const std::string text =
      R"({"physical_to_logical_map": [[0, 1, 2, 0], [2, 1, 0, 1], [1, 0, 2, 2]]})";
  PlacementFacts facts;
  facts.num_ranks = 2;
  EXPECT_EQ(read_text(text, facts).shape.num_moe_layers, 3);
  facts.model_layer_ids = {1, 2};
  const io::PlacementFile file = read_text(text, facts);
  EXPECT_EQ(file.shape.num_moe_layers, 2);
  EXPECT_THAT(file.placement.layer(0), ElementsAre(2, 1, 0, 1));
  // Written back, the dense row is SGLang's trivial one.
  EXPECT_EQ(placement_format("sglang").format(file),
            "{\"physical_to_logical_map\": [\n[0,1,2,0],\n[2,1,0,1],\n[1,0,2,2]\n]}\n");
}

// As TensorRT-LLM's generate_eplb_config.py dumps it.
TEST(PlacementFormats, ReadsABlockStyleConfigurationOfTensorRtLlm) {
  PlacementFacts facts;
  facts.num_ranks = 2;
  const io::PlacementFile file = read_text(
      "initial_global_assignments:\n"
      "  3:\n  - 2\n  - 0\n  - 1\n  - 2\n"
      "  4: [0, 1, 2,\n      1]\n"
      "layer_updates_per_iter: 0\n"
      "num_slots: 4\n",
      facts);
  EXPECT_THAT(file.placement.layer(0), ElementsAre(2, 0, 1, 2));
  EXPECT_THAT(file.placement.layer(1), ElementsAre(0, 1, 2, 1));
  EXPECT_THAT(file.model_layer_ids, ElementsAre(3, 4));
  facts.model_layer_ids = {4};
  EXPECT_THAT(read_text(placement_format("tensorrt-llm").format(file), facts).placement.layer(0),
              ElementsAre(0, 1, 2, 1));
}

TEST(PlacementFormats, AnOutputIsInTheFormatOfItsNameOrAsAsked) {
  EXPECT_EQ(format_of_output("a/b.json", "").name, "swiftbalancer");
  EXPECT_EQ(format_of_output("b.yaml", "").name, "tensorrt-llm");
  EXPECT_EQ(format_of_output("b.npy", "").name, "npy");
  EXPECT_EQ(format_of_output("b.json", "sglang").name, "sglang");
  EXPECT_THROW(format_of_output("b.txt", ""), Error);
  EXPECT_THROW(format_of_output("b.json", "vllm"), Error);
}

}  // namespace
}  // namespace swiftbalancer::formats
