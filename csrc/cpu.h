// Which tiers there are and which of them this processor can run.
#pragma once

#include "tables.h"

namespace higgsx {

// Tiers compiled in, lowest first; NULL beyond the last.
const Tier *tier_at(int index);
const Tier *tier_named(const char *name);
// Whether processor and operating system can run it.
bool tier_runs(const Tier *tier);
// The tier in use: what was set, else the highest that runs.
const Tier *current_tier();
// NULL: the highest that runs. False where it cannot run.
bool set_tier(const Tier *tier);

}  // namespace higgsx
