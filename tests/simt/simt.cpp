// The scheduler of simt.h, for x86-64 and the System V calling convention.
#include "simt.h"

#include <link.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

// This file is compiled without sanitizers; SIMT_ASAN or SIMT_TSAN says which one the kernels have.
#if defined(SIMT_ASAN)
extern "C" void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom, size_t size);
extern "C" void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom,
                                                size_t* size);
#endif
#if defined(SIMT_TSAN)
extern "C" void* __tsan_get_current_fiber();
extern "C" void* __tsan_create_fiber(unsigned flags);
extern "C" void __tsan_switch_to_fiber(void* fiber, unsigned flags);
extern "C" void __tsan_acquire(void* address);
extern "C" void __tsan_release(void* address);
#else
static void __tsan_acquire(void*) {}
static void __tsan_release(void*) {}
#endif

// Saves the registers that a call preserves and the stack pointer in *from; goes on from to.
extern "C" void simt_switch_stack(void** from, void* to);
__asm__(
    ".text\n"
    "simt_switch_stack:\n"
    "  push %rbp\n  push %rbx\n  push %r12\n  push %r13\n  push %r14\n  push %r15\n"
    "  mov %rsp, (%rdi)\n"
    "  mov %rsi, %rsp\n"
    "  pop %r15\n  pop %r14\n  pop %r13\n  pop %r12\n  pop %rbx\n  pop %rbp\n"
    "  ret\n");

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace simt {

struct Site {
  const char* file = nullptr;
  int line = 0;
  bool operator==(const Site&) const = default;
};

// Threads that wait for each other at one place in the source.
struct Meeting {
  Site site;
  unsigned arrived = 0;
  unsigned round = 0;   // goes up when all have come
  char happens_before;  // an address that ThreadSanitizer orders by
};

struct Warp {
  Meeting meeting;
  unsigned mask = 0, alive = 0;
  uint64_t value[2][32];  // of this round and the one before, which some may still read
};

struct Thread {
  dim3 index;
  void* stack = nullptr;
  void* stack_pointer = nullptr;
  void* tsan = nullptr;
  const unsigned* waits_for = nullptr;  // to become other than
  unsigned seen = 0;
  bool done = false;
  bool fenced = false;
  std::vector<void*> atomics;  // since the last fence
};

struct Block {
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  Meeting barrier;
  size_t exited = 0;
  const std::function<void()>* body = nullptr;
};

namespace {

constexpr size_t kStack = 64 << 10;

// One block runs at a time, whatever the OS thread.
Thread* current = nullptr;
Block* block = nullptr;
void* scheduler = nullptr;  // its stack pointer
const void* scheduler_stack = nullptr;
size_t scheduler_size = 0;
#if defined(SIMT_TSAN)
void* scheduler_tsan = nullptr;
#endif
thread_local char of_this_module = 0;

unsigned seed = 0;
unsigned launches = 0;
std::string failure;  // of an assert in a kernel

[[noreturn]] void die(const std::string& message, const Site& site) {
  std::fprintf(stderr, "simt: %s, %s:%d\n", message.c_str(), site.file, site.line);
  std::fflush(stderr);
  std::abort();
}

void to_scheduler(bool forever = false) {
#if defined(SIMT_ASAN)
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(forever ? nullptr : &fake_stack, scheduler_stack, scheduler_size);
#endif
#if defined(SIMT_TSAN)
  __tsan_switch_to_fiber(scheduler_tsan, 1);  // 1: switching orders nothing
#endif
  (void)forever;
  simt_switch_stack(&current->stack_pointer, scheduler);
#if defined(SIMT_ASAN)
  __sanitizer_finish_switch_fiber(fake_stack, &scheduler_stack, &scheduler_size);
#endif
}

void resume(Thread& thread) {
  current = &thread;
  threadIdx = thread.index;
#if defined(SIMT_ASAN)
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(&fake_stack, thread.stack, kStack);
#endif
#if defined(SIMT_TSAN)
  __tsan_switch_to_fiber(thread.tsan, 1);
#endif
  simt_switch_stack(&scheduler, thread.stack_pointer);
#if defined(SIMT_ASAN)
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
}

void wait_for_change(const unsigned& counter, unsigned seen) {
  current->waits_for = &counter;
  current->seen = seen;
  while (counter == seen) to_scheduler();
  current->waits_for = nullptr;
}

// True for the last one to arrive.
void meet(Meeting& meeting, unsigned expected, const Site& site, const char* what, bool orders) {
  if (meeting.arrived > 0 && !(meeting.site == site)) {
    die(std::string("threads wait at two different ") + what, site);
  }
  if (orders) __tsan_release(&meeting.happens_before);
  meeting.site = site;
  const unsigned round = meeting.round;
  if (++meeting.arrived == expected) {
    meeting.arrived = 0;
    ++meeting.round;
  } else {
    wait_for_change(meeting.round, round);
  }
  if (orders) __tsan_acquire(&meeting.happens_before);
}

void run_thread() {
#if defined(SIMT_ASAN)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_size);
#endif
  (*block->body)();
  __tsan_release(&gridDim);  // what a kernel has done comes before what the host does next
  current->done = true;
  ++block->exited;
  block->warps[current->index.x / 32].alive &= ~(1u << (current->index.x % 32));
  if (block->barrier.arrived > 0) die("a thread returned while others wait", block->barrier.site);
  to_scheduler(true);
}

// Stacks are used by one block after the other, but for ThreadSanitizer: there is no order between
// blocks, and so none between what they write to their stacks.
void* stack_of(size_t index) {
  static std::vector<void*> stacks;
#if defined(SIMT_TSAN)
  stacks.clear();
  index = 0;
#endif
  while (stacks.size() <= index) {
    constexpr int kAccess = PROT_READ | PROT_WRITE, kKind = MAP_PRIVATE | MAP_ANONYMOUS;
    stacks.push_back(mmap(nullptr, kStack, kAccess, kKind, -1, 0));
    if (stacks.back() == MAP_FAILED) die("no memory for a stack", {});
  }
  return stacks[index];
}

void prepare(Thread& thread, size_t index) {
  thread.stack = stack_of(index);
  void** top = reinterpret_cast<void**>(static_cast<char*>(thread.stack) + kStack);
  *--top = nullptr;  // keeps the alignment that a function expects when it is entered
  *--top = reinterpret_cast<void*>(&run_thread);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  thread.stack_pointer = top;
#if defined(SIMT_TSAN)
  thread.tsan = __tsan_create_fiber(0);
#endif
}

// Fills this module's thread-local memory, which is the shared memory of simt.h, with NaN.
void poison_shared_memory() {
#if !defined(SIMT_ASAN)
  const auto fill = [](dl_phdr_info* module, size_t, void*) {
    for (int i = 0; i < module->dlpi_phnum; ++i) {
      const auto& segment = module->dlpi_phdr[i];
      char* data = static_cast<char*>(module->dlpi_tls_data);
      if (segment.p_type != PT_TLS || data == nullptr) continue;
      const bool ours = &of_this_module >= data && &of_this_module < data + segment.p_memsz;
      if (ours) std::memset(data, 0xff, segment.p_memsz);
    }
    return 0;
  };
  dl_iterate_phdr(fill, nullptr);
#endif
}

void run_block(dim3 index, dim3 grid, dim3 size, const std::function<void()>& body,
               unsigned seed_of_block) {
  poison_shared_memory();
  blockIdx = index;
  gridDim = grid;
  blockDim = size;
  Block& state = *new Block;
  block = &state;
  state.body = &body;
  state.threads.resize(size.x);
  state.warps.resize((size.x + 31) / 32);
  std::vector<unsigned> order(size.x);
#if defined(SIMT_TSAN)
  scheduler_tsan = __tsan_get_current_fiber();
#endif
  for (unsigned i = 0; i < size.x; ++i) {
    state.threads[i].index = dim3(i);
    state.warps[i / 32].alive |= 1u << (i % 32);
    order[i] = i;
    prepare(state.threads[i], i);
  }
  std::mt19937 random(seed_of_block);
  while (state.exited < size.x && failure.empty()) {
    std::shuffle(order.begin(), order.end(), random);
    bool moved = false;
    for (const unsigned i : order) {
      Thread& thread = state.threads[i];
      if (thread.done || (thread.waits_for && *thread.waits_for == thread.seen)) continue;
      resume(thread);
      moved = true;
      if (!failure.empty()) break;
    }
    if (!moved) die("dead-lock", state.barrier.site);
  }
#if !defined(SIMT_TSAN)  // to ThreadSanitizer, memory that is used again would be ordered
  delete &state;
#endif
}

}  // namespace

bool launch(dim3 grid, dim3 size, const std::function<void()>& body) {
  ++launches;
  std::mt19937 random(seed);
  std::vector<unsigned> order(grid.x);
  for (unsigned i = 0; i < grid.x; ++i) order[i] = i;
  std::shuffle(order.begin(), order.end(), random);
  for (const unsigned i : order) {
    if (!failure.empty()) break;
    const unsigned seed_of_block = random();
#if defined(SIMT_TSAN)
    std::thread([&] { run_block(dim3(i), grid, size, body, seed_of_block); }).join();
#else
    run_block(dim3(i), grid, size, body, seed_of_block);
#endif
  }
  __tsan_acquire(&gridDim);
  return failure.empty();
}

void barrier(const char* file, int line) {
  if (block->exited > 0) die("a barrier after some threads returned", {file, line});
  meet(block->barrier, static_cast<unsigned>(block->threads.size()), {file, line}, "barriers",
       true);
}

uint64_t exchange(unsigned mask, uint64_t value, int source, const char* file, int line) {
  const Site site{file, line};
  const unsigned lane = current->index.x % 32;
  Warp& warp = block->warps[current->index.x / 32];
  if (!(mask >> lane & 1)) die("a lane calls a shuffle whose mask leaves it out", site);
  if (mask & ~warp.alive) die("a lane in the mask of a shuffle has returned", site);
  if (!(mask >> source & 1)) die("a shuffle reads from a lane outside its mask", site);
  if (warp.meeting.arrived > 0 && warp.mask != mask) die("two masks in one shuffle", site);
  warp.mask = mask;
  const unsigned phase = warp.meeting.round % 2;
  warp.value[phase][lane] = value;
  meet(warp.meeting, static_cast<unsigned>(__builtin_popcount(mask)), site, "shuffles", false);
  return warp.value[phase][source];
}

void fence() {
  for (void* address : current->atomics) __tsan_acquire(address);
  current->atomics.clear();
  current->fenced = true;
}

void before_atomic(void* address) {
  if (current->fenced) __tsan_release(address);
}

void after_atomic(void* address) { current->atomics.push_back(address); }

}  // namespace simt

// Of a kernel: the launch has failed, the process goes on.
extern "C" void __assert_fail(const char* message, const char*, unsigned, const char*) noexcept {
  simt::failure = message;
  simt::to_scheduler(true);
  std::abort();  // nobody comes back to a thread that has failed
}

cudaError_t cudaGetLastError() { return simt::failure.empty() ? cudaSuccess : cudaErrorAssert; }

const char* cudaGetErrorString(cudaError_t) {
  static std::string message;
  message = "device-side assert triggered: " + simt::failure;
  simt::failure.clear();
  return message.c_str();
}

// How many kernels there have been.
extern "C" __attribute__((visibility("default"))) unsigned simt_launches() {
  return simt::launches;
}

// The order of threads and blocks to come.
extern "C" __attribute__((visibility("default"))) void simt_seed(unsigned seed) {
  simt::seed = seed;
}
