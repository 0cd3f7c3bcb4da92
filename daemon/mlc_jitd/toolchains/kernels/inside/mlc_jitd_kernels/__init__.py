"""Kernels compiled apart, in parallel, and reused: code generation of a TVM executable, taken over at one point.

Runs in the toolchain's interpreter, from ``launch.py`` beside this folder, on the standard library and tvm alone.

    selfcheck   is this TVM one that is known? Reads its sources, imports nothing
    nodes       TIR as text: everything that code generation can see
    groups      which functions are compiled together, in which order; pure
    keys        the key of a group
    objects     one kernel's file: read by compiles, kept by the daemon's store
    workers     forked children that take the heaviest group first
    hook        puts it all in the place of TVM's own step, and falls back to that
    parsing     TVM's script parser, before that: the same programs, sooner
    cuda        nvcc's answers, kept by what it was asked
    report      what the daemon is told
"""

from __future__ import annotations
