// Attention over strided tensors: every tier and thread count equal to the scalar tier, each query alone too.
#include "samples.h"

using check::Bytes;
using check::Random;

namespace {

struct Tensor {
  Bytes bytes;
  hgx_strides strides{};
};

Tensor tensor(Random &random, int64_t batch, int64_t heads, int64_t rows, int64_t width, int dtype, bool filled) {
  Tensor t;
  const bool rows_first = random.below(2) == 1;  // [batch, rows, heads, width] as models have it
  t.strides.row = rows_first ? heads * width : width + random.below(3);
  t.strides.head = rows_first ? width : rows * t.strides.row;
  t.strides.batch = rows_first ? rows * heads * width : heads * t.strides.head;
  const int64_t last = (batch - 1) * t.strides.batch + (heads - 1) * t.strides.head + (rows - 1) * t.strides.row;
  t.bytes = Bytes((last + width) * check::item(dtype));
  if (!filled) return t;
  if (dtype == HGX_F32) {
    t.bytes.fill_numbers(random, 2.0f);
  } else {
    check::halves(t.bytes, random);
  }
  return t;
}

}  // namespace

void drive_attention(int rounds) {
  static const int64_t widths[] = {1, 8, 16, 20, 33, 64, 80, 128};
  static const int64_t lengths[] = {1, 2, 3, 7, 16, 17, 40, 65};
  const char *names[16];
  const int count = check::tiers(names);
  Random random(2);
  for (int round = 0; round < rounds; ++round) {
    const int64_t batch = 1 + random.below(3), kv_heads = 1 + random.below(3);
    const int64_t heads = kv_heads * (1 + random.below(3));
    const int64_t keys = random.pick(lengths), width = random.pick(widths);
    const int64_t queries = 1 + random.below(keys);
    const int dtype = static_cast<int>(random.below(3)), causal = static_cast<int>(random.below(2));
    static const int modes[] = {HGX_FLOAT, HGX_INT16, HGX_INT8};
    const int mode = random.pick(modes);
    const Tensor q = tensor(random, batch, heads, queries, width, dtype, true);
    const Tensor k = tensor(random, batch, kv_heads, keys, width, dtype, true);
    const Tensor v = tensor(random, batch, kv_heads, keys, width, dtype, true);
    const Tensor shape = tensor(random, batch, heads, queries, width, dtype, false);
    const std::string name = "attention " + std::to_string(heads) + "/" + std::to_string(kv_heads) + " heads " +
                             std::to_string(queries) + " of " + std::to_string(keys) + " width " +
                             std::to_string(width) + " dtype " + std::to_string(dtype) + " mode " + std::to_string(mode);
    Bytes expected;
    for (int tier = 0; tier < count; ++tier) {
      for (int threads = 1; threads <= 3; threads += 2) {
        check::use(names[tier]);
        CHECK_OK(hgx_set_threads(threads), name);
        const std::string where = name + " " + names[tier] + " threads " + std::to_string(threads);
        Bytes out(shape.bytes.size());
        CHECK_OK(hgx_attention(batch, heads, kv_heads, queries, keys, width, q.bytes.data(), k.bytes.data(),
                               v.bytes.data(), out.data(), dtype, &q.strides, &k.strides, &v.strides, &shape.strides,
                               0.3f, causal, mode),
                 where);
        if (expected.size() == 0) {
          expected = std::move(out);
        } else {
          CHECK(check::same(out, expected, dtype), where);
        }
      }
    }
    // the last query alone sees the same keys
    Bytes alone(shape.bytes.size());
    const int64_t item = check::item(dtype);
    CHECK_OK(hgx_attention(batch, heads, kv_heads, 1, keys, width,
                           q.bytes.data() + (queries - 1) * q.strides.row * item, k.bytes.data(), v.bytes.data(),
                           alone.data() + (queries - 1) * shape.strides.row * item, dtype, &q.strides, &k.strides,
                           &v.strides, &shape.strides, 0.3f, causal, mode),
             name);
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t at = (b * shape.strides.batch + h * shape.strides.head + (queries - 1) * shape.strides.row) * item;
        CHECK(std::memcmp(alone.data() + at, expected.data() + at, static_cast<size_t>(width * item)) == 0,
              name + ": one query alone differs");
      }
  }
  CHECK_OK(hgx_set_threads(1), "threads");
  CHECK_OK(hgx_set_tier(nullptr), "tier");
}
