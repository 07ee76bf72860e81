"""The report in a real browser: it draws, its table works, it fits a phone, and it asks the network for nothing."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from fake_run import fake_run

from zarrmill.stages.report import report

BROWSER = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium installed (apt-get install chromium)")

PROBE = """
<script>
addEventListener("load", () => {
  const wide = document.documentElement.scrollWidth - innerWidth;
  const table = document.getElementById("table"), rows = () => table.tBodies[0].rows;
  const first = rows().length, shown = document.getElementById("shown").textContent;
  document.getElementById("on").click();
  const second = document.getElementById("shown").textContent;
  document.getElementById("outcome").value = "failed";
  document.getElementById("outcome").dispatchEvent(new Event("input"));
  const failed = rows().length;
  document.querySelector("[data-key=seconds]").click();
  const sorted = document.querySelector("[data-key=seconds]").parentElement.getAttribute("aria-sort");
  const find = document.getElementById("find");
  find.value = "Capacity"; find.dispatchEvent(new Event("input"));
  const asked = performance.getEntriesByType("resource").filter((one) => !one.name.startsWith("data:")).length;
  const probe = document.createElement("p");
  probe.id = "probe";
  probe.textContent = [wide, first, shown, second, failed, sorted, rows().length, asked].join("|");
  document.body.append(probe);
});
</script>
"""


def browse(page: Path, tmp_path: Path, *flags: str, size: str = "1280,3000") -> subprocess.CompletedProcess[str]:
    """Open a page without network and without a profile."""
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND", f"--window-size={size}"]
    return subprocess.run([*command, *flags, page.as_uri()], check=False, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of 60 products, of which 8 failed."""
    run = fake_run(tmp_path_factory.mktemp("run"), 60, n_failed=8, n_waiting=4)
    report(run.settings, workdir=run.workdir)
    return Path(run.state.report)


@pytest.mark.parametrize("size", ["1280,3000", "500,3000"])
def test_table_works_and_page_fits_the_window(page: Path, tmp_path: Path, size: str) -> None:
    probed = page.with_name(f"probed-{size[:3]}.html")
    probed.write_text(page.read_text().replace("</body>", f"{PROBE}</body>"))
    done = browse(probed, tmp_path, "--dump-dom", size=size)
    found = re.search(r'<p id="probe">([^<]*)</p>', done.stdout)
    assert found is not None, done.stderr[-2000:]
    wide, first, shown, second, failed, sorted_, named, asked = found[1].split("|")
    assert int(wide) <= 0, "the page scrolls sideways"
    assert (first, shown, second) == ("25", "1–25 of 60", "26–50 of 60")
    assert (failed, sorted_) == ("8", "descending")
    assert named == "2", "two of the failures are of class capacity"
    assert asked == "0", "the page asked for something beside itself"
    assert "CONSOLE" not in done.stderr, done.stderr[-2000:]


@pytest.mark.parametrize(("theme", "bright"), [("1", True), ("0", False)])
def test_page_is_drawn_light_and_dark(page: Path, tmp_path: Path, theme: str, bright: bool) -> None:
    from PIL import Image

    shot = tmp_path / "page.png"
    browse(page, tmp_path, f"--screenshot={shot}", f"--blink-settings=preferredColorScheme={theme}")
    with Image.open(shot) as image:
        assert image.size == (1280, 3000)
        grey = image.convert("L")
        corner = grey.getpixel((3, 3))
        colours = image.convert("RGB").resize((128, 300)).getcolors(maxcolors=128 * 300)
    assert isinstance(corner, int)
    assert (corner > 200) is bright
    assert colours is not None
    assert len(colours) > 300, "text, charts and pictures have many colours; an empty page has few"
