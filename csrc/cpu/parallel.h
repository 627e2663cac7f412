// Loops on torch's threads.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>

namespace softcm {

// The process that was the first to use threads here, or 0. Threads of OpenMP do not survive a
// fork, and a child that hands them work waits for ever: it has to go without.
inline std::atomic<pid_t> owner_of_threads{0};

inline bool may_use_threads() {
  const pid_t self = getpid();
  pid_t owner = 0;
  return owner_of_threads.compare_exchange_strong(owner, self) || owner == self;
}

// Runs f(first, last) on parts of 0 ... count - 1 of at least grain.
template <class F>
void for_parts(int64_t count, int64_t grain, const F& f) {
  if (count > grain && may_use_threads()) {
    torch::stable::parallel_for(0, count, grain, f);
  } else {
    f(int64_t{0}, count);
  }
}

}  // namespace softcm
