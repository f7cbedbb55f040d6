// Winograd's F(2x2, 3x3): 16 products instead of 36 for 2x2 pixels of a 3x3 convolution with stride 1 (Lavin and Gray,
// "Fast Algorithms for Convolutional Neural Networks", arXiv 1509.09308). Its transforms have the coefficients 0, 1 and
// 1/2 alone, so that its rounding errors are those of the direct form, about twice.
//
// Blocks of tiles pass through the three steps while they are in the cache. The products are those of correlate.h: a
// tile of 2x2 pixels is to them a pixel, each of the 16 positions a single tap.
#pragma once

#include "correlate.h"

namespace resnet_jax {

constexpr Index WINOGRAD_CHANNELS = 24;  // fewer do not repay the transforms
// Of a block: many share a pass over the transformed kernel, few give work to many threads.
constexpr Index WINOGRAD_TILES = 56, FEWEST_TILES = 32;
constexpr Index SKEW = 64;  // floats that keep the 16 positions out of each other's cache sets

inline bool takes_winograd(const Correlation& op) {
  if (op.taps.size() != 9 || op.in_stride != 1 || op.out_stride != 1) return false;
  const Tap &first = op.taps.front(), &last = op.taps.back();  // opposite corners: nine taps may lie in a line as well
  return std::abs(last.dy - first.dy) == 2 && std::abs(last.dx - first.dx) == 2 &&
         std::min(op.c, op.k) >= WINOGRAD_CHANNELS;
}

// B^T d B and A^T m A along one axis: 4 vectors, each `step` from the next.
inline void input_axis(Vec* d, int step) {
  const Vec a = d[0] - d[2 * step], b = d[step] + d[2 * step], c = d[2 * step] - d[step], e = d[step] - d[3 * step];
  d[0] = a, d[step] = b, d[2 * step] = c, d[3 * step] = e;
}
inline void output_axis(Vec* m, int step) {
  const Vec a = m[0] + m[step] + m[2 * step], b = m[step] - m[2 * step] - m[3 * step];
  m[0] = a, m[step] = b;
}
// G g along one axis: 3 vectors into 4.
inline void kernel_axis(const Vec* g, int g_step, Vec* u, int u_step) {
  const Vec half = (g[0] + g[2 * g_step]) * 0.5f, middle = g[g_step] * 0.5f;
  u[0] = g[0], u[u_step] = half + middle, u[2 * u_step] = half - middle, u[3 * u_step] = g[2 * g_step];
}

// The 2x2 tiles of the output of n images, numbered, with their first pixel and that of the input they need.
struct Tiles {
  Index h, w, out_h, out_w, low_y, low_x;
  Index down = ceil_div(out_h, 2), across = ceil_div(out_w, 2);

  Index image(Index tile) const { return tile / (down * across); }
  Index y(Index tile) const { return tile % (down * across) / across * 2; }
  Index x(Index tile) const { return tile % across * 2; }
};

// Where a tile lies, and then the next one: without the divisions.
struct Place {
  const Tiles& tiles;
  Index image, y, x;

  Place(const Tiles& tiles, Index tile) : tiles(tiles), image(tiles.image(tile)), y(tiles.y(tile)), x(tiles.x(tile)) {}
  void next() {
    if ((x += 2) < 2 * tiles.across) return;
    x = 0;
    if ((y += 2) < 2 * tiles.down) return;
    y = 0, ++image;
  }
};

// B^T d B of tiles [begin, begin + count) and channels [c0, c0 + channels), as [position][block][tile][channel of the
// block] with positions position_size apart. Channels from c on are zero.
inline void transform_input(const Tiles& tiles, const float* in, Index c, Index begin, Index count, Index c0,
                            Index channels, Index block, float* v, Index position_size) {
  Place place(tiles, begin);
  for (Index t = 0; t < count; ++t, place.next()) {
    const Index y = place.y + tiles.low_y, x = place.x + tiles.low_x;
    const float* from[16];
    for (Index p = 0; p < 16; ++p) {
      const Index in_y = y + p / 4, in_x = x + p % 4;
      const bool inside = in_y >= 0 && in_y < tiles.h && in_x >= 0 && in_x < tiles.w;
      from[p] = inside ? in + ((place.image * tiles.h + in_y) * tiles.w + in_x) * c + c0 : nullptr;
    }
    for (Index i = 0; i < channels; i += LANES) {
      Vec d[16];
#pragma GCC unroll 16
      for (int p = 0; p < 16; ++p) d[p] = from[p] ? load_some(from[p] + i, c - c0 - i) : Vec{};
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) input_axis(d + j, 4);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) input_axis(d + 4 * j, 1);
      float* const to = v + (i / block * count + t) * block + i % block;
#pragma GCC unroll 16
      for (int p = 0; p < 16; ++p) store(to + p * position_size, d[p]);
    }
  }
}

// `beforehand`: the transformed kernel (packed.h), or null, and it is transformed here.
template <int BLOCK>
void winograd_in_blocks(ffi::ThreadPool& pool, const Correlation& op, const float* in, const float* beforehand,
                        float* out) {
  constexpr int V = 2, width = V * LANES;
  const Index c_blocks = ceil_div(op.c, BLOCK), k_blocks = ceil_div(op.k, width), padded_c = c_blocks * BLOCK;
  Index low_y = op.taps[0].dy, low_x = op.taps[0].dx;
  for (const Tap& tap : op.taps) low_y = std::min(low_y, tap.dy), low_x = std::min(low_x, tap.dx);

  // The kernel, transformed: [position][block of output channels][input channel][output channel].
  const Index position = k_blocks * padded_c * width;
  float* const here = beforehand ? nullptr : scratch(SHARED, 16 * position);
  const float* const kernel = beforehand ? beforehand : here;
  if (!beforehand) parallel_for(pool, k_blocks * c_blocks, [&](Index task) {
    constexpr Index panel = BLOCK * width;
    const Index k0 = task / c_blocks * width, c0 = task % c_blocks * BLOCK;
    float* const packed = scratch(LOCAL, 9 * panel);
    for (const Tap& tap : op.taps)
      pack<BLOCK, width>(tap.matrix + c0 * op.matrix_c + k0 * op.matrix_k, op.matrix_c, op.matrix_k,
                         std::min<Index>(BLOCK, op.c - c0), std::min<Index>(width, op.k - k0),
                         packed + ((tap.dy - low_y) * 3 + tap.dx - low_x) * panel);
    for (Index i = 0; i < panel; i += LANES) {
      Vec g[9], rows[12], u[16];
      for (int t = 0; t < 9; ++t) g[t] = load(packed + t * panel + i);
      for (int x = 0; x < 3; ++x) kernel_axis(g + x, 3, rows + x, 3);
      for (int y = 0; y < 4; ++y) kernel_axis(rows + 3 * y, 1, u + 4 * y, 1);
      for (int p = 0; p < 16; ++p) store(here + p * position + task * panel + i, u[p]);
    }
  });

  const Tiles all{op.h, op.w, op.out_h, op.out_w, low_y, low_x};
  const Index tiles = op.n * all.down * all.across;
  const Index most = std::clamp(tiles / TASKS, FEWEST_TILES, WINOGRAD_TILES), blocks = ceil_div(tiles, most);
  parallel_for(pool, blocks, [&](Index block) {
    const Index begin = tiles * block / blocks, count = tiles * (block + 1) / blocks - begin;
    const Index v_size = count * padded_c + SKEW, m_size = count * k_blocks * width + SKEW;
    float* const v = scratch(LOCAL, 16 * (v_size + m_size));  // [position][block of channels][tile][channel], both
    float* const m = v + 16 * v_size;
    transform_input(all, in, op.c, begin, count, 0, padded_c, BLOCK, v, v_size);
    const Index no_offset = 0;
    for (Index p = 0; p < 16; ++p)
      for (Index kb = 0; kb < k_blocks; ++kb) {
        const float* const panel = kernel + p * position + kb * padded_c * width;
        const Row row{c_blocks, count * BLOCK, &no_offset, 1, panel, width, width, true};
        correlate_row<BLOCK, 1, V, TILE_PIXELS>(v + p * v_size, row, m + p * m_size + kb * count * width, count);
      }
    Place place(all, begin);
    for (Index t = 0; t < count; ++t, place.next()) {
      const Index image = place.image, y = place.y, x = place.x;
      const bool right = x + 1 < op.out_w, below = y + 1 < op.out_h;
      float* const to = out + ((image * op.full_h + y) * op.full_w + x) * op.k;
      for (Index k = 0; k < op.k; k += LANES) {
        const float* const from = m + (k / width * count + t) * width + k % width;
        Vec d[16];
#pragma GCC unroll 16
        for (int p = 0; p < 16; ++p) d[p] = load(from + p * m_size);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) output_axis(d + i, 4);
        output_axis(d, 1), output_axis(d + 4, 1);
        if (op.finish.any())
          for (int i = 0; i < 4; ++i) {
            if ((i % 2 && !right) || (i / 2 && !below)) continue;
            Vec& sum = d[i / 2 * 4 + i % 2];
            if (op.finish.bias) sum += load_some(op.finish.bias + k, op.k - k);
            if (op.finish.skip) sum += load_some(op.finish.skip + (to - out) + (i / 2 * op.full_w + i % 2) * op.k + k, op.k - k);
            if (op.finish.relu) sum = positive_part(sum);
          }
        store_some(to + k, d[0], op.k - k);
        if (right) store_some(to + op.k + k, d[1], op.k - k);
        if (below) store_some(to + op.full_w * op.k + k, d[4], op.k - k);
        if (below && right) store_some(to + (op.full_w + 1) * op.k + k, d[5], op.k - k);
      }
    }
  });
}

extern template void winograd_in_blocks<32>(ffi::ThreadPool&, const Correlation&, const float*, const float*, float*);
extern template void winograd_in_blocks<64>(ffi::ThreadPool&, const Correlation&, const float*, const float*, float*);

inline void winograd(ffi::ThreadPool& pool, const Correlation& op, const float* in, float* out,
                     const float* beforehand = nullptr) {
  block_of(op.c) == 32 ? winograd_in_blocks<32>(pool, op, in, beforehand, out)
                       : winograd_in_blocks<64>(pool, op, in, beforehand, out);
}

}  // namespace resnet_jax
