// The scan of a recurrent layer for a part of the batch's rows, forward and backward. Compiled once for each instruction set
// (-DINSTRUCTIONS=name).
//
// trainer/cells.py defines the cells. Results differ between instruction sets by rounding: products may be fused with sums.
#include "recurrence.h"

#include <stdlib.h>
#include <string.h>

#include "processor.h"
#include "tile.h"


static inline int gates_of(const Scan *s) { return s->lstm ? 4 : 3; }
// Index of the first biased value that the recurrent product is added to. Only x_h of a GRU comes before it.
static inline int first_recurrent(const Scan *s) { return s->lstm ? 0 : 1; }

// ---- the kernel

// The forward product has an output for each gate of each unit. A block has all gates of some units.
static inline void pack_gates(const Scan *s, int gates, Packed *to, int from, int end) {
  int U = s->units, units = BLOCK / gates;
  for (int k = 0; k < U; k++) {
    const float *row = s->kernel + (size_t)k * gates * U;
    int chunk = k / DEPTH * DEPTH, depth = least(DEPTH, U - chunk);
    for (int b = from; b < end; b++) {
      float *panels = to->weights + ((size_t)b * U + chunk) * BLOCK + (k - chunk) * PANEL, values[BLOCK];
      int count = least(units, U - b * units);
      for (int i = 0; i < BLOCK; i++) values[i] = i % units < count ? row[i / units * U + b * units + i % units] : 0;
      for (int i = 0; i < BLOCK; i += PANEL) memcpy(panels + (size_t)i * depth, values + i, 4 * PANEL);
    }
  }
}

// The backward product has an output for each unit.
static int pack_back(const Scan *s, Packed *to, int from, int end) {
  int U = s->units;
  for (int b = from; b < end; b++)
    for (int chunk = 0; chunk < to->depth; chunk += DEPTH) {
      int depth = least(DEPTH, to->depth - chunk);
      float *panels = to->weights + ((size_t)b * to->depth + chunk) * BLOCK;
      for (int i = 0; i < BLOCK; i++) {
        int unit = b * BLOCK + i;
        const float *row = s->kernel + (size_t)unit * to->depth + chunk;
        float *panel = panels + i / PANEL * depth * PANEL + i % PANEL;
        for (int k = 0; k < depth; k++) panel[k * PANEL] = unit < U ? row[k] : 0;
      }
    }
  return 0;
}

static int pack(const Scan *s, Packed *to, int from, int end) {
  if (s->lstm)
    pack_gates(s, 4, to, from, end);
  else
    pack_gates(s, 3, to, from, end);
  return 0;
}

// ---- a thread's work

typedef struct {
  const Scan *s;
  const Packed *kernel;
  int from, tiles;  // its tiles of the batch
  float *x[2];      // operands of the products of this step and of the next [tiles][depth][TILE]
  float *carried;   // c of an LSTM; backward: the part of the state's gradient outside the products: [parts][tiles][units][TILE]
  float *sums;      // [tiles][BLOCK][TILE]
} Part;

static inline int rows_of(const Part *w, int tile) { return least(TILE, w->s->rows - (w->from + tile) * TILE); }
// Where a value of a step is in an array of steps.
static inline size_t place(const Part *w, int value, int step, int tile) {
  return ((size_t)value * w->s->steps + step) * w->s->rows + (w->from + tile) * TILE;
}
static inline size_t place_of_state(const Part *w, int value, int tile) {
  return (size_t)value * w->s->rows + (w->from + tile) * TILE;
}
static inline float *carried(const Part *w, int part, int tile, int unit) {
  return w->carried + (((size_t)part * w->tiles + tile) * w->s->units + unit) * TILE;
}
static inline float *kept(const Part *w, int step, int tile, int unit) {
  const Scan *s = w->s;
  return s->kept + (((size_t)(w->from + tile) * s->steps + step) * s->units + unit) * (s->lstm ? 6 : 4) * TILE;
}

// The input product of a gate's unit.
static inline Tile load_input(const Part *w, int value, int step, int tile) {
  const Scan *s = w->s;
  int rows = rows_of(w, tile);
  if (!s->characters) return load(s->inputs + place(w, value, step, tile), rows);
  const int32_t *characters = s->characters + place(w, 0, step, tile);
  const float *inputs = s->inputs + (size_t)value * s->vocabulary;
  int32_t padded[TILE] = {0};
  if (rows < TILE) characters = memcpy(padded, characters, 4 * (size_t)rows);
  Tile x;
  for (int j = 0; j < VECTORS; j++) x.part[j] = gather(inputs, characters + j * WIDTH);
  return x;
}

// The sums of gates start at the input product and the bias. g_h of a GRU is without the input.
static void start_gates(const Part *w, int step, int block, int tile) {
  const Scan *s = w->s;
  int gates = gates_of(s), units = BLOCK / gates;
  for (int i = 0; i < BLOCK; i++) {
    int gate = i / units, unit = block * units + i % units, value = gate * s->units + unit;
    if (unit >= s->units) continue;
    Tile x = {0};
    if (s->lstm || gate < 2) x = load_input(w, value, step, tile);
    float bias = s->bias[value + first_recurrent(s) * s->units];
    for (int j = 0; j < VECTORS; j++) ((V *)(w->sums + (tile * BLOCK + i) * TILE))[j] = x.part[j] + bias;
  }
}

static void gru(const Part *w, int step, int tile, int unit, const V *g, V *h, const V *before) {
  const Scan *s = w->s;
  int gap = BLOCK / 3 * VECTORS;
  Tile x = load_input(w, 2 * s->units + unit, step, tile);
  V *keep = (V *)kept(w, step, tile, unit);
  float bias = s->bias[unit];
  for (int j = 0; j < VECTORS; j++) {
    V z = sigmoid(g[j]), r = sigmoid(g[gap + j]), g_h = g[2 * gap + j];
    V c = tanh_(x.part[j] + bias + r * g_h);
    h[j] = c + z * (before[j] - c);
    keep[j] = z, keep[VECTORS + j] = r, keep[2 * VECTORS + j] = g_h, keep[3 * VECTORS + j] = c;
  }
}

static void lstm(const Part *w, int step, int tile, int unit, const V *g, V *h) {
  int gap = BLOCK / 4 * VECTORS;
  V *keep = (V *)kept(w, step, tile, unit), *state = (V *)carried(w, 0, tile, unit);
  for (int j = 0; j < VECTORS; j++) {
    V i = sigmoid(g[j]), f = sigmoid(g[gap + j]), candidate = tanh_(g[2 * gap + j]), o = sigmoid(g[3 * gap + j]), c = state[j];
    state[j] = f * c + i * candidate;
    V reached = tanh_(state[j]);
    h[j] = o * reached;
    keep[j] = i, keep[VECTORS + j] = f, keep[2 * VECTORS + j] = candidate, keep[3 * VECTORS + j] = o;
    keep[4 * VECTORS + j] = c, keep[5 * VECTORS + j] = reached;
  }
}

static void advance_block(const Part *w, int step, int block) {
  const Scan *s = w->s;
  int units = BLOCK / gates_of(s), U = s->units;
  for (int t = 0; t < w->tiles; t++) start_gates(w, step, block, t);
  add_product(w->kernel, block, w->x[step & 1], w->tiles, w->sums);
  for (int t = 0; t < w->tiles; t++)
    for (int i = 0; i < units && block * units + i < U; i++) {
      int unit = block * units + i, rows = rows_of(w, t);
      const V *g = (V *)(w->sums + (t * BLOCK + i) * TILE);
      float *before = w->x[step & 1] + ((size_t)t * U + unit) * TILE, *h = w->x[(step + 1) & 1] + ((size_t)t * U + unit) * TILE;
      if (s->lstm)
        lstm(w, step, t, unit, g, (V *)h);
      else
        gru(w, step, t, unit, g, (V *)h, (V *)before);
      store(s->outputs + place(w, unit, step, t), rows, (const Tile *)h);
    }
}

// Reads the first state: h is the first operand, and c is carried.
static void read_state(const Part *w) {
  const Scan *s = w->s;
  for (int t = 0; t < w->tiles; t++)
    for (int u = 0; u < s->units; u++) {
      *(Tile *)(w->x[0] + ((size_t)t * s->units + u) * TILE) = load(s->state + place_of_state(w, u, t), rows_of(w, t));
      if (s->lstm) *(Tile *)carried(w, 0, t, u) = load(s->state + place_of_state(w, s->units + u, t), rows_of(w, t));
    }
}

static void scan_forward(const Part *w) {
  const Scan *s = w->s;
  read_state(w);
  for (int step = 0; step < s->steps; step++)
    for (int b = 0; b < w->kernel->blocks; b++) advance_block(w, step, b);
  for (int t = 0; t < w->tiles; t++)
    for (int u = 0; u < s->units; u++) {
      const float *h = w->x[s->steps & 1] + ((size_t)t * s->units + u) * TILE;
      store(s->last + place_of_state(w, u, t), rows_of(w, t), (const Tile *)h);
      if (s->lstm) store(s->last + place_of_state(w, s->units + u, t), rows_of(w, t), (const Tile *)carried(w, 0, t, u));
    }
}

// ---- backward

// The gradients of a unit's values with a bias, from that of its h. Updates what is carried.
static void gru_back(const Part *w, int step, int tile, int unit, const V *d_h, Tile *d) {
  const Scan *s = w->s;
  const V *keep = (V *)kept(w, step, tile, unit);
  V *direct = (V *)carried(w, 0, tile, unit);
  const float *h = step ? s->outputs + place(w, unit, step - 1, tile) : s->state + place_of_state(w, unit, tile);
  Tile before = load(h, rows_of(w, tile));
  for (int j = 0; j < VECTORS; j++) {
    V z = keep[j], r = keep[VECTORS + j], g_h = keep[2 * VECTORS + j], c = keep[3 * VECTORS + j];
    V d_c = d_h[j] * (1.f - z) * (1.f - c * c);
    d[0].part[j] = d_c;
    d[1].part[j] = d_h[j] * (before.part[j] - c) * z * (1.f - z);
    d[2].part[j] = d_c * g_h * r * (1.f - r);
    d[3].part[j] = d_c * r;
    direct[j] = d_h[j] * z;
  }
}

static void lstm_back(const Part *w, int step, int tile, int unit, const V *d_h, Tile *d) {
  const V *keep = (V *)kept(w, step, tile, unit);
  V *direct = (V *)carried(w, 0, tile, unit), *direct_c = (V *)carried(w, 1, tile, unit);
  for (int j = 0; j < VECTORS; j++) {
    V i = keep[j], f = keep[VECTORS + j], candidate = keep[2 * VECTORS + j], o = keep[3 * VECTORS + j];
    V c = keep[4 * VECTORS + j], reached = keep[5 * VECTORS + j];
    V d_c = direct_c[j] + d_h[j] * o * (1.f - reached * reached);
    d[0].part[j] = d_c * candidate * i * (1.f - i);
    d[1].part[j] = d_c * c * f * (1.f - f);
    d[2].part[j] = d_c * i * (1.f - candidate * candidate);
    d[3].part[j] = d_h[j] * reached * o * (1.f - o);
    direct[j] = (V){0};
    direct_c[j] = d_c * f;
  }
}

static void retreat_block(const Part *w, int step, int block) {
  const Scan *s = w->s;
  int U = s->units, end = least(BLOCK, U - block * BLOCK), depth = w->kernel->depth;
  for (int t = 0; t < w->tiles; t++)
    for (int i = 0; i < end; i++) {
      Tile d = {0}, direct = *(Tile *)carried(w, 0, t, block * BLOCK + i), *to = (Tile *)(w->sums + (t * BLOCK + i) * TILE);
      if (step >= 0) d = load(s->d_outputs + place(w, block * BLOCK + i, step, t), rows_of(w, t));
      for (int j = 0; j < VECTORS; j++) to->part[j] = direct.part[j] + d.part[j];
    }
  if (step + 1 < s->steps) add_product(w->kernel, block, w->x[(step + 1) & 1], w->tiles, w->sums);
  for (int t = 0; t < w->tiles; t++)
    for (int i = 0; i < end; i++) {
      int unit = block * BLOCK + i, rows = rows_of(w, t);
      float *d_h = w->sums + (t * BLOCK + i) * TILE;
      if (step < 0) {
        store(s->d_state + place_of_state(w, unit, t), rows, (const Tile *)d_h);
        continue;
      }
      Tile d[4];
      if (s->lstm)
        lstm_back(w, step, t, unit, (V *)d_h, d);
      else
        gru_back(w, step, t, unit, (V *)d_h, d);
      for (int g = 0; g < 4; g++) {
        store(s->d_values + place(w, g * U + unit, step, t), rows, &d[g]);
        int column = (g - first_recurrent(s)) * U + unit;
        if (column >= 0) *(Tile *)(w->x[step & 1] + ((size_t)t * depth + column) * TILE) = d[g];
      }
    }
}

static void scan_backward(const Part *w) {
  const Scan *s = w->s;
  int parts = s->lstm ? 2 : 1;
  for (int p = 0; p < parts; p++)
    for (int t = 0; t < w->tiles; t++)
      for (int u = 0; u < s->units; u++)
        *(Tile *)carried(w, p, t, u) = load(s->d_last + place_of_state(w, p * s->units + u, t), rows_of(w, t));
  for (int step = s->steps - 1; step >= -1; step--)
    for (int b = 0; b < w->kernel->blocks; b++) retreat_block(w, step, b);
  for (int t = 0; s->lstm && t < w->tiles; t++)
    for (int u = 0; u < s->units; u++)
      store(s->d_state + place_of_state(w, s->units + u, t), rows_of(w, t), (const Tile *)carried(w, 1, t, u));
}

static inline int scan_tiles(const Scan *s, int backward, const Packed *kernel, int from, int end) {
  int tiles = end - from;
  size_t operand = (size_t)tiles * kernel->depth * TILE, state = (size_t)tiles * s->units * TILE;
  size_t bytes = 4 * (2 * operand + 2 * state + (size_t)tiles * BLOCK * TILE);
  void *memory;
  if (posix_memalign(&memory, 64, bytes)) return 1;
  memset(memory, 0, bytes);
  float *x = memory;
  Part w = {s, kernel, from, tiles, {x, x + operand}, x + 2 * operand, x + 2 * operand + 2 * state};
  (backward ? scan_backward : scan_forward)(&w);
  free(memory);
  return 0;
}
static int scan(const Scan *s, Packed *kernel, int from, int end) { return scan_tiles(s, 0, kernel, from, end); }
static int scan_back(const Scan *s, Packed *kernel, int from, int end) { return scan_tiles(s, 1, kernel, from, end); }

// ---- the kernel's gradient: for each unit and column, h before each step times the column's gradient, summed over steps and rows

// Copies `depth` elements of `count` rows as to[element][most]. Rows from `count` to `most` are 0.
static inline void transpose(float *to, int most, const float *const *rows, int count, int depth) {
  for (int i = 0; i < most; i++)
    for (int k = 0; k < depth; k++) to[k * most + i] = i < count ? rows[i][k] : 0;
}

// h before the steps, elements k to k + depth of [steps * rows]: to[panels][depth][PANEL].
static void pack_states(const Scan *s, int k, int depth, float *to) {
  size_t length = (size_t)s->steps * s->rows;
  for (int u = 0; u < s->units; u += PANEL, to += depth * PANEL) {
    int first = k < s->rows ? least(s->rows - k, depth) : 0;  // elements of the first state
    const float *state[PANEL], *outputs[PANEL];
    int count = least(PANEL, s->units - u);
    for (int i = 0; i < count; i++) {
      state[i] = s->state + (size_t)(u + i) * s->rows + (first ? k : 0);
      outputs[i] = s->outputs + (u + i) * length + (first < depth ? k + first - s->rows : 0);
    }
    transpose(to, PANEL, state, count, first);
    transpose(to + first * PANEL, PANEL, outputs, count, depth - first);
  }
}

// Adds the products of `depth` elements. states: [panels][depth][PANEL]. d: of the columns [depth][TILE].
static void add_columns(const Scan *s, const float *states, const float *d, int depth, int column, int columns) {
  int all = gates_of(s) * s->units;
  for (int u = 0; u < s->units; u += PANEL) {
    float sums[PANEL * TILE] __attribute__((aligned(64))) = {0}, *to = s->d_kernel + (size_t)u * all + column;
    int count = least(PANEL, s->units - u);
    for (int i = 0; i < count; i++) __builtin_prefetch(to + (size_t)i * all);
    add_panel(states + (size_t)u * depth, d, depth, sums, 0, 0);
    for (int i = 0; i < count; i++) {
      Tile x = load(to + (size_t)i * all, columns);
      for (int j = 0; j < VECTORS; j++) x.part[j] += ((V *)sums)[i * VECTORS + j];
      store(to + (size_t)i * all, columns, &x);
    }
  }
}

static int sum_columns(const Scan *s, Packed *kernel, int from, int end) {
  (void)kernel;
  int length = s->steps * s->rows, all = gates_of(s) * s->units;
  void *memory;
  if (posix_memalign(&memory, 64, 4 * (size_t)DEPTH * (s->units + PANEL + TILE))) return 1;
  float *d = memory, *states = d + DEPTH * TILE;
  for (int u = 0; u < s->units; u++)
    memset(s->d_kernel + (size_t)u * all + from * TILE, 0, 4 * (size_t)(least(end * TILE, all) - from * TILE));
  for (int k = 0; k < length; k += DEPTH) {
    int depth = least(DEPTH, length - k);
    pack_states(s, k, depth, states);
    for (int column = from * TILE; column < end * TILE; column += TILE) {
      const float *rows[TILE];
      int columns = least(TILE, all - column);
      for (int i = 0; i < columns; i++) rows[i] = s->d_values + ((size_t)first_recurrent(s) * s->units + column + i) * length + k;
      transpose(d, TILE, rows, columns, depth);
      add_columns(s, states, d, depth, column, columns);
    }
  }
  free(memory);
  return 0;
}

// ---- the gradients of the bias and of the inputs of all characters

static float sum(const float *x, size_t count) {
  Tile sums = {0};
  size_t i = 0;
  for (; i + TILE <= count; i += TILE)
    for (int j = 0; j < VECTORS; j++) sums.part[j] += *(const V *)(x + i + j * WIDTH);
  float total = 0;
  for (; i < count; i++) total += x[i];
  for (int j = 0; j < TILE; j++) total += ((const float *)&sums)[j];
  return total;
}

static int sum_units(const Scan *s, Packed *kernel, int from, int end) {
  (void)kernel;
  size_t length = (size_t)s->steps * s->rows, vocabulary = (size_t)s->vocabulary;
  int U = s->units, gates = gates_of(s);
  for (int u = from; u < end; u++) {
    const float *d[4];
    for (int v = 0; v < 4; v++) {
      d[v] = s->d_values + (v * U + u) * length;
      s->d_bias[v * U + u] = sum(d[v], length);
    }
    if (!s->characters) continue;
    float *to[4];
    for (int g = 0; g < gates; g++) {
      to[g] = s->d_inputs + (g * U + u) * vocabulary;
      memset(to[g], 0, 4 * vocabulary);
    }
    for (size_t i = 0; i < length; i++) {  // x_h, the first value of a GRU, is part of its last gate
      int32_t c = s->characters[i];
      to[0][c] += d[first_recurrent(s)][i];
      to[1][c] += d[1 + first_recurrent(s)][i];
      to[2][c] += d[s->lstm ? 2 : 0][i];
      if (s->lstm) to[3][c] += d[3][i];
    }
  }
  return 0;
}

const ScanInstructions JOIN(folio_scan_, INSTRUCTIONS) = {
    TEXT(INSTRUCTIONS), pack, scan, pack_back, scan_back, sum_columns, sum_units,
};
