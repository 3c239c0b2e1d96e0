// Values of TILE rows of a batch in vector registers, and panels of a product: outputs whose sums for a tile fit the registers.
#pragma once
#include <string.h>

#include "recurrence.h"

#if defined(__AVX512F__)
enum { WIDTH = 16, PANEL = 12 };  // floats of a register; outputs of a panel
#elif defined(__AVX__)
enum { WIDTH = 8, PANEL = 6 };
#elif defined(__aarch64__)
enum { WIDTH = 4, PANEL = 6 };
#else
enum { WIDTH = 4, PANEL = 3 };
#endif
enum { VECTORS = TILE / WIDTH };

typedef float V __attribute__((vector_size(4 * WIDTH), aligned(4)));
typedef int32_t I __attribute__((vector_size(4 * WIDTH)));
typedef struct {
  V part[VECTORS];
} Tile;

static inline int least(int a, int b) { return a < b ? a : b; }

static inline Tile load(const float *from, int rows) {
  Tile x = {0};
  if (rows < TILE)
    memcpy(&x, from, 4 * (size_t)rows);
  else
    for (int j = 0; j < VECTORS; j++) x.part[j] = ((const V *)from)[j];
  return x;
}
static inline void store(float *to, int rows, const Tile *x) {
  if (rows < TILE)
    memcpy(to, x, 4 * (size_t)rows);
  else
    for (int j = 0; j < VECTORS; j++) ((V *)to)[j] = x->part[j];
}

#define GATHER4(i) table[at[i]], table[at[i + 1]], table[at[i + 2]], table[at[i + 3]]
static inline V gather(const float *table, const int32_t *at) {
#if defined(__AVX512F__)
  return (V){GATHER4(0), GATHER4(4), GATHER4(8), GATHER4(12)};
#elif defined(__AVX__)
  return (V){GATHER4(0), GATHER4(4)};
#else
  return (V){GATHER4(0)};
#endif
}

static inline V all(float x) { return x - (V){0}; }
static inline V where(I mask, V a, V b) { return (V)((mask & (I)a) | (~mask & (I)b)); }
static inline V to_integer(V x) { return (x + 12582912.f) - 12582912.f; }

// expf of Cephes. Beyond 87 results would not be normal numbers. NaN stays NaN.
static inline V exp_(V x) {
  x = where(x < -87.f, all(-87.f), x);
  x = where(x > 87.f, all(87.f), x);
  V n = to_integer(x * 1.44269504f), r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  V p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.f;
  return (V)((I)p + (__builtin_convertvector(n, I) << 23));
}
static inline V sigmoid(V x) { return 1.f / (1.f + exp_(-x)); }
static inline V tanh_(V x) { return 2.f / (1.f + exp_(-2.f * x)) - 1.f; }

// sums[PANEL][TILE] += a panel's outputs. x: [depth][TILE]. ahead: the address of weights to fetch into the cache. Each of the
// `depth` elements fetches `bytes` of them, which may be 0.
static inline void add_panel(const float *weights, const float *x, int depth, float *sums, uintptr_t ahead, int bytes) {
  V s[PANEL][VECTORS];
  for (int i = 0; i < PANEL; i++)
    for (int j = 0; j < VECTORS; j++) s[i][j] = ((V *)sums)[i * VECTORS + j];
  for (int k = 0; k < depth; k++, weights += PANEL, x += TILE, ahead += bytes) {
    if (bytes) __builtin_prefetch((const void *)ahead, 0, 2);
    for (int i = 0; i < PANEL; i++)
      for (int j = 0; j < VECTORS; j++) s[i][j] += weights[i] * ((const V *)x)[j];
  }
  for (int i = 0; i < PANEL; i++)
    for (int j = 0; j < VECTORS; j++) ((V *)sums)[i * VECTORS + j] = s[i][j];
}

// sums[tiles][BLOCK][TILE] += a block's outputs. x: [tiles][kernel's depth][TILE].
//
// The kernel of a large network does not fit the L2 cache. So each panel fetches its share of the next weights while it computes.
static void add_product(const Packed *kernel, int block, const float *x, int tiles, float *sums) {
  int share = PANEL * sizeof(float) / tiles;  // bytes that a panel fetches for each element
  for (int k = 0; k < kernel->depth; k += DEPTH) {
    int depth = least(DEPTH, kernel->depth - k), last = block + 1 == kernel->blocks && k + depth == kernel->depth;
    const float *weights = kernel->weights + ((size_t)block * kernel->depth + k) * BLOCK;
    uintptr_t ahead = (uintptr_t)(last ? kernel->weights : weights + (size_t)depth * BLOCK);  // the next step starts over
    for (int t = 0; t < tiles; t++)
      for (int i = 0; i < BLOCK; i += PANEL, ahead += (uintptr_t)depth * share)
        add_panel(weights + (size_t)i * depth, x + ((size_t)t * kernel->depth + k) * TILE, depth, sums + (t * BLOCK + i) * TILE,
                  ahead, share);
  }
}
