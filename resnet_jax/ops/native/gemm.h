// The forward convolution of inference as one matrix product: rows are pixels of the output, columns its channels, and
// what is summed over is the window of the input that a pixel sees. What follows the sum (a bias, an addition, a ReLU)
// is done while the tile is in registers, so that the output is written once and not read again.
//
// A tile of R pixels times two vectors of channels stays in registers. A thread copies the windows of some pixels into
// blocks of a constant number of input numbers, small enough to stay in its second-level cache, and passes the kernel
// over them. With few pixels (one image, a late layer) it is the other way around: the windows of all pixels are copied
// once, and each thread takes some output channels, whose part of the kernel it packs for itself, if it was not packed
// beforehand (packed.h).
#pragma once

#include "common.h"
#include "convolution.h"

namespace resnet_jax {

// What is done to the sums: bias by channel, then an array like the output, then the ReLU; null for none.
struct Finish {
  const float* bias = nullptr;
  const float* skip = nullptr;
  bool relu = false;

  bool any() const { return bias || skip || relu; }
};

inline Vec positive_part(Vec v) { return v < 0 ? Vec{} : v; }  // keeps what is not a number, as max(v, 0) of XLA does

namespace gemm {

constexpr int BLOCK = 64, V = 2, WIDTH = V * LANES;
constexpr int PIXELS = LANES == 16 ? 14 : 6;          // of the largest tile
constexpr Index CHUNK = 18 * BLOCK;                   // of the sum: a panel of the kernel and a tile's windows
constexpr Index BAND_FLOATS = 64 << 10;               // of copied windows
// What decides that the work is cut by channels: pixels, and floats of their windows. Then chunks are small, so that
// the next one can be fetched from memory meanwhile.
constexpr Index FEW_PIXELS = 400, FEW_FLOATS = 512 << 10, FEWEST_PIXELS = 48, FETCHED_CHUNK = 4 * BLOCK;
constexpr Index SMALL_KERNEL = 64 << 10;              // floats

inline bool few(const Convolution& op) {
  const Index pixels = op.n * op.out_h * op.out_w;
  return pixels <= FEW_PIXELS && pixels * op.rows * op.columns * op.c <= FEW_FLOATS;
}

// What the tiles of a panel (WIDTH output channels) have in common.
struct Panel {
  Index sums, block_step;       // numbers of this chunk of the sum, and the distance of its blocks in the copy
  const float* kernel;          // packed: [number][channel]
  Index out_step, channels;     // of the output, and how many of its channels are left
  bool begin, end;              // of the sum
  const float* bias;
  const float *out_base, *skip_base;
  bool relu;
  Ahead* ahead = nullptr;       // what is fetched meanwhile, so much with each block
  Index fetch = 0;
};

// Some channels of `pixels` pixels, between an array and one whose rows are WIDTH wide.
__attribute__((noinline)) inline void to_edge(const float* from, Index step, Index channels, Index pixels, float* edge) {
  for (Index r = 0; r < pixels; ++r, from += step, edge += WIDTH)
    for (Index k = 0; k < channels; ++k) edge[k] = from[k];
}
__attribute__((noinline)) inline void from_edge(const float* edge, float* to, Index step, Index channels, Index pixels) {
  for (Index r = 0; r < pixels; ++r, to += step, edge += WIDTH)
    for (Index k = 0; k < channels; ++k) to[k] = edge[k];
}

template <int R>
__attribute__((noinline)) void tile(const float* in, const Panel& panel, float* out) {
  float edge[R * WIDTH];  // in the place of the output, where its channels do not fill the panel
  const bool full = panel.channels >= WIDTH;
  const Index step = full ? panel.out_step : WIDTH;
  float* const to = full ? out : edge;
  const float* kernel = panel.kernel;
  Vec sums[R][V];
  if (!panel.begin && !full) to_edge(out, panel.out_step, panel.channels, R, edge);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) sums[r][v] = panel.begin ? Vec{} : load(to + r * step + v * LANES);
  const float* skip = panel.end && panel.skip_base ? panel.skip_base + (out - panel.out_base) : nullptr;
  // Where the result goes is fetched meanwhile. Of long rows one at a time: all at once, the processor would wait.
  constexpr int STEPS = LANES == 16 ? 4 : 1;
  const float *to_write = out, *to_add = skip;
  int rows = panel.begin || skip ? R : 0;
  auto fetch_row = [&]() __attribute__((always_inline)) {
    for (int i = 0; i < WIDTH; i += 16) {
      __builtin_prefetch(to_write + i, 1);
      if (skip) __builtin_prefetch(to_add + i);
    }
    to_write += panel.out_step;
    if (skip) to_add += panel.out_step;
    --rows;
  };
  if constexpr (STEPS == 1)
    while (rows > 0) fetch_row();
  for (Index left = panel.sums; left > 0; left -= BLOCK, in += panel.block_step) {
    if (panel.ahead) panel.ahead->fetch(panel.fetch);
    const Index count = std::min<Index>(left, BLOCK);
    auto product = [&](Index c) __attribute__((always_inline)) {
      Vec weights[V];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) weights[v] = load(kernel + v * LANES);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) sums[r][v] += weights[v] * in[r * BLOCK + c];
      kernel += WIDTH;
    };
    Index c = 0;
    if constexpr (STEPS > 1)
      for (; c + STEPS <= count; c += STEPS) {
        if (rows > 0) fetch_row();
#pragma GCC unroll 4
        for (Index i = 0; i < STEPS; ++i) product(c + i);
      }
    for (; c < count; ++c) product(c);
  }
  if (panel.end && panel.bias)
    for (int v = 0; v < V; ++v) {
      const Vec bias = load_some(panel.bias + v * LANES, panel.channels - v * LANES);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) sums[r][v] += bias;
    }
  if (skip) {
    if (!full) to_edge(skip, panel.out_step, panel.channels, R, edge), skip = edge;
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sums[r][v] += load(skip + r * step + v * LANES);
  }
  if (panel.end && panel.relu)
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sums[r][v] = positive_part(sums[r][v]);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) store(to + r * step + v * LANES, sums[r][v]);
  if (!full) from_edge(edge, out, panel.out_step, panel.channels, R);
}

// Tiles of R pixels and, for what is left over, smaller ones.
template <int R>
void tiles(const float* in, const Panel& panel, float* out, Index pixels) {
  constexpr int NEXT = R > 8 ? 7 : R > 4 ? 4 : R / 2;
  for (; pixels >= R; pixels -= R, in += R * BLOCK, out += R * panel.out_step) tile<R>(in, panel, out);
  if constexpr (R > 1) {
    if (pixels > 0) tiles<NEXT>(in, panel, out, pixels);
  }
}

// As `pixels` are few: tiles of PIXELS, and of one pixel less where that comes out even (49 = 4 x 6 + 5 x 5).
inline void all_tiles(const float* in, const Panel& panel, float* out, Index pixels) {
  if constexpr (LANES < 16) {
    const Index count = ceil_div(pixels, PIXELS), shorter = count * PIXELS - pixels;
    if (shorter <= count && shorter > 1)
      for (Index i = 0; i < shorter; ++i, pixels -= PIXELS - 1, in += (PIXELS - 1) * BLOCK,
                 out += (PIXELS - 1) * panel.out_step)
        tile<PIXELS - 1>(in, panel, out);
  }
  tiles<PIXELS>(in, panel, out, pixels);
}

inline void copy(float* to, const float* from, Index count) {
  if (count < LANES) {
    for (Index i = 0; i < count; ++i) to[i] = from[i];
    return;
  }
  for (Index i = 0; i + LANES < count; i += LANES) store(to + i, load(from + i));
  store(to + count - LANES, load(from + count - LANES));
}

// The windows of pixels [begin, begin + pixels), of each the numbers [first, first + sums): [block][pixel][number].
inline void copy_windows(const Convolution& op, const float* x, Index begin, Index pixels, Index first, Index sums,
                         float* out, Index block_step) {
  const Index line = op.columns * op.c;  // of a window, contiguous in the image
  const bool pointwise = op.rows * op.columns == 1 && op.pad_y == 0 && op.pad_x == 0;
  Index column = begin % op.out_w, row = begin / op.out_w % op.out_h, image = begin / op.out_w / op.out_h;
  for (Index p = 0; p < pixels; ++p, out += BLOCK) {
    const Index x0 = column * op.stride - op.pad_x, y0 = row * op.stride - op.pad_y;
    if (pointwise) {
      const float* from = x + ((image * op.h + y0) * op.w + x0) * op.c + first;
      float* to = out;
      Index left = sums;
      for (; left >= BLOCK; left -= BLOCK, from += BLOCK, to += block_step)
        std::memcpy(to, from, BLOCK * sizeof(float));
      if (left > 0) copy(to, from, left);
    } else {
      const Index low = std::clamp<Index>(-x0, 0, op.columns) * op.c;
      const Index high = std::clamp<Index>(op.w - x0, 0, op.columns) * op.c;
      Index i = first / line, j = first % line, in_block = 0;
      float* to = out;
      for (Index left = sums; left > 0;) {
        const Index y = y0 + i;
        Index count = std::min({line - j, BLOCK - in_block, left});
        if (y >= 0 && y < op.h && j >= low && j < high) {
          count = std::min(count, high - j);
          copy(to + in_block, x + ((image * op.h + y) * op.w + x0) * op.c + j, count);
        } else {
          if (y >= 0 && y < op.h && j < low) count = std::min(count, low - j);
          for (Index n = 0; n < count; ++n) to[in_block + n] = 0;
        }
        left -= count, j += count, in_block += count;
        if (j == line) j = 0, ++i;
        if (in_block == BLOCK) in_block = 0, to += block_step;
      }
    }
    if (++column == op.out_w) {
      column = 0;
      if (++row == op.out_h) row = 0, ++image;
    }
  }
}

inline void pack(const float* kernel, Index k, Index channels, Index sums, float* out) {
  if (channels >= WIDTH) {
    for (Index c = 0; c < sums; ++c, kernel += k, out += WIDTH) {
      __builtin_prefetch(kernel + 48 * k);
      if (WIDTH > 16) __builtin_prefetch(kernel + 48 * k + 16);
      for (int v = 0; v < V; ++v) store(out + v * LANES, load(kernel + v * LANES));
    }
  } else {
    for (Index c = 0; c < sums; ++c, kernel += k, out += WIDTH)
      for (int v = 0; v < V; ++v) store(out + v * LANES, load_some(kernel + v * LANES, channels - v * LANES));
  }
}

}  // namespace gemm

// `beforehand`: the kernel, packed panel after panel, each [number of the sum][channel]; or null, and it is packed here.
inline void product(ffi::ThreadPool& pool, const Convolution& op, const float* x, const float* kernel,
                    const float* beforehand, const Finish& finish, float* y) {
  using namespace gemm;
  const Index pixels = op.n * op.out_h * op.out_w, all = op.rows * op.columns * op.c;
  const Index panels = ceil_div(op.k, WIDTH), chunk = few(op) ? FETCHED_CHUNK : CHUNK;
  auto panel_of = [&](Index p, Index first, Index block_step, const float* packed) {
    const Index sums = std::min(chunk, all - first), k0 = p * WIDTH;
    return Panel{sums, block_step, packed, op.k, op.k - k0, first == 0, first + sums == all,
                 finish.bias ? finish.bias + k0 : nullptr, y, finish.skip, finish.relu};
  };

  if (few(op)) {
    const Index blocks = ceil_div(all, BLOCK), block_step = pixels * BLOCK, copies = std::min(blocks, TASKS);
    float* const copied = scratch(SHARED, blocks * block_step);
    parallel_for(pool, copies, [&](Index task) {
      const Index begin = blocks * task / copies, end = blocks * (task + 1) / copies;
      copy_windows(op, x, 0, pixels, begin * BLOCK, std::min(all, end * BLOCK) - begin * BLOCK,
                   copied + begin * block_step, block_step);
    });
    const Index parts = std::clamp<Index>(TASKS / panels, 1, std::max<Index>(1, pixels / FEWEST_PIXELS));
    const Index runs = std::min(panels, 2 * TASKS);
    parallel_for(pool, runs * parts, [&](Index task) {
      const Index run = task / parts, part = task % parts, begin = pixels * part / parts;
      const Index count = pixels * (part + 1) / parts - begin, last = panels * (run + 1) / runs;
      float* const packed = beforehand ? nullptr : scratch(LOCAL, chunk * WIDTH);
      for (Index p = panels * run / runs; p < last; ++p)
        for (Index first = 0; first < all; first += chunk) {
          Panel panel = panel_of(p, first, block_step, beforehand ? beforehand + (p * all + first) * WIDTH : packed);
          const Index next_p = panel.end ? p + 1 : p, next = panel.end ? 0 : first + chunk;
          const Index rows = next_p < last ? std::min(chunk, all - next) : 0;
          Ahead ahead{nullptr, rows, WIDTH, WIDTH};
          if (beforehand) {
            ahead.at = beforehand + (next_p * all + next) * WIDTH;
          } else {
            pack(kernel + first * op.k + p * WIDTH, op.k, panel.channels, panel.sums, packed);
            ahead = {kernel + next * op.k + next_p * WIDTH, rows, op.k, std::min<Index>(WIDTH, op.k - next_p * WIDTH)};
          }
          panel.ahead = &ahead;
          panel.fetch = ceil_div(rows, std::max<Index>(1, count / PIXELS) * ceil_div(panel.sums, BLOCK));
          all_tiles(copied + first / BLOCK * block_step + begin * BLOCK, panel, y + begin * op.k + p * WIDTH, count);
        }
    });
    return;
  }

  const float* packed = beforehand;
  if (!packed) {
    float* const here = scratch(SHARED, panels * all * WIDTH);
    parallel_for(pool, panels, [&](Index p) {
      pack(kernel + p * WIDTH, op.k, op.k - p * WIDTH, all, here + p * all * WIDTH);
    });
    packed = here;
  }
  const Index padded = ceil_div(std::min(chunk, all), BLOCK) * BLOCK;
  const Index most = std::max<Index>(PIXELS, BAND_FLOATS / padded / PIXELS * PIXELS);
  const Index band = std::min(most, ceil_div(ceil_div(pixels, TASKS), PIXELS) * PIXELS), bands = ceil_div(pixels, band);
  parallel_for(pool, bands, [&](Index task) {
    const Index begin = task * band, count = std::min(band, pixels - begin), block_step = count * BLOCK;
    float* const copied = scratch(LOCAL, padded * count);
    for (Index first = 0; first < all; first += padded) {
      copy_windows(op, x, begin, count, first, std::min(chunk, all - first), copied, block_step);
      if (panels * all * WIDTH <= SMALL_KERNEL) {  // it stays in the cache: write whole pixels
        for (Index at = 0; at < count; at += PIXELS)
          for (Index p = 0; p < panels; ++p) {
            const Panel panel = panel_of(p, first, block_step, packed + (p * all + first) * WIDTH);
            tiles<PIXELS>(copied + at * BLOCK, panel, y + (begin + at) * op.k + p * WIDTH,
                          std::min<Index>(PIXELS, count - at));
          }
        continue;
      }
      for (Index p = 0; p < panels; ++p) {
        const Panel panel = panel_of(p, first, block_step, packed + (p * all + first) * WIDTH);
        all_tiles(copied, panel, y + begin * op.k + p * WIDTH, count);
      }
    }
  });
}

}  // namespace resnet_jax
