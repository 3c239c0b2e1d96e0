// A call for a GRU of one layer, rows that sample with a temperature alone, and weights that fit the blocks' shared memory.
//
// Compile with -DUNITS, -DVOCABULARY, -DWIDTH (the units of a block) and -DSPLIT (the parts of the depth into which advance_few
// divides the recurrent products). Launch THREADS threads a block, one block a multiprocessor, cooperatively: blocks wait for one
// another, so all must be resident. BLOCKS = UNITS / WIDTH blocks are a group. A group advances its own part of the rows and never
// waits for another group. Block `rank` of it owns WIDTH units, and keeps their columns of the recurrent kernel, and of the table,
// in shared memory.
//
// advance_few   for up to 16 rows a group. The blocks exchange their new states as words that carry the step's number (the tag), so
//               that one trip through the L2 cache is the only wait of a step. Each block samples all ids of its group itself.
// advance_many  for any number of rows. Two barriers a step: for the states, and for the ids. The products hide the second one.
#include "numbers.cuh"

constexpr int U = UNITS, V = VOCABULARY, SLICES = U / 64, OCTETS = WIDTH / 8, BLOCKS = U / WIDTH, WEIGHTS = OCTETS * SLICES * 96;
constexpr int TRIPLES = (V + 23) / 24, COLUMNS = 24 * TRIPLES;  // a warp computes three octets of logits
constexpr int PARTS = SLICES % 4 ? 1 : 4, DEPTH = SLICES / PARTS, TASKS = TRIPLES * PARTS;  // and a part of their depth
constexpr int STRIDE = U + 64, SPACED = WIDTH + 8;  // of a row of states, and of sums, without conflicts of banks
constexpr int TABLE = (V + 2) * 3 * WIDTH;          // and the scales, and the biases
static_assert(U % 64 == 0 && U % WIDTH == 0 && WIDTH % 8 == 0, "unsupported number of units");
static_assert(SLICES % SPLIT == 0 && OCTETS * SPLIT <= WARPS, "unsupported parts");
static_assert(WIDTH <= THREADS / TILE && TASKS <= WARPS && TILE <= WARPS, "too few threads");

// The new state of a unit of a row. x: the unit's place in the table's row. scale: its place in the scales.
__device__ inline float advanced(int sz, int sr, int sh, const float *x, const float *scale, float h) {
  const float *bias = scale + 3 * WIDTH;
  const float a[3] = {(float)sz * scale[0] + bias[0], (float)sr * scale[WIDTH] + bias[WIDTH],
                      (float)sh * scale[2 * WIDTH] + bias[2 * WIDTH]};
  const float input[3] = {x[0], x[WIDTH], x[2 * WIDTH]};
  return gru(a, input, h);
}

// sum[o][i] = up to 16 rows of states times 8 columns, over N slices. weights(o, k, i): this lane's 16 bytes of slice k.
template <int O, int N, int AHEAD, class Weights>
__device__ inline void products(int (&sum)[O][3][4], const int8 *q, int stride, int rows, Weights weights) {
  const int lane = threadIdx.x % 32, row = lane / 4;
  const uint4 zero = {0, 0, 0, 0};
#pragma unroll
  for (int n = 0; n < O * 12; n++) sum[n / 12][n / 4 % 3][n % 4] = 0;
  q += row * stride + lane % 4 * 16;
#pragma unroll AHEAD
  for (int k = 0; k < N; k++) {
    uint4 a = row < rows ? *(const uint4 *)(q + 64 * k) : zero;
    uint4 b = row + 8 < rows ? *(const uint4 *)(q + 8 * stride + 64 * k) : zero;
#pragma unroll
    for (int o = 0; o < O; o++)
#pragma unroll
      for (int i = 0; i < 3; i++) {
        uint4 w = weights(o, k, i);
        mma(sum[o][i], a.x, b.x, a.y, b.y, w.x, w.y);
        mma(sum[o][i], a.z, b.z, a.w, b.w, w.z, w.w);
      }
  }
}

// Stores a lane's sums of three octets: those of octet i from to + i * octet, with rows `stride` apart.
__device__ inline void spread(int *to, int octet, int stride, int rows, const int (&sum)[3][4]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int n = 0; n < 6; n++) {
    const int i = n / 2, row = lane / 4 + n % 2 * 8;
    if (row < rows) *(int2 *)(to + i * octet + row * stride + lane % 4 * 2) = {sum[i][n % 2 * 2], sum[i][n % 2 * 2 + 1]};
  }
}

// A warp's task of the output product of up to 16 rows, into logit[PARTS][TILE][COLUMNS].
template <class Weights>
__device__ inline void logits(int *logit, const int8 *q, int stride, int rows, int task, Weights weights) {
  int sum[1][3][4];
  products<1, DEPTH, DEPTH>(sum, q + task % PARTS * DEPTH * 64, stride, rows, weights);
  spread(logit + task % PARTS * TILE * COLUMNS + task / PARTS * 24, 8, COLUMNS, rows, sum[0]);
}
__device__ inline uint4 output_weights(const uint4 *dense, int task, int k, int i) {
  return dense[((task / PARTS * 3 + i) * SLICES + task % PARTS * DEPTH + k) * 32 + threadIdx.x % 32];
}

// The id at which the cumulative weight exceeds `uniform` times the total; see reference.invert. Lane l has weights l, l + 32, ...
template <int N>
__device__ inline int invert(const float (&weight)[N], float uniform) {
  const int lane = threadIdx.x % 32;
  float sums[2 * N], sum = 0;
  int last = 0, group = 0;  // last: the last group of 16 with a weight
#pragma unroll
  for (int n = 0; n < N; n++) {
    float total = weight[n];
#pragma unroll
    for (int width = 1; width < 16; width *= 2) total += __shfl_xor_sync(~0u, total, width);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float of_group = __shfl_sync(~0u, total, 16 * half);
      if (of_group > 0) last = 2 * n + half;
      sums[2 * n + half] = sum += of_group;
    }
  }
  const float target = uniform * sum;
#pragma unroll
  for (int g = 0; g < 2 * N; g++) group += sums[g] <= target;
  group = min(group, last);
  float own = 0, within = 0;
#pragma unroll
  for (int g = 0; g < 2 * N; g++) {
    if (g == group) own = weight[g / 2];
    if (g + 1 == group) within = sums[g];
  }
  const int first = group % 2 * 16, highest = 31 - __clz(__ballot_sync(~0u, own > 0 && lane / 16 == group % 2));
  int found = 0;
#pragma unroll
  for (int i = 0; i < 16; i++) {
    within += __shfl_sync(~0u, own, first + i);
    found += within <= target;
  }
  return group * 16 + min(found, highest - first);
}

// The scales and biases of a lane's logits: lane l has logits l, l + 32, ...
struct Output {
  static constexpr int COUNT = (V + 31) / 32;
  float scale[COUNT], bias[COUNT];

  __device__ explicit Output(const Kernel &kernel) {
#pragma unroll
    for (int n = 0; n < COUNT; n++) {
      const int i = min(n * 32 + (int)threadIdx.x % 32, V - 1);
      scale[n] = kernel.scale[i], bias[n] = kernel.bias[i];
    }
  }
};

// A warp samples a row's id. logit: the row's sums in each part.
__device__ inline int draw(const int *logit, const Output &output, float inverse, float uniform) {
  constexpr int N = Output::COUNT;
  const int lane = threadIdx.x % 32;
  float v[N], top = EXCLUDED;
#pragma unroll
  for (int n = 0; n < N; n++) {
    const int i = n * 32 + lane;
    v[n] = EXCLUDED;
    if (i < V) {
      int sum = 0;
#pragma unroll
      for (int p = 0; p < PARTS; p++) sum += logit[p * TILE * COLUMNS + i];
      v[n] = (float)sum * output.scale[n] + output.bias[n];
    }
    top = fmaxf(top, v[n]);
  }
  top = __int_as_float(ordered(__reduce_max_sync(~0u, ordered(__float_as_int(top)))));
#pragma unroll
  for (int n = 0; n < N; n++) v[n] = n * 32 + lane < V ? weight_of(v[n], top, inverse) : 0.f;
  return invert(v, uniform);
}

__device__ inline void copy(uint4 *to, const uint4 *from, int count) {
  for (int i = threadIdx.x; i < count; i += THREADS) to[i] = from[i];
}
// Copies a block's columns of the table, the scales and the biases.
__device__ inline void copy_columns(float *to, const Network &n, int rank) {
  const Kernel &kernel = n.layer->recurrent;
  for (int i = threadIdx.x; i < TABLE; i += THREADS) {
    const int line = i / (3 * WIDTH), column = i / WIDTH % 3 * U + rank * WIDTH + i % WIDTH;
    to[i] = line < V ? n.table[line * 3 * U + column] : line == V ? kernel.scale[column] : kernel.bias[column];
  }
}

#include "resident_few.cuh"
#include "resident_many.cuh"
