#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

namespace higgsx {
namespace {

constexpr int64_t kSpinNanoseconds = 60'000;
constexpr int kPausesPerLook = 8;

int64_t now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return int64_t{t.tv_sec} * 1'000'000'000 + t.tv_nsec;
}

// Waits until `ready` holds: spins, then lets others run.
template <typename Ready>
void wait_for(Ready ready) {
  const int64_t start = now();
  for (bool yielding = false; !ready();) {
    if (yielding) {
      sched_yield();
      continue;
    }
    for (int i = 0; i < kPausesPerLook && !ready(); ++i) pause_briefly();
    yielding = now() - start > kSpinNanoseconds;
  }
}

// The state of a call, in one word so that joining and closing are single steps:
// number of the call (40 bits), open (1), places left for workers (11), workers that joined (12).
constexpr uint64_t kJoined = 1;
constexpr uint64_t kPlace = uint64_t{1} << 12;
constexpr uint64_t kOpen = uint64_t{1} << 23;
constexpr uint64_t kCall = uint64_t{1} << 24;

int joined(uint64_t gate) { return static_cast<int>(gate & (kPlace - 1)); }
int places(uint64_t gate) { return static_cast<int>((gate & (kOpen - 1)) / kPlace); }
uint64_t call(uint64_t gate) { return gate / kCall; }

struct Pool {
  // Held by the caller who uses the workers. Everything below that is not atomic belongs to the holder.
  std::atomic<bool> busy{false};
  int workers = 0;
  pthread_t thread[kMaxThreads];

  alignas(64) std::atomic<uint64_t> gate{0};
  Body body = nullptr;
  void *data = nullptr;
  int threads = 1;
  alignas(64) std::atomic<int> finished{0};

  alignas(64) std::atomic<int> sleepers{0};
  std::atomic<bool> stopping{false};
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t wake = PTHREAD_COND_INITIALIZER;

  // What the user set.
  std::atomic<int> setting{0};
  std::atomic<Parallel> parallel{nullptr};
  std::atomic<int (*)()> number{nullptr};
  std::atomic<int (*)()> team{nullptr};
};

Pool pool;

// In the child of a fork there are no workers, whatever the parent was doing. A borrowed pool has lost its
// threads as well.
void after_fork() {
  pool.busy.store(false);
  pool.workers = 0;
  pool.gate.store(0);
  pool.finished.store(0);
  pool.sleepers.store(0);
  pool.stopping.store(false);
  pool.parallel.store(nullptr);
  pthread_mutex_init(&pool.mutex, nullptr);
  pthread_cond_init(&pool.wake, nullptr);
}

void watch_forks() {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, [] { pthread_atfork(nullptr, nullptr, after_fork); });
}

bool changed(uint64_t seen) {
  return call(pool.gate.load()) != seen || pool.stopping.load(std::memory_order_relaxed);
}

// Spins for a while, then sleeps, until there is another call than `seen`.
void await_call(uint64_t seen) {
  const int64_t start = now();
  while (now() - start < kSpinNanoseconds) {
    for (int i = 0; i < kPausesPerLook; ++i) {
      if (changed(seen)) return;
      pause_briefly();
    }
  }
  pthread_mutex_lock(&pool.mutex);
  pool.sleepers.fetch_add(1);
  while (!changed(seen)) pthread_cond_wait(&pool.wake, &pool.mutex);
  pool.sleepers.fetch_sub(1);
  pthread_mutex_unlock(&pool.mutex);
}

// first: the number of the last call that is not this worker's business.
void *work(void *first) {
  uint64_t seen = reinterpret_cast<uintptr_t>(first);
  for (;;) {
    await_call(seen);
    if (pool.stopping.load()) return nullptr;
    uint64_t gate = pool.gate.load();
    seen = call(gate);
    while (call(gate) == seen && (gate & kOpen) != 0 && places(gate) > 0) {
      if (!pool.gate.compare_exchange_weak(gate, gate - kPlace + kJoined)) continue;
      pool.body(pool.data, joined(gate) + 1, pool.threads);
      pool.finished.fetch_add(1);
      break;
    }
  }
}

void wake_all() {
  if (pool.sleepers.load() == 0) return;
  pthread_mutex_lock(&pool.mutex);
  pthread_cond_broadcast(&pool.wake);
  pthread_mutex_unlock(&pool.mutex);
}

void stop_workers() {
  pool.stopping.store(true);
  // a worker may be on its way to sleep: it looks again with the mutex held
  pthread_mutex_lock(&pool.mutex);
  pthread_cond_broadcast(&pool.wake);
  pthread_mutex_unlock(&pool.mutex);
  for (int i = 0; i < pool.workers; ++i) pthread_join(pool.thread[i], nullptr);
  pool.workers = 0;
  pool.stopping.store(false);
}

bool start_worker() {
  auto *const seen = reinterpret_cast<void *>(static_cast<uintptr_t>(call(pool.gate.load())));
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, size_t{4} << 20);
  // signals are for the threads of the program
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const bool ok = pthread_create(&pool.thread[pool.workers], &attributes, work, seen) == 0;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_attr_destroy(&attributes);
  return ok;
}

// Brings the number of workers to what is set, as far as the system allows.
void adjust_workers() {
  watch_forks();
  const int wanted = pool_threads() - 1;
  if (pool.workers > wanted) stop_workers();
  while (pool.workers < wanted && start_worker()) ++pool.workers;
}

bool seize() { return !pool.busy.exchange(true, std::memory_order_acquire); }
void release() { pool.busy.store(false, std::memory_order_release); }

// One call on the own workers. `all`: every thread runs; else those that come before the work is done.
void run_workers(Body body, void *data, int wanted, bool all) {
  adjust_workers();
  const int helpers = wanted - 1 < pool.workers ? wanted - 1 : pool.workers;
  if (helpers < 1) return body(data, 0, 1);
  pool.body = body;
  pool.data = data;
  pool.threads = helpers + 1;
  pool.finished.store(0);
  const uint64_t next = call(pool.gate.load()) + 1;
  pool.gate.store(next * kCall | kOpen | static_cast<uint64_t>(helpers) * kPlace);
  wake_all();
  body(data, 0, helpers + 1);
  const int running = all ? helpers : joined(pool.gate.fetch_and(~kOpen));
  wait_for([running] { return pool.finished.load() == running; });
}

struct Borrowed {
  Body body;
  void *data;
  int (*number)();
  int (*team)();
};

void run_borrowed(void *data) {
  const auto *job = static_cast<Borrowed *>(data);
  job->body(job->data, job->number(), job->team());
}

// Processors that this process may use.
int processors() {
#if defined(__linux__)
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof mask, &mask) == 0 && CPU_COUNT(&mask) > 0) return CPU_COUNT(&mask);
#endif
  const long count = sysconf(_SC_NPROCESSORS_ONLN);
  return count < 1 ? 1 : static_cast<int>(count);
}

// At the end of the program: workers end, unless someone still uses them.
struct AtExit {
  ~AtExit() {
    if (!seize()) return;
    if (pool.workers > 0) stop_workers();
    release();
  }
} at_exit;

}  // namespace

int pool_threads() {
  int set = pool.setting.load(std::memory_order_relaxed);
  if (set > 0) return set;
  const int found = processors() < kMaxThreads ? processors() : kMaxThreads;
  return pool.setting.compare_exchange_strong(set, found) ? found : set;
}

bool pool_set_threads(int threads) {
  if (threads < 1 || threads > kMaxThreads) return false;
  pool.setting.store(threads, std::memory_order_relaxed);
  return true;
}

bool pool_borrow(Parallel parallel, int (*number)(), int (*team)()) {
  const int given = (parallel != nullptr) + (number != nullptr) + (team != nullptr);
  if (given != 0 && given != 3) return false;
  watch_forks();
  // number and team stay when the pool is given back: a call that has begun still asks them
  if (parallel != nullptr) {
    pool.number.store(number);
    pool.team.store(team);
  }
  pool.parallel.store(parallel);
  return true;
}

void pool_run(Body body, void *data, int wanted) {
  const int set = pool_threads();
  const int threads = wanted < set ? wanted : set;
  if (threads <= 1) return body(data, 0, 1);
  if (Parallel parallel = pool.parallel.load()) {
    Borrowed job{body, data, pool.number.load(), pool.team.load()};
    return parallel(run_borrowed, &job, static_cast<unsigned>(threads), 0);
  }
  if (!seize()) return body(data, 0, 1);
  run_workers(body, data, threads, false);
  release();
}

void pool_run_own(Body body, void *data, int wanted) {
  const int set = pool_threads();
  const int threads = wanted < set ? wanted : set;
  if (threads <= 1 || !seize()) return body(data, 0, 1);
  run_workers(body, data, threads, true);
  release();
}

// True for the last of the threads.
bool Barrier::arrive(int threads, uint32_t phase) {
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 < threads) return false;
  arrived_.store(0, std::memory_order_relaxed);
  phase_.store(phase + 1, std::memory_order_release);
  return true;
}

void Barrier::wait_for(uint32_t phase) {
  higgsx::wait_for([&] { return phase_.load(std::memory_order_acquire) != phase; });
}

}  // namespace higgsx
