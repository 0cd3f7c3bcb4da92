"""Whether kernels are compiled apart and reused, by the caller's interpreter, and what hinders it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from mlc_jit import variables
from mlc_jitd.doctor.finding import Finding, size
from mlc_jitd.identity.helpers import HelperError, ask
from mlc_jitd.store import KernelStore
from mlc_jitd.store.layout import Layout
from mlc_jitd.toolchains import kernels as toolchain_kernels
from mlc_jitd.toolchains.base import OWN_VARIABLES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlc_jitd.doctor.finding import Patient

LOOK_SECONDS = 30.0
PLAIN = "each compile is the compiler's own, on one core, and takes as long as ever; libraries are the same"


def kernels(patient: Patient) -> Iterator[Finding]:
    """The setting, the system, and the text of TVM's own functions."""
    if patient.settings.acceleration == "off":
        yield Finding(check="kernels", level="ok", found="not compiled apart: the setting is off", follows=PLAIN)
        return
    if sys.platform != "linux":
        yield Finding(check="kernels", level="note", found="not compiled apart: that is for Linux", follows=PLAIN)
        return
    python = patient.environ.get("MLC_JITD_PYTHON") or sys.executable
    env = {name: patient.environ[name] for name in OWN_VARIABLES if name in patient.environ}
    env |= variables.collect(patient.environ)
    try:
        answer = ask(python, toolchain_kernels.SELF_CHECK, None, env=tuple(sorted(env.items())), seconds=LOOK_SECONDS)
        why, lowering, parser = (str(answer[name]) for name in ("mismatch", "lowering", "parser"))
    except (HelperError, OSError, KeyError) as error:
        why, lowering, parser = f"the interpreter {python} can't be asked: {error}", "", ""
    if why:
        yield Finding(
            check="kernels",
            level="note",
            found=f"not compiled apart: {why}",
            follows=PLAIN,
            remedy="Nothing is wrong; apache-tvm 0.26 or 0.27 would be faster.",
            facts={"mismatch": why},
        )
        return
    known = KernelStore(Layout.of(patient.places.home).library, limit=0).totals() if patient.places else None
    kept = f"; {known.kernels} are known, {size(known.bytes)}" if known is not None else ""
    lowered = f"; kernels are lowered by one process: {lowering}" if lowering else ""
    scripts = f"; TVM's script parser is left as it is: {parser}" if parser else ""
    yield Finding(
        check="kernels",
        level="ok",
        found=f"compiled apart, in parallel, and reused{kept}",
        follows=f"up to {size(patient.settings.kernel_bytes)} are kept; there are {os.cpu_count()} CPUs"
        f"{lowered}{scripts}",
        facts={
            "known": known.kernels if known else 0,
            "bytes": known.bytes if known else 0,
            "lowering": lowering,
            "parser": parser,
        },
    )
