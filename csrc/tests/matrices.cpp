// Products, decoding and lookup of random matrices: every tier, several threads, tokens alone and together,
// equal to the bit with the scalar tier on one thread.
#include <vector>

#include "samples.h"

using check::Bytes;
using check::Random;
using check::Sample;

namespace {

struct Case {
  Sample sample;
  int64_t tokens = 0, x_stride = 0, y_stride = 0;
  int x_dtype = 0, y_dtype = 0, mode = 0, flags = 0;
  Bytes x, bias, before;
  std::vector<int64_t> ids;
};

struct Results {
  Bytes product, alone, linear, decoded, looked;
  Bytes q1;
};

Case make(Random &random) {
  static const int64_t outputs[] = {1, 2, 15, 16, 17, 31, 33, 48, 70};
  static const int64_t inputs[] = {1, 3, 16, 31, 32, 33, 64, 127, 128, 129, 160, 200, 257, 384};
  static const int64_t tokens[] = {1, 1, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33};
  static const int modes[] = {HGX_INT8, HGX_INT16, HGX_FLOAT};
  Case c;
  c.sample = check::any(random, random.pick(outputs), random.pick(inputs));
  const hgx_matrix &m = c.sample.matrix;
  c.tokens = random.pick(tokens);
  c.mode = m.kind == HGX_DENSE ? HGX_FLOAT : random.pick(modes);
  c.x_dtype = static_cast<int>(random.below(3));
  c.y_dtype = static_cast<int>(random.below(3));
  c.flags = random.below(3) == 0 ? HGX_ADD : 0;
  c.x_stride = m.inputs + random.below(3);
  c.y_stride = m.outputs + random.below(3);
  c.x = Bytes(((c.tokens - 1) * c.x_stride + m.inputs) * check::item(c.x_dtype));
  if (random.below(8) == 0) {
    c.x.fill_random(random);
  } else if (c.x_dtype == HGX_F32) {
    c.x.fill_numbers(random, 3.0f);
  } else {
    check::halves(c.x, random);
  }
  if (random.below(2)) {
    c.bias = Bytes(4 * m.outputs);
    c.bias.fill_numbers(random, 1.0f);
  }
  c.before = Bytes(((c.tokens - 1) * c.y_stride + m.outputs) * check::item(c.y_dtype));
  if (c.flags) {
    if (c.y_dtype == HGX_F32) {
      c.before.fill_numbers(random, 1.0f);
    } else {
      check::halves(c.before, random);
    }
  }
  for (int i = 0; i < 5; ++i) c.ids.push_back(random.below(m.outputs));
  return c;
}

Bytes copy(const Bytes &of) {
  Bytes made(of.size());
  std::memcpy(made.data(), of.data(), static_cast<size_t>(of.size()));
  return made;
}

Results run(const Case &c, const std::string &where) {
  const hgx_matrix &m = c.sample.matrix;
  const float *bias = c.bias.size() > 0 ? c.bias.as<float>() : nullptr;
  Results r;
  const int64_t size = hgx_prepared_bytes(m.inputs, c.tokens, c.mode);
  CHECK(size > 0, where);
  Bytes prepared(size);
  CHECK_OK(hgx_prepare(&m, c.tokens, c.x.data(), c.x_dtype, c.x_stride, c.mode, prepared.data(), size), where);
  if (c.mode != HGX_FLOAT) {
    r.q1 = Bytes(c.tokens * ((m.inputs + 127) / 128 * 128));
    std::memcpy(r.q1.data(), prepared.data(), static_cast<size_t>(r.q1.size()));
  }
  r.product = copy(c.before);
  CHECK_OK(hgx_multiply(&m, c.tokens, prepared.data(), size, c.mode, c.mode, bias, r.product.data(), c.y_dtype,
                        c.y_stride, c.flags),
           where);
  // the same, one token at a time
  r.alone = copy(c.before);
  const int64_t one = hgx_prepared_bytes(m.inputs, 1, c.mode);
  for (int64_t t = 0; t < c.tokens; ++t) {
    Bytes scratch(one);
    CHECK_OK(hgx_prepare(&m, 1, c.x.data() + t * c.x_stride * check::item(c.x_dtype), c.x_dtype, c.x_stride, c.mode,
                         scratch.data(), one),
             where);
    CHECK_OK(hgx_multiply(&m, 1, scratch.data(), one, c.mode, c.mode, bias,
                          r.alone.data() + t * c.y_stride * check::item(c.y_dtype), c.y_dtype, c.y_stride, c.flags),
             where);
  }
  CHECK(check::same(r.product, r.alone, c.y_dtype), where + ": tokens together and alone differ");
  r.linear = Bytes(c.before.size());
  CHECK_OK(hgx_linear(&m, c.tokens, c.x.data(), c.x_dtype, c.x_stride, c.mode, bias, r.linear.data(), c.y_dtype,
                      c.y_stride, prepared.data(), size),
           where);
  if (!c.flags) CHECK(check::same(r.linear, r.product, c.y_dtype), where + ": hgx_linear differs");
  r.decoded = Bytes(m.outputs * m.inputs * check::item(c.y_dtype));
  CHECK_OK(hgx_decode(&m, 0, m.outputs, r.decoded.data(), c.y_dtype, m.inputs), where);
  const int64_t count = static_cast<int64_t>(c.ids.size());
  r.looked = Bytes(count * m.inputs * check::item(c.y_dtype));
  CHECK_OK(hgx_lookup(&m, c.ids.data(), count, r.looked.data(), c.y_dtype, m.inputs), where);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = m.inputs * check::item(c.y_dtype);
    Bytes whole(row), single(row);
    std::memcpy(whole.data(), r.decoded.data() + c.ids[static_cast<size_t>(i)] * row, static_cast<size_t>(row));
    std::memcpy(single.data(), r.looked.data() + i * row, static_cast<size_t>(row));
    CHECK(check::same(whole, single, c.y_dtype), where + ": lookup differs from decode");
  }
  return r;
}

}  // namespace

void drive_matrices(int rounds) {
  const char *names[16];
  const int count = check::tiers(names);
  Random random(1);
  for (int round = 0; round < rounds; ++round) {
    const Case c = make(random);
    const std::string name = c.sample.name + " tokens " + std::to_string(c.tokens) + " mode " +
                             std::to_string(c.mode) + " dtypes " + std::to_string(c.x_dtype) +
                             std::to_string(c.y_dtype);
    CHECK_OK(hgx_check(&c.sample.matrix), name);
    CHECK_OK(hgx_set_threads(1), name);
    check::use("scalar");
    const Results expected = run(c, name + " scalar");
    for (int tier = 0; tier < count; ++tier) {
      check::use(names[tier]);
      CHECK_OK(hgx_set_threads(tier == 0 ? 3 : 1 + round % 4), name);
      const std::string where = name + " " + names[tier] + " threads " + std::to_string(hgx_threads());
      const Results got = run(c, where);
      CHECK(got.q1.size() == expected.q1.size(), where);
      if (got.q1.size() > 0)
        CHECK(std::memcmp(got.q1.data(), expected.q1.data(), static_cast<size_t>(got.q1.size())) == 0, where);
      CHECK(check::same(got.product, expected.product, c.y_dtype), where);
      CHECK(check::same(got.decoded, expected.decoded, c.y_dtype), where);
      CHECK(check::same(got.looked, expected.looked, c.y_dtype), where);
    }
  }
  CHECK_OK(hgx_set_threads(1), "threads");
  CHECK_OK(hgx_set_tier(nullptr), "tier");
}
