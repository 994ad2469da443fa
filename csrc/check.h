// What callers may ask for. Sizes are computed so that they cannot wrap.
#pragma once

#include <cstdint>

#include "higgsx.h"

namespace higgsx {

inline constexpr int64_t kMaxSize = int64_t{1} << 48;  // a dimension is below this

inline bool is_dtype(int dtype) { return dtype == HGX_F32 || dtype == HGX_F16 || dtype == HGX_BF16; }
inline bool is_mode(int mode) { return mode == HGX_INT8 || mode == HGX_INT16 || mode == HGX_FLOAT; }
inline bool are_modes(int modes) { return modes > 0 && modes <= (HGX_INT8 | HGX_INT16 | HGX_FLOAT); }

// Whether `rows` rows of `columns` elements, `stride` elements apart, can be addressed at all.
bool fits(int64_t rows, int64_t columns, int64_t stride, int64_t element_bytes);

}  // namespace higgsx
