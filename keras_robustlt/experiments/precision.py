"""The precision that a machine is made for: `--precision=auto`."""

import functools
import glob
import pathlib
import subprocess

from keras_robustlt.experiments import jobs

CPUINFO = pathlib.Path("/proc/cpuinfo")
BFLOAT16 = ("avx512_bf16", "amx_bf16")
FLOAT16 = ("avx512_fp16", "amx_fp16")
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
    device, has_it = _bfloat16(accelerated)
    if has_it:
        return "mixed_bfloat16", f"this {device} computes in it"
    if has_it is None:
        return "float32", f"whether this {device} has bfloat16 is not known"
    return "float32", f"this {device} has no bfloat16"


def why_slow(chosen):
    """Why a precision of `--precision` costs time on this machine, or `None`.

    What the hardware is known not to compute in is emulated.

    Args:
        chosen: String, `"float32"`, `"mixed_bfloat16"` or `"mixed_float16"`.
    """
    device, has_it = _bfloat16()
    if chosen == "mixed_bfloat16" and has_it is False:
        return f"this {device} has no bfloat16"
    if chosen == "mixed_float16" and device == "CPU" and _of_cpu(FLOAT16) is False:
        return "this CPU has no float16"
    return None


def _bfloat16(accelerated=True):
    """What computes here, and whether it has bfloat16, `None` if that is not known."""
    if accelerated and jobs.gpus():
        capability = _compute_capability()
        return "GPU", None if capability is None else capability >= FIRST_CAPABILITY
    if accelerated and glob.glob("/dev/accel[0-9]*"):
        return "TPU", True
    return "CPU", _of_cpu(BFLOAT16)


def _of_cpu(features):
    """Whether an x86 CPU has one of these, `None` of others."""
    known = CPUINFO.read_text() if CPUINFO.exists() else ""
    return any(each in known for each in features) if "flags" in known else None


def _compute_capability():
    """The lowest of the GPUs, or `None` if nvidia-smi does not tell."""
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True)
        return min(map(float, listed.stdout.split()))
    except (OSError, ValueError):
        return None
