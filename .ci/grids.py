"""Run the grids of nbs/experiments/grids.txt, and bring their reports in nbs/experiments/reports up to date. Arguments: names of grids; none: all."""
import os
import shlex
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
HOME = TOP / "nbs/experiments"
FOR_REPORT = ("--metric", "--base")


def grids(text: str) -> dict[str, tuple[list[str], list[str]]]:
    "Name -> words of `olmoearth run`, words of `olmoearth report`."
    lines: list[str] = []
    for line in text.splitlines():
        if line[:1] in (" ", "\t") and line.strip():
            if not lines: raise SystemExit(f"grids.txt: {line!r} goes on with nothing")
            lines[-1] += line
        elif line.strip() and not line.startswith("#"): lines.append(line)
    found = {}
    for line in lines:
        name, colon, rest = line.partition(":")
        if not colon or not rest.strip() or " " in name: raise SystemExit(f"grids.txt: {line!r}; write NAME: notebook --grid key=a,b --seeds 0,1,2")
        if name in found: raise SystemExit(f"grids.txt: {name} is there twice")
        words = shlex.split(rest)
        at = [i for i, w in enumerate(words) if w in FOR_REPORT]
        found[name] = [w for i, w in enumerate(words) if i not in at and i - 1 not in at], [words[j] for i in at for j in (i, i + 1)]
    return found


def main(names: list[str]) -> int:
    "Exit status: 1 where a run failed. A grid with failed runs still gets its report, which names them."
    known = grids((HOME / "grids.txt").read_text(encoding="utf-8"))
    if unknown := [n for n in names if n not in known]: raise SystemExit(f"no grid {', '.join(unknown)}; there are {', '.join(known)}")
    command = [sys.executable, "-c", "import sys; sys.argv[0] = 'olmoearth'; from olmoearth.adapt import app; app()"]
    bad, jobs = 0, os.environ.get("JOBS") or str(min(4, os.cpu_count() or 1))
    os.environ |= {"OLMOEARTH_DTYPE": "float32", "OMP_NUM_THREADS": "1"}    # left to the machine, the same seeds would give other figures
    for name in names or known:
        run, report = known[name]
        print(f"== {name}", flush=True)
        out = f"out/grids/{name}"
        bad |= subprocess.run([*command, "run", *run, "--jobs", jobs, "--out", out], cwd=TOP).returncode
        bad |= subprocess.run([*command, "report", out, *report, "--notebook", str(HOME / "reports" / f"{name}.ipynb")], cwd=TOP).returncode
        (HOME / "reports" / f"{name}.html").unlink(missing_ok=True)      # megabytes, and made again by `olmoearth report`
    subprocess.run(["nbdev-clean", "--fname", str(HOME / "reports")], cwd=TOP, check=True)
    return int(bool(bad))


if __name__ == "__main__": sys.exit(main(sys.argv[1:]))
