"""Flags with which XLA compiles in a moment what the tests run for a moment."""

import importlib.metadata
import os


def quick_to_compile():
    """The flags, for the environment of a process before it imports Keras.

    Each process compiles in one thread, for there are more of them than cores.
    """
    flags = [
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_parallel_codegen_split_count=1",
    ]
    if os.environ.get("KERAS_BACKEND") == "jax":
        # XLA ends a process that gives it a flag of other versions.
        major, minor = importlib.metadata.version("jaxlib").split(".")[:2]
        if (0, 7) <= (int(major), int(minor)) < (0, 11):
            flags.append("--xla_cpu_use_fusion_emitters=false")
    return " ".join(flags)
