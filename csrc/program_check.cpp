// Checks of hgx_run: after them no step reads or writes outside of what it was given.
#include "check.h"
#include "layout.h"
#include "program.h"

namespace higgsx {
namespace {

constexpr int64_t kMost = int64_t{1} << 40;  // columns, rows, positions
constexpr int32_t kMostHeads = 1 << 16, kMostHeadDim = 1024, kMostSequences = 1 << 20;

bool in_range(int64_t value, int64_t low, int64_t high) { return value >= low && value <= high; }

template <class T>
bool aligned(const T *pointer) {
  return pointer != nullptr && reinterpret_cast<uintptr_t>(pointer) % alignof(T) == 0;
}

// What PREPARE last left in a slot.
struct Slot {
  int64_t inputs, tokens;
  int modes;
};

class Checker {
 public:
  Checker(const Call &call, Slot *slots, int32_t *last)
      : call_(call), state_(*call.state), slots_(slots), last_(last) {}

  int tokens_of_call() {
    if (call_.tokens == 0) return HGX_OK;
    if (!aligned(call_.ids) || !aligned(call_.sequence) || !aligned(call_.position)) return HGX_BAD_ARGUMENT;
    for (int64_t i = 0; i < state_.sequences; ++i) last_[i] = -1;
    for (int64_t t = 0; t < call_.tokens; ++t) {
      const int32_t sequence = call_.sequence[t], position = call_.position[t];
      if (sequence < 0 || sequence >= state_.sequences || position < 0 || position >= state_.context) {
        return HGX_BAD_INDEX;
      }
      if (position <= last_[sequence]) return HGX_BAD_INDEX;
      last_[sequence] = position;
    }
    return HGX_OK;
  }

  int step(const hgx_step &s) {
    switch (s.op) {
      case HGX_EMBED: return embed(s);
      case HGX_NORM: return norm(s);
      case HGX_PREPARE: return prepare(s);
      case HGX_LINEAR: return linear(s);
      case HGX_ROPE: return rope(s);
      case HGX_CACHE: return cache(s);
      case HGX_ATTEND: return attend(s);
      case HGX_ACT: return act(s);
      case HGX_SUM: return sum(s);
      case HGX_PICK: return pick(s);
      case HGX_CAP: return is_width(s.width) ? columns(s.in, s.in_column, s.width) : HGX_BAD_ARGUMENT;
      default: return HGX_BAD_ARGUMENT;
    }
  }

 private:
  int64_t tokens() const { return picked_ ? call_.picked : call_.tokens; }

  static bool is_width(int64_t width) { return in_range(width, 1, kMost); }

  int columns(int32_t buffer, int64_t column, int64_t width) const {
    if (buffer < 0 || buffer >= state_.buffers) return HGX_BAD_INDEX;
    if (!in_range(column, 0, kMost) || !in_range(width, 1, kMost)) return HGX_BAD_INDEX;
    return column + width <= state_.stride[buffer] ? HGX_OK : HGX_BAD_INDEX;
  }

  // Two ranges of columns of one buffer may be the same (if `same`), but not overlap otherwise. `columns` has
  // accepted both.
  static bool clash(int32_t a, int64_t a_column, int32_t b, int64_t b_column, int64_t width, bool same) {
    if (a != b || (same && a_column == b_column)) return false;
    return a_column < b_column + width && b_column < a_column + width;
  }

  static int first_of(int a, int b) { return a != HGX_OK ? a : b; }

  // The same number of columns of `in` and of `out`.
  int in_and_out(const hgx_step &s, int64_t width, bool same) const {
    const int status = first_of(columns(s.in, s.in_column, width), columns(s.out, s.out_column, width));
    if (status != HGX_OK) return status;
    return clash(s.in, s.in_column, s.out, s.out_column, width, same) ? HGX_BAD_ARGUMENT : HGX_OK;
  }

  int embed(const hgx_step &s) const {
    if (picked_ || (s.flags & ~1) != 0) return HGX_BAD_ARGUMENT;
    const int status = hgx_check(s.matrix);
    if (status != HGX_OK) return status;
    const bool positions = (s.flags & 1) != 0;
    for (int64_t t = 0; t < tokens(); ++t) {
      const int64_t row = positions ? int64_t{call_.position[t]} + s.kind : call_.ids[t];
      if (row < 0 || row >= s.matrix->outputs) return HGX_BAD_INDEX;
    }
    return columns(s.out, s.out_column, s.matrix->inputs);
  }

  int norm(const hgx_step &s) const {
    if (!is_width(s.width) || s.groups < 1 || s.width % s.groups != 0 || s.kind < 0 || s.kind > 1) {
      return HGX_BAD_ARGUMENT;
    }
    if ((s.weight != nullptr && !aligned(s.weight)) || (s.bias != nullptr && !aligned(s.bias))) return HGX_BAD_ARGUMENT;
    return in_and_out(s, s.width, true);
  }

  int slot(int32_t number, int64_t inputs, int modes) const {
    if (number < 0 || number >= state_.slots) return HGX_BAD_INDEX;
    const int64_t need = hgx_prepared_bytes(inputs, tokens(), modes);
    if (need < 0) return HGX_BAD_ARGUMENT;
    if (need == 0) return HGX_OK;
    if (reinterpret_cast<uintptr_t>(state_.prepared[number]) % 4 != 0) return HGX_BAD_ARGUMENT;
    return state_.prepared[number] != nullptr && state_.prepared_bytes[number] >= need ? HGX_OK : HGX_BAD_SIZE;
  }

  int prepare(const hgx_step &s) {
    int status = hgx_check(s.matrix);
    if (status != HGX_OK) return status;
    if (!are_modes(s.kind)) return HGX_BAD_ARGUMENT;
    status = first_of(columns(s.in, s.in_column, s.matrix->inputs), slot(s.slot, s.matrix->inputs, s.kind));
    if (status == HGX_OK) slots_[s.slot] = Slot{s.matrix->inputs, tokens(), s.kind};
    return status;
  }

  int linear(const hgx_step &s) const {
    int status = hgx_check(s.matrix);
    if (status != HGX_OK) return status;
    const int modes = s.in2;
    if (!is_mode(s.kind) || !are_modes(modes) || (modes & s.kind) == 0 || (s.flags & ~HGX_ADD) != 0) {
      return HGX_BAD_ARGUMENT;
    }
    if (s.matrix->kind == HGX_DENSE && (modes & HGX_FLOAT) == 0) return HGX_BAD_ARGUMENT;
    if (s.bias != nullptr && !aligned(s.bias)) return HGX_BAD_ARGUMENT;
    status = first_of(columns(s.out, s.out_column, s.matrix->outputs), slot(s.slot, s.matrix->inputs, modes));
    if (status != HGX_OK) return status;
    const Slot &there = slots_[s.slot];
    const bool same = there.inputs == s.matrix->inputs && there.tokens == tokens() && there.modes == modes;
    return same ? HGX_OK : HGX_BAD_ARGUMENT;
  }

  static bool heads_fit(int32_t heads, const hgx_step &s) {
    return in_range(heads, 1, kMostHeads) && in_range(s.head_dim, 1, kMostHeadDim);
  }

  int rope(const hgx_step &s) const {
    if (!heads_fit(s.heads, s) || s.kind < 0 || s.kind > 1) return HGX_BAD_ARGUMENT;
    if (!in_range(s.rotary, 2, s.head_dim) || s.rotary % 2 != 0) return HGX_BAD_ARGUMENT;
    if (!aligned(s.weight) || !aligned(s.bias)) return HGX_BAD_ARGUMENT;
    for (int64_t t = 0; t < tokens(); ++t) {
      if (position(t) >= s.positions) return HGX_BAD_INDEX;
    }
    return columns(s.in, s.in_column, int64_t{s.heads} * s.head_dim);
  }

  int32_t position(int64_t token) const { return call_.position[picked_ ? call_.pick[token] : token]; }

  int layer(const hgx_step &s) const {
    if (!heads_fit(s.kv_heads, s)) return HGX_BAD_ARGUMENT;
    if (s.layer < 0 || s.layer >= state_.layers) return HGX_BAD_INDEX;
    const auto of_element = static_cast<uintptr_t>(dtype_bytes(state_.cache_dtype));
    const void *const keys = state_.keys[s.layer], *const values = state_.values[s.layer];
    if (keys == nullptr || values == nullptr || reinterpret_cast<uintptr_t>(keys) % of_element != 0 ||
        reinterpret_cast<uintptr_t>(values) % of_element != 0) {
      return HGX_BAD_ARGUMENT;
    }
    const __int128 row = static_cast<__int128>(s.kv_heads) * s.head_dim * dtype_bytes(state_.cache_dtype);
    const __int128 need = row * state_.sequences * cache_context(state_);
    return need <= state_.cache_bytes[s.layer] ? HGX_OK : HGX_BAD_SIZE;
  }

  int cache(const hgx_step &s) const {
    if (picked_) return HGX_BAD_ARGUMENT;
    const int status = layer(s);
    if (status != HGX_OK) return status;
    const int64_t width = int64_t{s.kv_heads} * s.head_dim;
    return first_of(columns(s.in, s.in_column, width), columns(s.in2, s.in2_column, width));
  }

  int attend(const hgx_step &s) const {
    const int status = layer(s);
    if (status != HGX_OK) return status;
    if (!heads_fit(s.heads, s) || s.heads % s.kv_heads != 0 || s.heads / s.kv_heads > kMostHeadDim || s.window < 0) {
      return HGX_BAD_ARGUMENT;
    }
    return in_and_out(s, int64_t{s.heads} * s.head_dim, false);
  }

  int act(const hgx_step &s) const {
    if (s.kind < HGX_RELU || s.kind > HGX_QUICK_GELU || (s.flags & ~1) != 0) return HGX_BAD_ARGUMENT;
    return s.flags == 1 ? sum(s) : one_in(s);
  }

  int one_in(const hgx_step &s) const {
    return is_width(s.width) ? in_and_out(s, s.width, true) : HGX_BAD_ARGUMENT;
  }

  int sum(const hgx_step &s) const {
    const int status = first_of(one_in(s), columns(s.in2, s.in2_column, s.width));
    if (status != HGX_OK) return status;
    return clash(s.in2, s.in2_column, s.out, s.out_column, s.width, true) ? HGX_BAD_ARGUMENT : HGX_OK;
  }

  int pick(const hgx_step &s) {
    if (picked_ || !is_width(s.width) || s.in == s.out) return HGX_BAD_ARGUMENT;
    if (!in_range(call_.picked, 0, state_.rows) || (call_.picked > 0 && !aligned(call_.pick))) return HGX_BAD_ARGUMENT;
    for (int64_t i = 0; i < call_.picked; ++i) {
      if (call_.pick[i] < 0 || call_.pick[i] >= call_.tokens) return HGX_BAD_INDEX;
    }
    picked_ = true;
    return first_of(columns(s.in, s.in_column, s.width), columns(s.out, s.out_column, s.width));
  }

  const Call &call_;
  const hgx_state &state_;
  Slot *slots_;
  int32_t *last_;  // position of the last token of each sequence
  bool picked_ = false;
};

int check_state(const hgx_state &s) {
  if (s.buffers < 0 || s.slots < 0 || s.layers < 0 || !is_dtype(s.cache_dtype)) return HGX_BAD_ARGUMENT;
  if (!in_range(s.rows, 0, kMost) || !in_range(s.sequences, 0, kMostSequences) ||
      !in_range(s.context, 0, INT32_MAX - 16)) {
    return HGX_BAD_ARGUMENT;
  }
  if (s.buffers > 0 && (s.buffer == nullptr || s.stride == nullptr)) return HGX_BAD_ARGUMENT;
  if (s.slots > 0 && (s.prepared == nullptr || s.prepared_bytes == nullptr)) return HGX_BAD_ARGUMENT;
  if (s.layers > 0 && (s.keys == nullptr || s.values == nullptr || s.cache_bytes == nullptr)) return HGX_BAD_ARGUMENT;
  for (int32_t b = 0; b < s.buffers; ++b) {
    if (!in_range(s.stride[b], 0, kMost) || !fits(s.rows, s.stride[b], s.stride[b], 4)) return HGX_BAD_ARGUMENT;
    if (s.stride[b] > 0 && s.rows > 0 && !aligned(s.buffer[b])) return HGX_BAD_ARGUMENT;
  }
  return HGX_OK;
}

}  // namespace

int check_program(const Call &call) {
  if (call.state == nullptr || call.count < 0 || (call.count > 0 && !aligned(call.steps))) return HGX_BAD_ARGUMENT;
  const hgx_state &state = *call.state;
  int status = check_state(state);
  if (status != HGX_OK) return status;
  if (!in_range(call.tokens, 0, state.rows) || call.picked < 0) return HGX_BAD_ARGUMENT;
  Arena arena;
  Slot *const slots = arena.array<Slot>(state.slots);
  int32_t *const last = arena.array<int32_t>(state.sequences);
  if (arena.failed()) return HGX_NO_MEMORY;
  for (int32_t i = 0; i < state.slots; ++i) slots[i] = Slot{0, 0, 0};
  Checker checker(call, slots, last);
  status = checker.tokens_of_call();
  for (int64_t i = 0; i < call.count && status == HGX_OK; ++i) status = checker.step(call.steps[i]);
  return status;
}

}  // namespace higgsx
