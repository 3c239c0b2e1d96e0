// Opens a network, chooses the instruction set and runs a call on several threads. native.py calls this through ctypes.
#include "network.h"
#include "processor.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

// ---- instruction sets, the fastest first

extern const Instructions folio_portable;
#if defined(__x86_64__)
extern const Instructions folio_amx, folio_vnni, folio_avxvnni, folio_avx2;

static int usable(const Instructions *set) {
  if (set == &folio_portable) return 1;
  Processor p = read_processor();
  int vnni = has_avx512(&p) && (p.c & (1u << 11));
  if (set == &folio_avx2) return has_avx2(&p);
  if (set == &folio_avxvnni) return has_avx2(&p) && (p.a1 & (1u << 4));
  if (set == &folio_vnni) return vnni;
#if defined(__linux__)
  return vnni && (p.state & (3u << 17)) == (3u << 17) && (p.d & (1u << 24)) && (p.d & (1u << 25));
#else
  return 0;  // no Mac has AMX of Intel's
#endif
}
static const Instructions *const SETS[] = {&folio_amx, &folio_vnni, &folio_avxvnni, &folio_avx2, &folio_portable};

#elif defined(__aarch64__)
extern const Instructions folio_dotprod;
#if defined(__linux__)
#include <sys/auxv.h>
#endif
static int usable(const Instructions *set) {
  if (set == &folio_portable) return 1;
#if defined(__linux__)
  return (getauxval(AT_HWCAP) >> 20) & 1;  // HWCAP_ASIMDDP
#else
  return 1;  // all Apple processors have it
#endif
}
static const Instructions *const SETS[] = {&folio_dotprod, &folio_portable};

#else
static int usable(const Instructions *set) { return set == &folio_portable; }
static const Instructions *const SETS[] = {&folio_portable};
#endif

enum { COUNT = sizeof SETS / sizeof *SETS };

// The name of the i-th instruction set that this machine supports, the fastest first; null after the last.
const char *folio_instructions(int i) {
  for (int s = 0; s < COUNT; s++)
    if (usable(SETS[s]) && i-- == 0) return SETS[s]->name;
  return NULL;
}

// ---- threads

void folio_wait(Barrier *b) {
  int parties = b->parties, turn = atomic_load(&b->turn);  // read before arriving: later, the next call may change them
  if (parties == 1) return;
  if (atomic_fetch_add(&b->count, 1) == parties - 1) {
    atomic_store(&b->count, 0);
    atomic_store(&b->turn, turn + 1);
    if (atomic_load(&b->sleepers)) {
      pthread_mutex_lock(&b->lock);
      pthread_cond_broadcast(&b->moved);
      pthread_mutex_unlock(&b->lock);
    }
    return;
  }
  for (int spins = 0; spins < SPINS; spins++) {
    if (atomic_load_explicit(&b->turn, memory_order_acquire) != turn) return;
#if defined(__x86_64__)
    _mm_pause();
#endif
  }
  pthread_mutex_lock(&b->lock);
  atomic_fetch_add(&b->sleepers, 1);
  while (atomic_load(&b->turn) == turn) pthread_cond_wait(&b->moved, &b->lock);
  atomic_fetch_sub(&b->sleepers, 1);
  pthread_mutex_unlock(&b->lock);
}

static int open_barrier(Barrier *b) { return pthread_mutex_init(&b->lock, NULL) || pthread_cond_init(&b->moved, NULL); }

#if defined(__linux__)
static pthread_t thread_of(const Network *n, int t) { return t ? n->worker[t] : pthread_self(); }

// Reads the cores that a thread may run on. If they are not as the last call left them, finds out what to set them to after this one:
// the same if somebody chose them, else all, so that the thread follows later changes of its control group. Returns 0 if that failed.
static int read_cores(pthread_t thread, Cores *c) {
  cpu_set_t all, found;
  if (pthread_getaffinity_np(thread, sizeof c->allowed, &c->allowed)) return 0;
  if (CPU_EQUAL(&c->allowed, &c->left)) return 1;
  c->after = c->allowed;
  memset(&all, 0xff, sizeof all);
  if (pthread_setaffinity_np(thread, sizeof all, &all) || pthread_getaffinity_np(thread, sizeof found, &found)) return 0;
  if (CPU_EQUAL(&found, &c->allowed)) c->after = all;
  else pthread_setaffinity_np(thread, sizeof c->allowed, &c->allowed);
  return 1;
}

// Keeps the threads of a call off each other's cores until `release_cores`: the caller stays on its core, and a worker on its last one
// or on one that no other thread was on, where there are enough. To the Linux of a virtual machine an idle core can look busy. It then
// wakes a thread on its waker's core and leaves both there for tens of milliseconds, in which they take turns at each barrier.
static void keep_apart(Network *n, int threads) {
  int here = sched_getcpu(), stays[MOST_APART];
  cpu_set_t caller, taken;
  CPU_ZERO(&caller);
  CPU_SET(here, &caller);
  taken = caller;
  for (int t = 1; t < threads; t++) {
    stays[t] = !CPU_ISSET(n->cores[t].last, &taken);
    CPU_SET(n->cores[t].last, &taken);
  }
  for (int t = 0; t < threads; t++) {
    Cores *c = &n->cores[t];
    if (!read_cores(thread_of(n, t), c)) continue;
    c->given = caller;
    if (t) {
      CPU_XOR(&c->given, &c->allowed, &taken);
      CPU_AND(&c->given, &c->allowed, &c->given);
      if (stays[t] && CPU_ISSET(c->last, &c->allowed)) CPU_SET(c->last, &c->given);
    }
    if (!CPU_COUNT(&c->given)) {
      c->given = c->allowed;
      CPU_CLR(here, &c->given);
    }
    c->restricted = CPU_COUNT(&c->given) && !pthread_setaffinity_np(thread_of(n, t), sizeof c->given, &c->given);
  }
}

// A thread whose cores somebody else has changed meanwhile keeps them.
static void release_cores(Network *n, int threads) {
  for (int t = 0; t < threads; t++) {
    Cores *c = &n->cores[t];
    if (!c->restricted) continue;
    c->restricted = 0;
    pthread_t thread = thread_of(n, t);
    if (pthread_getaffinity_np(thread, sizeof c->left, &c->left) || !CPU_EQUAL(&c->left, &c->given)) continue;
    pthread_setaffinity_np(thread, sizeof c->after, &c->after);
    pthread_getaffinity_np(thread, sizeof c->left, &c->left);
  }
}

static void note_core(Network *n, int thread) { n->cores[thread].last = sched_getcpu(); }
#else
static void keep_apart(Network *n, int threads) { (void)n, (void)threads; }
static void release_cores(Network *n, int threads) { (void)n, (void)threads; }
static void note_core(Network *n, int thread) { (void)n, (void)thread; }
#endif

typedef struct {
  Network *network;
  int thread;
} Start;

static void *run_worker(void *argument) {
  Start start = *(Start *)argument;
  free(argument);
  Network *n = start.network;
  n->instructions->begin_thread();
  for (int turn = 0;; turn++) {
    pthread_mutex_lock(&n->lock);
    while (!n->quit && atomic_load(&n->turn[start.thread]) == turn) pthread_cond_wait(&n->called, &n->lock);
    int quit = n->quit;
    pthread_mutex_unlock(&n->lock);
    if (quit) return NULL;
    note_core(n, start.thread);
    n->instructions->advance(n, start.thread);
  }
}

// ---- memory

// Zeroed memory, aligned to a cache line, or to a huge page if it is at least as large. Returns null if memory is short.
static void *allocate(size_t bytes) {
  enum { HUGE = 2 << 20 };
  size_t aligned = bytes < HUGE ? 64 : HUGE;
  void *memory = NULL;
  bytes = (bytes + aligned - 1) / aligned * aligned;
  if (posix_memalign(&memory, aligned, bytes ? bytes : aligned)) return NULL;
#if defined(MADV_HUGEPAGE)
  if (aligned == HUGE) madvise(memory, bytes, MADV_HUGEPAGE);
#endif
  memset(memory, 0, bytes ? bytes : aligned);
  return memory;
}

// An operand of a product as the instruction set needs it.
static inline int8_t stored(const Network *n, int8_t value) { return n->instructions->unsigned_states ? value ^ SIGN : value; }

static int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

// ---- opening

// A kernel as in quantized.py: weights [inputs][columns], row-major.
typedef struct {
  const int8_t *weights;
  const float *scale, *bias;
} GivenKernel;

// Packs column `column` of `given`, a kernel of [inputs][columns], as column `to` of `k`.
static void pack_column(Kernel *k, int to, const GivenKernel *given, int inputs, int columns, int column, int unsigned_states) {
  int8_t *w = k->weights + (size_t)(to / LANES) * LANES * k->depth + to % LANES * 4;
  int32_t sum = 0;
  for (int i = 0; i < inputs; i++) {
    int8_t value = given->weights[(size_t)i * columns + column];
    w[(size_t)(i / 4) * 4 * LANES + i % 4] = value;
    sum += value;
  }
  k->offset[to] = unsigned_states ? 128 * sum : 0;
  k->scale[to] = given->scale[column];
  k->bias[to] = given->bias[column];
}

static int open_kernel(Kernel *k, int inputs, int blocks) {
  k->depth = round_up(inputs, DEPTH);
  k->blocks = blocks;
  k->weights = allocate((size_t)blocks * LANES * k->depth);
  k->offset = allocate((size_t)blocks * LANES * 4);
  k->scale = allocate((size_t)blocks * LANES * 4);
  k->bias = allocate((size_t)blocks * LANES * 4);
  return !k->weights || !k->offset || !k->scale || !k->bias;
}

// Packs a layer's kernel so that the gates of a unit block are adjacent blocks.
static int pack_gates(Network *n, Kernel *k, const GivenKernel *given, int inputs) {
  if (open_kernel(k, inputs, n->padded_units / LANES * n->gates)) return 1;
  for (int gate = 0; gate < n->gates; gate++)
    for (int unit = 0; unit < n->units; unit++) {
      int to = (unit / LANES * n->gates + gate) * LANES + unit % LANES;
      pack_column(k, to, given, inputs, n->gates * n->units, gate * n->units + unit, n->instructions->unsigned_states);
    }
  return 0;
}

static int pack_output(Network *n, const GivenKernel *given) {
  if (open_kernel(&n->output, n->units, round_up(n->vocabulary, LANES) / LANES)) return 1;
  for (int c = 0; c < n->vocabulary; c++)
    pack_column(&n->output, c, given, n->units, n->vocabulary, c, n->instructions->unsigned_states);
  for (int c = n->vocabulary; c < n->output.blocks * LANES; c++) n->output.bias[c] = EXCLUDED;
  return 0;
}

static int open_input(Network *n, const float *table, const int8_t *embedded, const float *scale, const GivenKernel *given) {
  if (!table) {
    Kernel *k = &n->layer[0].input;
    if (pack_gates(n, k, given, n->embedding)) return 1;
    n->embedded = allocate((size_t)n->vocabulary * k->depth);
    n->embedded_scale = allocate((size_t)n->vocabulary * 4);
    n->read = allocate((size_t)(n->max_rows + LANES) * k->depth);
    if (!n->embedded || !n->embedded_scale || !n->read) return 1;
    for (int c = 0; c < n->vocabulary; c++)
      for (int i = 0; i < n->embedding; i++)
        n->embedded[(size_t)c * k->depth + i] = stored(n, embedded[(size_t)c * n->embedding + i]);
    memcpy(n->embedded_scale, scale, (size_t)n->vocabulary * 4);
    return 0;
  }
  int blocks = n->padded_units / LANES, columns = n->gates * n->units;
  n->table = allocate((size_t)n->vocabulary * blocks * n->gates * LANES * 4);
  if (!n->table) return 1;
  for (int c = 0; c < n->vocabulary; c++)
    for (int gate = 0; gate < n->gates; gate++)
      for (int unit = 0; unit < n->units; unit++)
        n->table[((size_t)c * blocks + unit / LANES) * n->gates * LANES + gate * LANES + unit % LANES] =
            table[(size_t)c * columns + gate * n->units + unit];
  return 0;
}

static int open_buffers(Network *n) {
  int rows = n->max_rows + LANES, V = n->output.blocks;
  n->h = allocate((size_t)n->max_rows * n->vectors * n->padded_units * 4);
  n->characters = allocate((size_t)n->max_rows * 4);
  n->paused = allocate((size_t)n->max_rows);
  n->logits = n->threads > 1 && V >= SHARED_BLOCKS ? allocate((size_t)n->max_rows * V * LANES * 4) : NULL;
  int failed = !n->h || !n->characters || !n->paused || (n->threads > 1 && V >= SHARED_BLOCKS && !n->logits);
  for (int i = 0; i < 2; i++) failed |= !(n->rounded[i] = allocate((size_t)n->layers * rows * n->padded_units));
  for (int t = 0; t < n->threads; t++) {
    // Thread t takes part in calls of more than t threads. It computes at most its part of a layer's two products, and of the output's.
    int blocks = 2 * (n->padded_units / LANES / (t + 1) + 1) * n->gates, outputs = V >= SHARED_BLOCKS ? V / (t + 1) + 1 : V;
    failed |= !(n->sums[t] = allocate((size_t)(blocks > outputs ? blocks : outputs) * LANES * rows * 4));
    failed |= !(n->scratch[t] = allocate((size_t)(round_up(V, LANES) + V * LANES) * 4));
    failed |= !(n->order[t] = allocate((size_t)n->vocabulary * 8));
  }
  return failed;
}

void folio_close(Network *n) {
  if (!n) return;
  pthread_mutex_lock(&n->lock);
  n->quit = 1;
  pthread_cond_broadcast(&n->called);
  pthread_mutex_unlock(&n->lock);
  for (int t = 1; t < n->threads; t++)
    if (n->worker[t]) pthread_join(n->worker[t], NULL);
  Kernel *all[2];
  for (int l = 0; n->layer && l < n->layers; l++) {
    all[0] = &n->layer[l].recurrent, all[1] = &n->layer[l].input;
    for (int i = 0; i < 2; i++) free(all[i]->weights), free(all[i]->offset), free(all[i]->scale), free(all[i]->bias);
  }
  free(n->output.weights), free(n->output.offset), free(n->output.scale), free(n->output.bias);
  free(n->layer), free(n->table), free(n->embedded), free(n->embedded_scale), free(n->read);
  free(n->h), free(n->rounded[0]), free(n->rounded[1]), free(n->characters), free(n->paused), free(n->logits);
  for (int t = 0; t < MAX_THREADS; t++) free(n->sums[t]), free(n->scratch[t]), free(n->order[t]);
  free(n);
}

// Opens a network and starts its threads. Returns null if memory is short. kernels: each layer's recurrent and input kernel, then
// the output kernel. table: see quantized.py; if null, embedded, scale and the first input kernel are used. instructions: a name,
// or null for the fastest set.
Network *folio_open(int lstm, int layers, int units, int vocabulary, int embedding, int max_rows, int threads, const char *instructions,
                    const float *table, const int8_t *embedded, const float *scale, const GivenKernel *kernels) {
  Network *n = calloc(1, sizeof *n);
  if (!n) return NULL;
  for (int s = COUNT - 1; s >= 0; s--)
    if (usable(SETS[s]) && (!instructions || !strcmp(instructions, SETS[s]->name))) n->instructions = SETS[s];
  n->lstm = lstm, n->gates = lstm ? 4 : 3, n->layers = layers, n->units = units, n->padded_units = round_up(units, DEPTH);
  n->vectors = layers * (lstm ? 2 : 1), n->vocabulary = vocabulary, n->embedding = embedding, n->max_rows = max_rows;
  n->threads = threads < 1 ? 1 : threads > MAX_THREADS ? MAX_THREADS : threads;
  n->layer = calloc((size_t)layers, sizeof *n->layer);
  pthread_mutex_init(&n->lock, NULL), pthread_cond_init(&n->called, NULL);
  int failed = !n->instructions || !n->layer || open_barrier(&n->states) || open_barrier(&n->drawn);
  for (int l = 0; l < layers && !failed; l++) {
    failed = pack_gates(n, &n->layer[l].recurrent, &kernels[2 * l], units);
    if (!failed && l) failed = pack_gates(n, &n->layer[l].input, &kernels[2 * l + 1], units);
  }
  failed = failed || open_input(n, table, embedded, scale, &kernels[1]) || pack_output(n, &kernels[2 * layers]) || open_buffers(n);
  if (!failed) n->instructions->begin_thread();
  for (int t = 1; t < n->threads && !failed; t++) {
    Start *start = malloc(sizeof *start);
    if (start) *start = (Start){n, t};
    if (!start || pthread_create(&n->worker[t], NULL, run_worker, start)) {  // continue with fewer threads
      free(start);
      n->worker[t] = 0;
      n->threads = t;
    }
  }
  if (failed) folio_close(n), n = NULL;
  return n;
}

int folio_threads(const Network *n) { return n->threads; }

// Decides whether a row with an automaton samples a character that the network does not know. Changes the uniform number to the one
// to sample with. See reference.divide.
int folio_divide(const Network *n, const Row *row, float *uniform) {
  const int32_t *next = row->next + (size_t)row->automaton_state * row->alphabet;
  float known = 0, unknown = 0;
  for (int c = 0; c < n->vocabulary; c++) known += reachable(row, next, c) && !(row->bias && row->bias[c] <= EXCLUDED);
  for (int c = n->vocabulary; c < row->alphabet; c++) unknown += reachable(row, next, c);
  if (known > 0 && (unknown == 0 || row->inverse_temperature >= 1e30f)) return 0;
  float place = *uniform * (known + unknown);
  if (place < unknown || known == 0) {
    *uniform = place / (unknown > 1 ? unknown : 1);
    return 1;
  }
  *uniform = (place - unknown) / known;
  return 0;
}

// Runs a call. Only one thread at a time may call this.
void folio_advance(Network *n, const Call *call) {
  Call bounded = *call;
  if (bounded.threads > n->threads) bounded.threads = n->threads;
  if (bounded.threads < 1) bounded.threads = 1;
  int U = n->padded_units, of_layer = n->vectors / n->layers;
  n->call = &bounded;
  memcpy(n->characters, call->inputs, (size_t)call->rows * 4);
  for (int r = 0; r < call->rows; r++) {
    float uniform = call->uniforms[r];
    n->paused[r] = call->row[r].next && call->forced[r] < 0 && folio_divide(n, &call->row[r], &uniform);
    for (int v = 0; v < n->vectors; v++) {
      float *h = n->h + ((size_t)r * n->vectors + v) * U;
      memcpy(h, call->states + ((size_t)r * n->vectors + v) * n->units, (size_t)n->units * 4);
      memset(h + n->units, 0, (size_t)(U - n->units) * 4);
      int8_t *rounded = n->rounded[0] + ((size_t)(v / of_layer) * (n->max_rows + LANES) + r) * U;
      for (int i = 0; v % of_layer == 0 && i < U; i++) rounded[i] = stored(n, (int8_t)(int32_t)((h[i] * 127.f + 12582912.f) - 12582912.f));
    }
  }
  n->states.parties = n->drawn.parties = bounded.threads;
  if (bounded.threads > 1) {
    if (bounded.threads <= MOST_APART) keep_apart(n, bounded.threads);
    pthread_mutex_lock(&n->lock);
    for (int t = 1; t < bounded.threads; t++) atomic_fetch_add(&n->turn[t], 1);
    pthread_cond_broadcast(&n->called);
    pthread_mutex_unlock(&n->lock);
  }
  n->instructions->begin_thread();  // the caller's thread may differ from call to call
  n->instructions->advance(n, 0);
  if (bounded.threads > 1 && bounded.threads <= MOST_APART) release_cores(n, bounded.threads);
  for (int r = 0; r < call->rows; r++)
    for (int v = 0; v < n->vectors; v++)
      memcpy(call->states + ((size_t)r * n->vectors + v) * n->units, n->h + ((size_t)r * n->vectors + v) * U, (size_t)n->units * 4);
}
