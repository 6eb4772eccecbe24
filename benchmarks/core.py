"""The paper's arms on PointMass: final normalised score over seeds.

    python benchmarks/core.py --seeds 5 --out core_results
"""

import argparse
from pathlib import Path

from harness import Arm, interval, markdown, run_all, table

ARMS = [
    Arm("baseline", "pointmass-baseline", is_slow_only=True),
    Arm("transfer", "pointmass-transfer"),
    Arm("offset", "pointmass-offset-serial"),
    Arm("literal", "pointmass-offset-literal"),
    Arm("offset-ppo", "pointmass-offset-ppo"),
    Arm("sparse", "pointmass-offset-sparse"),
    Arm("pseudo-sparse", "pointmass-offset-pseudo-sparse"),
    Arm("noise", "pointmass-offset-noise"),
]

COLUMNS = {
    "score in slow": lambda runs: "{:.3f} ± {:.3f}".format(*interval([r.final for r in runs])),
    "lowest": lambda runs: f"{min(r.final for r in runs):.3f}",
    "slow steps": lambda runs: f"{interval([r.slow_steps[-1] for r in runs])[0]:,.0f}",
    "wall clock [s]": lambda runs: f"{interval([r.wall_s for r in runs])[0]:.0f}",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("core_results"))
    options = parser.parse_args()
    runs = run_all(ARMS, range(options.seeds), options.out)
    text = markdown(table(runs, COLUMNS))
    (options.out / "core.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
