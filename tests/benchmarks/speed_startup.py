"""How long `import lightning_pose_zoo` and `pose-zoo --help` take, each in a fresh process.

Run: python tests/benchmarks/speed_startup.py
Best of seven (a start is only ever slowed down by others). Exits with 1 above the bars.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

IMPORT_BAR, HELP_BAR = 0.2, 0.7


def best_of(command: list[str], repetitions: int = 7) -> float:
    """Return the shortest wall time of a command in seconds."""
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> int:
    """Measure both and print a table."""
    nothing = best_of([sys.executable, "-c", "pass"])
    package = best_of([sys.executable, "-c", "import lightning_pose_zoo"])
    script = Path(sys.executable).with_name("pose-zoo")
    shown = best_of([str(script), "--help"])
    print(f"python alone               {nothing:.3f} s")
    print(f"import lightning_pose_zoo  {package:.3f} s  (bar {IMPORT_BAR} s, python's own start included)")
    print(f"pose-zoo --help            {shown:.3f} s  (bar {HELP_BAR} s)")
    return 0 if package < IMPORT_BAR and shown < HELP_BAR else 1


if __name__ == "__main__":
    sys.exit(main())
