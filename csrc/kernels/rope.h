// Rotary embedding of one token, and its keys and values into the cache.
#pragma once

namespace decoder {

// (a, b) becomes (a cos - b sin, b cos + a sin): the second product rounded, then one fma.
static void rope_halves(float *x, int64_t half, const float *cos, const float *sin) {
  for (int64_t i = 0; i < half; i += 16) {
    const int lanes = half - i < 16 ? static_cast<int>(half - i) : 16;
    const F c = f_load_n(cos + i, lanes), s = f_load_n(sin + i, lanes);
    const F a = f_load_n(x + i, lanes), b = f_load_n(x + half + i, lanes);
    f_store_n(x + i, f_fma(a, c, f_neg(f_mul(b, s))), lanes);
    f_store_n(x + half + i, f_fma(b, c, f_mul(a, s)), lanes);
  }
}

static void rope_neighbours(float *x, int64_t half, const float *cos, const float *sin) {
  for (int64_t i = 0; i < half; ++i) {
    const float a = x[2 * i], b = x[2 * i + 1];
    x[2 * i] = __builtin_fmaf(a, cos[i], -(b * sin[i]));
    x[2 * i + 1] = __builtin_fmaf(b, cos[i], a * sin[i]);
  }
}

static void rope(const hgx_step *step, float *x, const float *cos, const float *sin) {
  for (int64_t head = 0; head < step->heads; ++head) {
    float *part = x + head * step->head_dim;
    if (step->kind == 0) rope_halves(part, step->rotary / 2, cos, sin);
    else rope_neighbours(part, step->rotary / 2, cos, sin);
  }
}

// Narrowed to the cache's dtype: 4 or 2 bytes each.
HGX_INLINE void store_as(int dtype, void *to, F x, int lanes) {
  if (dtype == HGX_F32) f_store_n(static_cast<float *>(to), x, lanes);
  else if (dtype == HGX_F16) f_to_f16_n(static_cast<uint16_t *>(to), x, lanes);
  else f_to_bf16_n(static_cast<uint16_t *>(to), x, lanes);
}

// The lanes of x, 16 elements of SIZE bytes apart.
template <int SIZE>
HGX_INLINE void scatter(int dtype, char *to, F x, int lanes) {
  alignas(64) char line[64];
  store_as(dtype, line, x, 16);
  for (int l = 0; l < lanes; ++l) __builtin_memcpy(to + 16 * SIZE * l, line + SIZE * l, SIZE);
}

static void cache(const hgx_step *step, int dtype, int64_t context, int64_t position, const float *k, const float *v,
                  void *keys, void *values) {
  const int64_t size = dtype == HGX_F32 ? 4 : 2, dim = step->head_dim;
  for (int64_t head = 0; head < step->kv_heads; ++head) {
    char *const value = static_cast<char *>(values) + (head * context + position) * dim * size;
    char *const key = static_cast<char *>(keys) + ((head * context + position / 16 * 16) * dim + position % 16) * size;
    for (int64_t i = 0; i < dim; i += 16) {
      const int lanes = dim - i < 16 ? static_cast<int>(dim - i) : 16;
      store_as(dtype, value + i * size, f_load_n(v + head * dim + i, lanes), lanes);
      const F x = f_load_n(k + head * dim + i, lanes);
      if (size == 4) scatter<4>(dtype, key + i * 64, x, lanes);
      else scatter<2>(dtype, key + i * 32, x, lanes);
    }
  }
}

}  // namespace decoder
