#pragma once
// Runs the built `swiftbalancer` in a folder of its own and catches what it says.

#include <string>

#include <nlohmann/json_fwd.hpp>

#include "io/temporary_folder.hpp"

namespace swiftbalancer::testing {

struct ToolResult {
  int exit_code = -1;
  std::string out;
  std::string err;
};

/// @param arguments as typed in a shell. Runs in `folder`.
ToolResult run_tool(const TemporaryFolder& folder, const std::string& arguments);

/// What a command says with --json: one line, and the command must succeed.
nlohmann::json json_of(const TemporaryFolder& folder, const std::string& arguments);

std::string read_file(const std::string& path);

/// A file or folder of the repository's data/.
std::string data_path(const std::string& name);

/// The arguments of a `serve` of the shipped checkpoint that is done in a few seconds.
std::string short_serve();

}  // namespace swiftbalancer::testing
