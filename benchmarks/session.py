"""One call of a benchmark: which commands were measured, what they cost, and what they said."""

import argparse
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import measure
from benchmarks.measure import ROOT, Cost, Json, answer, shown, summary, tell


@dataclass
class Session:
    """Costs by case; a case that runs again gets another cost."""

    options: argparse.Namespace
    work: Path
    """Folder for products, stores and logs."""
    costs: dict[str, list[Cost]] = field(default_factory=dict)
    cases: dict[str, Json] = field(default_factory=dict)

    def run(
        self,
        case: str,
        title: str,
        command: Sequence[str],
        *,
        cwd: Path = ROOT,
        env: Mapping[str, str] | None = None,
        codes: Collection[int] = (0,),
    ) -> Cost:
        """Run one command of a case and keep what it cost."""
        cost = measure.run(command, self.log(case), cwd, env, codes)
        self.costs.setdefault(case, []).append(cost)
        place = "" if cwd == ROOT else f"cd {cwd} && "
        self.cases[case] = {"title": title, "command": place + shown(command)}
        tell(f"{case}: {cost.wall_s} s, CPU {cost.cpu_s} s, {cost.peak_bytes / 1e6:.0f} MB")
        return cost

    def quietly(self, command: Sequence[str], *, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> Json:
        """Run a command whose cost is not of interest; return the JSON on its last line, nothing when there is none."""
        log = self.log("preparation")
        measure.run(command, log, cwd, env, (0, 3))
        return answer(log) if log.read_text().rstrip().endswith("}") else {}

    def log(self, case: str) -> Path:
        """Return where the output of a case is."""
        return self.work / f"logs/{case}.log"

    def told(self, case: str) -> Json:
        """Return the JSON on the last line that a case printed."""
        return answer(self.log(case))

    def text(self, case: str) -> str:
        """Return what a case printed."""
        return self.log(case).read_text()

    def measured(self) -> Json:
        """Return every case with its median costs and all its runs."""
        return {name: case | summary(self.costs[name]) for name, case in self.cases.items()}

    @property
    def foreign_share(self) -> float:
        """CPU seconds of other processes for one of ours, over all measured runs."""
        runs = [cost for costs in self.costs.values() for cost in costs]
        return round(sum(cost.foreign_cpu_s for cost in runs) / (sum(cost.cpu_s for cost in runs) or 1), 3)
