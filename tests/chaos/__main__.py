"""The big one: ``python -m chaos --products 1000 --seed 1``; ``make soak`` gives these."""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from chaos import story
from chaos.run import chaos, say_to_stderr
from chaos.sizes import big


def main() -> int:
    """Run it, write the report, return 0 when every check holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--products", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/soak"), help="report")
    parser.add_argument("--keep", action="store_true", help="keep archive, logs of pods and bucket")
    asked = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="zarrmill-soak-"))
    result = chaos(root, big(asked.products), asked.seed, say_to_stderr)
    for check in result.checks:
        say_to_stderr(f"{'holds' if check.holds else 'FAILS'}: {check}")
    command = f"make soak N={asked.products} SEED={asked.seed}"
    story.write({**result.told, "command": command, "holds": not result.wrong}, asked.out)
    for key, record in result.evidence.records.items():
        say_to_stderr(f"{key}: {json.dumps(record['code'])} {record['message'][:300]}")
    if result.wrong or asked.keep:
        say_to_stderr(f"kept: {root}")
    else:
        shutil.rmtree(root, ignore_errors=True)
    return 1 if result.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
