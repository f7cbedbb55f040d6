// The weight gradient of a 3x3 convolution with stride 1 as the transpose of Winograd's F(2x2, 3x3): the tiles of x and
// of g are transformed, multiplied and summed at each of 16 positions; the sums become the 9 taps at the end.
#pragma once

#include "weight_gradient.h"
#include "winograd.h"

namespace resnet_jax {

constexpr Index GRADIENT_TILES = 48;  // of a block
constexpr Index GRADIENT_CHANNELS = 64;

inline bool takes_winograd(const Convolution& op) {
  return op.rows == 3 && op.columns == 3 && op.stride == 1 && std::min(op.c, op.k) >= WINOGRAD_CHANNELS;
}

// A g along one axis: 2 vectors into 4. G^T s along one axis: 4 vectors into 3.
inline void gradient_axis(const Vec* g, int g_step, Vec* m, int m_step) {
  const Vec a = g[0], b = g[g_step];
  m[0] = a, m[m_step] = a + b, m[2 * m_step] = a - b, m[3 * m_step] = -b;
}
inline void taps_axis(const Vec* s, int s_step, Vec* w, int w_step) {
  const Vec sum = (s[s_step] + s[2 * s_step]) * 0.5f, difference = (s[s_step] - s[2 * s_step]) * 0.5f;
  w[0] = s[0] + sum, w[w_step] = difference, w[2 * w_step] = sum + s[3 * s_step];
}

// A g A^T of tiles [begin, begin + count) and channels [k0, k0 + channels), laid out as transform_input does.
inline void transform_gradient(const Tiles& tiles, const float* g, Index k, Index begin, Index count, Index k0,
                               Index channels, Index block, float* m, Index position_size) {
  for (Index t = 0; t < count; ++t) {
    const Index tile = begin + t, y = tiles.y(tile), x = tiles.x(tile);
    const bool right = x + 1 < tiles.out_w, below = y + 1 < tiles.out_h;
    const float* const from = g + ((tiles.image(tile) * tiles.out_h + y) * tiles.out_w + x) * k + k0;
    for (Index i = 0; i < channels; i += LANES) {
      const Index valid = k - k0 - i;
      Vec d[4] = {load_some(from + i, valid), right ? load_some(from + k + i, valid) : Vec{},
                  below ? load_some(from + tiles.out_w * k + i, valid) : Vec{},
                  below && right ? load_some(from + (tiles.out_w + 1) * k + i, valid) : Vec{}};
      Vec rows[8], all[16];
      gradient_axis(d, 2, rows, 2), gradient_axis(d + 1, 2, rows + 1, 2);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) gradient_axis(rows + 2 * j, 1, all + 4 * j, 1);
      float* const to = m + (i / block * count + t) * block + i % block;
#pragma GCC unroll 16
      for (int p = 0; p < 16; ++p) store(to + p * position_size, all[p]);
    }
  }
}

inline void winograd_gradient(ffi::ThreadPool& pool, const Convolution& op, const float* x, const float* g, float* dw) {
  constexpr int V = 2, R = Outer<V>::R;
  constexpr Index width = V * LANES;
  const Index size = 9 * op.c * op.k;
  const Index c_part = part(op.c, GRADIENT_CHANNELS, LANES), k_part = part(op.k, GRADIENT_CHANNELS, width);
  const Index c_parts = ceil_div(op.c, c_part), k_parts = ceil_div(op.k, k_part), panels = k_part / width;
  const Tiles all{op.h, op.w, op.out_h, op.out_w, -op.pad_y, -op.pad_x};
  const Index tiles = op.n * all.down * all.across, blocks = ceil_div(tiles, GRADIENT_TILES);
  const Index groups = partial_sums(size, c_parts * k_parts, blocks);
  float* const partial = groups == 1 ? dw : scratch(SHARED, groups * size);

  parallel_for(pool, groups * c_parts * k_parts, [&](Index task) {
    const Index group = task / (c_parts * k_parts);
    const Index c0 = task / k_parts % c_parts * c_part, k0 = task % k_parts * k_part;
    const Index sums_size = c_part * width, v_size = GRADIENT_TILES * c_part + SKEW;
    const Index m_size = GRADIENT_TILES * k_part + SKEW;
    float* const sums = scratch(LOCAL, 16 * (panels * sums_size + v_size + m_size));  // [position][panel][c][k]
    float* const v = sums + 16 * panels * sums_size;
    float* const m = v + 16 * v_size;
    std::memset(sums, 0, 16 * panels * sums_size * sizeof(float));
    for (Index block = blocks * group / groups; block < blocks * (group + 1) / groups; ++block) {
      const Index begin = tiles * block / blocks, count = tiles * (block + 1) / blocks - begin;
      transform_input(all, x, op.c, begin, count, c0, c_part, c_part, v, v_size);
      transform_gradient(all, g, op.k, begin, count, k0, k_part, width, m, m_size);
      const Strip strip{1, 1, count, 0, 0, c_part, width};
      const Index outer = ceil_div(c_part, R);
      for (Index p = 0; p < 16; ++p)
        for (Index panel = 0; panel < panels; ++panel)
          for (Index i = 0; i < outer; ++i) {
            const Index r = c_part * i / outer, r_end = c_part * (i + 1) / outer;
            Outer<V>::TILES[r_end - r - 1](strip, v + p * v_size + r, m + p * m_size + panel * count * width,
                                           sums + (p * panels + panel) * sums_size + r * width);
          }
    }
    for (Index panel = 0; panel < panels; ++panel)
      for (Index c = 0; c < std::min(c_part, op.c - c0); ++c)
        for (int i = 0; i < V; ++i) {
          Vec s[16], rows[12], w[9];
          for (int p = 0; p < 16; ++p) s[p] = load(sums + (p * panels + panel) * sums_size + c * width + i * LANES);
          for (int j = 0; j < 4; ++j) taps_axis(s + j, 4, rows + j, 4);
          for (int j = 0; j < 3; ++j) taps_axis(rows + 4 * j, 1, w + 3 * j, 1);
          const Index k = k0 + panel * width + i * LANES;
          float* const to = partial + group * size + (c0 + c) * op.k + k;
          for (int t = 0; t < 9; ++t) store_some(to + t * op.c * op.k, w[t], op.k - k);
        }
  });
  add_partial_sums(pool, partial, groups, size, dw);
}

}  // namespace resnet_jax
