#include "scratch.h"

#include <pthread.h>

#include <cstdlib>

namespace higgsx {
namespace {

struct Space {
  int64_t bytes;
  uint8_t *raw;
};

/* Set aside when the library is loaded: what is made at a thread's first use ends the process if memory is short. */
__attribute__((tls_model("initial-exec"))) thread_local Space space{0, nullptr};
pthread_key_t key;
bool has_key = false;

// The key is there for its destructor alone.
void drop(void *raw) {
  std::free(raw);
  space = Space{0, nullptr};
}

void make_key() { has_key = pthread_key_create(&key, drop) == 0; }

}  // namespace

void *thread_scratch(int64_t bytes) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, make_key);
  if (bytes > space.bytes || space.raw == nullptr) {
    if (!has_key || bytes < 0 || bytes > int64_t{1} << 40) return nullptr;
    std::free(space.raw);
    space.bytes = (bytes + 4095) / 4096 * 4096;
    space.raw = static_cast<uint8_t *>(std::malloc(static_cast<size_t>(space.bytes) + 64));
    if (space.raw == nullptr) space.bytes = 0;
    pthread_setspecific(key, space.raw);
  }
  if (space.raw == nullptr) return nullptr;
  return reinterpret_cast<void *>((reinterpret_cast<uintptr_t>(space.raw) + 63) / 64 * 64);
}

}  // namespace higgsx
