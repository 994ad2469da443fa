/* What activations contribute to products besides themselves: their sums over scale blocks, and their scales. */
#pragma once

/* Sums over blocks of COUNT neighbours. */
template <int COUNT, class T>
HGX_INLINE void add_neighbours(const T *from, int64_t count, T *to) {
  for (int64_t i = 0; i < count; ++i) {
    T sum = from[i * COUNT];
    for (int k = 1; k < COUNT; ++k) sum = sum + from[i * COUNT + k];
    to[i] = sum;
  }
}
template <class T>
HGX_INLINE void add_blocks(const Plan &plan, const T *from, int64_t count, T *to) {
  if (plan.block == 32) return add_neighbours<1>(from, count, to);
  plan.block == 64 ? add_neighbours<2>(from, count, to) : add_neighbours<4>(from, count, to);
}

/* What the activations of `count` blocks of one token contribute, integer modes: see product.h. */
HGX_FUNCTION void integer_terms(const Plan &plan, const int32_t *sum1, const int32_t *sum2, int64_t count,
                                int32_t *starts, int32_t *starts2, float *halves, float *sums) {
  const int32_t factor = plan.factor;
  add_blocks(plan, sum1, count, starts);
  if (sum2) add_blocks(plan, sum2, count, starts2);
  if (plan.zero != HGX_ZERO_NONE) {
    for (int64_t i = 0; i < count; ++i) sums[i] = static_cast<float>(sum2 ? 254 * starts[i] + starts2[i] : starts[i]);
  }
  if (!sum2 && plan.matrix->table) { /* an even centre: nobody looks at the halves */
    for (int64_t i = 0; i < count; ++i) starts[i] = factor * starts[i] >> 1;
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    const int32_t twice = factor * starts[i], odd = twice & 1;
    starts[i] = twice >> 1;
    halves[i] = static_cast<float>(odd) * 0.5f;
  }
  if (!sum2) return;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t twice = factor * starts2[i] + (halves[i] != 0.0f ? 254 : 0), odd = twice & 1;
    starts2[i] = twice >> 1;
    halves[i] = static_cast<float>(odd) * 0.5f;
  }
}

HGX_FUNCTION void fill_terms(const Plan &plan, const Prepared &view, int64_t token, int tokens, int64_t unit,
                             int64_t units, Terms &terms) {
  if (terms.token == token && terms.unit == unit && terms.units == units) return;
  terms.token = token, terms.unit = unit, terms.units = units;
  const int64_t count = units * plan.blocks;
  for (int t = 0; t < tokens; ++t) {
    const int64_t row = (token + t) * view.units + unit, to = t * count;
    float *const gains = terms.gains + t * units;
    if (plan.mode == HGX_FLOAT) {
      add_blocks(plan, view.sumx + row * 4, count, terms.sums + to);
      for (int64_t i = 0; i < count; ++i) terms.sums[to + i] = 2.0f * terms.sums[to + i];
      for (int64_t u = 0; u < units; ++u) gains[u] = 1.0f;
      continue;
    }
    const bool two = plan.passes == 2;
    const float *const scale = view.scale + row;
    for (int64_t u = 0; u < units; ++u) gains[u] = 2.0f * (two ? scale[u] / 254.0f : scale[u]);
    integer_terms(plan, view.sum1 + row * 4, two ? view.sum2 + row * 4 : nullptr, count, terms.starts + to,
                  terms.starts2 + to, terms.halves + to, terms.sums + to);
  }
}
