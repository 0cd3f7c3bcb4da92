"""What a compile tells: lines in its log while it runs, and one file for the daemon at the end."""

# ruff: noqa: PTH104, PTH123
from __future__ import annotations

import json
import os
import sys

FILE = "report.json"


class Report:
    """Counts of one compile.

    Attributes:
        taken: What stands in TVM's places: ``kernels`` (with lowering), ``nvcc``, ``parser``.
        way: ``kernels``; ``plain`` where TVM's own step did it, and then ``why``.
        lowered: Functions that were lowered apart.
        kernels: Groups of functions.
        reused: Keys taken from the store.
        made: Keys compiled.
        damaged: Keys whose file in the store was no good.
        unkeyed: Groups without a key: compiled, kept by nobody.
        unkept: Groups with a key whose file could not be written.
        failures: Times that this way was tried and gave up.
        saved: Seconds that the reused ones once took, on one core.
        spent: Seconds that the compiled ones took, on one core each.
        devices: Keys of what nvcc compiled.
        devices_reused: Keys of what it need not compile.
    """

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.way = ""
        self.why = ""
        self.lowered = 0
        self.kernels = 0
        self.reused: list[str] = []
        self.made: list[str] = []
        self.damaged: list[str] = []
        self.unkeyed = 0
        self.unkept = 0
        self.failures = 0
        self.saved = 0.0
        self.spent = 0.0
        self.devices: list[str] = []
        self.devices_reused: list[str] = []

    def plain(self, why: str) -> None:
        """TVM's own step does it; said once."""
        if self.way != "plain":
            self.way, self.why = "plain", why
            self.reused, self.saved, self.spent = [], 0.0, 0.0
            self.lowered = self.kernels = self.unkeyed = self.unkept = 0
            line(f"plain: {why}")

    def write(self, folder: str) -> None:
        """Leave the report in a folder; one that can't be written is none."""
        part = f"{folder}/.{FILE}.{os.getpid()}"
        try:
            with open(part, "w", encoding="utf-8") as file:
                json.dump(vars(self), file)
            os.rename(part, f"{folder}/{FILE}")
        except OSError as error:
            line(f"no report: {error}")


def line(text: str) -> None:
    """One line of the log."""
    print("mlc-jitd kernels: " + " ".join(text.split()), file=sys.stderr, flush=True)
