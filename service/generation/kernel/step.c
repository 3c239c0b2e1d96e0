// The computation of a call: products, gates, output product and sampling. Compiled once for each instruction set
// (-DINSTRUCTIONS=name).
//
// service/generation/reference.py is the specification, and the results are bit-identical to its results. Integer sums are exact in
// any order. The float32 part is IEEE add, subtract, multiply and divide in the order written, so compile with -ffp-contract=off.
#include <stdlib.h>
#include <string.h>

#include "network.h"
#include "processor.h"
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

typedef float F __attribute__((vector_size(64)));  // 16 columns; the compiler splits them into the target's registers
typedef int32_t I __attribute__((vector_size(64)));
typedef int8_t B16 __attribute__((vector_size(16)));

static inline F all(float x) { return (F){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
static inline F where(I mask, F a, F b) { return (F)((mask & (I)a) | (~mask & (I)b)); }
static inline F least(F a, F b) { return where(a < b, a, b); }
static inline F most(F a, F b) { return where(a > b, a, b); }
static inline F to_integer(F x) { return (x + 12582912.f) - 12582912.f; }
static inline F floats(I x) { return __builtin_convertvector(x, F); }

// expf of Cephes without fused operations; see reference.exp.
static inline F exp_(F x) {
  x = least(most(x, all(-87.f)), all(88.f));
  F n = to_integer(x * 1.44269504f), r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  F p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.f;
  return (F)((I)p + (__builtin_convertvector(n, I) << 23));
}

// ---- products: sums[block][padded rows][16] of rounded states [rows][depth] and blocks of a kernel

#if defined(__AMX_INT8__)
enum { UNSIGNED = 0 };
typedef struct {
  uint8_t palette, start, reserved[14];
  uint16_t bytes[16];
  uint8_t rows[16];
} __attribute__((packed)) Tiles;

static int padded_rows(int rows) { return rows <= 16 ? rows : (rows + 15) / 16 * 16; }
static void configure(int rows) {
  Tiles c;
  memset(&c, 0, sizeof c);
  c.palette = 1;
  for (int i = 0; i < 8; i++) c.bytes[i] = 64, c.rows[i] = 16;
  if (rows < 16) c.rows[0] = c.rows[1] = c.rows[4] = (uint8_t)rows;
  _tile_loadconfig(&c);
}
static void release(void) { _tile_release(); }
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
static void begin_thread(void) { syscall(SYS_arch_prctl, 0x1023, 18); }  // ARCH_REQ_XCOMP_PERM, tile data
#else
static void begin_thread(void) {}  // never called: see `usable`
#endif

static void products(const int8_t *w, int blocks, const int8_t *q, int rows, int depth, int32_t *sums) {
  int P = padded_rows(rows);
  for (int r = 0; r < rows; r += 32) {
    int two = rows - r > 16;
    for (int b = 0; b < blocks; b += 2) {
      int wide = blocks - b > 1;
      const int8_t *w0 = w + (size_t)b * LANES * depth, *w1 = w0 + (size_t)LANES * depth;
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
      for (int k = 0; k < depth; k += 64) {
        _tile_loadd(6, w0 + (size_t)k * LANES, 64);
        if (wide) _tile_loadd(7, w1 + (size_t)k * LANES, 64);
        _tile_loadd(4, q + (size_t)r * depth + k, depth);
        _tile_dpbssd(0, 4, 6);
        if (wide) _tile_dpbssd(1, 4, 7);
        if (two) {
          _tile_loadd(5, q + (size_t)(r + 16) * depth + k, depth);
          _tile_dpbssd(2, 5, 6);
          if (wide) _tile_dpbssd(3, 5, 7);
        }
      }
      _tile_stored(0, sums + ((size_t)b * P + r) * LANES, 64);
      if (wide) _tile_stored(1, sums + ((size_t)(b + 1) * P + r) * LANES, 64);
      if (two) {
        _tile_stored(2, sums + ((size_t)b * P + r + 16) * LANES, 64);
        if (wide) _tile_stored(3, sums + ((size_t)(b + 1) * P + r + 16) * LANES, 64);
      }
    }
  }
}

#else
static int padded_rows(int rows) { return rows; }
static void configure(int rows) { (void)rows; }
static void release(void) {}
static void begin_thread(void) {}
static inline int32_t load_four(const int8_t *q) {
  int32_t x;
  memcpy(&x, q, 4);
  return x;
}

#if defined(__AVX512VNNI__)
// MOST_ROWS: rows whose sums fit the registers. UNSIGNED: vpdpbusd needs one unsigned operand, which is states + 128.
enum { UNSIGNED = 1, MOST_ROWS = 16 };
// GCC 12 copies each sum twice around the intrinsic, which takes longer than the product.
static inline __m512i dot(__m512i sum, __m512i x, __m512i w) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
  return sum;
}
static inline void some_rows(const int8_t *w, const int8_t *q, int n, int depth, int32_t *sums) {
  // A product takes five cycles, and two can begin in each cycle. So with few rows, each row has several sums.
  int chains = n < 4 ? 4 : n < 16 ? 2 : 1;
  __m512i a[16] = {0};
  for (int k = 0; k < depth; k += 4 * chains)
    for (int c = 0; c < chains; c++) {
      __m512i v = _mm512_load_si512(w + (size_t)(k + 4 * c) * LANES);
      for (int i = 0; i < n; i++)
        a[i * chains + c] = dot(a[i * chains + c], _mm512_set1_epi32(load_four(q + (size_t)i * depth + k + 4 * c)), v);
    }
  for (int i = 0; i < n; i++) {
    for (int c = 1; c < chains; c++) a[i * chains] = _mm512_add_epi32(a[i * chains], a[i * chains + c]);
    _mm512_store_si512(sums + (size_t)i * LANES, a[i * chains]);
  }
}

#elif defined(__AVXVNNI__)
enum { UNSIGNED = 1, MOST_ROWS = 4 };
static inline void some_rows(const int8_t *w, const int8_t *q, int n, int depth, int32_t *sums) {
  __m256i a[4][2];
  for (int i = 0; i < n; i++) a[i][0] = a[i][1] = _mm256_setzero_si256();
  for (int k = 0; k < depth; k += 4) {
    const __m256i *v = (const __m256i *)(w + (size_t)k * LANES);
    __m256i v0 = _mm256_load_si256(v), v1 = _mm256_load_si256(v + 1);
    for (int i = 0; i < n; i++) {
      __m256i x = _mm256_set1_epi32(load_four(q + (size_t)i * depth + k));
      a[i][0] = _mm256_dpbusd_avx_epi32(a[i][0], x, v0);
      a[i][1] = _mm256_dpbusd_avx_epi32(a[i][1], x, v1);
    }
  }
  for (int i = 0; i < n; i++) {
    _mm256_store_si256((__m256i *)(sums + (size_t)i * LANES), a[i][0]);
    _mm256_store_si256((__m256i *)(sums + (size_t)i * LANES + 8), a[i][1]);
  }
}

#elif defined(__AVX2__)
enum { UNSIGNED = 0, MOST_ROWS = 4 };
// vpmaddubsw needs one unsigned operand: |w|, and the state takes the sign of w. The sum of two products, each at most 127 x 127,
// fits 16 bits.
static inline __m256i dot(__m256i sum, __m256i w, __m256i magnitude, __m256i x) {
  __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(x, w));
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
static inline void some_rows(const int8_t *w, const int8_t *q, int n, int depth, int32_t *sums) {
  __m256i a[4][2];
  for (int i = 0; i < n; i++) a[i][0] = a[i][1] = _mm256_setzero_si256();
  for (int k = 0; k < depth; k += 4) {
    const __m256i *v = (const __m256i *)(w + (size_t)k * LANES);
    __m256i v0 = _mm256_load_si256(v), v1 = _mm256_load_si256(v + 1);
    __m256i m0 = _mm256_abs_epi8(v0), m1 = _mm256_abs_epi8(v1);
    for (int i = 0; i < n; i++) {
      __m256i x = _mm256_set1_epi32(load_four(q + (size_t)i * depth + k));
      a[i][0] = dot(a[i][0], v0, m0, x);
      a[i][1] = dot(a[i][1], v1, m1, x);
    }
  }
  for (int i = 0; i < n; i++) {
    _mm256_store_si256((__m256i *)(sums + (size_t)i * LANES), a[i][0]);
    _mm256_store_si256((__m256i *)(sums + (size_t)i * LANES + 8), a[i][1]);
  }
}

#elif defined(__ARM_FEATURE_DOTPROD)
enum { UNSIGNED = 0, MOST_ROWS = 4 };
static inline void some_rows(const int8_t *w, const int8_t *q, int n, int depth, int32_t *sums) {
  int32x4_t a[4][4];
  for (int i = 0; i < n; i++)
    for (int c = 0; c < 4; c++) a[i][c] = vdupq_n_s32(0);
  for (int k = 0; k < depth; k += 4) {
    int8x16_t v[4];
    for (int c = 0; c < 4; c++) v[c] = vld1q_s8(w + (size_t)k * LANES + 16 * c);
    for (int i = 0; i < n; i++) {
      int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(load_four(q + (size_t)i * depth + k)));
      for (int c = 0; c < 4; c++) a[i][c] = vdotq_s32(a[i][c], v[c], x);
    }
  }
  for (int i = 0; i < n; i++)
    for (int c = 0; c < 4; c++) vst1q_s32(sums + (size_t)i * LANES + 4 * c, a[i][c]);
}

#else
enum { UNSIGNED = 0, MOST_ROWS = 4 };
static inline void some_rows(const int8_t *w, const int8_t *q, int n, int depth, int32_t *sums) {
  for (int i = 0; i < n; i++) {
    int32_t a[LANES] = {0};
    for (int k = 0; k < depth; k += 4)
      for (int c = 0; c < LANES; c++)
        for (int j = 0; j < 4; j++) a[c] += w[(size_t)k * LANES + c * 4 + j] * q[(size_t)i * depth + k + j];
    memcpy(sums + (size_t)i * LANES, a, sizeof a);
  }
}
#endif

static void products(const int8_t *w, int blocks, const int8_t *q, int rows, int depth, int32_t *sums) {
  for (int b = 0; b < blocks; b++)  // a block stays in the L1 cache while all rows use it
    for (int r = 0, n; r < rows; r += n) {
      const int8_t *v = w + (size_t)b * LANES * depth, *p = q + (size_t)r * depth;
      int32_t *to = sums + ((size_t)b * rows + r) * LANES;
      n = rows - r < 4 ? rows - r : rows - r < MOST_ROWS ? 4 : MOST_ROWS;
      switch (n) {  // constant row counts let the compiler keep the sums in registers
        case 1: some_rows(v, p, 1, depth, to); break;
        case 2: some_rows(v, p, 2, depth, to); break;
        case 3: some_rows(v, p, 3, depth, to); break;
        case 4: some_rows(v, p, 4, depth, to); break;
        default: some_rows(v, p, MOST_ROWS, depth, to);
      }
    }
}
#endif

// A block's product: the sums minus their offset, scaled.
static inline F scaled(const Kernel *k, int block, I sum) {
  return floats(sum - ((const I *)k->offset)[block]) * ((const F *)k->scale)[block];
}
static inline F biased(const Kernel *k, int block, I sum) { return scaled(k, block, sum) + ((const F *)k->bias)[block]; }

// ---- gates

typedef struct {
  const I *state, *input;  // sums of row 0 in the first gate's block; input is null if the table has the input product
  int stride, input_stride;  // distance from one gate to the next
} Sums;

// The input product of a gate of a unit block, with its bias.
static inline F input_of(const Network *n, int layer, int block, int gate, int row, int character, Sums s) {
  int place = block * n->gates + gate;
  if (!s.input) return ((const F *)n->table)[((size_t)character * (n->padded_units / LANES)) * n->gates + place];
  const Kernel *k = &n->layer[layer].input;
  I sum = s.input[(size_t)gate * s.input_stride + row];
  if (layer) return biased(k, place, sum);
  return scaled(k, place, sum) * n->embedded_scale[character] + ((const F *)k->bias)[place];
}

static inline F gru(const F *a, const F *x, F h) {
  F ez = exp_(least(-(a[0] + x[0]), all(40.f))), er = exp_(-(a[1] + x[1]));
  F y = x[2] + a[2] / (1.f + er), et = exp_(least(-2.f * y, all(40.f))), t = 1.f + et;
  return (ez * (1.f - et) + h * t) / ((1.f + ez) * t);
}

static inline F lstm(const F *a, const F *x, F *c) {
  F ei = exp_(least(-(a[0] + x[0]), all(40.f))), ef = exp_(least(-(a[1] + x[1]), all(40.f)));
  F eg = exp_(least(-2.f * (a[2] + x[2]), all(40.f)));
  *c = *c / (1.f + ef) + (1.f - eg) / ((1.f + ei) * (1.f + eg));
  F eo = exp_(least(-(a[3] + x[3]), all(40.f))), ec = exp_(least(-2.f * *c, all(40.f)));
  return (1.f - ec) / ((1.f + eo) * (1.f + ec));
}

static void gates(Network *n, int layer, int block, Sums s, const int32_t *characters, int step, int8_t *rounded) {
  const Call *call = n->call;
  int U = n->padded_units, vectors = n->lstm ? 2 : 1, width = n->vectors * n->units;
  for (int r = 0; r < call->rows; r++) {
    float *state = n->h + ((size_t)r * n->vectors + layer * vectors) * U + LANES * block;
    if (call->row[r].snapshot_at == step) {
      int count = n->units - LANES * block < LANES ? n->units - LANES * block : LANES;
      for (int v = 0; v < vectors && count > 0; v++)
        memcpy(call->snapshots + (size_t)r * width + (layer * vectors + v) * n->units + LANES * block, state + (size_t)v * U,
               4 * (size_t)count);
    }
    F a[4], x[4], h;
    for (int g = 0; g < n->gates && !n->paused[r]; g++) {
      a[g] = biased(&n->layer[layer].recurrent, block * n->gates + g, s.state[(size_t)g * s.stride + r]);
      x[g] = input_of(n, layer, block, g, r, characters[r], s);
    }
    if (n->paused[r]) {
      h = *(F *)state;
    } else if (n->lstm) {
      F c = *(F *)(state + U);
      h = lstm(a, x, &c);
      *(F *)(state + U) = c;
    } else {
      h = gru(a, x, *(F *)state);
    }
    *(F *)state = h;
    B16 q = __builtin_convertvector(__builtin_convertvector(to_integer(h * 127.f), I), B16);
    *(B16 *)(rounded + (size_t)r * U + LANES * block) = UNSIGNED ? q ^ (int8_t)SIGN : q;
  }
}

// ---- sampling

// Sorts ids by weight in descending order. Merge sort is stable, so equal weights stay in order of their ids.
static void sort_by_weight(int32_t *ids, int32_t *spare, int count, const float *weight) {
  for (int width = 1; width < count; width *= 2) {
    for (int from = 0; from < count; from += 2 * width) {
      int middle = from + width < count ? from + width : count, end = from + 2 * width < count ? from + 2 * width : count;
      for (int i = from, j = middle, k = from; k < end; k++)
        spare[k] = i < middle && (j >= end || weight[ids[i]] >= weight[ids[j]]) ? ids[i++] : ids[j++];
    }
    memcpy(ids, spare, (size_t)count * 4);
  }
}

static void keep_likely(float *weight, int vocabulary, const Row *row, int32_t *ids) {
  int32_t *spare = ids + vocabulary;
  int count = vocabulary;
  for (int i = 0; i < vocabulary; i++) ids[i] = i;
  sort_by_weight(ids, spare, vocabulary, weight);
  if (row->top_k > 0 && row->top_k < count) count = row->top_k;
  if (row->top_p < 1) {
    float total = 0, sum = 0;
    for (int i = 0; i < count; i++) total += weight[ids[i]];
    float limit = total * row->top_p;
    int kept = 0;
    while (kept < count && sum < limit) sum += weight[ids[kept++]];
    count = kept;
  }
  if (row->min_p > 0) {
    float limit = weight[ids[0]] * row->min_p;
    int kept = 0;
    while (kept < count && weight[ids[kept]] >= limit) kept++;
    count = kept;
  }
  for (int i = count; i < vocabulary; i++) weight[ids[i]] = 0;
}

static inline float tree(const float *p) {
  float a[LANES];
  memcpy(a, p, sizeof a);
  for (int width = LANES / 2; width; width /= 2)
    for (int i = 0; i < width; i++) a[i] = a[2 * i] + a[2 * i + 1];
  return a[0];
}

static int invert(const float *weight, int blocks, float uniform, float *sums) {
  float sum = 0;
  int last = 0, group = 0, lane = LANES - 1;  // last: the last group with a weight
  for (int b = 0; b < blocks; b++) {
    float total = tree(weight + LANES * b);
    if (total > 0) last = b;
    sums[b] = sum += total;
  }
  float target = uniform * sum;
  for (int b = 0; b < blocks; b++) group += sums[b] <= target;
  if (group > last) group = last;
  const float *p = weight + LANES * group;
  while (lane > 0 && p[lane] == 0) lane--;
  float within = group ? sums[group - 1] : 0;
  for (int i = 0; i < lane; i++) {
    within += p[i];
    if (within > target) return LANES * group + i;
  }
  return LANES * group + lane;
}

// Applies bias and penalties, and excludes characters; see reference.adjust.
static void adjust(const Network *n, float *v, const Row *row) {
  const int32_t *next = row->next ? row->next + (size_t)row->automaton_state * row->alphabet : NULL;
  const int32_t *in_prompt = row->counts, *drawn = row->counts ? row->counts + n->vocabulary : NULL;
  for (int i = 0; i < n->vocabulary; i++) {
    float x = v[i];
    if (row->bias) x = x + row->bias[i];
    if (row->counts) {
      if (in_prompt[i] || drawn[i]) x = x > 0 ? x / row->repetition : x * row->repetition;
      x = x - row->frequency * (float)drawn[i];
      if (drawn[i]) x = x - row->presence;
    }
    if ((row->bias && row->bias[i] <= EXCLUDED) || (next && !reachable(row, next, i))) x = EXCLUDED;
    v[i] = x;
  }
}

// Samples an id of the vocabulary. v: the row's logits [blocks][16], overwritten. sums: buffer of one float a block.
static int draw(const Network *n, float *v, const Row *row, float uniform, float *sums, int32_t *order) {
  int blocks = n->output.blocks;
  F *x = (F *)v, high = all(EXCLUDED);
  if (row->bias || row->counts || row->next) adjust(n, v, row);
  for (int b = 0; b < blocks; b++) high = most(high, x[b]);
  float top = high[0];
  for (int i = 1; i < LANES; i++) top = high[i] > top ? high[i] : top;
  for (int b = 0; b < blocks; b++) {
    F w = (x[b] - top) * row->inverse_temperature;
    x[b] = where((w < -80.f) | (x[b] <= EXCLUDED), all(0.f), exp_(w));
  }
  if ((row->top_k > 0 && row->top_k < n->vocabulary) || row->top_p < 1 || row->min_p > 0) keep_likely(v, n->vocabulary, row, order);
  return invert(v, blocks, uniform, sums);
}

static void logits_of(const Network *n, const int32_t *sums, int stride, int row, int from, int to, float *out) {
  for (int b = from; b < to; b++) ((F *)out)[b] = biased(&n->output, b, ((const I *)sums)[(size_t)(b - from) * stride + row]);
}

// Samples one of the characters that only the automaton knows, with equal probability. -1 if it allows none.
static int draw_unknown(const Network *n, const Row *row, float uniform) {
  const int32_t *next = row->next + (size_t)row->automaton_state * row->alphabet;
  int count = 0;
  for (int c = n->vocabulary; c < row->alphabet; c++) count += reachable(row, next, c);
  int place = (int)(uniform * (float)count);
  for (int c = n->vocabulary; c < row->alphabet; c++)
    if (reachable(row, next, c) && (place-- == 0 || --count == 0)) return c;
  return -1;
}

// Samples a row's character and updates its counts and automaton. Returns the network's next input.
static int draw_next(Network *n, int step, int r, float *v, int thread, int writes) {
  const Call *c = n->call;
  Row *row = &c->row[r];
  size_t place = (size_t)step * c->rows + r;
  float uniform = c->uniforms[place];
  if (row->next) folio_divide(n, row, &uniform);
  int found = n->paused[r] ? draw_unknown(n, row, uniform) : draw(n, v, row, uniform, n->scratch[thread], n->order[thread]);
  int known = found >= 0 && found < n->vocabulary;
  if (writes) c->chosen[place] = found;
  if (row->counts && known) row->counts[n->vocabulary + found]++;
  if (row->next && found >= 0) {
    row->automaton_state = row->next[(size_t)row->automaton_state * row->alphabet + found];
    row->num_left--;
  }
  return known ? found : n->characters[r];
}

// Ends a row's step: writes logits and the chosen character. Returns the network's next input.
static int conclude(Network *n, int step, int r, float *v, int thread, int writes) {
  const Call *c = n->call;
  size_t place = (size_t)step * c->rows + r;
  if (writes && c->logits) memcpy(c->logits + place * n->vocabulary, v, 4 * (size_t)n->vocabulary);
  int input = c->forced[place];
  if (input < 0)
    input = draw_next(n, step, r, v, thread, writes);
  else if (writes)
    c->chosen[place] = input;
  if (c->row[r].next) {
    int samples = step + 1 < c->steps && c->forced[place + c->rows] < 0;
    float uniform = samples ? c->uniforms[place + c->rows] : 0;
    n->paused[r] = samples && folio_divide(n, &c->row[r], &uniform);
  }
  return input;
}

// ---- a thread's part of a call: unit blocks of every layer, then rows of the output (blocks, if the vocabulary is large)

static int part(int of, int threads, int thread) { return (int)((long long)of * thread / threads); }

static void read_embeddings(Network *n, const int32_t *characters, int thread, int threads) {
  int depth = n->layer[0].input.depth, rows = n->call->rows;
  for (int r = part(rows, threads, thread); r < part(rows, threads, thread + 1); r++)
    memcpy(n->read + (size_t)r * depth, n->embedded + (size_t)characters[r] * depth, (size_t)depth);
}

// drawn: the barrier to wait at after the recurrent product, which does not need the character; or null.
static void advance_layer(Network *n, int layer, int step, int b0, int b1, const int32_t *characters, int thread, Barrier *drawn) {
  int R = n->call->rows, P = padded_rows(R), U = n->padded_units, G = n->gates, count = (b1 - b0) * G;
  size_t rows = (size_t)(n->max_rows + LANES) * U;
  const int8_t *before = n->rounded[step & 1] + layer * rows;
  int8_t *after = n->rounded[(step + 1) & 1] + layer * rows;
  const Layer *l = &n->layer[layer];
  int32_t *state = n->sums[thread], *input = state + (size_t)count * LANES * P;
  products(l->recurrent.weights + (size_t)b0 * G * LANES * l->recurrent.depth, count, before, R, l->recurrent.depth, state);
  if (drawn) folio_wait(drawn);
  int has_input = layer || !n->table;
  if (has_input) {
    const int8_t *below = layer ? after - rows : n->read;
    products(l->input.weights + (size_t)b0 * G * LANES * l->input.depth, count, below, R, l->input.depth, input);
  }
  for (int b = b0; b < b1; b++) {
    size_t place = (size_t)(b - b0) * G * P;
    Sums s = {(const I *)state + place, has_input ? (const I *)input + place : NULL, P, P};
    gates(n, layer, b, s, characters, step, after);
  }
}

static void advance(Network *n, int thread) {
  const Call *c = n->call;
  int T = c->threads, R = c->rows, blocks = n->padded_units / LANES, V = n->output.blocks, U = n->padded_units;
  int b0 = part(blocks, T, thread), b1 = part(blocks, T, thread + 1), v0 = part(V, T, thread), v1 = part(V, T, thread + 1);
  // The output product of a large vocabulary is split over the threads. For a small one each thread computes some rows. A single
  // row is sampled by every thread, which saves a barrier, unless sampling updates its counts or automaton.
  int shared = T > 1 && V >= SHARED_BLOCKS, alone = R == 1 && !shared && !c->row->counts && !c->row->next;
  int unit = (R + LANES - 1) / LANES >= T ? LANES : 1, groups = (R + unit - 1) / unit;
  int r0 = alone ? 0 : part(groups, T, thread) * unit, r1 = alone ? 1 : part(groups, T, thread + 1) * unit;
  if (r1 > R) r1 = R;
  int32_t own = c->inputs[0], *characters = alone ? &own : n->characters, *sums = n->sums[thread];
  float *logits = n->scratch[thread] + (V + LANES - 1) / LANES * LANES;
  configure(R);
  for (int s = 0; s < c->steps; s++) {
    Barrier *drawn = s && !alone ? &n->drawn : NULL;
    if (!n->table) {
      if (drawn) folio_wait(drawn);
      read_embeddings(n, characters, thread, T);
      folio_wait(&n->states);
      drawn = NULL;
    }
    for (int layer = 0; layer < n->layers; layer++) {
      advance_layer(n, layer, s, b0, b1, characters, thread, layer ? NULL : drawn);
      folio_wait(&n->states);
    }
    const int8_t *top = n->rounded[(s + 1) & 1] + (size_t)(n->layers - 1) * (n->max_rows + LANES) * U;
    if (shared) {
      products(n->output.weights + (size_t)v0 * LANES * U, v1 - v0, top, R, U, sums);
      for (int r = 0; r < R; r++) logits_of(n, sums, padded_rows(R), r, v0, v1, n->logits + (size_t)r * V * LANES);
      folio_wait(&n->states);
      for (int r = r0; r < r1; r++) characters[r] = conclude(n, s, r, n->logits + (size_t)r * V * LANES, thread, 1);
    } else if (r1 > r0) {
      if (r1 - r0 != R) configure(r1 - r0);
      products(n->output.weights, V, top + (size_t)r0 * U, r1 - r0, U, sums);
      if (r1 - r0 != R) configure(R);
      for (int r = r0; r < r1; r++) {
        logits_of(n, sums, padded_rows(r1 - r0), r - r0, 0, V, logits);
        characters[r] = conclude(n, s, r, logits, thread, !alone || thread == 0);
      }
    }
  }
  release();
  folio_wait(&n->drawn);  // all threads have finished when the call returns
}

const Instructions JOIN(folio_, INSTRUCTIONS) = {TEXT(INSTRUCTIONS), UNSIGNED, begin_thread, advance};
