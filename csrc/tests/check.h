// What the drivers share: checks that end the process, random numbers, buffers of exactly the size asked for.
#ifndef HIGGSX_TESTS_CHECK_H
#define HIGGSX_TESTS_CHECK_H

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "../higgsx.h"

namespace check {

inline void fail(const char *file, int line, const char *what, const std::string &where) {
  std::fprintf(stderr, "%s:%d: %s [%s]\n", file, line, what, where.c_str());
  std::abort();
}

#define CHECK(condition, where) \
  do { \
    if (!(condition)) check::fail(__FILE__, __LINE__, #condition, where); \
  } while (0)
#define CHECK_OK(call, where) \
  do { \
    const int status_ = (call); \
    if (status_ != HGX_OK) check::fail(__FILE__, __LINE__, #call, std::string(hgx_message(status_)) + ": " + (where)); \
  } while (0)

// SplitMix64
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = (state_ += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  int64_t below(int64_t end) { return static_cast<int64_t>(next() % static_cast<uint64_t>(end)); }
  template <typename T, size_t n>
  T pick(const T (&choices)[n]) {
    return choices[below(static_cast<int64_t>(n))];
  }
  // -1 to 1
  float number() { return static_cast<float>(static_cast<double>(next() >> 11) / 4503599627370496.0 - 1.0); }

 private:
  uint64_t state_;
};

// Memory of its own on the heap, so that a sanitizer sees every access beyond it. Filled with 0xFF.
class Bytes {
 public:
  Bytes() = default;
  explicit Bytes(int64_t size) : size_(size), data_(new uint8_t[static_cast<size_t>(size)]) {
    std::memset(data_.get(), 0xFF, static_cast<size_t>(size));
  }
  uint8_t *data() const { return data_.get(); }
  template <typename T>
  T *as() const {
    return reinterpret_cast<T *>(data_.get());
  }
  int64_t size() const { return size_; }
  void fill_random(Random &random) {
    for (int64_t i = 0; i < size_; ++i) data_[static_cast<size_t>(i)] = static_cast<uint8_t>(random.next());
  }
  void fill_numbers(Random &random, float scale) {
    for (int64_t i = 0; i < size_ / 4; ++i) as<float>()[i] = random.number() * scale;
  }

 private:
  int64_t size_ = 0;
  std::unique_ptr<uint8_t[]> data_;
};

inline uint32_t canonical(uint32_t bits, int dtype) {
  const uint32_t infinity = dtype == HGX_F32 ? 0x7F800000u : dtype == HGX_F16 ? 0x7C00u : 0x7F80u;
  const uint32_t sign = dtype == HGX_F32 ? 0x80000000u : 0x8000u;
  return (bits & ~sign) > infinity ? infinity + 1 : bits;
}

// Equal to the bit, any NaN like any other.
inline bool same(const Bytes &a, const Bytes &b, int dtype) {
  if (a.size() != b.size()) return false;
  const int64_t width = dtype == HGX_F32 ? 4 : 2;
  for (int64_t at = 0; at + width <= a.size(); at += width) {
    uint32_t x = 0, y = 0;
    std::memcpy(&x, a.data() + at, static_cast<size_t>(width));
    std::memcpy(&y, b.data() + at, static_cast<size_t>(width));
    if (canonical(x, dtype) != canonical(y, dtype)) return false;
  }
  return true;
}

inline int64_t item(int dtype) { return dtype == HGX_F32 ? 4 : 2; }

// Names of the tiers that run here, "scalar" first.
inline int tiers(const char *(&names)[16]) {
  int count = 0;
  for (int i = 0; hgx_tier_name(i) != nullptr && count < 16; ++i)
    if (hgx_tier_runs(hgx_tier_name(i))) names[count++] = hgx_tier_name(i);
  CHECK(count > 0 && std::string(names[0]) == "scalar", "tiers");
  return count;
}

inline void use(const char *tier) {
  CHECK_OK(hgx_set_tier(tier), tier);
  CHECK(std::string(hgx_tier()) == tier, tier);
}

}  // namespace check

// The drivers, each in its own file.
void drive_matrices(int rounds);
void drive_attention(int rounds);
void drive_programs(int rounds);
void drive_arguments(int rounds);
void drive_threads(int rounds);

#endif
