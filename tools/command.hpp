#pragma once
// A subcommand of the tool: its settings and what it does. One .cpp file each; main.cpp lists them.
// Main thread.

#include <memory>
#include <string>
#include <string_view>

#include "settings.hpp"

namespace swiftbalancer::tool {

class Command {
 public:
  virtual ~Command() = default;
  virtual std::string_view name() const = 0;
  virtual std::string_view summary() const = 0;   ///< One line.
  virtual std::string_view examples() const = 0;  ///< For --help, a line each.
  /// The word after the subcommand ("" if it takes none), e.g. "LOADS", and its help.
  virtual std::string_view operand() const { return ""; }
  virtual std::string_view operand_help() const { return ""; }
  /// @param settings keep references into this object.
  virtual void declare(Settings& settings) = 0;
  /// @param command_line as typed. @throws Error
  virtual void run(const Settings& settings, const std::string& operand,
                   const std::string& command_line) = 0;
};

std::unique_ptr<Command> make_control_command();
std::unique_ptr<Command> make_serve_command();
std::unique_ptr<Command> make_plan_command();
std::unique_ptr<Command> make_compare_command();
std::unique_ptr<Command> make_inspect_command();
std::unique_ptr<Command> make_replay_command();

}  // namespace swiftbalancer::tool
