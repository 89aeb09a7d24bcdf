"""A training run as one HTML page: progress, diagnosis, curves, and samples of all milestones.

The page needs no other file. It reloads itself until training is complete.
"""
import base64
import io
import re
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Sequence

import numpy as np
from PIL import Image

from groundwork.files import write_text
from groundwork.images import open_image
from microdoppler.figures.report import Picture, render
from microdoppler.watch.run_settings import Finding

MAX_SIDE = 900          # pixels of a picture's longer side, so that a browser can hold MAX_PICTURES of them
MAX_PICTURES = 100      # sample pictures on the page, spread over the run
REFRESH_SECONDS = 20    # time after which the page reloads itself


@dataclass(frozen=True)
class Sample:
    """The sample picture of a milestone as the page embeds it; width and height in pixels."""
    milestone: int
    step: int
    data_uri: str
    width: int
    height: int


def find_samples(folder: Path, milestone_every: int, num_steps: int) -> list[Sample]:
    """The pictures folder/sample-<m>.png by rising milestone, at most MAX_PICTURES, spread over the run.

    A picture that cannot be read is left out: training may be moving it away at this moment.
    """
    found = {int(match[1]): path for path in folder.glob("sample-*.png")
             if (match := re.fullmatch(r"sample-([0-9]+)\.png", path.name))}
    chosen = np.array(sorted(found), dtype=int)
    if len(chosen) > MAX_PICTURES:
        chosen = chosen[np.linspace(0, len(chosen) - 1, MAX_PICTURES).round().astype(int)]
    samples = []
    for milestone in chosen.tolist():
        try:
            picture = _embed(found[milestone], found[milestone].stat().st_mtime_ns)
        except Exception:       # PIL raises many kinds of errors on a broken file
            continue
        samples.append(Sample(milestone, min(milestone * milestone_every, num_steps), *picture))
    return samples


@lru_cache(maxsize=MAX_PICTURES + 1)
def _embed(path: Path, modified: int) -> tuple[str, int, int]:
    """(data URI, width, height). `modified`, the file's time of change, makes the cache miss when the file is replaced.
    """
    with open_image(path) as image:
        image = image.convert("RGB")
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=75)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}", *image.size


def write_page(path: Path, *, folder: Path, progress: Sequence[str], findings: Sequence[Finding], verdict: str,
               samples: Sequence[Sample], plot: Path | None, is_complete: bool) -> None:
    """Write the page to `path`.

    progress: lines of text; verdict: shown when there are no findings; plot: image file of the curves. Unless
    is_complete, a browser that shows the page reloads it every REFRESH_SECONDS.
    """
    write_text(path, render(TEMPLATE, folder=folder, progress=progress, findings=findings, verdict=verdict,
                            samples=samples, plot=Picture(plot) if plot else None,
                            written=time.strftime("%Y-%m-%d %H:%M:%S %Z"),
                            refresh=None if is_complete else REFRESH_SECONDS))


# The step that the slider shows is stored in the address after the #, which survives reloading. When this page is
# embedded in another one (a notebook), its script must not reload the outer page: there the data-refresh attribute is
# missing, or the protocol is neither file: nor http(s):.
TEMPLATE = """<!DOCTYPE html>
<html lang="en"{% if refresh %} data-refresh="{{ refresh }}"{% endif %}>
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ progress[0] }} · {{ folder }}</title>
{% if refresh %}
<noscript><meta http-equiv="refresh" content="{{ refresh }}"></noscript>
{% endif %}
<style>
  :root { color-scheme: light dark; --text: #222; --quiet: #555; --line: #ddd; --back: #fff; --well: #18794e;
          --ill: #b42318; }
  @media (prefers-color-scheme: dark) {
    :root { --text: #e6e6e6; --quiet: #a8a8a8; --line: #444; --back: #161616; --well: #5fc992; --ill: #ff9286; }
    .plot { filter: invert(.91) hue-rotate(180deg); }
  }
  body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); max-width: 78rem;
         margin: 2rem auto; padding: 0 1rem; overflow-wrap: break-word; }
  h1 { font-size: 1.6rem; }
  h2 { margin-top: 2rem; border-bottom: 1px solid var(--line); font-size: 1.2rem; }
  .progress { list-style: none; padding: 0; font-variant-numeric: tabular-nums; }
  .progress li { margin-bottom: .2rem; }
  .finding { border-left: 4px solid var(--ill); padding-left: 1rem; max-width: 50rem; }
  .finding h3 { color: var(--ill); margin: 1rem 0 0; font-size: 1rem; }
  .finding dt { float: left; width: 5rem; color: var(--quiet); }
  .finding dd { margin: 0 0 .3rem 5rem; }
  .well { border-left: 4px solid var(--well); padding-left: 1rem; color: var(--well); }
  .time { display: flex; flex-wrap: wrap; gap: .3rem 1rem; align-items: center; }
  .time input { flex: 1 1 15rem; }
  .time output { min-width: 14rem; font-variant-numeric: tabular-nums; }
  figure { margin: 1rem 0; }
  img { max-width: 100%; height: auto; }
  figcaption, footer { color: var(--quiet); font-size: .9rem; }
</style>
</head>
<body>
<h1>Training in {{ folder }}</h1>
<ul class="progress">
{% for line in progress %}
<li>{{ line }}</li>
{% endfor %}
</ul>
<section>
<h2>Diagnosis</h2>
{% for finding in findings %}
<div class="finding">
<h3>{{ finding.name }}</h3>
<dl><dt>seen</dt><dd>{{ finding.seen }}</dd><dt>means</dt><dd>{{ finding.meaning }}</dd>
<dt>remedy</dt><dd>{{ finding.remedy }}</dd></dl>
</div>
{% else %}
<p class="well">{{ verdict }}</p>
{% endfor %}
</section>
<section>
<h2>Samples through time</h2>
{% if samples %}
<p class="time" hidden><label for="time">Training step</label>
<input id="time" type="range" min="0" max="{{ samples | length - 1 }}" value="{{ samples | length - 1 }}">
<output id="told" for="time"></output></p>
{% for sample in samples %}
<figure class="sample" data-step="{{ sample.step }}"
data-caption="step {{ sample.step }}, milestone {{ sample.milestone }}">
<img src="{{ sample.data_uri }}" width="{{ sample.width }}" height="{{ sample.height }}"
alt="Samples at step {{ sample.step }}, milestone {{ sample.milestone }}: a row per user, a real image first">
<figcaption>Step {{ sample.step }}, milestone {{ sample.milestone }}: a row per user, one real training image, one
synthetic image from the same noise at every milestone, then others.</figcaption>
</figure>
{% endfor %}
{% else %}
<p>No milestone yet.</p>
{% endif %}
</section>
{% if plot %}
<section>
<h2>Curves</h2>
<figure><img class="plot" src="{{ plot.data_uri }}"
alt="Loss, gradient norm, speed and the milestones' figures over the steps; what they say stands above"></figure>
</section>
{% endif %}
<footer>As of {{ written }}.
{% if refresh %}
It is read again every {{ refresh }} s.
{% else %}
Training is complete.
{% endif %}
</footer>
<script>
(() => {
  const seconds = Number(document.documentElement.dataset.refresh || 0);
  let timer = null;
  function refreshLater() {
    clearTimeout(timer);
    if (seconds && /^(file|https?):$/.test(location.protocol))
      timer = setTimeout(() => location.reload(), 1000 * seconds);
  }
  refreshLater();
  const slider = document.getElementById("time"), told = document.getElementById("told");
  if (!slider) return;
  const figures = [...document.querySelectorAll("figure.sample")], last = figures.length - 1;
  function show(place) {
    figures.forEach((figure, i) => { figure.hidden = i !== place; });
    slider.value = place;
    told.textContent = figures[place].dataset.caption + (place === last ? ", the newest" : "");
    slider.setAttribute("aria-valuetext", told.textContent);
  }
  function chosen() {     // -1: none, follow the newest
    return figures.findIndex(figure => location.hash === "#step=" + figure.dataset.step);
  }
  slider.closest(".time").hidden = false;
  slider.addEventListener("input", () => {
    const place = Number(slider.value);
    show(place);
    location.replace(place === last ? "#" : "#step=" + figures[place].dataset.step);
    refreshLater();       // not while it is being moved
  });
  addEventListener("hashchange", () => { show(chosen() < 0 ? last : chosen()); });
  show(chosen() < 0 ? last : chosen());
  if (chosen() >= 0) slider.focus({preventScroll: true});
})();
</script>
</body>
</html>
"""
