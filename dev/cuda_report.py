"""What nvcc made of the CUDA kernels: instructions, registers, stack (spills) and shared bytes of each, as Markdown.

    python dev/cuda_report.py [--before LIBRARY] [--all] [LIBRARY]

LIBRARY is a compiled extension (default: that of `make cuda`, which prints this table itself). With --before, each cell
says what it was there. "loops" are those that use memory outside the block and hold no other such loop: what a kernel
repeats per point, channel or map. Needs cuobjdump and nvdisasm: CUDA's, or those of triton.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

LIBRARY = Path(__file__).resolve().parent.parent / "build" / "cuda" / "lib" / "pentamask" / "_C.abi3.so"
SHOWN = ("float, float", "__half, float")  # bfloat16's code is like float16's
INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;", re.MULTILINE)
MEMORY = re.compile(r"\b(LDG?|STG?|RED|ATOMG?)\b(?!S)")
JUMP = re.compile(r"\bBRA(?:\.\w+)*\s+(?:!?U?P\w+,\s*)*(?:`\(|)(0x[0-9a-f]+)")


class Kernel(NamedTuple):
    """One kernel for one architecture."""

    instructions: int
    loops: str
    registers: int
    stack: int
    shared: int


def tools() -> Path | None:
    """The folder of cuobjdump and nvdisasm; None if there is none."""
    found = shutil.which("cuobjdump")
    if found is not None:
        return Path(found).parent
    triton = find_spec("triton")
    folder = Path(str(triton.origin)).parent / "backends" / "nvidia" / "bin" if triton is not None else Path()
    return folder if (folder / "cuobjdump").exists() else None


def inner_loops(code: str) -> str:
    """Instructions of each innermost loop that accesses global memory, in order."""
    lines = [(int(address, 16), text) for address, text in INSTRUCTION.findall(code)]
    accesses = [address for address, text in lines if MEMORY.search(text)]
    loops = []
    for address, text in lines:
        jump = JUMP.search(text)
        start = int(jump[1], 16) if jump is not None else address
        if start < address and any(start <= access <= address for access in accesses):
            loops.append((start, address))
    innermost = [a for a in loops if not any(a[0] <= b[0] and b[1] <= a[1] and a != b for b in loops)]
    return ", ".join(str(sum(start <= address <= end for address, _ in lines)) for start, end in sorted(innermost))


def dump(library: Path, option: str) -> list[tuple[str, str]]:
    """cuobjdump's output as (architecture, text) for each file of device code in `library`."""
    folder = tools()
    assert folder is not None, "neither cuobjdump nor triton is installed"
    environment = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    command = [str(folder / "cuobjdump"), option, str(library)]
    text = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return [(part.split()[0], part) for part in text.split("arch = ")[1:]]


def readable(symbol: str) -> str:
    """`ms_deform_attn: forward_kernel<float, float, 4>` of the symbol of that kernel in ms_deform_attn_kernel.cu."""
    source = re.search(r"_([a-z]\w*?)_kernel_cu_", symbol)
    name = subprocess.run(["c++filt", symbol], capture_output=True, text=True, check=True).stdout
    kernel = re.search(r"(\w+(?:<[^()]*?>)?)\(", name.replace("(anonymous namespace)", ""))
    function = kernel[1] if kernel is not None else name.strip()
    return f"{source[1]}: {function}" if source is not None else function


def kernels(library: Path) -> dict[tuple[str, str], Kernel]:
    """(kernel's name, architecture) to what it needs."""
    code = {}
    for architecture, text in dump(library, "-sass"):
        for function in text.split("Function : ")[1:]:
            code[function.split()[0], architecture] = function
    found = {}
    for architecture, text in dump(library, "-res-usage"):
        for symbol, usage in re.findall(r"Function (\w+):\s+(REG:.*)", text):
            numbers = {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", usage)}
            sass = code[symbol, architecture]
            found[readable(symbol), architecture] = Kernel(
                len(INSTRUCTION.findall(sass)),
                inner_loops(sass),
                numbers["REG"],
                numbers["STACK"] + numbers["LOCAL"],
                numbers["SHARED"],
            )
    return found


def table(library: Path, before: Path | None = None, everything: bool = False) -> str:
    """Markdown, a row a kernel and architecture; `before`: another build, shown as "then → now" where it differs."""
    now, then = kernels(library), kernels(before) if before is not None else {}
    lines = ["| kernel | GPU | " + " | ".join(Kernel._fields) + " |", "| --- | --- |" + " ---: |" * len(Kernel._fields)]
    for key in sorted(now):
        if not everything and not any(types in key[0] for types in SHOWN):
            continue
        old = then.get(key)
        cells = [
            f"{a} → {b}" if a is not None and a != b else f"{b}"
            for a, b in zip(old or [None] * len(now[key]), now[key])
        ]
        lines.append(f"| `{key[0]}` | {key[1]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", nargs="?", type=Path, default=LIBRARY)
    parser.add_argument("--before", type=Path, metavar="LIBRARY", help="an older build to compare with")
    parser.add_argument("--all", action="store_true", help="float64 and bfloat16 as well")
    args = parser.parse_args()
    if tools() is None:
        print("No cuobjdump: install CUDA's or triton.", file=sys.stderr)
        return 1
    print(table(args.library, args.before, args.all))
    return 0


if __name__ == "__main__":
    sys.exit(main())
