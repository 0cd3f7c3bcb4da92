"""The start-up hook of ``mlc-jit exec``: this folder is first on PYTHONPATH of the program and of what it starts.

Python imports ``sitecustomize`` by itself when it starts. The one that would have been imported without us is imported
first; then the import of mlc_llm's ``jit`` is watched for, and mlc_jit is imported only when that happens. So another
Python program among the descendants pays one look at its path, and needs no mlc_jit.
"""

from __future__ import annotations

import importlib.util
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - in every Python process: pathlib takes longer


def chain() -> None:
    """Import the ``sitecustomize`` that this one hides, if there is one."""
    sys.path[:] = [place for place in sys.path if os.path.abspath(place or ".") != HERE]  # noqa: PTH100
    sys.path_importer_cache.pop(HERE, None)
    ours = sys.modules.pop("sitecustomize")
    try:
        import sitecustomize as _theirs  # type: ignore[import-not-found] # noqa: F401, PLC0415
    except ImportError as error:
        if error.name != "sitecustomize":
            raise  # site reports it, as it would have without us
    finally:
        sys.modules.setdefault("sitecustomize", ours)  # the import that runs here looks for it


def watch() -> None:
    """See to it that mlc_llm's ``jit`` asks the daemon once it is imported."""
    spec = importlib.util.spec_from_file_location("_mlc_jit_importhook", os.path.join(HERE, "..", "importhook.py"))  # noqa: PTH118
    if spec is None or spec.loader is None:
        return
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    watcher = hook.Watcher("mlc_llm.interface.jit", lambda _module: install())
    watcher.begin()


def install() -> None:
    """mlc_llm's ``jit`` is there."""
    try:
        from mlc_jit.dropin import install as install_  # noqa: PLC0415 - see the module's docstring
    except ImportError as error:
        said = f"mlc-jit exec: {sys.executable} can't import mlc_jit ({error}); `pip install mlc-jitd` there."
        if os.environ.get("MLC_JITD", "").lower().startswith("require"):
            raise ImportError(said) from error
        print(f"{said} Going on without.", file=sys.stderr)  # noqa: T201
        return
    install_()


try:
    chain()
finally:
    if os.environ.get("MLC_JITD", "").lower() not in ("off", "0", "false", "no"):
        watch()
