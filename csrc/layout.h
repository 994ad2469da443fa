// Sizes of a payload (docs/format.md section 4.2). Functions are static: each tier has its own copy of them.
#pragma once

#include <cstdint>

#include "higgsx.h"

namespace higgsx {

inline constexpr int64_t kPanel = 16;  // rows of a panel
inline constexpr int64_t kUnit = 128;  // inputs of a unit
inline constexpr int64_t kGrain = 32;  // units are padded to a multiple of this many inputs

static inline int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }
static inline int64_t units_of(int64_t inputs) { return (inputs + kUnit - 1) / kUnit; }
static inline int64_t panels_of(int64_t outputs) { return (outputs + kPanel - 1) / kPanel; }

static inline int64_t dtype_bytes(int dtype) { return dtype == HGX_F32 ? 4 : 2; }
static inline int64_t scale_bytes(int scale) { return scale == HGX_SCALE_U8 ? 1 : 2; }
static inline int64_t zero_bytes(int zero) { return zero == HGX_ZERO_NONE ? 0 : zero == HGX_ZERO_U8 ? 1 : 2; }

// Bytes of the codes of `width` inputs of a unit.
static inline int64_t code_bytes(const hgx_matrix *matrix, int64_t width) {
  return round_up(width, kGrain) * 2 * matrix->bits;
}

// Bytes of a unit of `width` inputs.
static inline int64_t unit_bytes(const hgx_matrix *matrix, int64_t width) {
  if (matrix->block == 0) return code_bytes(matrix, width);
  const int64_t blocks = (width + matrix->block - 1) / matrix->block;
  return code_bytes(matrix, width) + blocks * kPanel * (scale_bytes(matrix->scale) + zero_bytes(matrix->zero));
}

static inline int64_t panel_bytes(const hgx_matrix *matrix) {
  const int64_t rest = matrix->inputs % kUnit;
  return matrix->inputs / kUnit * unit_bytes(matrix, kUnit) + (rest == 0 ? 0 : unit_bytes(matrix, rest));
}

// Bytes that a panel has in the second array; 0 where there is none.
static inline int64_t row_bytes(const hgx_matrix *matrix) {
  if (matrix->block == 0) return kPanel * (2 + zero_bytes(matrix->zero));
  return matrix->scale == HGX_SCALE_U8 ? kPanel * 2 : 0;
}

// The whole row, or what blocks of the transform start anew after.
static inline int64_t segment_of(const hgx_matrix *matrix) {
  return matrix->segment == 0 ? matrix->inputs : matrix->segment;
}

}  // namespace higgsx
