// Programs: logits of many tokens at once equal those of one at a time, on every tier and with several threads;
// damaged programs are refused or give wrong numbers, but touch nothing that is not theirs.
#include "model.h"

using check::Bytes;
using check::Model;
using check::Random;
using check::Shape;

namespace {

struct Text {
  std::vector<int32_t> ids, sequence, position, pick;
};

// Two sequences of unequal length, one after another in one call.
Text text(Random &random, const Shape &shape) {
  Text made;
  const int32_t lengths[] = {static_cast<int32_t>(1 + random.below(9)), static_cast<int32_t>(1 + random.below(5))};
  for (int32_t sequence = 0; sequence < 2; ++sequence)
    for (int32_t position = 0; position < lengths[sequence]; ++position) {
      made.ids.push_back(static_cast<int32_t>(random.below(shape.vocabulary)));
      made.sequence.push_back(sequence);
      made.position.push_back(position);
      made.pick.push_back(static_cast<int32_t>(made.pick.size()));
    }
  return made;
}

Bytes together(Model &model, const Text &t, int64_t vocabulary, const std::string &where) {
  model.poison();
  CHECK_OK(model.run(t.ids, t.sequence, t.position, t.pick), where);
  Bytes out(4 * vocabulary * static_cast<int64_t>(t.ids.size()));
  for (size_t i = 0; i < t.ids.size(); ++i)
    std::memcpy(out.as<float>() + static_cast<int64_t>(i) * vocabulary,
                model.logits() + static_cast<int64_t>(i) * model.logits_stride(), static_cast<size_t>(4 * vocabulary));
  return out;
}

Bytes alone(Model &model, const Text &t, int64_t vocabulary, const std::string &where) {
  model.poison();
  Bytes out(4 * vocabulary * static_cast<int64_t>(t.ids.size()));
  for (size_t i = 0; i < t.ids.size(); ++i) {
    CHECK_OK(model.run({t.ids[i]}, {t.sequence[i]}, {t.position[i]}, {0}), where);
    std::memcpy(out.as<float>() + static_cast<int64_t>(i) * vocabulary, model.logits(),
                static_cast<size_t>(4 * vocabulary));
  }
  return out;
}

template <typename T>
void spoil(Random &random, T &field) {
  static const int64_t values[] = {-1, 0, 1, 2, 3, 7, 99, 1 << 20, INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN};
  field = static_cast<T>(random.pick(values));
}

// One field of one step, of the state or of the tokens. Sizes of arrays that come without a size stay true.
void damage(Random &random, std::vector<hgx_step> &steps, hgx_state &state, Text &t) {
  hgx_step &step = steps[static_cast<size_t>(random.below(static_cast<int64_t>(steps.size())))];
  const bool sized = step.op == HGX_NORM || step.op == HGX_ROPE;  // weight and tables have no size of their own
  switch (random.below(26)) {
    case 0: return spoil(random, step.op == HGX_PREPARE || sized ? step.flags : step.op);
    case 1: return spoil(random, step.kind);
    case 2: return spoil(random, step.flags);
    case 3: return spoil(random, step.in);
    case 4: return spoil(random, step.in2);
    case 5: return spoil(random, step.out);
    case 6: return spoil(random, step.slot);
    case 7: return spoil(random, step.layer);
    case 8: return spoil(random, step.in_column);
    case 9: return spoil(random, step.in2_column);
    case 10: return spoil(random, step.out_column);
    case 11: return sized ? void() : spoil(random, step.width);
    case 12: return spoil(random, step.heads);
    case 13: return spoil(random, step.kv_heads);
    case 14: return sized ? void() : spoil(random, step.head_dim);
    case 15: return spoil(random, step.window);
    case 16: step.matrix = nullptr; return;
    case 17: step.weight = nullptr; return;
    case 18: step.bias = nullptr; return;
    case 19: step.scale = -step.scale / 0.0f; return;
    case 20: state.sequences = random.below(2); return;
    case 21: state.context = random.below(6); return;
    case 22: return spoil(random, t.ids[static_cast<size_t>(random.below(static_cast<int64_t>(t.ids.size())))]);
    case 23: return spoil(random, t.sequence[static_cast<size_t>(random.below(static_cast<int64_t>(t.ids.size())))]);
    case 24: return spoil(random, t.position[static_cast<size_t>(random.below(static_cast<int64_t>(t.ids.size())))]);
    default: return spoil(random, t.pick[static_cast<size_t>(random.below(static_cast<int64_t>(t.pick.size())))]);
  }
}

}  // namespace

void drive_programs(int rounds) {
  const char *names[16];
  const int count = check::tiers(names);
  Random random(3);
  int refused = 0, ran = 0;
  for (int round = 0; round < rounds; ++round) {
    const Shape shape = check::random_shape(random);
    Model model(random, shape);
    const Text t = text(random, shape);
    const std::string name = "program " + std::to_string(round) + " mode " + std::to_string(shape.mode) + " cache " +
                             std::to_string(shape.cache_dtype) + " head " + std::to_string(shape.head_dim);
    check::use("scalar");
    CHECK_OK(hgx_set_threads(1), name);
    const Bytes expected = together(model, t, shape.vocabulary, name);
    for (int tier = 0; tier < count; ++tier)
      for (int threads = 1; threads <= 3; ++threads) {
        check::use(names[tier]);
        CHECK_OK(hgx_set_threads(threads), name);
        const std::string where = name + " " + names[tier] + " threads " + std::to_string(threads);
        CHECK(check::same(together(model, t, shape.vocabulary, where), expected, HGX_F32), where + " together");
        CHECK(check::same(alone(model, t, shape.vocabulary, where), expected, HGX_F32), where + " alone");
      }
    const std::vector<hgx_step> good = model.steps;
    const hgx_state state = model.state;
    for (int hostile = 0; hostile < 60; ++hostile) {
      Text spoiled = t;
      damage(random, model.steps, model.state, spoiled);
      const int status = model.run(spoiled.ids, spoiled.sequence, spoiled.position, spoiled.pick);
      (status == HGX_OK ? ran : refused) += 1;
      model.steps = good;
      model.state = state;
    }
  }
  std::printf("damaged programs: %d refused, %d ran\n", refused, ran);
  CHECK(rounds == 0 || refused > 0, "no damaged program was refused");
  CHECK_OK(hgx_set_threads(1), "threads");
  CHECK_OK(hgx_set_tier(nullptr), "tier");
}
