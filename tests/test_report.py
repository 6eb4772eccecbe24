"""The page: what it says, that nothing in it can break out of its text, and how it looks."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from rllib_offset.report import (
    COMPARISONS_NAME,
    PAPER_NAME,
    TIMINGS_NAME,
    write_figure,
    write_report,
)
from rllib_offset.report_claims import Timing, claims
from rllib_offset.report_figures import learning_figures
from rllib_offset.results import AGENT_VIEW_NAME, read_results
from tests.fake_results import OFFSET, write_paper, write_trial

COMMITTED = Path(__file__).parents[1] / "docs" / "paper.html"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
CHROMIUM_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
)


def timing(level, workers, seconds, predicted_s, *, cost_s=0.01, seed=0):
    return Timing(
        level=level,
        workers=workers,
        step_cost_s=cost_s,
        seed=seed,
        seconds=[seconds],
        predicted_s=predicted_s,
        printed_s=predicted_s * 0.6,
    )


FREE = [
    timing("serial", 0, 0.2, 0.2, cost_s=0.0),
    timing("trajectory", 2, 0.16, 0.2, cost_s=0.0),
]
TIMINGS = [
    timing("serial", 0, 10.2, 10.1),
    timing("trajectory", 8, 2.1, 2.05),
    timing("sample", 8, 1.4, 1.3),
]
MEASUREMENT = {
    "slow_step_s": 0.01,
    "slow_reset_s": 0.0,
    "fast_step_s": 5e-5,
    "trajectory_steps": 100,
    "call_overhead_s": 0.004,
    "policy_update_s": 0.02,
    "fit_s": 0.02,
    "cpu_share": 0.02,
    "num_cpus": 2,
    "replays_single_steps": True,
}


def view_file(path, *, has_predictor):
    """Save what a checkpoint in the square holds, without torch."""
    line = np.linspace(-1, 1, 11)
    reward = -np.hypot(line[None, :] - 0.4, line[:, None] - 0.3)
    offsets = np.repeat(reward[..., None], 2, axis=-1)
    labels = np.random.default_rng(0).uniform(-1, 1, (40, 2))
    predictor = {
        "predicted": offsets + 0.01,
        "true": offsets,
        "label_positions": labels,
        "label_offsets": labels,
        "label_predictions": labels + 0.01,
        "label_is_held_out": np.arange(40) % 4 == 0,
        "target_names": np.array(["obs[2]", "reward"]),
    }
    np.savez(
        path,
        paths=np.linspace(-1, 0.4, 33).reshape(3, 11, 1).repeat(2, axis=2),
        path_seeds=np.arange(3),
        trained_map=reward,
        slow_map=reward,
        target=np.array([0.4, 0.3]),
        **(predictor if has_predictor else {}),
    )


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    folder = write_paper(tmp_path_factory.mktemp("paper"))
    for trial in folder.glob("*/trial_0"):
        view_file(trial / AGENT_VIEW_NAME, has_predictor="offset" in trial.parent.name)
    runs = [vars(item) for item in [*FREE, *TIMINGS]]
    (folder / TIMINGS_NAME).write_text(
        json.dumps({"measurements": {"0.01": MEASUREMENT}, "runs": runs})
    )
    comparison = {"slow_step_s": 0.0102, "corrected_step_s": 0.0001, "speedup": 102.0, "gap": 0.1}
    (folder / COMPARISONS_NAME).write_text(json.dumps([comparison]))
    (folder / PAPER_NAME).write_text(json.dumps({"command": "rllib paper", "facts": {"seeds": 3}}))
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(paper):
    return (paper / "report" / "report.html").read_text(encoding="utf-8")


def text_of(page):
    class Text(HTMLParser):
        parts: list[str]

        def handle_data(self, data):
            self.parts.append(data)

    parser = Text()
    parser.parts = []
    parser.feed(page)
    return " ".join(" ".join(parser.parts).split())


def test_the_page_opens_with_the_answer(page):
    text = text_of(page)
    answer = text.index("Trained on fast + offset, the agent ends with a return of -4.60 ± 0.25")
    assert answer < text.index("Claim by claim") < text.index("Figure 7")


def test_the_page_shows_each_measured_time_beside_its_prediction(page):
    text = text_of(page)
    assert "10 ms trajectories 8 2.10 s 2.05 s -2%" in text
    assert "7.3 times" in text  # the key figure: serial against single steps


def test_the_table_counts_slow_steps_and_seconds(paper):
    rows = (paper / "report" / "arms.csv").read_text().splitlines()
    offset = next(row for row in rows if row.startswith("offset,"))
    assert '"20,000"' in offset
    assert "2.0" in offset
    baseline = next(row for row in rows if row.startswith("baseline,"))
    assert "about 2.0" in baseline  # the slow steps times the mean time of one


def test_every_figure_is_on_the_page_and_beside_it(paper, page):
    names = re.findall(r'<figure id="([^"]+)"', page)
    assert {"fig7-learning-curves", "fig8-times-10-ms", "ledger", "plan"} <= set(names)
    assert {"fig3-paths-baseline", "fig4-paths-transfer", "fig5-paths-offset"} <= set(names)
    assert {"fig6-predicted-offset", "fig6-true-offset", "fig6-difference-offset"} <= set(names)
    files = {path.name for path in (paper / "report" / "figures").iterdir()}
    assert files == {f"{name}.{kind}" for name in names for kind in ("png", "svg", "csv")}


def test_every_figure_has_a_caption_and_a_text_for_those_who_cannot_see_it(page):
    figures = re.findall(r"<figure id.*?</figure>", page, flags=re.DOTALL)
    assert figures
    for figure in figures:
        assert len(re.search(r"<figcaption>(.*?)</figcaption>", figure).group(1)) > 60
        assert len(re.search(r'alt="([^"]*)"', figure).group(1)) > 60


@pytest.fixture(params=["made up", "committed"])
def any_page(page, request):
    return page if request.param == "made up" else COMMITTED.read_text(encoding="utf-8")


def test_the_page_needs_nothing_from_elsewhere_and_stays_small(any_page):
    page = any_page
    assert len(page) < 5_000_000
    links = re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?([^"\'>)]{0,30})', page)
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)
    assert "<script" not in page


def test_the_same_numbers_give_the_same_files(paper, tmp_path):
    arms = [arm for arm in read_results(paper) if arm.name == "transfer"]
    written = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        figure = next(learning_figures(arms))
        write_figure(figure, tmp_path / name)
        files = sorted((tmp_path / name).iterdir())
        written.append([file.read_bytes() for file in files])
    assert written[0] == written[1]


def test_what_results_say_cannot_break_out_of_its_text(tmp_path):
    hostile = '<script>alert("x")</script>'
    write_trial(tmp_path / "a" / "trial", OFFSET | {"note": hostile, "lr": 1})
    write_trial(tmp_path / "a" / "other", OFFSET | {"note": "'\"><img src=x>", "lr": 2})
    (tmp_path / PAPER_NAME).write_text(json.dumps({"command": hostile, "facts": {hostile: "&"}}))
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert" in page


def test_a_pair_that_has_no_map_shows_predicted_against_measured(tmp_path):
    folder = write_trial(tmp_path / "mine" / "trial", OFFSET)
    values = np.linspace(-1, 1, 30)[:, None]
    np.savez(
        folder / AGENT_VIEW_NAME,
        label_offsets=values,
        label_predictions=values,
        label_is_held_out=np.arange(30) % 3 == 0,
        target_names=np.array(["reward"]),
    )
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert 'id="offset-reward-mine"' in page
    assert "paths" not in " ".join(re.findall(r'<figure id="([^"]+)"', page))


def test_an_agent_that_cannot_be_shown_is_said_so(tmp_path):
    write_trial(tmp_path / "mine" / "trial", OFFSET)
    text = text_of(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "trial has no checkpoint: its agent is not shown" in text


def claim(arms, word, timings=(), comparisons=()):
    return next(item for item in claims(arms, timings, comparisons) if word in item.text)


def test_claims_hold_where_the_numbers_say_so(tmp_path):
    arms = read_results(write_paper(tmp_path))
    assert claim(arms, "beats one transferred").held is True
    assert claim(arms, "near the baseline").held is True
    equal = claim(arms, "does not impact")
    assert equal.held is True
    assert "identical to the last bit" in equal.measured
    free = claim(arms, "hardly slower", FREE)
    assert free.held is False
    assert free.measured.startswith("1.25 times, n=2")
    assert claim(arms, "speeds training up").held is None
    assert claim(arms, "speeds training up", TIMINGS).measured.endswith("7.3 at sample level")
    assert claim(arms, "tell the time of a batch", TIMINGS).held is True
    assert claim(arms, "which level", TIMINGS).held is True


def test_claims_do_not_hold_where_the_numbers_say_so(tmp_path):
    for seed in range(3):
        write_trial(tmp_path / "b" / f"{seed}", {"env": OFFSET["slow_env"]}, seed=seed, final=-4.0)
        write_trial(tmp_path / "t" / f"{seed}", {"env": OFFSET["env"]}, seed=seed, final=-20 - seed)
        write_trial(tmp_path / "o" / f"{seed}", OFFSET, seed=seed, final=-21.0 + seed)
    arms = read_results(tmp_path)
    assert claim(arms, "beats one transferred").held is False
    assert claim(arms, "near the baseline").held is False
    wrong = [timing("sample", 8, 2.0, 1.0), timing("trajectory", 8, 1.0, 2.0)]
    assert claim(arms, "tell the time of a batch", wrong).held is False
    assert claim(arms, "which level", wrong).held is False


PROBE = """<script>addEventListener("load", () => parent.postMessage(JSON.stringify({
  requests: performance.getEntriesByType("resource").map(e => e.name.slice(0, 40)),
  images: [...document.images].map(image => image.naturalWidth),
  overflow: document.documentElement.scrollWidth - innerWidth,
  smallest: Math.min(...[...document.images].map(image => image.clientWidth)),
}), "*"))</script>"""
FRAME = """<iframe src="page.html" width="{width}" height="900"></iframe>
<script>onmessage = message => document.body.innerText = message.data</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_the_page_without_errors_or_requests(any_page, tmp_path, width):
    page = any_page
    (tmp_path / "page.html").write_text(page.replace("</body>", f"{PROBE}</body>"))
    (tmp_path / "frame.html").write_text(FRAME.format(width=width))
    frame = (tmp_path / "frame.html").as_uri()
    done = subprocess.run(
        [
            str(CHROMIUM),
            *CHROMIUM_FLAGS,
            f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=10000",
            "--dump-dom",
            frame,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in done.stderr
    seen = json.loads(re.search(r"<body>(.*)</body>", done.stdout, flags=re.DOTALL).group(1))
    assert all(name.startswith("data:") for name in seen["requests"])
    assert len(seen["images"]) == page.count("<figure id")
    assert min(seen["images"]) > 400  # each has been decoded
    assert seen["overflow"] <= 0  # nothing to scroll sideways but the table
    assert seen["smallest"] >= min(width - 60, 340)  # three maps side by side
