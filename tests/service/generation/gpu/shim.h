// Runs CUDA kernels on a CPU. Each CUDA thread is a fiber of one thread of the system. Fibers switch at barriers, at operations of a
// warp and at polls, in an order drawn from a seed; with a seed other than 0 some blocks sleep for a while, so that others run ahead.
//
// __syncthreads, __syncwarp and the words that blocks exchange order memory accesses as on a GPU, and nothing else does. With
// -fsanitize=thread each fiber is a thread to the sanitizer, so that it reports races between CUDA's threads.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <ucontext.h>
#include <vector>
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#define QUIET __attribute__((no_sanitize("thread"), noinline))
#else
static inline void *__tsan_create_fiber(unsigned) { return nullptr; }
static inline void *__tsan_get_current_fiber() { return nullptr; }
static inline void __tsan_switch_to_fiber(void *, unsigned) {}
static inline void __tsan_destroy_fiber(void *) {}
static inline void __tsan_acquire(void *) {}
static inline void __tsan_release(void *) {}
#define QUIET __attribute__((noinline))
#endif

#define SHIM 1
#define __global__
#define __device__
#define __launch_bounds__(...)
struct uint2 {
  unsigned x, y;
};
struct int2 {
  int x, y;
};
struct float2 {
  float x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
using std::min;

namespace shim {
constexpr size_t STACK = 1 << 16;
constexpr long PATIENCE = 20000000;  // polls after which blocks wait for one another forever

struct Index {
  int x;
};
struct Barrier {
  int expected, arrived = 0, turn = 0;
  char order[2] = {};  // two addresses for the sanitizer, one for each parity of the turn
};
struct Warp {
  Barrier barrier{32};
  unsigned slot[2][32][6];
};
struct Block {
  Barrier barrier{0};
  std::vector<Warp> warps;
  char *memory;
};
struct Fiber {
  ucontext_t at;
  Index thread, block;
  Block *home;
  Warp *warp;
  Barrier *waits = nullptr;
  int turn = 0;
  bool done = false;
  void *tsan;
  std::unique_ptr<char[]> stack{new char[STACK]};
};
static Fiber *self;
static Index grid;
static ucontext_t scheduler;
static void *scheduler_tsan, *first_argument, *second_argument;
static void (*body)(void *, void *);
static long polls;

QUIET static void yield(bool poll = false) {
  polls += poll;
  __tsan_switch_to_fiber(scheduler_tsan, 1);
  swapcontext(&self->at, &scheduler);
}

// Returns the barrier's turn, whose parity chooses the slots of a warp's operation.
QUIET static int meet(Barrier &b, bool orders) {
  Fiber *f = self;
  const int turn = b.turn;
  if (orders) __tsan_release(&b.order[turn & 1]);
  if (++b.arrived == b.expected) {
    b.arrived = 0;
    b.turn++;
  } else {
    f->waits = &b;
    f->turn = turn;
    yield();
    f->waits = nullptr;
  }
  if (orders) __tsan_acquire(&b.order[turn & 1]);
  return turn;
}

// All lanes of the warp give some words. Orders no memory accesses.
QUIET static unsigned (*gather(const unsigned *words, int count))[6] {
  unsigned (*slots)[6] = self->warp->slot[self->warp->barrier.turn & 1];
  memcpy(slots[self->thread.x % 32], words, 4 * count);
  meet(self->warp->barrier, false);
  return slots;
}

QUIET static void entry() {
  body(first_argument, second_argument);
  __tsan_release(&scheduler);
  self->done = true;
  yield();
}

QUIET static std::unique_ptr<Fiber> start(Block &home, int block, int thread) {
  std::unique_ptr<Fiber> f(new Fiber);
  f->thread.x = thread;
  f->block.x = block;
  f->home = &home;
  f->warp = &home.warps[thread / 32];
  f->tsan = __tsan_create_fiber(0);
  getcontext(&f->at);
  f->at.uc_stack.ss_sp = f->stack.get();
  f->at.uc_stack.ss_size = STACK;
  f->at.uc_link = nullptr;
  makecontext(&f->at, entry, 0);
  return f;
}

QUIET static void resume(Fiber *f) {
  self = f;
  __tsan_switch_to_fiber(f->tsan, 1);
  swapcontext(&scheduler, &f->at);
}

QUIET static void run_all(std::vector<std::unique_ptr<Fiber>> &fibers, int blocks, unsigned seed) {
  const size_t n = fibers.size(), sleepers = std::min(blocks, 48);
  uint64_t random = seed * 2 + 1, asleep = 0;
  size_t left = n;
  for (long pass = 0; left; pass++) {
    random = random * 6364136223846793005u + 1442695040888963407u;
    if (pass % 300 == 0) {
      asleep = seed ? random >> 16 : 0;
      if ((asleep | ~0ull << sleepers) == ~0ull) asleep = 0;
    }
    size_t first = (random >> 33) % n, stride = seed ? ((random >> 20) % n) | 1 : 1;
    while (std::gcd(stride, n) != 1) stride++;
    bool stuck = true;
    for (size_t i = 0, k = first; i < n; i++, k = (k + stride) % n) {
      Fiber *f = fibers[k].get();
      if (f->done || (f->waits && f->waits->turn == f->turn)) continue;
      stuck = false;
      if (f->block.x < 48 && asleep >> f->block.x & 1) continue;
      resume(f);
      left -= f->done;
    }
    if (left && (stuck || polls > PATIENCE)) {
      fprintf(stderr, "deadlock\n");
      abort();
    }
  }
}

QUIET static void run(void (*kernel)(void *, void *), int blocks, int threads, size_t bytes, unsigned seed, void *a, void *b) {
  std::vector<Block> all(blocks);
  std::vector<std::unique_ptr<Fiber>> fibers;
  grid.x = blocks, body = kernel, first_argument = a, second_argument = b, polls = 0;
  scheduler_tsan = __tsan_get_current_fiber();
  for (int i = 0; i < blocks; i++) {
    all[i].barrier.expected = threads;
    all[i].warps.resize(threads / 32);
    if (posix_memalign((void **)&all[i].memory, 128, bytes)) abort();
    memset(all[i].memory, 0xA5, bytes);
    for (int t = 0; t < threads; t++) fibers.push_back(start(all[i], i, t));
  }
  run_all(fibers, blocks, seed);
  __tsan_acquire(&scheduler);
  for (auto &f : fibers) __tsan_destroy_fiber(f->tsan);
  for (auto &block : all) free(block.memory);
}
}  // namespace shim

#define threadIdx (shim::self->thread)
#define blockIdx (shim::self->block)
#define gridDim (shim::grid)

static inline float __int_as_float(int i) {
  float f;
  memcpy(&f, &i, 4);
  return f;
}
static inline int __float_as_int(float f) {
  int i;
  memcpy(&i, &f, 4);
  return i;
}
static inline int __clz(unsigned v) { return v ? __builtin_clz(v) : 32; }
static inline void __trap() { abort(); }
static inline void __syncthreads() { shim::meet(shim::self->home->barrier, true); }
static inline void __syncwarp() { shim::meet(shim::self->warp->barrier, true); }

template <class T, class Of>
QUIET static T over_lanes(T mine, Of of) {  // of(the lanes' values, this lane)
  unsigned word;
  memcpy(&word, &mine, 4);
  auto *slots = shim::gather(&word, 1);
  T all[32];
  for (int l = 0; l < 32; l++) memcpy(&all[l], slots[l], 4);
  return of(all, threadIdx.x % 32);
}
template <class T>
static T __shfl_sync(unsigned, T v, int from) {
  return over_lanes(v, [=](T *all, int) { return all[from % 32]; });
}
template <class T>
static T __shfl_xor_sync(unsigned, T v, int mask) {
  return over_lanes(v, [=](T *all, int lane) { return all[lane ^ mask]; });
}
template <class T>
static T __shfl_down_sync(unsigned, T v, int by) {
  return over_lanes(v, [=](T *all, int lane) { return all[lane + by < 32 ? lane + by : lane]; });
}
static int __reduce_max_sync(unsigned, int v) {
  return over_lanes(v, [](int *all, int) { return *std::max_element(all, all + 32); });
}
static int __reduce_add_sync(unsigned, int v) {
  return over_lanes(v, [](int *all, int) { return std::accumulate(all, all + 32, 0); });
}
static unsigned __ballot_sync(unsigned, bool v) {
  return over_lanes((unsigned)v, [](unsigned *all, int) {
    unsigned bits = 0;
    for (int l = 0; l < 32; l++) bits |= all[l] << l;
    return bits;
  });
}

// A's element (row, k) is in lane 4 * (row % 8) + k % 16 / 4, register row / 8 + 2 * (k / 16), byte k % 4. B's (k, column) is in
// lane 4 * column + k % 16 / 4, register k / 16, byte k % 4. C's (row, column) is in lane 4 * (row % 8) + column / 2, register
// 2 * (row / 8) + column % 2.
QUIET static void mma(int (&c)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
  unsigned words[6] = {a0, a1, a2, a3, b0, b1};
  auto *all = shim::gather(words, 6);
  const int lane = threadIdx.x % 32;
  for (int i = 0; i < 4; i++) {
    const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    for (int k = 0; k < 32; k++) {
      const unsigned a = all[row % 8 * 4 + k % 16 / 4][row / 8 + k / 16 * 2], b = all[column * 4 + k % 16 / 4][4 + k / 16];
      c[i] += (int8_t)(a >> k % 4 * 8) * (int8_t)(b >> k % 4 * 8);
    }
  }
}
static inline uint4 *shared_memory() { return (uint4 *)shim::self->home->memory; }
static inline void store_relaxed(unsigned *p, unsigned v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
static inline void add_release(unsigned *p) { __atomic_fetch_add(p, 1u, __ATOMIC_RELEASE); }
static inline uint4 load_relaxed(const unsigned *p) {  // four loads: another block may store between them
  unsigned v[4];
  for (int i = 0; i < 4; i++) v[i] = __atomic_load_n(p + i, __ATOMIC_RELAXED);
  shim::yield(true);
  return {v[0], v[1], v[2], v[3]};
}
static inline unsigned load_acquire(const unsigned *p) {
  shim::yield(true);
  return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}
