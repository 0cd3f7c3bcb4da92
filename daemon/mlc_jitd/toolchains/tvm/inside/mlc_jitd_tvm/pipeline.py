"""From a configuration to a library: which stages run, in which order.

Not here: arguments, files' names and errors' words (`compile.py`), what a stage is made of (`model`, `passes`, …).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tvm
from tvm import IRModule, relax
from tvm.s_tir import dlight

from . import attention, extras, kernels, passes
from .model import CausalLM
from .stages import stage

if TYPE_CHECKING:
    from tvm.relax import VMExecutable
    from tvm.target import Target

    from .config import Config


def compile_model(config: Config, target: Target) -> VMExecutable:
    """Compile a model.

    Args:
        config: what to compile.
        target: for which CPU, host included.

    Returns:
        the executable, ready to be exported.

    Raises:
        Exception: whatever TVM raises; a compiler's failure has no common class.
    """
    with target, tvm.transform.PassContext(opt_level=3):
        stage("model", f"{config.model_type} {config.quantization}, {config.num_hidden_layers} layers")
        model = CausalLM(config, target)
        stage("graph", "exported functions")
        mod, params, _ = model.export_tvm(spec=model.specification(), allow_extern=True)
        machine = kernels.machine_of(target)
        mod = attention.replace_kernels(mod, config, machine)
        mod = extras.attach(mod, config, machine)
        mod = passes.attach_bounds(mod, config)
        stage("lower", f"{len(mod.functions)} functions to kernels")
        mod = _lower(mod, target)
        kernel_count = sum(not isinstance(function, relax.Function) for function in mod.functions.values())
        stage("schedule", f"{kernel_count} kernels")
        mod = dlight.ApplyDefaultSchedule(dlight.cpu.GEMV())(mod)
        stage("bytecode", "memory plan and virtual machine code")
        mod = _to_bytecode(mod, passes.metadata(config, params))
        stage("codegen", f"{kernel_count} kernels with LLVM")
        return relax.build(mod, target, relax_pipeline=None)


def _lower(mod: IRModule, target: Target) -> IRModule:
    return tvm.transform.Sequential(
        [
            tvm.tirx.transform.BindTarget(target),
            relax.transform.LegalizeOps(),
            relax.transform.FoldConstant(),
            relax.transform.DeadCodeElimination(),
        ]
    )(mod)


def _to_bytecode(mod: IRModule, facts: dict[str, Any]) -> IRModule:
    mod = tvm.transform.Sequential(
        [
            tvm.tirx.transform.ForceNarrowIndexToInt32(),
            relax.transform.RewriteDataflowReshape(),
            relax.transform.ToNonDataflow(),
            relax.transform.RemovePurityChecking(),
            relax.transform.CallTIRRewrite(),
            relax.transform.StaticPlanBlockMemory(),
        ]
    )(mod)
    mod = passes.attach_metadata(mod, facts)
    return tvm.transform.Sequential(
        [
            relax.transform.LowerAllocTensor(),
            relax.transform.KillAfterLastUse(),
            relax.transform.LowerRuntimeBuiltin(),
            relax.transform.VMShapeLower(),
            relax.transform.AttachGlobalSymbol(),
        ]
    )(mod)
