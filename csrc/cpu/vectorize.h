// One source, compiled for several instruction sets; the loader picks at start-up.
//
// The loop itself must stand inside the marked function, and what it calls must be SOFTCM_HD.
// ThreadSanitizer cannot start a program with such functions, hence the last condition.
#pragma once

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && \
    __GNUC__ >= 12 && !defined(__SANITIZE_THREAD__)
#define SOFTCM_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define SOFTCM_CLONES
#endif
