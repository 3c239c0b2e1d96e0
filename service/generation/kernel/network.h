// The types that the kernel's files share: a network packed for products, and a call, which advances some rows by some steps.
#pragma once
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum {
  LANES = 16,  // columns of a block; a packed kernel is [block][depth / 4][16][4]
  DEPTH = 64,  // inputs of a kernel are padded to a multiple of this
  SHARED_BLOCKS = 64,  // the output product of a vocabulary of at least this many blocks is split over the threads
  MAX_THREADS = 64,
  SIGN = -128,  // flips the sign bit of an int8, which adds 128 to it as an unsigned byte
  MOST_APART = 16,  // threads that are kept on different cores: that takes five system calls each
  SPINS = 16000,  // polls of a barrier before a thread sleeps. On x86 they take long enough for a virtual machine's idle core to start
};

typedef struct {
  int depth, blocks;  // padded number of inputs; number of blocks of 16 columns
  int8_t *weights;
  int32_t *offset;  // by column, subtracted from its integer sum; not 0 if the instruction set needs unsigned states
  float *scale, *bias;
} Kernel;

typedef struct {
  Kernel recurrent, input;  // the gates of a unit block are adjacent blocks; the first layer has no `input` if there is a table
} Layer;

// One row of a call. A null pointer disables its option.
typedef struct {
  float inverse_temperature, top_p, min_p;  // top_p >= 1 and min_p 0 exclude nothing
  float presence, frequency, repetition;    // penalties, used if there are `counts`
  int32_t top_k;                            // 0 keeps all
  int32_t snapshot_at;                      // steps after which the state is copied to `snapshots`, or -1
  int32_t automaton_state, num_left;        // of the automaton, updated; num_left: characters that may still be sampled
  int32_t alphabet;                         // the automaton's characters, the vocabulary first
  const float *bias;    // [vocabulary], EXCLUDED where a character must not be sampled
  int32_t *counts;      // [2][vocabulary]: occurrences in the prompt, and in the sampled text, updated
  const int32_t *next;  // [states of the automaton][alphabet]: the next state, or -1 where a character is not allowed
  const int32_t *distance;  // [states of the automaton]: the least number of characters after which the text may end
} Row;

typedef struct {
  int32_t rows, steps, threads;
  float *states;  // [rows][vectors][units], updated
  const int32_t *inputs, *forced;  // [rows]; [steps][rows], -1 where the step samples
  const float *uniforms;           // [steps][rows]
  Row *row;                        // [rows]
  int32_t *chosen;                 // [steps][rows], -1 where the automaton allows nothing
  float *snapshots;                // [rows][vectors][units], of rows with snapshot_at
  float *logits;                   // [steps][rows][vocabulary], or null
} Call;

typedef struct {
  atomic_int count, turn, sleepers;
  int parties;
  pthread_mutex_t lock;
  pthread_cond_t moved;
} Barrier;

#if defined(__linux__)
// The cores of a thread: those that it may run on, has during a call, gets after it and had after the last one; where it woke last.
typedef struct {
  cpu_set_t allowed, given, after, left;
  int restricted, last;
} Cores;
#endif

typedef struct Network Network;

// The code of one instruction set: step.c, compiled for it.
typedef struct {
  const char *name;
  int unsigned_states;  // states and embeddings are stored + 128, so a column's offset is 128 times the sum of its weights
  void (*begin_thread)(void);
  void (*advance)(Network *, int thread);
} Instructions;

struct Network {
  int lstm, gates, layers, units, padded_units, vectors, vocabulary, embedding, max_rows, threads;
  Layer *layer;
  Kernel output;
  float *table;  // input products [vocabulary][unit blocks][gates][16]; if null, `embedded` and its scale are used
  int8_t *embedded;
  float *embedded_scale;
  const Instructions *instructions;

  // The current call. States and rounded states are padded. Rounded states are double-buffered: one buffer is read, one written.
  const Call *call;
  float *h;               // [rows][vectors][padded units]
  int8_t *rounded[2];     // [layers][rows + 16][padded units]
  int8_t *read;           // [rows + 16][padded embedding], without a table
  int32_t *characters;    // [rows]: the next inputs
  uint8_t *paused;        // [rows]: the next step samples a character that the network does not know, and keeps the state
  float *logits;          // [rows][padded vocabulary], if the output product is split over the threads
  int32_t *sums[MAX_THREADS];
  float *scratch[MAX_THREADS];
  int32_t *order[MAX_THREADS];

  // Thread 0 is the caller's. A worker sleeps until its turn changes.
  pthread_t worker[MAX_THREADS];
  Barrier states, drawn;
  atomic_int turn[MAX_THREADS];
#if defined(__linux__)
  Cores cores[MAX_THREADS];
#endif
  pthread_mutex_t lock;
  pthread_cond_t called;
  int quit;
};

static const float EXCLUDED = -3e38f;  // the logit of a character that must not be sampled

int folio_divide(const Network *, const Row *, float *uniform);

// Whether the row's automaton allows a character. `next`: its row for the current state.
static inline int reachable(const Row *row, const int32_t *next, int character) {
  return next[character] >= 0 && row->distance[next[character]] < row->num_left;
}
void folio_wait(Barrier *);
