/* Products with panels: what one thread does of a call. All arguments are checked by the caller. */
#pragma once

#include <stdint.h>

#include "higgsx.h"
#include "prepared.h"

namespace higgsx {

struct MatrixKernels {
  /* Activations of one token: transform, quantize, write the sections of `modes`, for units unit_begin ..
   * unit_end - 1. x: the token's `inputs` numbers. Any split over tokens and units gives the same bytes;
   * cheapest where unit_begin is a multiple of `prepare_units(matrix)`. */
  void (*prepare)(const hgx_matrix &matrix, const void *x, int x_dtype, int modes, const Prepared &view, int64_t token,
                  int64_t unit_begin, int64_t unit_end);
  /* Units that one butterfly touches, 1 to 16. */
  int64_t (*prepare_units)(const hgx_matrix &matrix);

  /* y[token][16 panel ..] for tokens token_begin .. token_end - 1 and panels panel_begin .. panel_end - 1. `y` is
   * that of token 0. Any split gives the same bits; fastest where ranges of panels are multiples of `panels_at_once`
   * and tokens are not split (or in multiples of `tokens_at_once`). scratch: `scratch_bytes`, aligned to 64, one for
   * each thread, its contents do not matter. */
  void (*multiply)(const hgx_matrix &matrix, const Prepared &view, int64_t token_begin, int64_t token_end, int mode,
                   int64_t panel_begin, int64_t panel_end, const float *bias, void *y, int y_dtype, int64_t y_stride,
                   int flags, void *scratch);
  int64_t scratch_bytes;
  int32_t panels_at_once;
  int32_t tokens_at_once;
};

}  // namespace higgsx
