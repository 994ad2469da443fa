// A small decoder of random weights as a program: every operation, grouped heads, several matrices to one slot.
#ifndef HIGGSX_TESTS_MODEL_H
#define HIGGSX_TESTS_MODEL_H

#include <vector>

#include "samples.h"

namespace check {

struct Shape {
  int32_t heads, kv_heads, head_dim, layers, cache_dtype, mode, window, rotary, rope, norm;
  int64_t vocabulary, context, sequences, rows;
};

class Model {
 public:
  Model(Random &random, const Shape &shape) : shape_(shape), random_(random) {
    const int64_t hidden = shape.heads * shape.head_dim, inner = hidden + 24;
    strides_ = {hidden, hidden, (shape.heads + 2 * shape.kv_heads) * shape.head_dim + 3, hidden, inner, inner + 1,
                shape.vocabulary, hidden};
    numbers_ = Bytes(4 * 4096);
    numbers_.fill_numbers(random, 0.5f);
    tables_ = Bytes(4 * 2 * shape.context * shape.head_dim);
    tables_.fill_numbers(random, 1.0f);
    for (int64_t stride : strides_) {
      memory_.emplace_back(4 * shape.rows * stride);
      buffers_.push_back(memory_.back().as<float>());
    }
    for (int i = 0; i < 2; ++i) {
      prepared_bytes_.push_back(hgx_prepared_bytes(inner, shape.rows, shape.mode));
      memory_.emplace_back(prepared_bytes_.back());
      prepared_.push_back(memory_.back().data());
    }
    const int64_t room = (shape.context + 15) / 16 * 16;
    const int64_t cache = shape.sequences * shape.kv_heads * room * shape.head_dim * item(shape.cache_dtype);
    for (int i = 0; i < shape.layers; ++i) {
      for (auto *list : {&keys_, &values_}) {
        memory_.emplace_back(cache);
        list->push_back(memory_.back().data());
      }
      cache_bytes_.push_back(cache);
    }
    state.rows = shape.rows;
    state.buffers = static_cast<int32_t>(buffers_.size());
    state.slots = 2;
    state.layers = shape.layers;
    state.cache_dtype = shape.cache_dtype;
    state.buffer = buffers_.data();
    state.stride = strides_.data();
    state.prepared = prepared_.data();
    state.prepared_bytes = prepared_bytes_.data();
    state.keys = keys_.data();
    state.values = values_.data();
    state.cache_bytes = cache_bytes_.data();
    state.sequences = shape.sequences;
    state.context = shape.context;
    samples_.reserve(64);
    build(hidden, inner);
  }

  std::vector<hgx_step> steps;
  hgx_state state{};
  const float *logits() const { return buffers_[6]; }
  int64_t logits_stride() const { return strides_[6]; }

  int run(const std::vector<int32_t> &ids, const std::vector<int32_t> &sequence, const std::vector<int32_t> &position,
          const std::vector<int32_t> &pick) {
    return hgx_run(steps.data(), static_cast<int64_t>(steps.size()), &state, static_cast<int64_t>(ids.size()),
                   ids.data(), sequence.data(), position.data(), pick.data(), static_cast<int64_t>(pick.size()));
  }

  // What a program must not depend on.
  void poison() {
    for (Bytes &bytes : memory_) std::memset(bytes.data(), 0xFF, static_cast<size_t>(bytes.size()));
  }

 private:
  hgx_step &step(int32_t op, int32_t in, int32_t out, int64_t width = 0) {
    hgx_step made{};
    made.op = op;
    made.in = in;
    made.out = out;
    made.width = width;
    made.groups = 1;
    made.heads = shape_.heads;
    made.kv_heads = shape_.kv_heads;
    made.head_dim = shape_.head_dim;
    made.scale = 1.0f;
    made.eps = 1e-5f;
    steps.push_back(made);
    return steps.back();
  }

  const hgx_matrix *weight(int64_t outputs, int64_t inputs) {
    Sample sample;
    if (random_.below(6) == 0 && shape_.mode == HGX_FLOAT) {
      sample = dense(random_, outputs, inputs);
    } else {
      sample = panels(random_, outputs, inputs);
      hgx_matrix &m = sample.matrix;
      // one transform for all that read one slot; scales that keep numbers finite
      m.width = inputs >= 32 ? 32 : 0;
      m.segment = 0;
      m.exponent = -6;
      sample.multiplier = Bytes(4 * inputs);
      for (int64_t i = 0; i < inputs; ++i) sample.multiplier.as<float>()[i] = i % 3 == 0 ? -1.0f : 1.0f;
      halves(sample.rows, random_, sample.skipped);
      if (m.block > 0 && (m.scale == HGX_SCALE_F16 || m.zero >= HGX_ZERO_F16)) halves(sample.data, random_, sample.skipped);
      attach(sample);
    }
    samples_.push_back(std::move(sample));
    return &samples_.back().matrix;
  }

  void prepare(int32_t in, int32_t slot, const hgx_matrix *matrix) {
    hgx_step &made = step(HGX_PREPARE, in, 0);
    made.slot = slot;
    made.kind = shape_.mode;
    made.matrix = matrix;
  }

  void linear(int32_t slot, int32_t out, const hgx_matrix *matrix, int64_t column = 0, int32_t flags = 0,
              bool bias = false) {
    hgx_step &made = step(HGX_LINEAR, 0, out);
    made.slot = slot;
    made.kind = shape_.mode;
    made.in2 = shape_.mode;
    made.matrix = matrix;
    made.out_column = column;
    made.flags = flags;
    made.bias = bias ? numbers_.as<float>() : nullptr;
  }

  void norm(int32_t in, int32_t out, int64_t width, int32_t groups = 1, int64_t column = 0) {
    hgx_step &made = step(HGX_NORM, in, out, width * groups);
    made.kind = shape_.norm;
    made.groups = groups;
    made.in_column = made.out_column = column;
    made.weight = numbers_.as<float>() + 7;
    made.bias = shape_.norm == 1 ? numbers_.as<float>() + 99 : nullptr;
    made.offset = shape_.norm == 0 ? 1.0f : 0.0f;
  }

  void rope(int32_t heads, int64_t column) {
    hgx_step &made = step(HGX_ROPE, 2, 2);
    made.heads = heads;
    made.in_column = made.out_column = column;
    made.kind = shape_.rope;
    made.rotary = shape_.rotary;
    made.weight = tables_.as<float>();
    made.bias = tables_.as<float>() + shape_.context * shape_.head_dim;
    made.positions = shape_.context;
  }

  void build(int64_t hidden, int64_t inner) {
    const int64_t queries = shape_.heads * shape_.head_dim, keys = shape_.kv_heads * shape_.head_dim;
    step(HGX_EMBED, 0, 0).matrix = weight(shape_.vocabulary, hidden);
    steps.back().scale = 1.5f;
    hgx_step &places = step(HGX_EMBED, 0, 0);
    places.matrix = weight(shape_.context + 2, hidden);
    places.flags = 1;
    places.kind = 2;
    for (int32_t layer = 0; layer < shape_.layers; ++layer) {
      norm(0, 1, hidden);
      const hgx_matrix *q = weight(queries, hidden);
      const hgx_matrix *k = weight(keys, hidden), *v = weight(keys, hidden);
      prepare(1, 0, q);
      linear(0, 2, q, 0, 0, true);
      linear(0, 2, k, queries);
      linear(0, 2, v, queries + keys);
      norm(2, 2, shape_.head_dim, shape_.heads);
      rope(shape_.heads, 0);
      rope(shape_.kv_heads, queries);
      hgx_step &cache = step(HGX_CACHE, 2, 0);
      cache.in_column = queries;
      cache.in2 = 2;
      cache.in2_column = queries + keys;
      cache.layer = layer;
      hgx_step &attend = step(HGX_ATTEND, 2, 3);
      attend.layer = layer;
      attend.window = layer % 2 == 0 ? shape_.window : 0;
      attend.scale = 0.2f;
      attend.cap = layer % 2 == 0 ? 5.0f : 0.0f;
      const hgx_matrix *o = weight(hidden, queries);
      prepare(3, 1, o);
      linear(1, 7, o);
      hgx_step &sum = step(HGX_SUM, 0, 0, hidden);
      sum.in2 = 7;
      norm(0, 1, hidden);
      const hgx_matrix *gate = weight(inner, hidden), *up = weight(inner, hidden);
      prepare(1, 0, gate);
      linear(0, 4, gate);
      linear(0, 5, up);
      hgx_step &act = step(HGX_ACT, 4, 4, inner);
      act.kind = layer % 5;
      act.flags = 1;
      act.in2 = 5;
      const hgx_matrix *down = weight(hidden, inner);
      prepare(4, 1, down);
      linear(1, 0, down, 0, HGX_ADD);
    }
    step(HGX_PICK, 0, 7, hidden);
    norm(7, 1, hidden);
    const hgx_matrix *head = weight(shape_.vocabulary, hidden);
    prepare(1, 0, head);
    linear(0, 6, head);
    step(HGX_CAP, 6, 6, shape_.vocabulary).cap = 30.0f;
  }

  Shape shape_;
  Random &random_;
  Bytes numbers_, tables_;
  std::vector<Sample> samples_;
  std::vector<Bytes> memory_;
  std::vector<float *> buffers_;
  std::vector<void *> prepared_, keys_, values_;
  std::vector<int64_t> strides_, prepared_bytes_, cache_bytes_;
};

inline Shape random_shape(Random &random) {
  static const int modes[] = {HGX_INT8, HGX_INT16, HGX_FLOAT};
  static const int32_t dims[] = {8, 16, 20, 32};
  Shape shape{};
  shape.kv_heads = static_cast<int32_t>(1 + random.below(2));
  shape.heads = shape.kv_heads * static_cast<int32_t>(1 + random.below(3));
  shape.head_dim = random.pick(dims);
  shape.layers = 2;
  shape.cache_dtype = static_cast<int32_t>(random.below(3));
  shape.mode = random.pick(modes);
  shape.window = random.below(2) ? 3 : 0;
  shape.rotary = random.below(2) ? shape.head_dim : shape.head_dim / 2 / 2 * 2;
  shape.rope = static_cast<int32_t>(random.below(2));
  shape.norm = static_cast<int32_t>(random.below(2));
  shape.vocabulary = 37;
  shape.context = 12;
  shape.sequences = 2;
  shape.rows = 16;
  return shape;
}

}  // namespace check

#endif
