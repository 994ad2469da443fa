// Norms of one token. Sums run in 64 partial sums (input k goes to partial sum k mod 64, in order), which are added
// as four vectors, (0 + 1) + (2 + 3), and then by halves.
#pragma once

namespace decoder {

HGX_INLINE F in_four(const F (&part)[4]) { return f_add(f_add(part[0], part[1]), f_add(part[2], part[3])); }

HGX_INLINE float sum_of(const float *x, int64_t n) {
  F part[4] = {f_zero(), f_zero(), f_zero(), f_zero()};
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
    for (int c = 0; c < 4; ++c) part[c] = f_add(part[c], f_load(x + i + 16 * c));
  }
  for (int c = 0; i < n; i += 16, ++c) {
    const int lanes = n - i < 16 ? static_cast<int>(n - i) : 16;
    part[c] = f_add(part[c], f_load_n(x + i, lanes));
  }
  return f_sum(in_four(part));
}

// Sum of (x - mean)^2.
HGX_INLINE float squares_of(const float *x, int64_t n, float mean) {
  const F middle = f_set(mean);
  F part[4] = {f_zero(), f_zero(), f_zero(), f_zero()};
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
    for (int c = 0; c < 4; ++c) {
      const F d = f_sub(f_load(x + i + 16 * c), middle);
      part[c] = f_fma(d, d, part[c]);
    }
  }
  for (int c = 0; i < n; i += 16, ++c) {
    const int lanes = n - i < 16 ? static_cast<int>(n - i) : 16;
    alignas(64) float inside[16];
    for (int l = 0; l < 16; ++l) inside[l] = l < lanes ? mean : 0.0f;
    const F d = f_sub(f_load_n(x + i, lanes), f_load(inside));
    part[c] = f_fma(d, d, part[c]);
  }
  return f_sum(in_four(part));
}

static void norm_part(const hgx_step *step, int64_t n, const float *in, float *out) {
  const float count = static_cast<float>(n);
  const float mean = step->kind == 1 ? sum_of(in, n) / count : 0.0f;
  const F spread = f_set(squares_of(in, n, mean) / count + step->eps);
  const F factor = f_div(f_set(1.0f), f_sqrt(spread));
  const F middle = f_set(mean), offset = f_set(step->offset);
  for (int64_t i = 0; i < n; i += 16) {
    const int lanes = n - i < 16 ? static_cast<int>(n - i) : 16;
    F y = f_mul(f_sub(f_load_n(in + i, lanes), middle), factor);
    if (step->weight != nullptr) y = f_mul(y, f_add(f_load_n(step->weight + i, lanes), offset));
    if (step->bias != nullptr) y = f_add(y, f_load_n(step->bias + i, lanes));
    f_store_n(out + i, y, lanes);
  }
}

static void norm(const hgx_step *step, const float *in, float *out) {
  const int64_t n = step->width / step->groups;
  for (int64_t group = 0; group < step->groups; ++group) norm_part(step, n, in + group * n, out + group * n);
}

}  // namespace decoder
