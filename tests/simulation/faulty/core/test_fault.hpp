#pragma once
// In the fault build: the hook of the runtime's rules.

#include "active_fault.hpp"
