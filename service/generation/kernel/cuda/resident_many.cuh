// See resident.cu. One launch advances any number of rows.

// A block's part of a call: its group's rows, and its units of them.
struct Part {
  const uint4 *w;      // the block's weights
  const float *x;      // its columns of the table
  float *states;       // of all slots
  const Call *call;
  int first, rows, rank;
  const unsigned *drawn;  // the counter of the barrier for the ids

  // Advances two units, from `at` in a row.
  __device__ void advance(int r, int id, int unit, const int (&sum)[3][4], int half, int8 *next, int step) const {
    const int at = rank * WIDTH + unit;
    const float *input = x + id * 3 * WIDTH + unit, *scale = x + V * 3 * WIDTH + unit;
    float2 *h = (float2 *)(states + call->slots[first + r] * U + at), own = *h;
    if (call->row[first + r].snapshot_at == step) *(float2 *)(call->snapshots + (first + r) * U + at) = own;
    own.x = advanced(sum[0][half * 2], sum[1][half * 2], sum[2][half * 2], input, scale, own.x);
    own.y = advanced(sum[0][half * 2 + 1], sum[1][half * 2 + 1], sum[2][half * 2 + 1], input + 1, scale + 1, own.y);
    *h = own;
    *(unsigned short *)(next + r * U + at) = (unsigned short)(quantize(own.x) | quantize(own.y) << 8);
  }

  // A warp's task is O octets of units of a tile of rows: products and, once the ids are there, gates.
  template <int O>
  __device__ void step(const int8 *q, int8 *next, const int *ids, int step, unsigned need) const {
    const int lane = threadIdx.x % 32;
    for (int task = threadIdx.x / 32; task < (rows + TILE - 1) / TILE * (OCTETS / O); task += WARPS) {
      const int r0 = task / (OCTETS / O) * TILE, octet = task % (OCTETS / O) * O;
      int sum[O][3][4];
      products<O, SLICES, 4>(sum, q + r0 * U, U, rows - r0,
                             [&](int o, int k, int i) { return w[(((octet + o) * SLICES + k) * 3 + i) * 32 + lane]; });
      wait(drawn, need);
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int r = r0 + lane / 4 + half * 8;
        if (r >= rows) continue;
        const int id = ids[r];
#pragma unroll
        for (int o = 0; o < O; o++) advance(r, id, (octet + o) * 8 + lane % 4 * 2, sum[o], half, next, step);
      }
    }
  }
};

extern "C" __global__ void __launch_bounds__(THREADS, 1) advance_many(const Network *network, const Call *call) {
  const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32;
  const int rank = blockIdx.x % BLOCKS, group = blockIdx.x / BLOCKS, groups = gridDim.x / BLOCKS;
  Call &c = *(Call *)shared_memory();
  uint4 *w = (uint4 *)shared_memory() + 16, *d = w + WEIGHTS;
  float *x = (float *)(d + TRIPLES * SLICES * 96);
  int *logit = (int *)(x + TABLE);
  for (int i = tid; i < (int)sizeof(Call) / 4; i += THREADS) ((int *)&c)[i] = ((const int *)call)[i];
  __syncthreads();

  const int rows = c.rows, begin = rows * group / groups, n = rows * (group + 1) / groups - begin;
  const int share = min(TILE, (n + BLOCKS - 1) / BLOCKS);  // rows that a block samples at a time
  unsigned *stepped = c.arrivals + group * 64, *drawn = stepped + 32;
  int8 *rounded = network->rounded + begin * U;
  const long long other = (long long)network->rows * U;  // from one buffer of rounded states to the other
  const Output output(network->output);
  copy(w, network->layer->recurrent.weights + rank * WEIGHTS, WEIGHTS);
  copy(d, network->output.weights, TRIPLES * SLICES * 96);
  copy_columns(x, *network, rank);
  for (int i = tid; i < n * WIDTH; i += THREADS) {
    const int r = i / WIDTH, at = rank * WIDTH + i % WIDTH;
    rounded[r * U + at] = (int8)quantize(network->states[c.slots[begin + r] * U + at]);
  }
  const Part part = {w, x, network->states, &c, begin, n, rank, drawn};
  arrive(stepped);
  if (warp == 0) wait(stepped, BLOCKS);
  __syncthreads();

  for (int s = 0; s < c.steps; s++) {
    const int *ids = s ? c.chosen + (s - 1) * rows + begin : c.inputs + begin;
    const int8 *now = rounded + (s & 1) * other;
    int8 *next = rounded + (~s & 1) * other;
    if ((n + TILE - 1) / TILE * OCTETS <= WARPS)
      part.step<1>(now, next, ids, s, BLOCKS * s);
    else
      part.step<OCTETS>(now, next, ids, s, BLOCKS * s);
    arrive(stepped);
    if (warp == 0) wait(stepped, BLOCKS * (s + 2));
    __syncthreads();
    for (int r0 = rank * share; r0 < n; r0 += BLOCKS * share) {
      const int some = min(share, n - r0), r = r0 + warp, place = s * rows + begin + r;
      if (warp < TASKS)
        logits(logit, next + r0 * U, U, some, warp, [=](int, int k, int i) { return output_weights(d, warp, k, i); });
      __syncthreads();
      if (warp < some) {
        const int forced = c.forced[place];
        const float inverse = c.row[begin + r].inverse_temperature;
        const int id = forced >= 0 ? forced : draw(logit + warp * COLUMNS, output, inverse, c.uniforms[place]);
        if (lane == 0) c.chosen[place] = id;
      }
      __syncthreads();
    }
    arrive(drawn);
  }
}
