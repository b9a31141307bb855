// The `swiftbalancer` command: reads the command line, runs a subcommand, and turns every failure
// into one line. Exit code 0: done. 2: bad input. 1: anything else.

#include <algorithm>
#include <array>
#include <cstdio>
#include <map>

#include <CLI/CLI.hpp>

#include <swiftbalancer/error.hpp>

#include "command.hpp"

namespace swiftbalancer::tool {
namespace {

// What was typed for one subcommand.
struct Typed {
  std::string config;
  std::string operand;
  std::map<std::string, std::string> values;  // by key
};

struct Entry {
  std::unique_ptr<Command> command;
  Settings settings;
  Typed typed;
  CLI::App* app = nullptr;
};

void add_setting(CLI::App& app, const Setting& setting, Typed& typed) {
  const std::string flag =
      setting.short_flag.empty() ? flag_of(setting) : setting.short_flag + "," + flag_of(setting);
  if (setting.kind == SettingKind::kFlag) {
    app.add_flag_callback(
        flag, [&typed, key = setting.key] { typed.values[key] = "true"; }, setting.help);
    return;
  }
  const std::string value = setting.text();
  const std::string help =
      setting.help + " (" + setting.allowed + (value.empty() ? ")" : "; default " + value + ")");
  CLI::Option* option =
      app.add_option_function<std::string>(
             flag,
             [&typed, key = setting.key](const std::string& text) { typed.values[key] = text; },
             help)
          ->type_name("")
          ->take_last();
  if (setting.operand) option->required();
}

void add_command(CLI::App& app, Entry& entry) {
  entry.command->declare(entry.settings);
  entry.app =
      app.add_subcommand(std::string(entry.command->name()), std::string(entry.command->summary()));
  entry.app->footer("Examples:\n" + std::string(entry.command->examples()));
  if (!entry.command->operand().empty()) {
    entry.app
        ->add_option(std::string(entry.command->operand()), entry.typed.operand,
                     std::string(entry.command->operand_help()))
        ->required()
        ->type_name("");
  }
  if (entry.settings.all().empty()) return;
  entry.app
      ->add_option("--config", entry.typed.config,
                   "YAML file with the same keys, underscores for dashes; flags override it")
      ->type_name("");
  for (const Setting& setting : entry.settings.all()) add_setting(*entry.app, setting, entry.typed);
}

void run(Entry& entry, const std::string& command_line) {
  if (!entry.typed.config.empty()) entry.settings.load(entry.typed.config);
  for (Setting& setting : entry.settings.all()) {
    const auto typed = entry.typed.values.find(setting.key);
    if (typed != entry.typed.values.end())
      entry.settings.assign(setting, typed->second, flag_of(setting));
  }
  entry.command->run(entry.settings, entry.typed.operand, command_line);
}

int fail(std::string message, int exit_code) {
  std::ranges::replace(message, '\n', ' ');
  std::fflush(stdout);
  std::fprintf(stderr, "swiftbalancer: error: %s\n", message.c_str());
  return exit_code;
}

bool is_bad_input(ErrorCode code) {
  return code == ErrorCode::kInvalidArgument || code == ErrorCode::kIo ||
         code == ErrorCode::kUnsupported;
}

int main_checked(int argc, char** argv) {
  CLI::App app("Balances the experts of a Mixture-of-Experts model while it serves.",
               "swiftbalancer");
  app.set_version_flag("--version", "swiftbalancer " SWIFTBALANCER_VERSION);
  app.require_subcommand(1);
  app.footer("Each subcommand has its own --help with examples.");

  std::array<Entry, 6> entries;
  entries[0].command = make_serve_command();
  entries[1].command = make_plan_command();
  entries[2].command = make_inspect_command();
  entries[3].command = make_control_command();
  entries[4].command = make_compare_command();
  entries[5].command = make_replay_command();
  for (Entry& entry : entries) add_command(app, entry);

  const std::string_view first = argc > 1 ? argv[1] : "-";
  if (!first.starts_with("-") && std::ranges::none_of(entries, [&](const Entry& entry) {
        return entry.command->name() == first;
      })) {
    return fail("unknown subcommand '" + std::string(first) +
                    "'; the subcommands are: serve, plan, inspect, control, compare, replay",
                2);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {
    return app.exit(success);  // --help, --version
  } catch (const CLI::ParseError& error) {
    return fail(std::string(error.what()) + "; see swiftbalancer --help", 2);
  }

  std::string command_line = "swiftbalancer";
  for (int i = 1; i < argc; ++i) command_line += std::string(" ") + argv[i];
  for (Entry& entry : entries) {
    if (entry.app->parsed()) run(entry, command_line);
  }
  return 0;
}

}  // namespace
}  // namespace swiftbalancer::tool

int main(int argc, char** argv) {
  using namespace swiftbalancer;
  try {
    return tool::main_checked(argc, argv);
  } catch (const Error& error) {
    return tool::fail(error.what(), tool::is_bad_input(error.code()) ? 2 : 1);
  } catch (const std::exception& error) {
    return tool::fail(std::string("internal: ") + error.what(), 1);
  }
}
