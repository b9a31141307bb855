// The program `swiftbalancer-planner`: see planner_process/program.hpp.

#include <charconv>
#include <cstdio>
#include <string_view>

#include "runtime/planner_process/child.hpp"
#include "runtime/planner_process/program.hpp"

namespace {

template <typename Number>
bool read_number(std::string_view text, Number& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size();
}

}  // namespace

int main(int argc, char** argv) {
  pid_t parent = 0;
  std::size_t max_memory_bytes = 0;
  if (argc != 3 || !read_number(argv[1], parent) || !read_number(argv[2], max_memory_bytes)) {
    std::fputs(
        "swiftbalancer-planner: started by the balancer (worker kind process), not by hand\n",
        stderr);
    return swiftbalancer::kPlannerExitUsage;
  }
  return swiftbalancer::run_planner_program(swiftbalancer::kPlannerDescriptor, parent,
                                            max_memory_bytes);
}
