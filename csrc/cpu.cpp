#include "cpu.h"

#include <atomic>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace higgsx {

// Each is defined by a file of tiers/ if the compiler can make it.
extern const Tier tier_scalar;
#ifdef HGX_HAVE_AVX2
extern const Tier tier_avx2;
#endif
#ifdef HGX_HAVE_AVXVNNI
extern const Tier tier_avxvnni;
#endif
#ifdef HGX_HAVE_AVX512
extern const Tier tier_avx512;
#endif
#ifdef HGX_HAVE_VNNI
extern const Tier tier_vnni;
#endif
#ifdef HGX_HAVE_VBMI
extern const Tier tier_vbmi;
#endif
#ifdef HGX_HAVE_NEON
extern const Tier tier_neon;
#endif

namespace {

bool always() { return true; }

#if defined(__x86_64__)
// What the processor has and the operating system saves.
struct Features {
  bool avx2 = false, avxvnni = false, avx512 = false, vnni = false, vbmi = false;

  Features() {
    uint32_t a, b, c, d;
    if (!__get_cpuid_count(1, 0, &a, &b, &c, &d)) return;
    const bool fma = has(c, 12), f16c = has(c, 29), osxsave = has(c, 27), avx = has(c, 28);
    if (!osxsave || !avx || !fma || !f16c) return;
    uint32_t low, high;
    __asm__ __volatile__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    const bool saves_ymm = (low & 0x06) == 0x06, saves_zmm = (low & 0xe6) == 0xe6;
    if (!saves_ymm || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
    const uint32_t extended = b, more = c, subleaves = a;
    avx2 = has(extended, 5);
    if (avx2 && subleaves >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) avxvnni = has(a, 4);
    // F, DQ, BW, VL
    avx512 = avx2 && saves_zmm && has(extended, 16) && has(extended, 17) && has(extended, 30) && has(extended, 31);
    vnni = avx512 && has(more, 11);
    vbmi = vnni && has(more, 1);
  }

  static bool has(uint32_t bits, int bit) { return (bits >> bit & 1) != 0; }
};

[[maybe_unused]] bool has_avx2() { return Features().avx2; }
[[maybe_unused]] bool has_avxvnni() { return Features().avxvnni; }
[[maybe_unused]] bool has_avx512() { return Features().avx512; }
[[maybe_unused]] bool has_vnni() { return Features().vnni; }
[[maybe_unused]] bool has_vbmi() { return Features().vbmi; }
#elif defined(__aarch64__)
// Byte dot products and binary16 arithmetic.
[[maybe_unused]] bool has_neon() {
#if defined(__APPLE__)
  return true;
#elif defined(__linux__)
  const unsigned long bits = getauxval(AT_HWCAP);
  return (bits >> 20 & 1) != 0 && (bits >> 10 & 1) != 0;  // ASIMDDP, ASIMDHP
#else
  return false;
#endif
}
#endif

struct Entry {
  const Tier *tier;
  bool (*runs)();
};

const Entry kTiers[] = {
    {&tier_scalar, always},
#ifdef HGX_HAVE_AVX2
    {&tier_avx2, has_avx2},
#endif
#ifdef HGX_HAVE_AVXVNNI
    {&tier_avxvnni, has_avxvnni},
#endif
#ifdef HGX_HAVE_AVX512
    {&tier_avx512, has_avx512},
#endif
#ifdef HGX_HAVE_VNNI
    {&tier_vnni, has_vnni},
#endif
#ifdef HGX_HAVE_VBMI
    {&tier_vbmi, has_vbmi},
#endif
#ifdef HGX_HAVE_NEON
    {&tier_neon, has_neon},
#endif
};
constexpr int kCount = static_cast<int>(sizeof kTiers / sizeof kTiers[0]);

std::atomic<const Tier *> chosen{nullptr};

const Tier *highest() {
  const Tier *best = &tier_scalar;
  for (const Entry& entry : kTiers) {
    if (entry.runs()) best = entry.tier;
  }
  return best;
}

}  // namespace

const Tier *tier_at(int index) { return index >= 0 && index < kCount ? kTiers[index].tier : nullptr; }

const Tier *tier_named(const char *name) {
  if (name == nullptr) return nullptr;
  for (const Entry& entry : kTiers) {
    if (std::strcmp(entry.tier->name, name) == 0) return entry.tier;
  }
  return nullptr;
}

bool tier_runs(const Tier *tier) {
  for (const Entry& entry : kTiers) {
    if (entry.tier == tier) return entry.runs();
  }
  return false;
}

const Tier *current_tier() {
  const Tier *now = chosen.load(std::memory_order_acquire);
  if (now != nullptr) return now;
  const Tier *none = nullptr;
  const Tier *best = highest();
  return chosen.compare_exchange_strong(none, best) ? best : none;
}

bool set_tier(const Tier *tier) {
  if (tier == nullptr) tier = highest();
  if (!tier_runs(tier)) return false;
  chosen.store(tier, std::memory_order_release);
  return true;
}

}  // namespace higgsx
