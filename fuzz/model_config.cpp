// config.json: what model registration and the qwen3_moe engine read of it.

#include <utility>

#include <swiftbalancer/model_registration.hpp>

#include "engine/qwen3_moe_sizes.hpp"
#include "fuzz_target.hpp"
#include "io/model_config.hpp"

using namespace swiftbalancer;

namespace {

// Never started: a registration asks for the shape only.
const Balancer& balancer() {
  static const Balancer balancer(
      ClusterShape(
          {.num_moe_layers = 6, .num_logical_experts = 64, .num_ranks = 1, .num_slots = 64}),
      {}, std::move(make_thread_transports(1)[0]));
  return balancer;
}

void check(const engine::Qwen3MoeSizes& sizes) {
  fuzz::expect(sizes.info.num_layers > 0 && sizes.info.num_moe_layers == sizes.info.num_layers,
               "layers are counted");
  fuzz::expect(sizes.info.top_k >= 1 && sizes.info.top_k <= sizes.info.num_logical_experts,
               "a token goes to experts that exist");
  fuzz::expect(sizes.num_heads % sizes.num_kv_heads == 0 && sizes.head_dim > 0, "heads fit");
  fuzz::expect(sizes.info.end_of_text < sizes.info.vocab_size, "the end of text is a token");
  fuzz::expect(sizes.query_width() > 0 && sizes.kv_width() > 0, "widths do not overflow");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(fuzz::text_of(data, size));
  fuzz::accepted([&] {
    const ModelRegistration model(balancer(), text);
    fuzz::expect(model.num_moe_layers() == 6 && model.num_dense_layers() >= 0,
                 "registered models have the balancer's layers");
    fuzz::expect(!fuzz::accepted([&] { model.get_expert_map(model.num_dense_layers() - 1); }),
                 "a dense layer has no experts");
    fuzz::expect(model.get_all_moe_loads() == std::vector<std::int64_t>(6 * 64, 0), "no loads yet");
  });
  fuzz::accepted(
      [&] { check(engine::read_qwen3_moe_sizes(io::ModelConfig(text, "config.json"))); });
  return 0;
}
