/* Where the sections of prepared activations lie (higgsx.h, "Activations"). */
#pragma once

#include <stdint.h>

#include "higgsx.h"

namespace higgsx {

struct Prepared {
  int64_t inputs, tokens, units; /* rows of the sections are 128 * units, units, or 4 * units long */
  int8_t *q1, *q2;
  float *scale, *x, *sumx;
  int32_t *sum1, *sum2;
};

/* Bytes of all sections; sets `view` where it is not null, from `buffer`. Sizes must have been checked:
 * inputs and tokens up to 2^48, their product up to 2^56. */
static inline int64_t prepared_layout(int64_t inputs, int64_t tokens, int modes, void *buffer, Prepared *view) {
  const int64_t units = (inputs + 127) / 128;
  Prepared result = {inputs, tokens, units, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
  uint8_t *const base = static_cast<uint8_t *>(buffer);
  int64_t bytes = 0;
  const auto section = [&](int64_t size) {
    uint8_t *const place = base ? base + bytes : nullptr;
    bytes += (size + 63) / 64 * 64;
    return static_cast<void *>(place);
  };
  if (modes & (HGX_INT8 | HGX_INT16)) {
    result.q1 = static_cast<int8_t *>(section(tokens * units * 128));
    result.scale = static_cast<float *>(section(tokens * units * 4));
    result.sum1 = static_cast<int32_t *>(section(tokens * units * 16));
  }
  if (modes & HGX_INT16) {
    result.q2 = static_cast<int8_t *>(section(tokens * units * 128));
    result.sum2 = static_cast<int32_t *>(section(tokens * units * 16));
  }
  if (modes & HGX_FLOAT) {
    result.x = static_cast<float *>(section(tokens * units * 512));
    result.sumx = static_cast<float *>(section(tokens * units * 16));
  }
  if (view) *view = result;
  return bytes;
}

}  // namespace higgsx
