// CUDA C++ on a CPU, for a host compiler: see simt.h.
#pragma once

#include "simt.h"
