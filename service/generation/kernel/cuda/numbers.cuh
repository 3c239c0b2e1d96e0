// What the kernels for GPUs share: exact products on the tensor cores, float32 gates, and a network's and a call's types.
//
// service/generation/reference.py is the specification, and the results are bit-identical to its results. Integer sums are exact in
// any order. The float32 part is IEEE add, subtract, multiply and divide in the order written, so compile with --fmad=false.
//
// A product is mma.m16n8k32: 16 rows by 8 columns (an octet), 32 inputs deep. Its order of inputs is free, because the sums are
// exact, so that a lane reads 16 bytes at once. In slice k of 64 inputs, lane 4 * n + j has bytes 64 k + 16 j to 64 k + 16 j + 15 of
// row n and row n + 8, and of column n. Kernels are packed as [octet][slice][gate][32 lanes][16 bytes]; see `pack` in layout.py.
#pragma once

using int8 = signed char;
using uint64 = unsigned long long;

#ifndef SHIM  // the tests' shim.h has these functions for a CPU
__device__ inline uint4 *shared_memory() {
  extern __shared__ uint4 memory[];
  return memory;
}
__device__ inline void mma(int (&c)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
__device__ inline void store_relaxed(unsigned *p, unsigned v) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
__device__ inline uint4 load_relaxed(const unsigned *p) {
  uint4 v;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p)
               : "memory");
  return v;
}
__device__ inline void add_release(unsigned *p) { asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(p) : "memory"); }
__device__ inline unsigned load_acquire(const unsigned *p) {
  unsigned v;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}
#endif

#ifndef THREADS
#define THREADS 512
#endif
constexpr int WARPS = THREADS / 32, TILE = 16;  // TILE: rows of a product
constexpr int SPINS = 1 << 24;                  // polls after which a block is lost: an error is better than a hang
constexpr float EXCLUDED = -3e38f;              // the logit of a character that must not be sampled

// A barrier: each block arrives, and a warp waits until so many have arrived.
__device__ inline void arrive(unsigned *count) {
  __syncthreads();
  if (threadIdx.x == 0) add_release(count);
}
__device__ inline void wait(const unsigned *count, unsigned arrivals) {
  if (threadIdx.x % 32 == 0)
    for (int spins = 0; load_acquire(count) < arrivals; spins++)
      if (spins == SPINS) __trap();
  __syncwarp();
}

struct Kernel {
  const uint4 *weights;
  const float *scale, *bias;  // [gates][units]
};
struct Layer {
  Kernel recurrent, input;  // the first layer has no `input` if there is a table
};

// One row of a call. A null pointer disables its option. native.py's Row has the same fields.
struct Row {
  float inverse_temperature, top_p, min_p;  // top_p >= 1 and min_p 0 exclude nothing
  float presence, frequency, repetition;    // penalties, used if there are `counts`
  int top_k;                                // 0 keeps all
  int snapshot_at;                          // steps after which the state is copied to `snapshots`, or -1
  int automaton_state, num_left;  // of the automaton, updated; num_left: characters that may still be sampled
  int alphabet;                   // the automaton's characters, the vocabulary first
  const float *bias;              // [vocabulary], EXCLUDED where a character must not be sampled
  int *counts;                    // [2][vocabulary]: occurrences in the prompt, and in the sampled text, updated
  const int *next;                // [states of the automaton][alphabet]: the next state, or -1 where a character is not allowed
  const int *distance;            // [states of the automaton]: the least number of characters after which the text may end
};

struct Network {
  int layers, units, vocabulary, rows;  // rows: the largest batch, the stride of `rounded`
  int slices, embedding_slices;         // of 64 inputs, of a state and of an embedding; the last one is padded
  int columns, sortable;                // stride of a row's logits, and of its keys
  const Layer *layer;
  Kernel output;
  const float *table;  // input products [vocabulary][gates][units]; if null, `embedded` and its scale are used
  const int8 *embedded;
  const float *embedded_scale;
  float *states;   // [slots][vectors][units]
  int8 *rounded;   // [2][layers][rows][64 slices], states as they enter products: one buffer is read, one written
  float *logits;   // [rows][columns]
  float *sums;     // [rows][columns / 16], for a large vocabulary only, as `keys`
  uint64 *keys;    // [rows][sortable]
  int *characters;  // [rows]: the next inputs
  int *paused;      // [rows]: the next step samples a character that the network does not know, and keeps the state
  float *uniform;   // [rows with an automaton]: the number to sample with
};

struct Call {
  int rows, steps;
  unsigned tag;                      // see resident.cu
  const int *slots, *inputs, *forced;  // [rows]; [rows]; [steps][rows], -1 where the step samples
  const float *uniforms;             // [steps][rows]
  Row *row;                          // [rows]
  int *chosen;                       // [steps][rows], -1 where the automaton allows nothing
  float *snapshots;                  // [rows][vectors][units], of rows with snapshot_at
  float *logits;                     // [steps][rows][vocabulary], or null
  unsigned *arrivals;                // 64 words a group of blocks, 0 before the call: counters of barriers
  unsigned *mail;                    // see resident.cu
};

// expf of Cephes without fused operations; see reference.exp.
__device__ inline float exp_(float x) {
  x = fminf(fmaxf(x, -87.f), 88.f);
  float m = x * 1.44269504f + 12582912.f, n = m - 12582912.f;  // n is an integer, and the low bits of m are n too
  float r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.f;
  return __int_as_float(__float_as_int(p) + (int)((unsigned)__float_as_int(m) << 23));
}

// The bits of floats as integers that are ordered as the floats are. It is its own inverse.
__device__ inline int ordered(int bits) { return bits ^ (bits >> 31 & 0x7fffffff); }

// A state as it enters a product: round(127 h), ties to even, as the low byte.
__device__ inline unsigned quantize(float h) { return (unsigned)__float_as_int(h * 127.f + 12582912.f) & 255; }

__device__ inline float gru(const float (&a)[3], const float (&x)[3], float h) {
  float ez = exp_(fminf(-(a[0] + x[0]), 40.f)), er = exp_(-(a[1] + x[1]));
  float y = x[2] + a[2] / (1.f + er), et = exp_(fminf(-2.f * y, 40.f)), t = 1.f + et;
  return (ez * (1.f - et) + h * t) / ((1.f + ez) * t);
}

__device__ inline float lstm(const float (&a)[4], const float (&x)[4], float &c) {
  float ei = exp_(fminf(-(a[0] + x[0]), 40.f)), ef = exp_(fminf(-(a[1] + x[1]), 40.f));
  float eg = exp_(fminf(-2.f * (a[2] + x[2]), 40.f));
  c = c / (1.f + ef) + (1.f - eg) / ((1.f + ei) * (1.f + eg));
  float eo = exp_(fminf(-(a[3] + x[3]), 40.f)), ec = exp_(fminf(-2.f * c, 40.f));
  return (1.f - ec) / ((1.f + eo) * (1.f + ec));
}

// The weights below are 0 where x < -80, so that temperature 0 (inverse 1e30) leaves the likeliest alone. There is no branch, so
// that the compiler can interleave a lane's exponentials.
__device__ inline float weight_of(float logit, float top, float inverse) {
  float x = (logit - top) * inverse;
  return exp_(x) * (x >= -80.f ? 1.f : 0.f);
}
