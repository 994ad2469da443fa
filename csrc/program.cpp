// hgx_run: a plan, carried out by all threads of our own pool together.
#include "program.h"

#include "cpu.h"
#include "layout.h"
#include "pool.h"
#include "scratch.h"

namespace higgsx {
namespace {

struct Run {
  const Program *program;
  Barrier barrier;
};

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// Rows first .. last - 1 of an embedding.
void embed(const Program &program, const Op &op, int64_t first, int64_t last, void *scratch) {
  const hgx_step &s = *op.step;
  const RowKernels &rows = *program.tier->rows;
  const DecoderKernels &kernels = *program.tier->decoder;
  const bool positions = s.flags != 0;
  const int64_t n = s.matrix->inputs;
  auto *const found = reinterpret_cast<float *>(static_cast<char *>(scratch) + round_up(rows.decode_scratch, 64));
  for (int64_t t = first; t < last; t += kPanel) {
    int64_t ids[kPanel];
    const int count = static_cast<int>(least(last - t, kPanel));
    for (int i = 0; i < count; ++i) {
      ids[i] = positions ? int64_t{op.position[t + i]} + s.kind : int64_t{program.call->ids[t + i]};
    }
    float *const out = op.out + t * op.out_stride;
    const RowsOut to = positions ? RowsOut{found, n, HGX_F32} : RowsOut{out, op.out_stride, HGX_F32};
    rows.decode(s.matrix, ids, count, &to, scratch);
    for (int i = 0; i < count; ++i) {
      if (positions) kernels.scaled_sum(n, s.scale, found + i * n, out + i * op.out_stride);
      else if (s.scale != 1.0f) kernels.scale(n, s.scale, out + i * op.out_stride);
    }
  }
}

void cache(const Program &program, const Op &op, int64_t token) {
  const hgx_step &s = *op.step;
  const hgx_state &state = *program.call->state;
  const int64_t context = cache_context(state);
  const int64_t bytes = s.kv_heads * context * s.head_dim * dtype_bytes(state.cache_dtype) * op.sequence[token];
  program.tier->decoder->cache(&s, state.cache_dtype, context, op.position[token], op.in + token * op.in_stride,
                               op.in2 + token * op.in2_stride, static_cast<char *>(state.keys[s.layer]) + bytes,
                               static_cast<char *>(state.values[s.layer]) + bytes);
}

// Columns first .. last - 1 of one token.
void columns(const Program &program, const Op &op, int64_t token, int64_t first, int64_t last) {
  const hgx_step &s = *op.step;
  const DecoderKernels &kernels = *program.tier->decoder;
  float *const in = op.in + token * op.in_stride + first;
  const float *const in2 = op.in2 == nullptr ? nullptr : op.in2 + token * op.in2_stride + first;
  float *const out = op.out == nullptr ? nullptr : op.out + token * op.out_stride + first;
  const int64_t n = last - first;
  switch (s.op) {
    case HGX_ACT: return kernels.act(s.kind, n, in, in2, out);
    case HGX_SUM: return kernels.sum(n, in, in2, out);
    case HGX_CAP: return s.cap != 0.0f ? kernels.cap(n, s.cap, in) : kernels.scale(n, s.scale, in);
    default:
      program.tier->matrix->prepare(*s.matrix, in - first, HGX_F32, s.kind, op.view, token, first / kUnit,
                                    units_of(last));
  }
}

void row(const Program &program, const Op &op, int64_t token) {
  const hgx_step &s = *op.step;
  const DecoderKernels &kernels = *program.tier->decoder;
  float *const in = op.in + token * op.in_stride;
  switch (s.op) {
    case HGX_NORM: return kernels.norm(&s, in, op.out + token * op.out_stride);
    case HGX_ROPE: {
      const int64_t begin = int64_t{op.position[token]} * (s.rotary / 2);
      return kernels.rope(&s, in, s.weight + begin, s.bias + begin);
    }
    case HGX_CACHE: return cache(program, op, token);
    case HGX_PICK: {
      const float *const from = op.in + program.call->pick[token] * op.in_stride;
      float *const to = op.out + token * op.out_stride;
      for (int64_t i = 0; i < s.width; ++i) to[i] = from[i];
      return;
    }
    case HGX_PREPARE: return columns(program, op, token, 0, s.matrix->inputs);
    default: return columns(program, op, token, 0, s.width);
  }
}

void linear(const Program &program, const Op &op, int64_t item, void *scratch) {
  const hgx_step &s = *op.step;
  const int64_t out = item % op.parts * op.out_step, outs = least(op.outputs - out, op.out_step);
  const int64_t token = item / op.parts * op.token_step, tokens = least(op.tokens - token, op.token_step);
  if (s.matrix->kind == HGX_PANELS) {
    program.tier->matrix->multiply(*s.matrix, op.view, token, token + tokens, s.kind, out, out + outs, s.bias, op.out,
                                   HGX_F32, op.out_stride, s.flags, scratch);
    return;
  }
  const DenseOut to{s.bias, op.out + token * op.out_stride, op.out_stride, HGX_F32, s.flags};
  const int64_t stride = op.view.units * kUnit;
  program.tier->rows->dense(s.matrix, out, outs, tokens, op.view.x + token * stride, stride, &to);
}

void attend(const Program &program, const Op &op, int64_t item, void *scratch) {
  const hgx_step &s = *op.step;
  const hgx_state &state = *program.call->state;
  const DecoderKernels &kernels = *program.tier->decoder;
  const Attend job{s.heads, s.kv_heads, s.head_dim, cache_context(state), s.window, op.in_stride, op.out_stride,
                   s.scale, s.cap, state.cache_dtype, op.in, op.out, state.keys[s.layer], state.values[s.layer],
                   op.sequence, op.position};
  const Piece &piece = op.pieces[op.piece_count - 1 - item / s.kv_heads];  // the longest come last: begin with them
  const int64_t head = item % s.kv_heads;
  if (piece.section < 0) return kernels.attend(&job, piece.first, piece.count, head, scratch);
  const int64_t bytes = kernels.attend_partial(s.head_dim, s.heads / s.kv_heads);
  const int64_t size = bytes / static_cast<int64_t>(sizeof(float));
  float *const partials = program.partials + (piece.partial * s.kv_heads + head * piece.sections) * size;
  kernels.attend_section(&job, piece.first, head, piece.section, scratch, partials + piece.index * size);
  std::atomic<int64_t> &arrived = program.arrived[piece.first * s.kv_heads + head];
  if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 < piece.sections) return;
  arrived.store(0, std::memory_order_relaxed);
  kernels.attend_merge(&job, piece.first, head, piece.sections, partials);
}

void part(const Program &program, const Stage &stage, int64_t item, void *scratch) {
  const Op *const ops = program.ops + stage.first;
  switch (stage.kind) {
    case Kind::attend: return attend(program, *ops, item, scratch);
    case Kind::linear: {
      int64_t i = 0;
      for (; item >= ops[i].items; ++i) item -= ops[i].items;
      return linear(program, ops[i], item, scratch);
    }
    case Kind::columns: {
      const int64_t width = ops->step->op == HGX_PREPARE ? ops->step->matrix->inputs : ops->step->width;
      const int64_t parts = (width + stage.step - 1) / stage.step, first = item % parts * stage.step;
      for (int64_t i = 0; i < stage.count; ++i) {
        columns(program, ops[i], item / parts, first, least(width, first + stage.step));
      }
      return;
    }
    case Kind::rows: {
      const int64_t first = item * stage.step, last = least(ops->tokens, first + stage.step);
      for (int64_t i = 0; i < stage.count; ++i) {
        if (ops[i].step->op == HGX_EMBED) {
          embed(program, ops[i], first, last, scratch);
          continue;
        }
        for (int64_t token = first; token < last; ++token) row(program, ops[i], token);
      }
    }
  }
}

// Hands out the parts of a stage. Products: every thread has a share of neighbours, so that what it reads ahead of a
// part is its next one, and takes from other shares when its own is done.
class Parts {
 public:
  Parts(const Program &program, const Stage &stage, int64_t turn, int thread, int threads)
      : counters_(program.counters + turn % 2 * threads), stage_(stage), thread_(thread), shares_(shares(stage, threads)) {
    // the other set was used before the last meeting, and will be after the next
    program.counters[(turn + 1) % 2 * threads + thread].next.store(0, std::memory_order_relaxed);
  }
  static int shares(const Stage &stage, int threads) { return stage.kind == Kind::linear ? threads : 1; }
  static int64_t begin(const Stage &stage, int64_t share, int64_t shares) { return stage.items * share / shares; }

  // -1: nothing is left.
  int64_t take() {
    for (; passed_ < shares_; ++passed_) {
      const int share = (thread_ + passed_) % shares_;
      const int64_t item = begin(stage_, share, shares_) + counters_[share].next.fetch_add(1, std::memory_order_relaxed);
      if (item < begin(stage_, share + 1, shares_)) return item;
    }
    return -1;
  }

 private:
  Counter *const counters_;
  const Stage &stage_;
  const int thread_, shares_;
  int passed_ = 0;
};

// Reads what a thread will multiply next into its cache while it has nothing else to do.
class Ahead {
 public:
  // The beginning of its share of a stage with products; nothing where that is known already.
  void look(const Program &program, int64_t stage, int thread, int threads) {
    if (stage == stage_) return;
    stage_ = stage;
    at_ = end_ = nullptr;
    if (stage < 0) return;
    const Stage &next = program.stages[stage];
    const Op *op = program.ops + next.first;
    if (!next.parallel || op->tokens > kFew) return;
    int64_t item = Parts::begin(next, thread, threads);
    for (; item >= op->items; ++op) item -= op->items;
    const hgx_matrix &m = *op->step->matrix;
    if (m.kind != HGX_PANELS) return;
    const int64_t bytes = panel_bytes(&m), panel = item % op->parts * op->out_step, rest = (op->outputs - panel) * bytes;
    at_ = m.data + panel * bytes;
    end_ = at_ + least(rest, kMost);
  }
  bool read() {
    for (int i = 0; i < 4; ++i) {
      if (at_ >= end_) return false;
      __builtin_prefetch(at_, 0, 2);
      at_ += 64;
    }
    return true;
  }

 private:
  static constexpr int64_t kFew = 16, kMost = 1 << 17;
  int64_t stage_ = -1;
  const uint8_t *at_ = nullptr, *end_ = nullptr;
};

void body(void *data, int thread, int threads) {
  Run *const run = static_cast<Run *>(data);
  const Program &program = *run->program;
  // a helper without memory takes no parts, but meets the others; the calling thread has its memory already
  void *const scratch = thread_scratch(program.scratch);
  Ahead ahead;
  int64_t turn = 0;
  for (int64_t i = 0; i < program.stage_count; ++i) {
    const Stage &stage = program.stages[i];
    if (!stage.parallel) {
      for (int64_t item = 0; thread == 0 && item < stage.items; ++item) part(program, stage, item, scratch);
    } else {
      Parts parts(program, stage, turn++, thread, threads);
      for (int64_t item; scratch != nullptr && (item = parts.take()) >= 0;) part(program, stage, item, scratch);
    }
    if (!stage.meet) continue;
    ahead.look(program, stage.products, thread, threads);
    run->barrier.wait(threads, [&] { return ahead.read(); });
  }
}

}  // namespace
}  // namespace higgsx

extern "C" int hgx_run(const hgx_step *steps, int64_t count, const hgx_state *state, int64_t tokens, const int32_t *ids,
                       const int32_t *sequence, const int32_t *position, const int32_t *pick, int64_t picked) {
  using namespace higgsx;
  const Call call{steps, count, state, tokens, ids, sequence, position, pick, picked};
  int status = check_program(call);
  if (status != HGX_OK || tokens == 0 || count == 0) return status;
  Arena arena;
  Program program;
  status = plan_program(call, current_tier(), pool_threads(), &arena, &program);
  if (status != HGX_OK) return status;
  if (thread_scratch(program.scratch) == nullptr) return HGX_NO_MEMORY;
  Run run{&program, {}};
  pool_run_own(body, &run, program.threads);
  return HGX_OK;
}
