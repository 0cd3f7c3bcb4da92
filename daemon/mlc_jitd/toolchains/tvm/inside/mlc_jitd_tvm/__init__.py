"""The embedded compiler: Llama-family models to CPU libraries with MLC's interface, on `apache-tvm` alone.

Runs in the toolchain's interpreter, from `compile.py` beside this folder, on the standard library, tvm and numpy: it
never imports mlc_jit or mlc_jitd.

    errors, stages    what goes to stderr
    config            mlc-chat-config.json and overrides -> Config
    kernels, extras   TIR functions: the model's own; sampling, logit processing, speculative decoding
    attention         TIR: a prompt's attention, in place of TVM's
    calls, model      kernels on nn tensors; the nn module and its exported functions
    targets           device texts and target JSON -> Target
    passes, pipeline  IRModule -> library
"""

from __future__ import annotations
