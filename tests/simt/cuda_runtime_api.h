// CUDA's host interface, as far as csrc/cuda uses it, on a CPU: see simt.h.
#pragma once

#include "simt.h"
