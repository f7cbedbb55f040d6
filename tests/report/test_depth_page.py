"""The page: it stands alone, every figure is explained, and a real browser renders it, in the dark and on a phone."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from resnet_jax.depth.result import DepthProfile
from resnet_jax.report.depth_page import Page, Section, Table, render_page, write_page
from resnet_jax.report.depth_report import FIGURES, MEANING, profile_sections, summarize, write_profile_report

from .test_depth_figures import example_figures

VOID = {"meta", "path", "use", "image", "line", "rect", "br", "stop"}
OPTIONAL = {"tr", "td"}


def made_up(blocks: int, **changes) -> DepthProfile:
    """A profile of random numbers; its first block has no skip."""
    rng = np.random.default_rng(0)
    stage = np.sort(np.arange(blocks) % 3)
    fields = [field.name for field in dataclasses.fields(DepthProfile)][3:-6]
    columns = {name: rng.uniform(0.1, 1.0, blocks) for name in fields}
    columns["skip_norm"][0] = np.nan
    names = tuple(f"stage{s + 1}/block{i}" for i, s in enumerate(stage))
    return DepthProfile(
        names=names,
        stage=stage,
        elements=np.full(blocks, 64),
        parameters=tuple(f"{name}/branch/conv1/kernel" for name in names),
        parameter_block=np.arange(blocks),
        parameter_weight_norm=np.ones(blocks),
        parameter_grad_norm=rng.uniform(0.1, 1, blocks),
        parameter_update_norm=np.ones(blocks),
        about={"normalization": "group norm"},
        **{**columns, **changes},
    )


class Reader(HTMLParser):
    """Collects what the tests ask about, and refuses tags that are not closed."""

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.figures: list[set[str]] = []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values[name] for name in ("href", "src", "xlink:href", "action", "data") if name in values]
        if tag == "figure":
            self.figures.append(set())
        elif "figure" in self.open:
            self.figures[-1].add(tag)
        if tag == "svg":
            assert values["role"] == "img"
            assert len(values["aria-label"]) > 60
        if tag not in VOID | OPTIONAL:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID | OPTIONAL:
            assert self.open.pop() == tag


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def everything() -> str:
    """A page with every figure there is and a table."""
    numbers = np.array([np.nan, 2.0, 10.0, np.nan, 1.0])
    wide = {f"a_column_of_a_long_name_{i}": numbers for i in range(20)}
    table = Table("Numbers", {"block": np.arange(5), "name": ["a", "b", "<c>", "d", "e"], "x": numbers, **wide})
    sections = [Section("All", "Text with <angles> & more.", example_figures(9)), Section("Table", tables=[table])]
    return render_page(Page("A <page>", {"key": "a & b"}, ["One sentence."], sections))


def test_the_page_stands_alone(everything):
    reader = read(everything)
    outside = [link for link in reader.links if not link.startswith(("#", "data:image/png;base64,"))]
    assert outside == []
    assert re.findall(r"""url\((?!#)[^)]*\)|@import|https?://""", everything) == []
    assert "default-src 'none'" in everything


def test_names_are_unique_and_links_lead_somewhere(everything):
    reader = read(everything)
    assert len(set(reader.ids)) == len(reader.ids)
    local = {link[1:] for link in reader.links if link.startswith("#")}
    local |= set(re.findall(r"url\(#([^)]+)\)", everything))
    local |= set(re.findall(r'aria-labelledby="([^"]+)"', everything))
    assert local <= set(reader.ids)


def test_every_figure_has_a_headline_a_picture_and_a_caption(everything):
    reader = read(everything)
    assert len(reader.figures) == 15
    assert all({"h3", "svg", "figcaption"} <= tags for tags in reader.figures)


def test_colours_are_the_page_s(everything):
    svg = "".join(re.findall(r"<svg.*?</svg>", everything, flags=re.DOTALL))
    assert set(re.findall(r"#[0-9a-f]{6}\b", re.sub(r"data:[^\"]*", "", svg))) <= {"#ffffff"}
    defined = set(re.findall(r"(--[a-z]+):", everything))
    assert set(re.findall(r"var\((--[a-z]+)\)", everything)) <= defined


def test_text_is_escaped(everything):
    assert "<angles>" not in everything
    assert "&lt;c&gt;" in everything
    assert '<html lang="en">' in everything


@pytest.mark.parametrize("blocks", [12, pytest.param(600, marks=pytest.mark.slow)])
def test_the_report_of_a_profile(tmp_path, blocks):
    path = write_profile_report(made_up(blocks), tmp_path, title="Depth", facts={"network": "made up"})
    text = path.read_text()
    assert len(text) < 2_000_000
    assert read(text).figures
    assert text.count("<tr><td") == blocks
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(FIGURES)
    for picture in tmp_path.glob("*.png"):
        image = cv2.imread(str(picture))
        assert image.std() > 5
        assert (image[0, 0] == 255).all()


def test_every_column_is_explained():
    assert set(MEANING) == set(made_up(3).columns())


def test_a_net_without_skips_is_told_so():
    nothing = np.full(4, np.nan)
    plain = made_up(
        4, skip_norm=nothing, branch_skip_cosine=nothing, skip_grad_norm=nothing, branch_grad_norm=nothing,
        update_norm=nothing,
    )  # fmt: skip
    text = render_page(Page("Plain", {}, summarize(plain), profile_sections(plain)))
    assert "Left out, having no values to draw: Angle between skip and branch." in text
    assert "no skips" in text
    assert "update_ratio" not in text


def test_the_summary_says_what_the_arrays_say():
    known = made_up(
        4,
        grad_norm=np.array([6.0, 4, 3, 2]),
        grad_norm_out=np.array([4.0, 3, 2, 1.5]),
        act_var=np.array([1.0, 2, 4, 0.5]),
        skip_norm=np.full(4, 2.0),
        branch_norm=np.full(4, 1.0),
        branch_grad_norm=np.ones(4),
        skip_grad_norm=np.full(4, 3.0),
        weight_norm=np.ones(4),
        update_norm=np.array([0.01, 0.02, 0.02, 0.08]),
        dead_units=np.array([0, 0.25, 0, 0]),
    )
    gradient, signal, branches, learning, dead = summarize(known)
    assert "block 0 is 4 times that at the output of the last block, 4 blocks later: it stays within" in gradient
    assert "by a factor of 1.414 per block" in gradient
    assert "1 behind block 0 and 0.5 behind the last: 0.5 times" in signal
    assert "0.5 times the size of the skip, and 10 % of the gradient" in branches
    assert "by 2 % of their size; from 1 % in block 0 to 8 % in block 3" in learning
    assert "In block 1, 25 %" in dead


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"grad_norm": np.array([np.inf, 1, 1])}, "1 of 3 blocks are not finite (first: block 0, stage1/block0)"),
        ({"grad_norm_out": np.zeros(3)}, "No gradient at all reaches the output of the last block"),
        ({"grad_norm": np.array([0.0, 1, 1])}, "No gradient at all is left at the input of block 0"),
        ({"act_var": np.zeros(3)}, "does not vary at all"),
        ({"branch_norm": np.zeros(3)}, "All branches give 0"),
        ({"grad_norm": np.array([1e-5, 1, 1]), "grad_norm_out": np.ones(3)}, "it fades on its way back"),
        ({"grad_norm": np.array([1e5, 1, 1]), "grad_norm_out": np.ones(3)}, "100,000 times"),
    ],
)
def test_the_summary_of_networks_in_trouble(changes, said):
    assert said in " ".join(summarize(made_up(3, **changes)))


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--virtual-time-budget=5000",
)
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium or google-chrome on this machine")

#: Runs in a page around the report, 390 pixels wide; says what it finds in attributes of its own root.
PROBE = """<!doctype html><meta charset="utf-8"><iframe src="report.html" style="width:390px;height:800px;border:0">
</iframe><script>
addEventListener("load", () => {
  const page = document.querySelector("iframe").contentDocument, say = document.documentElement.dataset;
  const root = page.documentElement;
  say.ready = root.dataset.ready;
  say.width = root.scrollWidth;
  say.outside = [...page.querySelectorAll("main *:not(.table *)")].filter(
    (node) => node.getBoundingClientRect().right > 391 && !node.closest("svg")).length;
  page.querySelector("details").open = true;
  say.opened = root.scrollWidth;
  say.focusable = page.querySelector(".table").tabIndex;
  const button = page.getElementById("theme"), colour = () => getComputedStyle(page.body).backgroundColor;
  const before = colour(); button.click();
  say.toggled = before !== colour() && root.dataset.theme;
  const head = page.querySelectorAll("th button")[2], column = () =>
    [...page.querySelectorAll("tbody tr")].map((row) => row.cells[2].textContent.trim()).join(" ");
  head.click(); say.rising = column(); head.click(); say.falling = column();
  say.fonts = Math.min(...[...page.querySelectorAll("svg text")].map((text) => text.getBoundingClientRect().height));
});
</script>"""


def browse(page: Path, tmp_path: Path, *flags: str) -> str:
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'browser'}", *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@in_a_browser
@pytest.mark.slow
def test_a_browser_runs_it_on_a_phone_s_width(everything, tmp_path):
    (tmp_path / "report.html").write_text(everything, encoding="utf-8")
    (tmp_path / "probe.html").write_text(PROBE, encoding="utf-8")
    dom = browse(tmp_path / "probe.html", tmp_path, "--dump-dom", "--allow-file-access-from-files")
    said = dict(re.findall(r'data-([a-z]+)="([^"]*)"', dom[: dom.index("<head")]))
    assert said["ready"] == "yes"
    assert (said["width"], said["opened"], said["outside"]) == ("390", "390", "0")
    assert said["toggled"] in ("dark", "light")
    assert said["rising"] == "1 2 10  "  # by size, what is missing last
    assert said["falling"] == "10 2 1  "
    assert said["focusable"] == "0"
    assert float(said["fonts"]) > 7


@in_a_browser
@pytest.mark.slow
def test_a_browser_draws_it_in_the_light_and_in_the_dark(everything, tmp_path):
    page = tmp_path / "report.html"
    page.write_text(everything, encoding="utf-8")
    shots = {}
    for scheme, number in (("light", 1), ("dark", 0)):
        shot = tmp_path / f"{scheme}.png"
        browse(
            page, tmp_path, f"--screenshot={shot}", "--window-size=900,1600",
            f"--blink-settings=preferredColorScheme={number}",
        )  # fmt: skip
        shots[scheme] = cv2.imread(str(shot)).astype(int)
    light, dark = shots["light"], shots["dark"]
    assert light[2, 2].min() > 240
    assert dark[2, 2].max() < 40
    card = slice(700, 1500), slice(60, 840)  # figures: their ink is dark on light, and light on dark
    assert light[card].min() < 60
    assert dark[card].max() > 200
    assert (np.median(light[card], axis=(0, 1)) > 200).all()
    assert (np.median(dark[card], axis=(0, 1)) < 60).all()


def test_a_folder_that_cannot_be_written(tmp_path):
    from resnet_jax.errors import RunError

    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write the report"):
        write_page(Page("A", {}, [], []), tmp_path / "file" / "folder")
