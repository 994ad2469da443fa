// From steps to stages. Threads meet only between stages; small stages are done by the calling thread alone, and
// several of them in a row need no meeting. No choice made here changes a result.
#include <cstdlib>
#include <new>

#include "layout.h"
#include "program.h"

namespace higgsx {

Arena::~Arena() {
  while (slab_ != nullptr) {
    Slab *const before = slab_->before;
    std::free(slab_);
    slab_ = before;
  }
}

void *Arena::take(int64_t bytes) {
  constexpr int64_t kSlab = 1 << 15;
  bytes = round_up(bytes, 64);
  if (slab_ == nullptr || slab_->end - slab_->at < bytes) {
    const int64_t room = bytes < kSlab ? kSlab : bytes;
    void *const raw = bytes < 0 || bytes > int64_t{1} << 40 ? nullptr : std::malloc(static_cast<size_t>(room) + 128);
    if (raw == nullptr) {
      failed_ = true;
      return nullptr;
    }
    char *const begin = static_cast<char *>(raw) + 64;
    char *const at = begin + (64 - reinterpret_cast<uintptr_t>(begin) % 64) % 64;
    slab_ = new (raw) Slab{slab_, at, at + room};
  }
  void *const place = slab_->at;
  slab_->at += bytes;
  return place;
}

namespace {

// Nanoseconds of one thread, roughly, for each number (and for each byte or multiply-add).
constexpr double kNormNs = 0.1, kPrepareNs = 0.25, kActNs = 0.4, kSumNs = 0.06, kRopeNs = 0.12, kCacheNs = 0.4;
constexpr double kEmbedNs = 0.6, kByteNs = 1.0 / 24, kIntegerNs = 1.0 / 128, kFloatNs = 1.0 / 40, kStepNs = 20;
constexpr double kWorthMeeting = 1'500;        // less is done by the calling thread alone
constexpr double kWorthWaking = 10'000;        // a call with less does not wake anybody
constexpr int64_t kMostBytes = 1 << 18, kLeastBytes = 1 << 14;  // of weights that a thread takes at a time
constexpr int64_t kManyTokens = 32;

double number(int64_t n) { return static_cast<double>(n); }

class Planner {
 public:
  Planner(const Call &call, const Tier *tier, int threads, Arena *arena, Program *program)
      : call_(call), state_(*call.state), threads_(threads), arena_(*arena), program_(*program) {
    program_ = Program{&call, tier, nullptr, 0, nullptr, 0, nullptr, nullptr, nullptr, 0, 1};
  }

  int plan() {
    program_.ops = arena_.array<Op>(call_.count);
    program_.stages = arena_.array<Stage>(call_.count);
    if (arena_.failed()) return HGX_NO_MEMORY;
    tokens_ = call_.tokens;
    sequence_ = call_.sequence;
    position_ = call_.position;
    for (int64_t i = 0; i < call_.count; ++i) {
      if (!add(call_.steps[i])) return HGX_NO_MEMORY;
    }
    for (int64_t i = 0; i < program_.op_count;) i = stage(i);
    finish();
    return arena_.failed() ? HGX_NO_MEMORY : HGX_OK;
  }

 private:
  float *place(int32_t buffer, int64_t column, int64_t *stride) const {
    *stride = state_.stride[buffer];
    return state_.buffer[buffer] + column;
  }

  void need(int64_t scratch) {
    if (scratch > program_.scratch) program_.scratch = scratch;
  }

  bool add(const hgx_step &s) {
    if (s.op == HGX_PICK && !picked_arrays()) return false;
    if (tokens_ == 0) return true;
    Op &op = program_.ops[program_.op_count++];
    op = Op{};
    op.step = &s;
    op.tokens = tokens_;
    op.sequence = sequence_;
    op.position = position_;
    const double tokens = number(tokens_), width = number(s.width);
    op.cost = kStepNs;
    switch (s.op) {
      case HGX_EMBED:
        op.out = place(s.out, s.out_column, &op.out_stride);
        op.cost += tokens * number(s.matrix->inputs) * kEmbedNs;
        need(round_up(program_.tier->rows->decode_scratch, 64) + (s.flags != 0 ? kPanel * s.matrix->inputs * 4 : 0));
        return true;
      case HGX_PREPARE:
        op.in = place(s.in, s.in_column, &op.in_stride);
        prepared_layout(s.matrix->inputs, tokens_, s.kind, state_.prepared[s.slot], &op.view);
        op.cost += tokens * number(s.matrix->inputs) * kPrepareNs;
        return true;
      case HGX_LINEAR:
        op.out = place(s.out, s.out_column, &op.out_stride);
        prepared_layout(s.matrix->inputs, tokens_, s.in2, state_.prepared[s.slot], &op.view);
        split_linear(&op);
        return true;
      case HGX_ROPE:
      case HGX_CAP:
        op.in = place(s.in, s.in_column, &op.in_stride);
        op.cost += tokens * (s.op == HGX_CAP ? width * kActNs : s.heads * s.head_dim * kRopeNs);
        return true;
      case HGX_CACHE:
        op.in = place(s.in, s.in_column, &op.in_stride);
        op.in2 = place(s.in2, s.in2_column, &op.in2_stride);
        op.cost += tokens * s.kv_heads * s.head_dim * kCacheNs;
        return true;
      case HGX_ATTEND:
        op.in = place(s.in, s.in_column, &op.in_stride);
        op.out = place(s.out, s.out_column, &op.out_stride);
        return split_attention(&op);
      default:
        op.in = place(s.in, s.in_column, &op.in_stride);
        op.out = place(s.out, s.out_column, &op.out_stride);
        if (s.op == HGX_SUM || (s.op == HGX_ACT && s.flags != 0)) op.in2 = place(s.in2, s.in2_column, &op.in2_stride);
        op.cost += tokens * width * (s.op == HGX_ACT ? kActNs : s.op == HGX_NORM ? kNormNs : kSumNs);
        return true;
    }
  }

  // From PICK on, tokens are those that were picked.
  bool picked_arrays() {
    int32_t *const sequence = arena_.array<int32_t>(call_.picked);
    int32_t *const position = arena_.array<int32_t>(call_.picked);
    if (arena_.failed()) return false;
    for (int64_t i = 0; i < call_.picked; ++i) {
      sequence[i] = sequence_[call_.pick[i]];
      position[i] = position_[call_.pick[i]];
    }
    sequence_ = sequence;
    position_ = position;
    tokens_ = call_.picked;
    pieces_ = nullptr;
    return true;
  }

  void split_linear(Op *op) {
    const hgx_matrix &m = *op->step->matrix;
    const MatrixKernels &kernels = *program_.tier->matrix;
    const bool panels = m.kind == HGX_PANELS;
    const int64_t row = m.inputs * dtype_bytes(m.dtype), of_one = panels ? panel_bytes(&m) : row;
    op->outputs = panels ? panels_of(m.outputs) : m.outputs;
    const double products = number(m.outputs) * number(m.inputs) * number(op->tokens);
    const bool integers = panels && op->step->kind != HGX_FLOAT;
    const int passes = integers && op->step->kind == HGX_INT16 ? 2 : 1;
    op->cost += number(op->outputs) * number(of_one) * kByteNs + passes * products * (integers ? kIntegerNs : kFloatNs);
    const int64_t grain = panels ? kernels.panels_at_once : m.transposed == 1 ? 64 : 16;
    // with many tokens every part has much to do, and what it does once for all of its outputs counts
    const bool many = op->tokens > kManyTokens;
    const int64_t fair = op->outputs / ((many ? 6 : 16) * threads_), least = kLeastBytes / of_one;
    const int64_t most = many ? op->outputs : kMostBytes / of_one;
    const int64_t step = fair > most ? most : fair < least ? least : fair;
    op->out_step = round_up(step < 1 ? 1 : step, grain);
    op->parts = (op->outputs + op->out_step - 1) / op->out_step;
    op->token_step = op->tokens;
    const int64_t wanted = (2 * threads_ + op->parts - 1) / op->parts;
    if (wanted > 1 && op->tokens > kernels.tokens_at_once) {
      op->token_step = round_up((op->tokens + wanted - 1) / wanted, kernels.tokens_at_once);
    }
    op->items = op->parts * ((op->tokens + op->token_step - 1) / op->token_step);
    if (panels) need(kernels.scratch_bytes);
  }

  int64_t seen(const hgx_step &s, int64_t token) const {
    const int64_t all = int64_t{position_[token]} + 1;
    return s.window > 0 && all > s.window ? s.window : all;
  }

  bool split_attention(Op *op) {
    const hgx_step &s = *op->step;
    const DecoderKernels &kernels = *program_.tier->decoder;
    const int64_t group = s.heads / s.kv_heads;
    int64_t keys = 0;
    for (int64_t t = 0; t < tokens_; ++t) keys += seen(s, t);
    op->cost += number(keys) * s.heads * s.head_dim * 2 * kFloatNs + number(tokens_) * s.heads * 50;
    need(kernels.attend_scratch(s.head_dim, group));
    if (pieces_ == nullptr || pieces_group_ != group) {
      pieces_ = neighbours(kernels.attend_tokens(group), &piece_count_);
      pieces_group_ = group;
    }
    op->pieces = pieces_;
    op->piece_count = piece_count_;
    const bool scarce = tokens_ * s.kv_heads < 2 * threads_ && threads_ > 1;
    if (scarce && keys > 2 * section_keys * tokens_) op->pieces = sections(s, group, &op->piece_count);
    op->items = op->piece_count * s.kv_heads;
    return !arena_.failed();
  }

  const Piece *neighbours(int64_t most, int64_t *count) {
    Piece *const pieces = arena_.array<Piece>(tokens_);
    if (pieces == nullptr) return nullptr;
    int64_t n = 0;
    for (int64_t t = 0; t < tokens_; ++t) {
      const bool next = t > 0 && sequence_[t] == sequence_[t - 1] && position_[t] == position_[t - 1] + 1;
      if (next && pieces[n - 1].count < most) ++pieces[n - 1].count;
      else pieces[n++] = Piece{t, 1, -1, 0, 1, 0};
    }
    *count = n;
    return pieces;
  }

  // For one or few tokens with many keys: a piece for each section of each token.
  const Piece *sections(const hgx_step &s, int64_t group, int64_t *count) {
    int64_t n = 0, partial = 0;
    for (int64_t t = 0; t < tokens_; ++t) n += section_count(s, t);
    Piece *const pieces = arena_.array<Piece>(n);
    if (pieces == nullptr) return nullptr;
    n = 0;
    for (int64_t t = 0; t < tokens_; ++t) {
      const int64_t all = section_count(s, t), first = (position_[t] + 1 - seen(s, t)) / section_keys;
      for (int64_t i = 0; i < all; ++i) pieces[n++] = Piece{t, 1, first + i, i, all, partial};
      partial += all;
    }
    const int64_t bytes = partial * s.kv_heads * program_.tier->decoder->attend_partial(s.head_dim, group);
    if (bytes > partial_bytes_) partial_bytes_ = bytes;
    if (tokens_ * s.kv_heads > arrivals_) arrivals_ = tokens_ * s.kv_heads;
    *count = n;
    return pieces;
  }

  int64_t section_count(const hgx_step &s, int64_t token) const {
    const int64_t last = position_[token], first = last + 1 - seen(s, token);
    return last / section_keys - first / section_keys + 1;
  }

  // Stages -------------------------------------------------------------------------------------------

  static bool stays_in_row(const Op &op) {
    return op.step->op != HGX_LINEAR && op.step->op != HGX_ATTEND && op.step->op != HGX_PICK;
  }

  bool few(const Op &op) const { return op.tokens < 2 * threads_ && threads_ > 1; }

  // Columns of what an operation computes with column by column, 0 if it does not.
  static int64_t column_count(const Op &op) {
    switch (op.step->op) {
      case HGX_PREPARE: return op.step->matrix->inputs;
      case HGX_ACT: case HGX_SUM: case HGX_CAP: return op.step->width;
      default: return 0;
    }
  }

  static bool columns_worth(const Op &op) { return op.tokens * column_count(op) >= 4096; }

  struct Range {
    int32_t buffer;
    int64_t column;
  };

  static int ranges(const Op &op, Range (&range)[3]) {
    const hgx_step &s = *op.step;
    range[0] = Range{s.in, s.in_column};
    if (s.op == HGX_PREPARE || s.op == HGX_CAP) return 1;
    range[1] = Range{s.out, s.out_column};
    range[2] = Range{s.in2, s.in2_column};
    return op.in2 == nullptr ? 2 : 3;
  }

  // Whether column i of both is the same number wherever they meet in a buffer.
  static bool in_step(const Op &a, const Op &b, int64_t width) {
    Range of_a[3], of_b[3];
    const int a_count = ranges(a, of_a), b_count = ranges(b, of_b);
    for (int i = 0; i < a_count; ++i) {
      for (int j = 0; j < b_count; ++j) {
        const int64_t apart = of_a[i].column - of_b[j].column;
        if (of_a[i].buffer == of_b[j].buffer && apart != 0 && apart < width && -apart < width) return false;
      }
    }
    const bool prepare = a.step->op == HGX_PREPARE && b.step->op == HGX_PREPARE;
    return !prepare || a.step->slot != b.step->slot;
  }

  bool disjoint(int64_t first, int64_t next) const {
    const hgx_step &b = *program_.ops[next].step;
    for (int64_t i = first; i < next; ++i) {
      const hgx_step &a = *program_.ops[i].step;
      if (a.out == b.out && a.out_column < b.out_column + b.matrix->outputs &&
          b.out_column < a.out_column + a.matrix->outputs) {
        return false;
      }
    }
    return true;
  }

  bool joins_columns(int64_t first, int64_t next) const {
    const int64_t width = column_count(program_.ops[first]);
    if (column_count(program_.ops[next]) != width) return false;
    for (int64_t i = first; i < next; ++i) {
      if (!in_step(program_.ops[i], program_.ops[next], width)) return false;
    }
    return true;
  }

  // Token by token a second PREPARE of a slot would write over what it left for the token before: the sections of
  // both may lie elsewhere.
  bool prepares_again(int64_t first, int64_t next) const {
    const hgx_step &b = *program_.ops[next].step;
    for (int64_t i = first; b.op == HGX_PREPARE && i < next; ++i) {
      const hgx_step &a = *program_.ops[i].step;
      if (a.op == HGX_PREPARE && a.slot == b.slot) return true;
    }
    return false;
  }

  // Makes the stage that begins at an operation; returns where the next begins.
  int64_t stage(int64_t first) {
    const Op &op = program_.ops[first];
    const int64_t count = program_.op_count;
    int64_t next = first + 1;
    Stage s{Kind::rows, first, 1, 1, 1, false, false, -1};
    const bool in_columns = few(op) && columns_worth(op);
    if (op.step->op == HGX_LINEAR) {
      s.kind = Kind::linear;
      while (next < count && program_.ops[next].step->op == HGX_LINEAR && disjoint(first, next)) ++next;
      s.items = 0;
      for (int64_t i = first; i < next; ++i) s.items += program_.ops[i].items;
    } else if (op.step->op == HGX_ATTEND) {
      s.kind = Kind::attend;
      s.items = op.items;
    } else if (in_columns) {
      s.kind = Kind::columns;
      while (next < count && joins_columns(first, next)) ++next;
      s.step = column_step(first, next);
      s.items = op.tokens * ((column_count(op) + s.step - 1) / s.step);
    } else {
      while (next < count && stays_in_row(op) && stays_in_row(program_.ops[next]) &&
             !(few(op) && columns_worth(program_.ops[next])) && !prepares_again(first, next)) {
        ++next;
      }
      s.step = op.tokens / (4 * threads_) < 1 ? 1 : op.tokens / (4 * threads_);
      s.items = (op.tokens + s.step - 1) / s.step;
    }
    s.count = next - first;
    double cost = 0;
    for (int64_t i = first; i < next; ++i) cost += program_.ops[i].cost;
    s.parallel = threads_ > 1 && s.items > 1 && cost > kWorthMeeting;
    shared_cost_ += s.parallel ? cost : 0;
    program_.stages[program_.stage_count++] = s;
    return next;
  }

  // Whole units, and whole groups of those that one butterfly mixes.
  int64_t column_step(int64_t first, int64_t next) const {
    int64_t units = 1;
    for (int64_t i = first; i < next; ++i) {
      const hgx_step &s = *program_.ops[i].step;
      if (s.op != HGX_PREPARE) continue;
      const int64_t own = program_.tier->matrix->prepare_units(*s.matrix);
      if (own > units) units = own;
    }
    const Op &op = program_.ops[first];
    const int64_t fair = op.tokens * column_count(op) / (4 * threads_);
    return round_up(fair < 512 ? 512 : fair, units * kUnit);
  }

  void finish() {
    const bool wake = shared_cost_ > kWorthWaking;
    program_.threads = wake ? threads_ : 1;
    program_.counters = arena_.array<Counter>(2 * program_.threads);
    if (partial_bytes_ > 0) program_.partials = static_cast<float *>(arena_.take(partial_bytes_));
    program_.arrived = arena_.array<std::atomic<int64_t>>(arrivals_);
    if (arena_.failed()) return;
    for (int64_t i = 0; i < 2 * program_.threads; ++i) new (program_.counters + i) Counter;
    int64_t products = -1;
    for (int64_t i = program_.stage_count; i-- > 0;) {
      Stage &s = program_.stages[i];
      s.products = products;
      s.meet = i + 1 < program_.stage_count && wake && (s.parallel || program_.stages[i + 1].parallel);
      s.parallel = s.parallel && wake;
      if (s.kind == Kind::linear) products = i;
    }
    for (int64_t i = 0; i < arrivals_; ++i) new (program_.arrived + i) std::atomic<int64_t>{0};
  }

  const Call &call_;
  const hgx_state &state_;
  const int threads_;
  Arena &arena_;
  Program &program_;
  int64_t tokens_ = 0;
  const int32_t *sequence_ = nullptr, *position_ = nullptr;
  const Piece *pieces_ = nullptr;  // of the tokens and group at hand
  int64_t piece_count_ = 0, pieces_group_ = 0;
  int64_t partial_bytes_ = 0, arrivals_ = 0;
  double shared_cost_ = 0;
};

}  // namespace

int plan_program(const Call &call, const Tier *tier, int threads, Arena *arena, Program *program) {
  return Planner(call, tier, threads, arena, program).plan();
}

}  // namespace higgsx
