// What the parts of the kernel share: a network packed for products, and one call that advances some rows by some steps.
#pragma once
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum {
  LANES = 16,  // columns of a block; a packed kernel is [block][depth / 4][16][4]
  DEPTH = 64,  // kernels are padded to a multiple of so many inputs
  SHARED_BLOCKS = 64,  // a vocabulary of as many blocks is shared out over threads
  MAX_THREADS = 64,
  SPINS = 4000,  // looks at a barrier before a thread sleeps at it: some tens of microseconds
};

typedef struct {
  int depth, blocks;  // padded inputs; blocks of 16 columns
  int8_t *weights;
  int32_t *offset;  // of each column's integer sum, where the instruction set needs one side unsigned
  float *scale, *bias;
} Kernel;

typedef struct {
  Kernel recurrent, input;  // the blocks of a unit block's gates are neighbours; the first layer's `input` may be in the table
} Layer;

// One row of a call. A null pointer: not asked for.
typedef struct {
  float inverse_temperature, top_p, min_p;  // top_p >= 1 and min_p 0 leave nothing out
  float presence, frequency, repetition;    // penalties, used with `counts`
  int32_t top_k;                            // 0: all
  int32_t keep;                             // steps after which the state is copied to `kept`; -1: never
  int32_t wants_logits;
  int32_t place, alphabet;  // state of the automaton, updated; its characters: the vocabulary's, then others
  const float *bias;        // [vocabulary], EXCLUDED where a character must not be drawn
  int32_t *counts;          // [2][vocabulary]: occurrences in the prompt; in the drawn text, updated
  const int32_t *next;      // [states of the automaton][alphabet], -1 where a character is not allowed
} Row;

typedef struct {
  int32_t rows, steps, threads;
  float *states;  // [rows][vectors][units], updated
  const int32_t *inputs, *forced;  // [rows]; [steps][rows], -1 where the step draws
  const float *uniforms;           // [steps][rows]
  Row *row;                        // [rows]
  int32_t *chosen;                 // [steps][rows]; -1 where the automaton allows nothing
  float *kept;                     // [rows][vectors][units]
  float *logits;                   // [steps][rows][vocabulary], of the rows that want them
} Call;

typedef struct {
  atomic_int count, turn, sleepers;
  int parties;
  pthread_mutex_t lock;
  pthread_cond_t moved;
} Barrier;

typedef struct Network Network;

// What differs by instruction set: the same source, compiled for each.
typedef struct {
  const char *name;
  int unsigned_states;  // products are of states + 128, so 128 times a column's sum is its offset
  void (*begin_thread)(void);
  void (*advance)(Network *, int thread);
} Instructions;

struct Network {
  int lstm, gates, layers, units, padded_units, vectors, vocabulary, embedding, max_rows, threads;
  Layer *layer;
  Kernel output;
  float *table;  // [vocabulary][unit blocks][gates][16], or null: then `embedded` and its scales
  int8_t *embedded;
  float *embedded_scale;
  const Instructions *instructions;

  // The call under way. States and their roundings are padded; the roundings of the last and the next step take turns.
  const Call *call;
  float *h;               // [rows][vectors][padded units]
  int8_t *rounded[2];     // [layers][rows + 16][padded units]
  int8_t *read;           // [rows + 16][padded embedding], without a table
  int32_t *characters;    // [rows]: the next inputs
  uint8_t *paused;        // [rows]: the next step draws a character that the network does not know, and leaves its state
  float *logits;          // [rows][padded vocabulary], where the vocabulary is shared out over threads
  int32_t *sums[MAX_THREADS];
  float *scratch[MAX_THREADS];
  int32_t *order[MAX_THREADS];

  // Threads: the caller's is number 0. A worker sleeps until its turn changes.
  pthread_t worker[MAX_THREADS];
  Barrier states, drawn;
  atomic_int turn[MAX_THREADS];
  pthread_mutex_t lock;
  pthread_cond_t called;
  int quit;
};

static const float EXCLUDED = -3e38f;  // the logit of what must not be drawn

int folio_knows(const Network *, const Row *);
void folio_wait(Barrier *);
