// What a convolution is, apart from its arrays.
#pragma once

#include "common.h"

namespace resnet_jax {

struct Convolution {
  Index n, h, w, c;         // the input
  Index out_h, out_w, k;    // the output
  Index rows, columns;      // the window
  Index stride, pad_y, pad_x;
};

constexpr Index TASKS = 16;  // enough for some cores, each with some tasks

}  // namespace resnet_jax
