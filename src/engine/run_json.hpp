#pragma once
// run.json: everything that one `serve` command measured, for the report, for `inspect` and for
// other programs. The format is described in docs/run_json.md. Pure but for the description of this
// machine; called by the tool.

#include <cstdint>
#include <span>
#include <string>

#include "engine/figures.hpp"
#include "engine/record.hpp"

namespace swiftbalancer::engine {

struct RunJsonInfo {
  std::string version;      ///< Of this program.
  std::string created;      ///< UTC, "2026-11-24T03:00:00Z".
  std::string command;      ///< As typed.
  std::string config_json;  ///< Every effective setting by its key: a JSON object.
};

/// @returns the document, UTF-8. @param comparison of the same runs.
/// @throws Error kInvalidArgument: config_json is not a JSON object.
std::string run_json(std::span<const RunRecord> runs, const Comparison& comparison,
                     const RunJsonInfo& info);

}  // namespace swiftbalancer::engine
