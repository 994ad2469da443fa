// Work space of a thread: kept between calls, so that a call neither allocates nor meets new pages.
#pragma once

#include <cstdint>

namespace higgsx {

// At least `bytes` bytes, aligned to 64; NULL if there is no memory. The contents are whatever the thread's last
// use left. Valid until the same thread asks again; freed when the thread ends.
void *thread_scratch(int64_t bytes);

}  // namespace higgsx
