// Runs small networks by each of this machine's instruction sets and prints digests: "network threads set digest". A network's
// weights, and so all that it computes, are the same on every machine.
#include <stdio.h>
#include <stdlib.h>

#include "network.h"

// What the library has: see network.c.
typedef struct {
  const int8_t *weights;
  const float *scale, *bias;
} GivenKernel;
const char *folio_instructions(int);
Network *folio_open(int lstm, int layers, int units, int vocabulary, int embedding, int max_rows, int threads, const char *instructions,
                    const float *table, const int8_t *embedded, const float *scale, const GivenKernel *kernels);
void folio_advance(Network *, const Call *), folio_close(Network *);

static uint64_t seed, digest;

static uint32_t bits24(void) {
  seed = seed * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(seed >> 40);
}
static float uniform(void) { return (float)bits24() / 16777216.f; }
static float around(float middle, float width) { return middle + (uniform() - .5f) * width; }

static void hash(const void *of, size_t bytes) {  // FNV-1a
  for (const unsigned char *p = of, *end = p + bytes; p < end; p++) digest = (digest ^ *p) * 1099511628211u;
}

static void *fresh(size_t bytes) {
  void *found = calloc(1, bytes);
  if (!found) abort();
  return found;
}
static float *some_floats(int count, float middle, float width) {
  float *found = fresh((size_t)count * 4);
  for (int i = 0; i < count; i++) found[i] = around(middle, width);
  return found;
}
static int8_t *some_bytes(int count) {
  int8_t *found = fresh((size_t)count);
  for (int i = 0; i < count; i++) found[i] = (int8_t)((int)(bits24() % 255) - 127);
  return found;
}

typedef struct {
  const char *name;
  int lstm, layers, units, vocabulary, embedding, table;
} Shape;

enum { ROWS = 20, STEPS = 5 };

static GivenKernel some_kernel(int inputs, int columns, float scale) {
  GivenKernel kernel = {some_bytes(inputs * columns), some_floats(columns, scale, scale), some_floats(columns, 0, 1)};
  return kernel;
}

static Network *open_network(Shape s, int threads, const char *set) {
  int columns = (s.lstm ? 4 : 3) * s.units;
  GivenKernel kernels[8];
  seed = 1;
  for (int l = 0; l < s.layers; l++) {
    kernels[2 * l] = some_kernel(s.units, columns, 5e-5f);
    kernels[2 * l + 1] = some_kernel(l ? s.units : s.embedding, columns, l ? 5e-5f : 5e-3f);
  }
  kernels[2 * s.layers] = some_kernel(s.units, s.vocabulary, 1e-4f);
  float *table = s.table ? some_floats(s.vocabulary * columns, 0, 4) : NULL;
  int8_t *embedded = some_bytes(s.vocabulary * s.embedding);
  float *scale = some_floats(s.vocabulary, .01f, .01f);
  Network *n = folio_open(s.lstm, s.layers, s.units, s.vocabulary, s.embedding, ROWS, threads, set, table, embedded, scale, kernels);
  if (!n) abort();
  return n;  // the process is short: nothing above is freed
}

static void call_network(Network *n, int rows, int threads) {
  size_t states = (size_t)(rows * n->vectors * n->units), places = (size_t)(STEPS * rows);
  int32_t *inputs = fresh((size_t)rows * 4), *forced = fresh(places * 4), *chosen = fresh(places * 4);
  float *snapshots = fresh(states * 4), *logits = fresh(places * (size_t)n->vocabulary * 4);
  Row *row = fresh((size_t)rows * sizeof *row);
  for (int r = 0; r < rows; r++) {
    inputs[r] = (int32_t)(bits24() % (uint32_t)n->vocabulary);
    row[r] = (Row){.inverse_temperature = around(1, 1), .top_p = r % 3 == 1 ? .9f : 1, .top_k = r % 3 == 2 ? 5 : 0,
                   .snapshot_at = r % 3 - 1};
  }
  for (size_t i = 0; i < places; i++) forced[i] = i % 5 == 2 ? (int32_t)(bits24() % (uint32_t)n->vocabulary) : -1;
  Call call = {.rows = rows, .steps = STEPS, .threads = threads, .states = some_floats((int)states, 0, 2), .inputs = inputs,
               .forced = forced, .uniforms = some_floats((int)places, .5f, .999f), .row = row, .chosen = chosen,
               .snapshots = snapshots, .logits = logits};
  folio_advance(n, &call);
  hash(chosen, places * 4);
  hash(call.states, states * 4);
  hash(snapshots, states * 4);
  hash(logits, places * (size_t)n->vocabulary * 4);
}

int main(void) {
  static const Shape shapes[] = {
      {"gru", 0, 1, 70, 33, 24, 1}, {"gru-without-table", 0, 1, 70, 1100, 24, 0}, {"lstm-of-two-layers", 1, 2, 40, 65, 24, 1}};
  static const int batches[] = {1, 2, 3, 4, 5, 16, 17, ROWS};
  const char *set;
  for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
    for (int i = 0; (set = folio_instructions(i)); i++)
      for (int threads = 1; threads <= 2; threads++) {
        Network *n = open_network(shapes[s], threads, set);
        digest = 14695981039346656037u;
        for (size_t b = 0; b < sizeof batches / sizeof *batches; b++) call_network(n, batches[b], threads);
        printf("%s %d %s %016llx\n", shapes[s].name, threads, set, (unsigned long long)digest);
        folio_close(n);
      }
}
