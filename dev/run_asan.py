"""Run the CPU kernels over hostile inputs under AddressSanitizer: `make asan`.

Builds the extension with the sanitizer into build/asan (the installed one stays) and runs tests/ops/hostile.py with it,
at every instruction set. The sanitizer's run-time library must be loaded before Python.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "asan"


def main() -> int:
    """Build, then run once per instruction set; the first failure ends it."""
    flags = "-fsanitize=address -fno-omit-frame-pointer -g1"
    build = dict(os.environ, PENTAMASK_FORCE_CPU="1", CFLAGS=flags, CXXFLAGS=flags, LDFLAGS="-fsanitize=address")
    command = [sys.executable, "setup.py", "build_ext", f"--build-temp={BUILD}/temp", f"--build-lib={BUILD}/lib"]
    result = subprocess.run(command, cwd=ROOT, env=build, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        print(result.stdout, result.stderr, sep="\n", file=sys.stderr)
        return result.returncode
    runtime = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    for level in ("baseline", "avx2", "avx512"):
        environment = dict(
            os.environ,
            LD_PRELOAD=runtime.stdout.strip(),
            ASAN_OPTIONS="detect_leaks=0:detect_odr_violation=0",  # Python and torch keep what they allocate
            PENTAMASK_CPU_CAPABILITY=level,
            PENTAMASK_OPS_LIBRARY=str(BUILD / "lib" / "pentamask" / "_C.abi3.so"),
        )
        run = [sys.executable, str(ROOT / "tests" / "ops" / "hostile.py")]
        if subprocess.run(run, cwd=ROOT, env=environment, check=False).returncode != 0:
            print(f"AddressSanitizer run failed at {level}.", file=sys.stderr)
            return 1
    print("AddressSanitizer found nothing at any instruction set.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
