"""Artifacts and manifests: finding, verifying, publishing, locks. It does not know what a model is."""

from __future__ import annotations

from mlc_jitd.store.collector import Collection, Collector
from mlc_jitd.store.entry import Entry, Found, Missing, MissingReason, Totals
from mlc_jitd.store.kernels import KernelStore, KernelTotals
from mlc_jitd.store.layers import Layer, LayeredStore, LayerState, layers_of
from mlc_jitd.store.layout import SUFFIXES, Layout, key_of_artifact, key_of_manifest
from mlc_jitd.store.leases import Holder, Leases
from mlc_jitd.store.locks import KeyLock
from mlc_jitd.store.manifest import (
    About,
    CompileRecord,
    KernelRecord,
    Manifest,
    ModelRecord,
    PartRecord,
    ToolchainRecord,
)
from mlc_jitd.store.store import Store
from mlc_jitd.store.sweep import SweepReport
from mlc_jitd.store.uses import Uses

__all__ = [
    "SUFFIXES",
    "About",
    "Collection",
    "Collector",
    "CompileRecord",
    "Entry",
    "Found",
    "Holder",
    "KernelRecord",
    "KernelStore",
    "KernelTotals",
    "KeyLock",
    "Layer",
    "LayerState",
    "LayeredStore",
    "Layout",
    "Leases",
    "Manifest",
    "Missing",
    "MissingReason",
    "ModelRecord",
    "PartRecord",
    "Store",
    "SweepReport",
    "ToolchainRecord",
    "Totals",
    "Uses",
    "key_of_artifact",
    "key_of_manifest",
    "layers_of",
]
