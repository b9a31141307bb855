#pragma once
// What the program `swiftbalancer-planner` does: the same Planner as the worker thread has, fed by
// messages; between two of them it plans one layer, so that it hears soon what has changed. It ends
// when its parent goes. Single thread.

#include <cstddef>

#include <sys/types.h>

namespace swiftbalancer {

/// @param descriptor of the PlannerChannel's memory; closed.
/// @param parent the process that started this one.
/// @param max_memory_bytes of address space; 0: no limit.
/// @returns the program's exit status (PlannerExit); says on stderr why it failed.
int run_planner_program(int descriptor, pid_t parent, std::size_t max_memory_bytes) noexcept;

}  // namespace swiftbalancer
