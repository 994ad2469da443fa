/* The table `MatrixKernels`: what one thread does of a product, in terms of product.h and floats.h. */
#pragma once

#include "codes.h"
#include "product.h"
#include "terms.h"
#include "floats.h"
#include "prepare.h"

constexpr int MOST_PANELS = FLOAT_PANELS > TILE_PANELS ? FLOAT_PANELS : TILE_PANELS;
constexpr int MOST_TOKENS = FLOAT_TOKENS > TILE_TOKENS ? FLOAT_TOKENS : TILE_TOKENS;
constexpr int TILE_UNITS = 4;     /* unpacked at a time, and asked of memory ahead */
constexpr int FEW = 16;           /* so few tokens read memory all the time: one unit after another */
constexpr int CHUNK = 128;        /* tokens that use an unpacked tile */
constexpr int64_t TERMS = 32768;  /* scale blocks of a chunk */

struct Scratch {
  alignas(64) uint8_t lines[MOST_PANELS * TILE_UNITS * 2048];
  alignas(64) float levels[FLOAT_PANELS * 2048];
  alignas(64) float scales[MOST_PANELS * TILE_UNITS * 64];
  alignas(64) float zeros[MOST_PANELS * TILE_UNITS * 64];
  alignas(64) float acc[CHUNK * MOST_PANELS * 16];
  alignas(64) float low[CHUNK * MOST_PANELS * 16];
  alignas(64) int32_t starts[TERMS];
  alignas(64) int32_t starts2[TERMS];
  alignas(64) float halves[TERMS];
  alignas(64) float sums[TERMS];
  alignas(64) float gains[TERMS];
};

/* One call of multiply. */
struct Call {
  Plan plan;
  Prepared view;
  Scratch *scratch;
  Terms terms;
  Unpack unpack;
  OneToken one;
  Tiles whole;
  bool small;
  const float *bias;
  void *y;
  int dtype, flags;
  int64_t stride;
};

/* Kernels for 1 .. T tokens, by number. */
template <int T, Passes PASSES, bool SMALL>
HGX_INLINE Tiles tile_for(int tokens) {
  if constexpr (T > 1) {
    if (tokens < T) return tile_for<T - 1, PASSES, SMALL>(tokens);
  }
  return tile<TILE_PANELS, T, PASSES, SMALL>;
}
template <bool SMALL>
HGX_INLINE Tiles tile_for(int tokens, int passes, bool odd) {
  constexpr int T = TILE_TOKENS;
  if (passes == 2) return tile_for<T, TWO, SMALL>(tokens);
  return odd ? tile_for<T, ONE_ODD, SMALL>(tokens) : tile_for<T, ONE_EVEN, SMALL>(tokens);
}
HGX_FUNCTION Tiles tile_for(int tokens, int passes, bool odd, bool small) {
  constexpr bool two = DOT_BIAS != 0; /* otherwise both kinds of operand are one */
  return small && two ? tile_for<two>(tokens, passes, odd) : tile_for<false>(tokens, passes, odd);
}
/* The faster ones for whole units, where there is one. */
template <Passes PASSES, bool SMALL>
HGX_INLINE Tiles whole_tile_for(int block) {
  switch (block) {
    case 32: return whole_tile<TILE_PANELS, TILE_TOKENS, PASSES, 32, SMALL>;
    case 64: return whole_tile<TILE_PANELS, TILE_TOKENS, PASSES, 64, SMALL>;
    default: return whole_tile<TILE_PANELS, TILE_TOKENS, PASSES, 128, SMALL>;
  }
}
HGX_FUNCTION Tiles whole_tile_for(const Plan &plan, bool small) {
  if (plan.zero != HGX_ZERO_NONE || (plan.passes == 1 && plan.odd)) return nullptr;
  constexpr bool two = DOT_BIAS != 0; /* otherwise both kinds of operand are one */
  if (plan.passes == 2) return small && two ? whole_tile_for<TWO, two>(plan.block) : whole_tile_for<TWO, false>(plan.block);
  return small && two ? whole_tile_for<ONE_EVEN, two>(plan.block) : whole_tile_for<ONE_EVEN, false>(plan.block);
}
template <int T>
HGX_INLINE FloatTiles float_tile_for(int tokens) {
  if constexpr (T > 1) {
    if (tokens < T) return float_tile_for<T - 1>(tokens);
  }
  return float_tile<FLOAT_PANELS, T>;
}
template <class C, int PASSES>
HGX_INLINE OneToken one_token_for(int block) {
#ifdef HGX_TILES_ONLY
  constexpr bool rare = true;
#else
  constexpr bool rare = PASSES == 2 && C::BITS < 5; /* never chosen by default */
#endif
  if constexpr (rare) {
    return nullptr;
  } else {
    switch (block) {
      case 32: return one_token<C, PASSES, 32>;
      case 64: return one_token<C, PASSES, 64>;
      case 128: return one_token<C, PASSES, 128>;
      default: return one_token<C, PASSES, 0>;
    }
  }
}

HGX_FUNCTION Plan plan_of(const hgx_matrix &m, int mode) {
  Plan plan;
  plan.matrix = &m;
  plan.units = units_of(m.inputs);
  plan.unit_bytes = unit_bytes(&m, 128);
  plan.panel_bytes = panel_bytes(&m);
  plan.row_bytes = row_bytes(&m);
  plan.bits = m.bits;
  plan.block = m.block ? m.block : 128;
  plan.blocks = 128 / plan.block;
  plan.log_block = plan.block == 32 ? 5 : plan.block == 64 ? 6 : 7;
  plan.scale = m.scale;
  plan.zero = m.zero;
  plan.zero_bytes = static_cast<int>(zero_bytes(m.zero));
  plan.mode = mode;
  plan.passes = mode == HGX_INT16 ? 2 : 1;
  const int bias = m.table == 0 && m.bits < 8 ? 0 : DOT_BIAS;
  plan.odd = (m.centre & 1) != 0;
  plan.factor = 2 * bias - m.centre;
  plan.lift = static_cast<float>(2 * bias - m.centre);
  int8_t levels[32];
  for (int i = 0; i < 32; ++i) levels[i] = static_cast<int8_t>(i);
  plan.table = t_make(m.table ? m.entries : levels, m.bits < 6 ? m.bits : 2, m.table && !DOT_BIAS ? 0x80 : 0);
  return plan;
}

HGX_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* Scales and zero points of one unit of panel `p` of `panels` to binary32. */
HGX_FUNCTION void read_scales(const Plan &plan, const uint8_t *unit, int width, int64_t panel, int panels, int p,
                              float *scales, float *zeros) {
  const int blocks = blocks_of(plan, width);
  if (plan.matrix->block == 0) {
    f_store(scales + p * 16, f_set(1.0f));
    if (plan.zero != HGX_ZERO_NONE) f_store(zeros + p * 16, row_zero(plan, panel));
    return;
  }
  const uint8_t *scale = unit + (width + 31) / 32 * 64 * plan.bits;
  const int scale_bytes = plan.scale == HGX_SCALE_U8 ? 16 : 32;
  const uint8_t *zero = scale + blocks * scale_bytes;
  for (int block = 0; block < blocks; ++block) {
    f_store(scales + (block * panels + p) * 16, load_scale(plan.scale, scale + block * scale_bytes));
    if (plan.zero == HGX_ZERO_NONE) continue;
    f_store(zeros + (block * panels + p) * 16, load_zero(plan.zero, zero + block * 16 * plan.zero_bytes));
  }
}

HGX_INLINE const uint8_t *unit_at(const Plan &plan, int64_t panel, int64_t unit) {
  return plan.matrix->data + panel * plan.panel_bytes + unit * plan.unit_bytes;
}

/* `body(first, count)` for full tiles; what is left over is a tile if it is half a tile, else shared with the last. */
template <class Body>
HGX_INLINE void for_tiles(int tokens, int most, Body body) {
  int first = 0;
  for (; tokens - first >= most + (most + 1) / 2; first += most) body(first, most);
  for (int rest = tokens - first, parts = (rest + most - 1) / most; parts > 0; --parts) {
    const int count = (rest + parts - 1) / parts;
    body(first, count);
    first += count;
    rest -= count;
  }
}

/* A few panels over a few units: unpacked, with their scales. The last panel stands in for those beyond `last`. */
HGX_FUNCTION void unpack_panels(Call &call, int64_t panel, int64_t last, int panels, int64_t unit, int units) {
  const Plan &plan = call.plan;
  Scratch &s = *call.scratch;
  for (int p = 0; p < panels; ++p) {
    const int64_t from = smaller(panel + p, last);
    for (int u = 0; u < units; ++u) {
      const uint8_t *const data = unit_at(plan, from, unit + u);
      const int64_t later = unit + u + TILE_UNITS, turn = later < plan.units ? 0 : 1;
      const uint8_t *const ahead = unit_at(plan, from + turn * panels, later - turn * plan.units);
      const int width = unit_width(plan, unit + u), place = u * plan.blocks * panels * 16;
      call.unpack(plan.table, data, (width + 31) / 32, ahead, s.lines + (u * panels + p) * 2048);
      if (plan.row_bytes == 0 || plan.matrix->block) prefetch(ahead + 256 * plan.bits);
      read_scales(plan, data, width, from, panels, p, s.scales + place, s.zeros + place);
    }
  }
}

/* Rows of y lie far apart, so every line of them has to come from far away: asked for in time, before `finish`. */
HGX_INLINE void ask_for_results(const Call &call, int64_t token, int tokens, int64_t panel, int panels) {
  const int64_t bytes = call.dtype == HGX_F32 ? 4 : 2, last = smaller(panel + panels, panels_of(call.plan.matrix->outputs));
  for (int t = 0; t < tokens; ++t) {
    const char *const row = static_cast<const char *>(call.y) + ((token + t) * call.stride + panel * 16) * bytes;
    for (int64_t p = 0; p < last - panel; ++p) prefetch_write(row + p * 16 * bytes);
  }
}

/* Integer products of TILE_PANELS panels over at most TILE_UNITS units. */
HGX_FUNCTION void integer_tiles(Call &call, int64_t token, int tokens, int64_t panel, int64_t unit, int units) {
  constexpr int P = TILE_PANELS;
  const Plan &plan = call.plan;
  Scratch &s = *call.scratch;
  const bool zeros = plan.zero == HGX_ZERO_U8 || plan.zero == HGX_ZERO_F16;
  const int64_t terms_stride = call.terms.units * plan.blocks, ahead = unit - call.terms.unit;
  for_tiles(tokens, TILE_TOKENS, [&](int first, int count) {
    if (unit + units == plan.units) ask_for_results(call, token + first, count, panel, P);
    Tile of;
    of.lines = s.lines;
    of.scales = s.scales;
    of.zeros = zeros ? s.zeros : nullptr;
    of.stride = call.view.units * 128;
    of.q1 = call.view.q1 + (token + first) * of.stride + unit * 128;
    of.q2 = plan.passes == 2 ? call.view.q2 + (token + first) * of.stride + unit * 128 : nullptr;
    of.terms_stride = terms_stride;
    const int64_t term = first * terms_stride + ahead * plan.blocks;
    of.starts = s.starts + term;
    of.starts2 = s.starts2 + term;
    of.halves = s.halves + term;
    of.sums = s.sums + term;
    of.gains_stride = call.terms.units;
    of.gains = s.gains + first * call.terms.units + ahead;
    of.acc = s.acc + first * P * 16;
    of.unit = unit;
    of.units = units;
    const bool whole = call.whole && count == TILE_TOKENS && unit_width(plan, unit + units - 1) == 128;
    (whole ? call.whole : tile_for(count, plan.passes, plan.odd, call.small))(plan, of);
    if (plan.zero == HGX_ZERO_MIN) add_lows(plan, of, P, count, s.zeros, s.low + first * P * 16);
  });
}

/* The same in binary32: FLOAT_PANELS panels, one unit. */
HGX_FUNCTION void float_tiles(Call &call, int64_t token, int tokens, int64_t unit) {
  constexpr int P = FLOAT_PANELS;
  const Plan &plan = call.plan;
  Scratch &s = *call.scratch;
  const int groups = (unit_width(plan, unit) + 31) / 32;
  for (int p = 0; p < P; ++p) {
    (call.small ? levels_of<true> : levels_of<false>)(plan, s.lines + p * 2048, groups * 8, P, p, s.levels);
  }
  const bool zeros = plan.zero == HGX_ZERO_U8 || plan.zero == HGX_ZERO_F16;
  const int64_t terms_stride = call.terms.units * plan.blocks, ahead = unit - call.terms.unit;
  for_tiles(tokens, FLOAT_TOKENS, [&](int first, int count) {
    FloatTile of;
    of.levels = s.levels;
    of.scales = s.scales;
    of.zeros = zeros ? s.zeros : nullptr;
    of.stride = call.view.units * 128;
    of.x = call.view.x + (token + first) * of.stride + unit * 128;
    of.terms_stride = terms_stride;
    of.sums = s.sums + first * terms_stride + ahead * plan.blocks;
    of.acc = s.acc + first * P * 16;
    of.unit = unit;
    float_tile_for<FLOAT_TOKENS>(count)(plan, of);
    if (plan.zero == HGX_ZERO_MIN) {
      Tile low;
      low.unit = unit, low.units = 1;
      low.sums = of.sums, low.terms_stride = terms_stride;
      low.gains = s.gains, low.gains_stride = 0;
      add_lows(plan, low, P, count, s.zeros, s.low + first * P * 16);
    }
  });
}

HGX_INLINE F load_any(const void *p, int dtype, int64_t at, int n) {
  if (dtype == HGX_F32) return f_load_n(static_cast<const float *>(p) + at, n);
  const uint16_t *const half = static_cast<const uint16_t *>(p) + at;
  return dtype == HGX_F16 ? f_from_f16_n(half, n) : f_from_bf16_n(half, n);
}
HGX_INLINE void store_any(void *p, int dtype, int64_t at, F x, int n) {
  if (dtype == HGX_F32) return f_store_n(static_cast<float *>(p) + at, x, n);
  uint16_t *const half = static_cast<uint16_t *>(p) + at;
  dtype == HGX_F16 ? f_to_f16_n(half, x, n) : f_to_bf16_n(half, x, n);
}

/* acc and low to y, `count` panels of `panels`. Token by token: rows of y lie far apart. */
HGX_FUNCTION void finish(const Call &call, int64_t token, int tokens, int64_t panel, int count, int panels) {
  const Plan &plan = call.plan;
  const hgx_matrix &m = *plan.matrix;
  const bool whole = m.block == 0;
  F r[MOST_PANELS], bias[MOST_PANELS];
  for (int p = 0; p < count; ++p) {
    const int64_t first = (panel + p) * 16;
    r[p] = f_set(s_power(m.exponent - 1));
    if (plan.row_bytes) {
      const uint8_t *const row = m.rows + (panel + p) * plan.row_bytes;
      r[p] = f_mul(f_from_f16(reinterpret_cast<const uint16_t *>(row)), r[p]);
    }
    bias[p] = call.bias ? f_load_n(call.bias + first, static_cast<int>(smaller(16, m.outputs - first))) : f_zero();
  }
  for (int t = 0; t < tokens; ++t) {
    for (int p = 0; p < count; ++p) {
      const int64_t first = (panel + p) * 16, at = (token + t) * call.stride + first;
      const int n = static_cast<int>(smaller(16, m.outputs - first)), place = (t * panels + p) * 16;
      F y = f_mul(f_load(call.scratch->acc + place), r[p]);
      if (plan.zero == HGX_ZERO_MIN) {
        F low = f_load(call.scratch->low + place);
        if (whole) low = f_mul(low, row_zero(plan, panel + p));
        y = f_fma(low, f_set(0.5f), y);
      }
      if (call.bias) y = f_add(y, bias[p]);
      if (call.flags & HGX_ADD) y = f_add(load_any(call.y, call.dtype, at, n), y);
      store_any(call.y, call.dtype, at, y, n);
    }
  }
}

/* `count` panels (at most `panels`), all units, a chunk of tokens. */
HGX_FUNCTION void some_panels(Call &call, int64_t token, int tokens, int64_t panel, int count, int panels) {
  const Plan &plan = call.plan;
  Scratch &s = *call.scratch;
  const size_t bytes = static_cast<size_t>(tokens * panels) * 64;
  memset(s.acc, 0, bytes);
  if (plan.zero == HGX_ZERO_MIN) memset(s.low, 0, bytes);
  const int64_t window = smaller(plan.units, TERMS / (static_cast<int64_t>(tokens) * plan.blocks));
  for (int64_t unit = 0; unit < plan.units; unit += window) {
    const int64_t units = smaller(window, plan.units - unit);
    fill_terms(plan, call.view, token, tokens, unit, units, call.terms);
    if (tokens == 1 && call.one) {
      const int64_t at = token * call.view.units * 128 + unit * 128;
      const int8_t *const q1 = call.view.q1 + at, *const q2 = plan.passes == 2 ? call.view.q2 + at : nullptr;
      for (int p = 0; p < count; ++p) {
        const Span span = {unit, units, unit_at(plan, panel + p, unit), q1, q2};
        call.one(plan, call.terms, span, s.acc + p * 16);
      }
      continue;
    }
    const int step = plan.mode == HGX_FLOAT || tokens <= FEW ? 1 : TILE_UNITS;
    for (int64_t u = unit; u < unit + units; u += step) {
      const int some = static_cast<int>(smaller(step, unit + units - u));
      unpack_panels(call, panel, panel + count - 1, panels, u, some);
      if (plan.mode == HGX_FLOAT) {
        float_tiles(call, token, tokens, u);
      } else {
        integer_tiles(call, token, tokens, panel, u, some);
      }
    }
  }
  finish(call, token, tokens, panel, count, panels);
}

HGX_FUNCTION void multiply(const hgx_matrix &matrix, const Prepared &view, int64_t token_begin, int64_t token_end,
                           int mode, int64_t panel_begin, int64_t panel_end, const float *bias, void *y, int y_dtype,
                           int64_t y_stride, int flags, void *scratch) {
  Call call;
  call.plan = plan_of(matrix, mode);
  call.view = view;
  call.scratch = static_cast<Scratch *>(scratch);
  Scratch &s = *call.scratch;
  call.terms = {-1, -1, -1, s.starts, s.starts2, s.halves, s.sums, s.gains};
  call.bias = bias;
  call.y = y;
  call.dtype = y_dtype;
  call.flags = flags;
  call.stride = y_stride;
  with_codes(matrix.bits, matrix.table != 0, [&](auto codes) {
    typedef decltype(codes) C;
    call.unpack = unpack_unit<C>;
    call.small = C::SMALL;
    call.whole = mode == HGX_FLOAT ? nullptr : whole_tile_for(call.plan, C::SMALL);
    const bool plain = mode != HGX_FLOAT && matrix.zero == HGX_ZERO_NONE && matrix.scale != HGX_SCALE_F16;
    call.one = !plain                  ? nullptr
               : call.plan.passes == 2 ? one_token_for<C, 2>(matrix.block)
                                       : one_token_for<C, 1>(matrix.block);
  });
  /* Chunks so that the terms of all units fit, of nearly the same size, in whole register tiles. */
  const int64_t fit = smaller(CHUNK, TERMS / smaller(TERMS, call.plan.units * call.plan.blocks));
  const int64_t most = fit < MOST_TOKENS ? MOST_TOKENS : fit - fit % MOST_TOKENS;
  const int64_t chunks = (token_end - token_begin + most - 1) / most;
  for (int64_t chunk = 0, token = token_begin; chunk < chunks; ++chunk) {
    const int64_t even = round_up((token_end - token + chunks - chunk - 1) / (chunks - chunk), MOST_TOKENS);
    const int tokens = static_cast<int>(smaller(even, token_end - token));
    const int panels = mode == HGX_FLOAT ? FLOAT_PANELS : TILE_PANELS;
    for (int64_t panel = panel_begin; panel < panel_end; panel += panels) {
      some_panels(call, token, tokens, panel, static_cast<int>(smaller(panels, panel_end - panel)), panels);
    }
    token += tokens;
  }
}

constexpr MatrixKernels matrix_kernels = {prepare, prepare_units, multiply, sizeof(Scratch), MOST_PANELS, MOST_TOKENS};
