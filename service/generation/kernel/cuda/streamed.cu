// A call for any network and any options. The blocks of one cooperative launch advance all rows together, and read the weights
// from the L2 cache in every step. A step is, for each layer, products and gates; then the output product; then sampling. Blocks
// wait for one another after each of these.
//
// Launch THREADS threads a block, at most as many blocks as can be resident at once, and SHARED bytes of shared memory.
#include "sampling.cuh"

constexpr int LARGE = 256;  // a whole block samples a row of a vocabulary larger than this, otherwise a warp
constexpr int OF_A_WARP = LARGE * 8 + LARGE * 4 + LARGE / 4;  // bytes: keys, weights, sums
constexpr int HEAD = 1024, SHARED = HEAD + WARPS * OF_A_WARP;

// Adds the products of up to 16 rows and an octet of each gate. a, b: this lane's rows. weights: the octet's.
template <int G>
__device__ inline void products(int (&sum)[G][4], const int8 *a, const int8 *b, const uint4 *weights, int slices) {
  const int lane = threadIdx.x % 32;
  a += lane % 4 * 16, b += lane % 4 * 16, weights += lane;
#pragma unroll 4
  for (int k = 0; k < slices; k++) {
    uint4 x = *(const uint4 *)(a + 64 * k), y = *(const uint4 *)(b + 64 * k);
#pragma unroll
    for (int g = 0; g < G; g++) {
      uint4 w = weights[(k * G + g) * 32];
      mma(sum[g], x.x, y.x, x.y, y.y, w.x, w.y);
      mma(sum[g], x.z, y.z, x.w, y.w, w.z, w.w);
    }
  }
}

template <int G>  // gates: 3 is a GRU, 4 an LSTM
struct Advance {
  static constexpr int VECTORS = G - 2;  // of a layer's state

  const Network &n;
  const Call &c;
  const int block, blocks, warp, lane, tiles, share;
  const bool large;
  const Team team;
  unsigned met = 0, drawn = 0;  // barriers so far, times blocks

  __device__ Advance(const Network &network, const Call &call, int *scratch)
      : n(network), c(call), block(blockIdx.x), blocks(gridDim.x), warp(threadIdx.x / 32), lane(threadIdx.x % 32),
        tiles((c.rows + TILE - 1) / TILE), share(share_of(c.rows, gridDim.x, n.vocabulary)), large(n.vocabulary > LARGE),
        team{large ? (int)threadIdx.x : lane, large ? THREADS : 32, scratch} {}

  // The rows that a block samples at a time.
  __device__ static int share_of(int rows, int blocks, int vocabulary) {
    int even = (rows + blocks - 1) / blocks, most = vocabulary > LARGE ? 1 : WARPS < TILE ? WARPS : TILE;
    return even < most ? even : most;
  }

  __device__ void run() {
    begin();
    for (int step = 0; step < c.steps; step++) {
      for (int layer = 0; layer < n.layers; layer++) {
        advance_layer(step, layer);
        meet();
      }
      if (large) {
        const int octets = (n.vocabulary + 7) / 8;
        for (int task = warp * blocks + block; task < tiles * octets; task += WARPS * blocks)
          output(step, task / octets * TILE, c.rows, task % octets);
        meet();
      }
      sample(step);
    }
  }

  __device__ int8 *rounded(int step, int layer) const {
    return n.rounded + ((long long)(step & 1) * n.layers + layer) * n.rows * n.slices * 64;
  }
  __device__ float *state(int row, int layer) const {
    return n.states + ((long long)c.slots[row] * n.layers + layer) * VECTORS * n.units;
  }

  __device__ void meet() {  // all blocks wait for all
    arrive(c.arrivals);
    met += blocks;
    if (warp == 0) wait(c.arrivals, met);
    __syncthreads();
  }

  // Rounds the states, and reads the rows' inputs and automata.
  __device__ void begin() {
    for (int i = block * THREADS + threadIdx.x; i < c.rows * n.layers * n.units; i += blocks * THREADS) {
      const int unit = i % n.units, layer = i / n.units % n.layers, row = i / n.units / n.layers;
      rounded(0, layer)[row * n.slices * 64 + unit] = (int8)quantize(state(row, layer)[unit]);
    }
    for (int first = block * share; first < c.rows; first += blocks * share) {
      const int row = first + (large ? 0 : warp);
      if (row >= first + share || row >= c.rows) continue;
      if (team.thread == 0) n.characters[row] = c.inputs[row];
      prepare(0, row);
    }
    meet();
  }

  // Decides whether a row's next step keeps the state, because it samples a character that the network does not know.
  __device__ void prepare(int step, int row) const {
    const bool samples = c.row[row].next && step < c.steps && c.forced[step * c.rows + row] < 0;
    float uniform = samples ? c.uniforms[step * c.rows + row] : 0;
    const bool pauses = samples && divide(team, n.vocabulary, c.row[row], uniform);
    if (team.thread == 0) n.paused[row] = pauses, n.uniform[row] = uniform;
  }

  // A warp's task is an octet of units of a tile of rows.
  __device__ void advance_layer(int step, int layer) {
    const int octets = (n.units + 7) / 8, stride = n.slices * 64;
    const Layer l = n.layer[layer];
    const bool reads = layer || !n.table;
    for (int task = warp * blocks + block; task < tiles * octets; task += WARPS * blocks) {
      const int octet = task % octets, r = task / octets * TILE + lane / 4;
      const int r0 = min(r, c.rows - 1), r1 = min(r + 8, c.rows - 1);  // a row that does not exist reads another one
      const int8 *q = rounded(step, layer);
      int own[G][4] = {}, input[G][4] = {};
      products<G>(own, q + r0 * stride, q + r1 * stride, l.recurrent.weights + (long long)octet * n.slices * G * 32, n.slices);
      if (layer == 0) wait(c.arrivals + 32, drawn);  // the recurrent product does not need the character
      if (reads) {
        const int slices = layer ? n.slices : n.embedding_slices;
        const int s0 = layer ? r0 : n.characters[r0], s1 = layer ? r1 : n.characters[r1];
        const int8 *below = layer ? rounded(step + 1, layer - 1) : n.embedded;
        const uint4 *weights = l.input.weights + (long long)octet * slices * G * 32;
        products<G>(input, below + (long long)s0 * slices * 64, below + (long long)s1 * slices * 64, weights, slices);
      }
#pragma unroll
      for (int i = 0; i < 4; i++) gates(step, layer, l, r + i / 2 * 8, octet * 8 + lane % 4 * 2 + i % 2, own, input, i);
    }
  }

  // Advances a unit of a row. Its sums are element i.
  __device__ void gates(int step, int layer, const Layer &l, int row, int unit, const int (&own)[G][4], const int (&input)[G][4],
                        int i) const {
    if (row >= c.rows || unit >= n.units) return;
    float *h = state(row, layer) + unit, next = *h;
    if (c.row[row].snapshot_at == step)
      for (int v = 0; v < VECTORS; v++)
        c.snapshots[(((long long)row * n.layers + layer) * VECTORS + v) * n.units + unit] = h[v * n.units];
    if (!n.paused[row]) {
      const int character = n.characters[row];
      float a[G], x[G];
#pragma unroll
      for (int g = 0; g < G; g++) {
        const int column = g * n.units + unit;
        a[g] = (float)own[g][i] * l.recurrent.scale[column] + l.recurrent.bias[column];
        if (layer)
          x[g] = (float)input[g][i] * l.input.scale[column] + l.input.bias[column];
        else if (n.table)
          x[g] = n.table[(long long)character * G * n.units + column];
        else
          x[g] = (float)input[g][i] * l.input.scale[column] * n.embedded_scale[character] + l.input.bias[column];
      }
      if constexpr (G == 3)
        next = gru(a, x, next);
      else
        next = lstm(a, x, h[n.units]);
      *h = next;
    }
    rounded(step + 1, layer)[row * n.slices * 64 + unit] = (int8)quantize(next);
  }

  // A warp's task is an octet of columns of up to 16 rows, from row `first` to before row `end`.
  __device__ void output(int step, int first, int end, int octet) const {
    const int r = first + lane / 4, stride = n.slices * 64, here = min(first + lane % TILE, end - 1), place = step * c.rows;
    if (!__ballot_sync(~0u, c.forced[place + here] < 0 || c.logits)) return;  // no row samples, and no logits are requested
    const int8 *q = rounded(step + 1, n.layers - 1);
    int sum[1][4] = {};
    products<1>(sum, q + min(r, c.rows - 1) * stride, q + min(r + 8, c.rows - 1) * stride,
                n.output.weights + (long long)octet * n.slices * 32, n.slices);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int row = r + i / 2 * 8, column = octet * 8 + lane % 4 * 2 + i % 2;
      if (row >= end || column >= n.vocabulary) continue;
      const float logit = (float)sum[0][i] * n.output.scale[column] + n.output.bias[column];
      n.logits[(long long)row * n.columns + column] = logit;
      if (c.logits) c.logits[((long long)place + row) * n.vocabulary + column] = logit;
    }
  }

  __device__ void sample(int step) {
    for (int first = block * share; first < c.rows; first += blocks * share) {
      const int end = min(first + share, c.rows), row = first + (large ? 0 : warp);
      if (!large) {
        for (int octet = warp; octet < (n.vocabulary + 7) / 8; octet += WARPS) output(step, first, end, octet);
        __syncthreads();
      }
      if (row < end) conclude(step, row);
    }
    arrive(c.arrivals + 32);
    drawn += blocks;
  }

  __device__ Scratch scratch_of(int row) const {
    if (large)
      return {n.logits + (long long)row * n.columns, n.sums + (long long)row * (n.columns / 16),
              n.keys + (long long)row * n.sortable};
    uint64 *keys = (uint64 *)((char *)shared_memory() + HEAD + warp * OF_A_WARP);
    float *weight = (float *)(keys + LARGE);
    return {weight, weight + LARGE, keys};
  }

  // Ends a row's step: chooses a character, and updates counts and automaton if it was sampled.
  __device__ void conclude(int step, int row) const {
    Row &options = c.row[row];
    const int place = step * c.rows + row, forced = c.forced[place], V = n.vocabulary;
    int found = forced;
    if (forced < 0 && n.paused[row])
      found = draw_unknown(team, V, options, n.uniform[row]);
    else if (forced < 0)
      found = draw(team, n, n.logits + (long long)row * n.columns, options, options.next ? n.uniform[row] : c.uniforms[place],
                   scratch_of(row));
    team.sync();  // all have read what changes now
    if (team.thread == 0) {
      c.chosen[place] = found;
      if (found >= 0 && found < V) n.characters[row] = found;
      if (forced < 0 && found >= 0 && found < V && options.counts) options.counts[V + found]++;
      if (forced < 0 && found >= 0 && options.next) {
        options.automaton_state = transitions(options)[found];
        options.num_left--;
      }
    }
    team.sync();
    if (options.next) prepare(step + 1, row);
  }
};

// The network and the call are copied to shared memory, because registers are short.
template <int G>
__device__ inline void advance(const Network *network, const Call *call) {
  static_assert(sizeof(Network) + sizeof(Call) + WARPS * 4 <= HEAD, "too little shared memory");
  Network *n = (Network *)shared_memory();
  Call *c = (Call *)(n + 1);
  for (int i = threadIdx.x; i < (int)sizeof(Network) / 4; i += THREADS) ((int *)n)[i] = ((const int *)network)[i];
  for (int i = threadIdx.x; i < (int)sizeof(Call) / 4; i += THREADS) ((int *)c)[i] = ((const int *)call)[i];
  __syncthreads();
  Advance<G>(*n, *c, (int *)(c + 1)).run();
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) advance_gru(const Network *network, const Call *call) {
  advance<3>(network, call);
}
extern "C" __global__ void __launch_bounds__(THREADS, 1) advance_lstm(const Network *network, const Call *call) {
  advance<4>(network, call);
}
