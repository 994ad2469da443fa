// The machine: status messages, tiers, threads. Other parts of the interface: check.cpp (matrices),
// products.cpp, values.cpp, attention_abi.cpp, program.cpp, probe.cpp.
#include "cpu.h"
#include "higgsx.h"
#include "pool.h"

using namespace higgsx;

extern "C" {

int hgx_abi(void) { return HGX_ABI; }

const char *hgx_message(int status) {
  switch (status) {
    case HGX_OK: return "done";
    case HGX_BAD_ARGUMENT: return "an argument is missing or impossible";
    case HGX_BAD_MATRIX: return "the parameters of a matrix contradict each other";
    case HGX_BAD_SIZE: return "an array is shorter than its shape needs";
    case HGX_BAD_INDEX: return "a row, buffer, position or sequence that is not there";
    case HGX_NO_TIER: return "unknown tier, or this processor lacks it";
    case HGX_NO_MEMORY: return "out of memory";
    default: return "unknown status";
  }
}

const char *hgx_tier_name(int index) {
  const Tier *tier = tier_at(index);
  return tier == nullptr ? nullptr : tier->name;
}

int hgx_tier_runs(const char *name) {
  const Tier *tier = tier_named(name);
  return tier != nullptr && tier_runs(tier) ? 1 : 0;
}

int hgx_set_tier(const char *name) {
  const Tier *tier = tier_named(name);
  if (name != nullptr && tier == nullptr) return HGX_NO_TIER;
  return set_tier(tier) ? HGX_OK : HGX_NO_TIER;
}

const char *hgx_tier(void) { return current_tier()->name; }

int hgx_set_threads(int threads) { return pool_set_threads(threads) ? HGX_OK : HGX_BAD_ARGUMENT; }

int hgx_threads(void) { return pool_threads(); }

int hgx_borrow_threads(void (*parallel)(void (*)(void *), void *, unsigned, unsigned), int (*number)(void),
                       int (*team)(void)) {
  return pool_borrow(parallel, number, team) ? HGX_OK : HGX_BAD_ARGUMENT;
}

}
