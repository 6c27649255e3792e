"""The precision that a machine is made for: `--precision=auto`."""

import functools
import glob
import pathlib
import subprocess

from keras_robustlt.experiments import jobs

CPUINFO = pathlib.Path("/proc/cpuinfo")
BFLOAT16 = ("avx512_bf16", "amx_bf16")
FLOAT16 = ("avx512_fp16", "amx_fp16")
NONE = "has no bfloat16"
# NVIDIA's GPUs compute in bfloat16 from this compute capability on (Ampere).
FIRST_CAPABILITY = 8.0


@functools.cache
def automatic(accelerated=True):
    """`"mixed_bfloat16"` where the hardware computes in it, else `"float32"`.

    No backend is asked, as that would take the memory of a GPU.

    Args:
        accelerated: Boolean. `False` where it is known that the backend has the CPU
            alone, whatever else is there. Defaults to `True`.

    Returns:
        A pair of strings: the precision, and why.
    """
    if accelerated and jobs.gpus():
        capability = _compute_capability()
        if capability is None:
            return "float32", "whether this GPU has bfloat16 is not known"
        if capability < FIRST_CAPABILITY:
            return "float32", f"this GPU {NONE}"
        return "mixed_bfloat16", "this GPU computes in it"
    if accelerated and _tpus():
        return "mixed_bfloat16", "this TPU computes in it"
    if _of_cpu(BFLOAT16):
        return "mixed_bfloat16", "this CPU computes in it"
    return "float32", f"this CPU {NONE}"


def why_slow(chosen):
    """Why a precision of `--precision` costs time on this machine, or `None`.

    What the hardware does not compute in is emulated.

    Args:
        chosen: String, `"float32"`, `"mixed_bfloat16"` or `"mixed_float16"`.
    """
    best, why = automatic()
    if chosen == "mixed_bfloat16" and best != chosen and why.endswith(NONE):
        return why
    on_cpu = CPUINFO.exists() and not _accelerated()
    if chosen == "mixed_float16" and on_cpu and not _of_cpu(FLOAT16):
        return "this CPU has no float16"
    return None


def _accelerated():
    return bool(jobs.gpus() or _tpus())


def _tpus():
    return glob.glob("/dev/accel[0-9]*")


def _of_cpu(features):
    known = CPUINFO.read_text() if CPUINFO.exists() else ""
    return any(feature in known for feature in features)


def _compute_capability():
    """The lowest of the GPUs, or `None` if nvidia-smi does not tell."""
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True)
        return min(map(float, listed.stdout.split()))
    except (OSError, ValueError):
        return None
