// The forward convolution of inference with a kernel that was packed beforehand, once for a network, in the order in
// which it is read: for one image the kernels of late layers come from memory, and to pack them anew takes as long as
// the products. What is packed depends on the kernel alone, not on the images:
//
//   product (gemm.h)     panels of WIDTH output channels, each [number of the sum][channel]
//   Winograd's tiles     the transformed kernel: [position][panel of WIDTH output channels][channel in][channel]
//
// A line of numbers before it says what it is. They are checked at every call: a kernel packed on a processor with
// other vectors, or for another convolution, is an error.
#pragma once

#include "conv.h"

namespace resnet_jax {
namespace packed {

enum Form : int { NONE, PRODUCT, TILES };

constexpr int HEADER = 16;
constexpr float LAYOUT = 2;              // changes with the order
constexpr Index COPIED_CHANNELS = 64;    // of a window of several taps: fewer do not repay its copies
constexpr Index TILE_CHANNELS = 32;
constexpr Index FEW_TILES = 64;  // in all: threads share them and divide the output channels

struct Kernel {
  Index rows, columns, c, k, stride;

  Form form() const {
    if (rows == 3 && columns == 3 && stride == 1 && std::min(c, k) >= TILE_CHANNELS) return TILES;
    if (k > LANES && (rows * columns == 1 || std::min(c, k) >= COPIED_CHANNELS)) return PRODUCT;
    return NONE;
  }
  Index panels() const { return ceil_div(k, gemm::WIDTH); }
  // Of a panel: of the whole sum, or of one position, in the blocks that winograd.h multiplies.
  Index panel() const {
    const Index block = block_of(c);
    return (form() == TILES ? ceil_div(c, block) * block : rows * columns * c) * gemm::WIDTH;
  }
  Index position() const { return panels() * panel(); }
  Index floats() const { return form() == NONE ? 0 : HEADER + position() * (form() == TILES ? 16 : 1); }
  void header(float* to) const {
    const float said[HEADER] = {LAYOUT, LANES, float(form()), float(rows), float(columns), float(c), float(k), float(stride)};
    std::memcpy(to, said, sizeof said);
  }
};

inline void pack(ffi::ThreadPool& pool, const Kernel& of, const float* kernel, float* out) {
  using gemm::WIDTH;
  of.header(out);
  const Index tap = of.c * of.k;
  parallel_for(pool, of.panels(), [&](Index p) {
    float* const to = out + HEADER + p * of.panel();
    const Index left = of.k - p * WIDTH;
    if (of.form() == PRODUCT) return gemm::pack(kernel + p * WIDTH, of.k, left, of.rows * of.columns * of.c, to);
    for (Index c = 0; c * WIDTH < of.panel(); ++c)
      for (Index i = 0; i < WIDTH; i += LANES) {
        Vec g[9], rows[12], u[16];
        for (int t = 0; t < 9; ++t)
          g[t] = c < of.c ? load_some(kernel + t * tap + c * of.k + p * WIDTH + i, left - i) : Vec{};
        for (int x = 0; x < 3; ++x) kernel_axis(g + x, 3, rows + x, 3);
        for (int y = 0; y < 4; ++y) kernel_axis(rows + 3 * y, 1, u + 4 * y, 1);
        for (int at = 0; at < 16; ++at) store(to + at * of.position() + c * WIDTH + i, u[at]);
      }
  });
}

// The products of panel p of the kernel with all positions of `count` tiles: m is [position][tile][channel].
inline void multiply(const Kernel& of, const float* kernel, Index p, const float* v, Index v_size, Index count, float* m,
                     Index m_size) {
  using namespace gemm;
  const Index steps = std::max<Index>(1, count / PIXELS) * ceil_div(of.c, BLOCK);
  for (Index at = 0; at < 16; ++at, v += v_size, m += m_size) {
    const float* const here = kernel + at * of.position() + p * of.panel();
    Ahead ahead{at < 15 ? here + of.position() : kernel + (p + 1) * of.panel(), of.c, WIDTH, WIDTH};
    Panel panel{of.c, count * BLOCK, here, WIDTH, WIDTH, true, false, nullptr, nullptr, nullptr, false};
    panel.ahead = &ahead, panel.fetch = ceil_div(of.c, steps);
    all_tiles(v, panel, m, count);
  }
}

// A^T m A and what follows it, of WIDTH output channels from k0 on.
inline void finish_tiles(const Tiles& tiles, const Finish& finish, Index count, Index k, Index k0, const float* m,
                         Index m_size, float* out) {
  Place place(tiles, 0);
  for (Index t = 0; t < count; ++t, m += gemm::WIDTH, place.next()) {
    const bool right = place.x + 1 < tiles.out_w, below = place.y + 1 < tiles.out_h;
    const Index at = ((place.image * tiles.out_h + place.y) * tiles.out_w + place.x) * k + k0, down = tiles.out_w * k;
    for (Index i = 0; i < gemm::WIDTH && k0 + i < k; i += LANES) {
      const Index left = k - k0 - i;
      Vec d[16];
#pragma GCC unroll 16
      for (int p = 0; p < 16; ++p) d[p] = load(m + i + p * m_size);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) output_axis(d + j, 4);
      output_axis(d, 1), output_axis(d + 4, 1);
      const Vec bias = finish.bias ? load_some(finish.bias + k0 + i, left) : Vec{};
      auto put = [&](Vec sum, Index where) __attribute__((always_inline)) {
        if (finish.bias) sum += bias;
        if (finish.skip) sum += load_some(finish.skip + where, left);
        if (finish.relu) sum = positive_part(sum);
        store_some(out + where, sum, left);
      };
      put(d[0], at + i);
      if (right) put(d[1], at + k + i);
      if (below) put(d[4], at + down + i);
      if (below && right) put(d[5], at + down + k + i);
    }
  }
}

// Few tiles: their transforms are shared, and each thread takes some panels of the kernel, which is read once.
inline void few_tiles(ffi::ThreadPool& pool, const Tiles& all, Index count, const Kernel& of, const float* x,
                      const float* kernel, const Finish& finish, float* y) {
  using gemm::BLOCK, gemm::WIDTH;
  constexpr Index part = 32;  // channels
  const Index v_size = count * ceil_div(of.c, BLOCK) * BLOCK + SKEW, m_size = count * WIDTH + LINE;
  float* const v = scratch(SHARED, 16 * v_size);
  parallel_for(pool, ceil_div(of.c, part), [&](Index task) {
    const Index c0 = task * part;
    transform_input(all, x, of.c, 0, count, c0, part, BLOCK, v + c0 / BLOCK * count * BLOCK + c0 % BLOCK, v_size);
  });
  const Index runs = std::min(of.panels(), 2 * TASKS);
  parallel_for(pool, runs, [&](Index run) {
    float* const m = scratch(LOCAL, 16 * m_size);
    const Index last = of.panels() * (run + 1) / runs;
    for (Index p = of.panels() * run / runs; p < last; ++p) {
      multiply(of, kernel, p, v, v_size, count, m, m_size);
      finish_tiles(all, finish, count, of.k, p * WIDTH, m, m_size, y);
    }
  });
}

inline void tiles(ffi::ThreadPool& pool, const Convolution& op, const Kernel& of, const float* x, const float* kernel,
                  const Finish& finish, float* y) {
  const Tiles all{op.h, op.w, op.out_h, op.out_w, -op.pad_y, -op.pad_x};
  const Index count = op.n * all.down * all.across;
  if (count <= FEW_TILES) return few_tiles(pool, all, count, of, x, kernel, finish, y);
  winograd(pool, forward_sum(op, nullptr, finish), x, y, kernel);
}

// Returns what is wrong, or null.
inline const char* forward(ffi::ThreadPool& pool, const Convolution& op, const float* x, const float* kernel,
                           Index floats, const Finish& finish, float* y) {
  const Kernel of{op.rows, op.columns, op.c, op.k, op.stride};
  float said[HEADER];
  of.header(said);
  if (of.form() == NONE || floats != of.floats() || std::memcmp(said, kernel, sizeof said) != 0)
    return "the kernel was packed for another convolution or for a processor with other vectors: pack it here";
  of.form() == TILES ? tiles(pool, op, of, x, kernel + HEADER, finish, y)
                     : product(pool, op, x, nullptr, kernel + HEADER, finish, y);
  return nullptr;
}

}  // namespace packed
}  // namespace resnet_jax
