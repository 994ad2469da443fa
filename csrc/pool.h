// Threads: an own pool that sleeps between calls, or a borrowed one in the shape of OpenMP's GOMP_parallel.
#pragma once

#include <atomic>
#include <cstdint>

namespace higgsx {

// thread: index of the running thread, below threads.
using Body = void (*)(void *data, int thread, int threads);

inline constexpr int kMaxThreads = 1024;

// Threads of the pool, the calling one included. Default: the processors this process may use.
int pool_threads();
// False if the number is not in 1 .. kMaxThreads.
bool pool_set_threads(int threads);

using Parallel = void (*)(void (*)(void *), void *, unsigned, unsigned);
// All NULL: the own pool again. False if only some are NULL.
bool pool_borrow(Parallel parallel, int (*number)(), int (*team)());

// Calls body on 1 to `wanted` threads, the calling one among them, and returns when all have returned. Which
// indices run is not known before: body takes its work from a counter (Chunks). Where the pool is busy with
// another caller, the calling thread works alone.
void pool_run(Body body, void *data, int wanted);

// The same on the own pool, with the promise that indices 0 .. threads - 1 all run at the same time, so that
// they may wait for each other at a Barrier.
void pool_run_own(Body body, void *data, int wanted);

// Waits a moment without giving up the processor.
inline void pause_briefly() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ __volatile__("yield");
#endif
}

// All threads of one pool_run_own meet here. Used again and again; `threads` is the same every time.
class Barrier {
 public:
  // Whoever is not the last calls `idle` again and again until it returns false.
  template <class Idle>
  void wait(int threads, Idle idle) {
    if (threads <= 1) return;
    const uint32_t phase = phase_.load(std::memory_order_acquire);
    if (arrive(threads, phase)) return;
    while (phase_.load(std::memory_order_acquire) == phase && idle()) {
    }
    wait_for(phase);
  }

 private:
  bool arrive(int threads, uint32_t phase);
  void wait_for(uint32_t phase);

  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
};

// Hands out 0 .. count - 1 in runs of `size` to whoever asks.
class Chunks {
 public:
  Chunks(int64_t count, int64_t size) : count_(count), size_(size < 1 ? 1 : size) {}
  bool take(int64_t *begin, int64_t *end) {
    const int64_t first = next_.fetch_add(1, std::memory_order_relaxed);
    if (first > (count_ - 1) / size_) return false;
    *begin = first * size_;
    *end = count_ - *begin < size_ ? count_ : *begin + size_;
    return count_ > 0;
  }
  int64_t chunks() const { return count_ < 1 ? 0 : (count_ - 1) / size_ + 1; }

 private:
  const int64_t count_, size_;
  alignas(64) std::atomic<int64_t> next_{0};
};

}  // namespace higgsx
