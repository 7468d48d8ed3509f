"""Compile the CUDA sources without a GPU, into a scratch folder, and show what became of each kernel: `make cuda`.

Nothing is installed. A stamp holds the hash of the CUDA sources, so a second run without a change does nothing. Needs a
CUDA build of torch and nvcc on PATH (or CUDA_HOME). TORCH_CUDA_ARCH_LIST chooses the GPUs (default: 8.0 and 9.0).
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cuda_report

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "cuda"
LOAD = """
import torch
torch.ops.load_library({library!r})
for op in ("blend", "_spatial_attention_forward", "ms_deform_attn"):
    assert torch._C._dispatch_has_kernel_for_dispatch_key("pentamask::" + op, "CUDA"), op
"""


def sources_hash(architectures: str) -> str:
    """Hash of the CUDA sources, what they include from this checkout, and what they are compiled for and with."""
    import torch

    digest = hashlib.sha256(f"{torch.__version__} {architectures}".encode())
    csrc = ROOT / "csrc"
    for path in sorted([ROOT / "setup.py", Path(__file__), *csrc.glob("*.h"), *csrc.glob("cuda/*")]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def toolkit() -> str | None:
    """CUDA_HOME, or the folder that the nvcc on PATH says it lies in: PATH may hold a mere launcher of it."""
    if "CUDA_HOME" in os.environ or shutil.which("nvcc") is None:
        return os.environ.get("CUDA_HOME")
    plan = subprocess.run(
        ["nvcc", "--dryrun", "-x", "cu", "-c", os.devnull], capture_output=True, text=True, check=True
    )
    here = re.search(r"^#\$ _HERE_=(.*)$", plan.stderr, re.MULTILINE)
    return str(Path(here.group(1)).parent) if here is not None else None


def main() -> int:
    """Compile, link and load; print the compiler's output only if that fails."""
    architectures = os.environ.get("TORCH_CUDA_ARCH_LIST", "8.0;9.0")
    stamp, wanted = BUILD / "stamp", sources_hash(architectures)
    if stamp.exists() and stamp.read_text() == wanted:
        print("CUDA sources unchanged since they were last compiled.")
        return 0
    environment = dict(os.environ, PENTAMASK_FORCE_CUDA="1", TORCH_CUDA_ARCH_LIST=architectures)
    if (home := toolkit()) is not None:
        environment["CUDA_HOME"] = home
    build = [sys.executable, "setup.py", "build_ext", f"--build-temp={BUILD}/temp", f"--build-lib={BUILD}/lib"]
    library = BUILD / "lib" / "pentamask" / "_C.abi3.so"
    load = [sys.executable, "-c", LOAD.format(library=str(library))]
    for command in (build, load):
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            print(result.stdout, result.stderr, sep="\n", file=sys.stderr)
            return result.returncode
    stamp.write_text(wanted)
    print(f"CUDA sources compiled for {architectures}; every kernel is registered.")
    if cuda_report.tools() is not None:
        print(cuda_report.table(library))
    return 0


if __name__ == "__main__":
    sys.exit(main())
