// Elementwise steps.
#pragma once

#include "math.h"

namespace decoder {

HGX_INLINE F act_of(int kind, F x) {
  switch (kind) {
    case HGX_RELU: return f_select(f_less(x, f_zero()), f_zero(), x);
    case HGX_GELU_TANH: return gelu_tanh_of(x);
    case HGX_GELU_ERF: return gelu_erf_of(x);
    case HGX_SILU: return gated(x, x);
    default: return gated(x, f_mul(x, f_set(1.702f)));  // HGX_QUICK_GELU
  }
}

template <int KIND>
static void act_rows(int64_t n, const float *a, const float *b, float *out) {
  for (int64_t i = 0; i < n; i += 16) {
    const int lanes = n - i < 16 ? static_cast<int>(n - i) : 16;
    F y = act_of(KIND, f_load_n(a + i, lanes));
    if (b != nullptr) y = f_mul(y, f_load_n(b + i, lanes));
    f_store_n(out + i, y, lanes);
  }
}

static void act(int kind, int64_t n, const float *a, const float *b, float *out) {
  switch (kind) {
    case HGX_RELU: return act_rows<HGX_RELU>(n, a, b, out);
    case HGX_GELU_TANH: return act_rows<HGX_GELU_TANH>(n, a, b, out);
    case HGX_GELU_ERF: return act_rows<HGX_GELU_ERF>(n, a, b, out);
    case HGX_SILU: return act_rows<HGX_SILU>(n, a, b, out);
    default: return act_rows<HGX_QUICK_GELU>(n, a, b, out);
  }
}

static void sum(int64_t n, const float *a, const float *b, float *out) {
  for (int64_t i = 0; i < n; i += 16) {
    const int lanes = n - i < 16 ? static_cast<int>(n - i) : 16;
    f_store_n(out + i, f_add(f_load_n(a + i, lanes), f_load_n(b + i, lanes)), lanes);
  }
}

static void scale(int64_t n, float factor, float *x) {
  for (int64_t i = 0; i < n; i += 16) {
    const int lanes = n - i < 16 ? static_cast<int>(n - i) : 16;
    f_store_n(x + i, f_mul(f_load_n(x + i, lanes), f_set(factor)), lanes);
  }
}

static void scaled_sum(int64_t n, float factor, const float *a, float *out) {
  for (int64_t i = 0; i < n; i += 16) {
    const int lanes = n - i < 16 ? static_cast<int>(n - i) : 16;
    const F term = f_mul(f_load_n(a + i, lanes), f_set(factor));
    f_store_n(out + i, f_add(f_load_n(out + i, lanes), term), lanes);
  }
}

HGX_INLINE F cap_of(F x, float limit) { return f_mul(f_set(limit), tanh_of(f_div(x, f_set(limit)))); }

static void cap(int64_t n, float limit, float *x) {
  for (int64_t i = 0; i < n; i += 16) {
    const int lanes = n - i < 16 ? static_cast<int>(n - i) : 16;
    f_store_n(x + i, cap_of(f_load_n(x + i, lanes), limit), lanes);
  }
}

static void function(int which, int64_t n, const float *x, float *out) {
  for (int64_t i = 0; i < n; i += 16) {
    const int lanes = n - i < 16 ? static_cast<int>(n - i) : 16;
    const F a = f_load_n(x + i, lanes);
    const F y = which == 0 ? exp_of(a) : which == 1 ? exp2_of(a) : which == 2 ? tanh_of(a) : erf_of(a);
    f_store_n(out + i, y, lanes);
  }
}

}  // namespace decoder
