// The scan of a recurrent layer over all steps in float32, forward and backward, for the trainer. See scan.c.
#pragma once
#include <stddef.h>
#include <stdint.h>

enum {
  TILE = 16,   // rows of a batch that are computed together
  BLOCK = 24,  // outputs of a product that are computed together: 8 units of a GRU, 6 of an LSTM
  DEPTH = 256  // elements that such a product sums at a time, so that they stay in the L1 cache
};

// A layer, a batch and the arrays of a call. Arrays of steps are [values][steps][rows]. States are [values][rows]: h, then c of an
// LSTM. Gates are in Keras's order. The values with a bias are those of trainer/cells.py: x_h, z, r, g_h of a GRU.
typedef struct {
  int32_t lstm, units, rows, steps, vocabulary;
  const float *kernel;  // [units][gates * units]
  const float *bias;    // [4 * units]
  const float *inputs;  // the input products [gates * units], of all steps, or of all characters: [gates * units][vocabulary]
  const int32_t *characters;  // [steps][rows], or null if `inputs` has all steps
  const float *state;   // the first state
  float *outputs;       // h after each step [units]
  float *kept;          // other values that the backward scan needs, [tiles][steps][units][4, or 6 of an LSTM][TILE]
  float *last;          // the state after the last step
  // Of the backward scan, which does not read `bias`, `inputs` and `last`: the gradients of the outputs, of the last state, of the
  // values with a bias at all steps [4 * units], of the kernel, of the bias, of the inputs of all characters, of the first state.
  const float *d_outputs, *d_last;
  float *d_values, *d_kernel, *d_bias, *d_inputs, *d_state;
} Scan;

// The packed kernel of a scan: for each block of outputs, for each DEPTH elements, for each panel: [elements][outputs].
typedef struct {
  int32_t blocks, depth;
  float *weights;
} Packed;

// The work on a part of the blocks, of the tiles, and of the kernel's columns. Each returns 1 if memory is short.
typedef int (*Work)(const Scan *s, Packed *kernel, int from, int end);

typedef struct {
  const char *name;
  Work pack, scan;            // forward: on blocks of outputs; on tiles
  Work pack_back, scan_back;  // backward
  Work sum_columns;           // the kernel's gradient: on groups of TILE columns
  Work sum_units;             // the gradients of the bias and of characters' inputs: on units
} ScanInstructions;
