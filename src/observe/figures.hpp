#pragma once
// What the headline says, derived from a run file: which windows count, how much of the excess a
// policy removed, which run is the one to look at. Pure; thread-safe.

#include <optional>
#include <vector>

#include "observe/run_file.hpp"

namespace swiftbalancer::observe {

/// [windows] true from the second window after the one that holds a domain switch (or the start of
/// the run) until the next switch: a policy can answer a switch only once it has seen it.
std::vector<bool> windows_after_switches(const RunFile& file);

/// Mean of the values whose window counts; none when no window does.
std::optional<double> mean_after_switches(const RunFile& file, const Series& per_window);
std::optional<double> mean(const Series& values);

/// The run without balancing (policy static or none), which the others are compared with; null when
/// there is none.
const Run* baseline(const RunFile& file);
/// The run that the headline speaks of: swift if it ran, else the last that is not the baseline,
/// else the baseline.
const Run& featured(const RunFile& file);

/// (baseline - run) / (baseline - hindsight) over the windows after switches: 1 is as good as a
/// plan made for every window with that window's own load, 0 as bad as no balancing. None without
/// baseline, for itself, or without excess to remove.
std::optional<double> excess_removed(const RunFile& file, const Run& run);

/// Bytes at the size of the named model's experts where the file has a hardware profile, else those
/// really moved.
double shown_bytes(const Run& run);

}  // namespace swiftbalancer::observe
