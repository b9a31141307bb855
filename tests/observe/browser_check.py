"""Opens report pages in headless Chromium and fails unless they are right: browser_check.py [--screenshots DIR] FOLDER|FILE...

For every page, at 1280 and 360 pixels, light and dark (prefers-color-scheme emulated through the DevTools protocol): no console message,
exception or network request; every chart drawn, with marks and pixels that are not background, inside its box; no horizontal
scrolling; and a page whose colour scheme is switched while it is open repaints its charts.
"""

import argparse
import base64
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import tempfile
import time

DEADLINE_SECONDS = float(os.environ.get("SWIFTBALANCER_WAIT_LIMIT_SECONDS", 120))
SIZES = {"desktop": 1280, "narrow": 360}

# Counted in the page: what each chart's canvas shows. The corner pixel is background.
INSPECT = """
(async () => {
  // A switched colour scheme is told to the page with the next frame.
  for (let i = 0; i < 2; ++i) await new Promise(requestAnimationFrame);
  await window.swiftbalancerReport.drawn();
  const marks = (mark) => mark.marktype !== 'group' ? (mark.role === 'mark' ? mark.items.length : 0)
      : mark.items.reduce((n, group) => n + group.items.reduce((m, inner) => m + marks(inner), 0), 0);
  const charts = window.swiftbalancerReport.charts.map((chart) => {
    const canvas = chart.element.querySelector('canvas');
    if (!canvas) return {id: chart.element.id, canvas: false, text: chart.element.textContent};
    const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', {willReadFrequently: true});
    copy.drawImage(canvas, 0, 0);
    const pixels = new Uint32Array(copy.getImageData(0, 0, canvas.width, canvas.height).data.buffer);
    let painted = 0;
    for (const pixel of pixels) painted += pixel !== pixels[0];
    const box = canvas.getBoundingClientRect(), parent = chart.element.getBoundingClientRect();
    return {id: chart.element.id, canvas: true, marks: marks(chart.result.view.scenegraph().root), painted,
            share: painted / pixels.length, background: pixels[0], width: box.width, height: box.height,
            overflow: box.right - parent.right};
  });
  return {charts, scroll: document.documentElement.scrollWidth, inner: window.innerWidth,
          dark: matchMedia('(prefers-color-scheme: dark)').matches,
          paper: getComputedStyle(document.body).backgroundColor, specs: document.querySelectorAll('script[data-chart]').length};
})()
"""


class Browser:
    """Chromium, spoken to over the pipe of its DevTools protocol."""

    def __init__(self, executable, profile):
        read_command, self._commands = os.pipe()
        self._answers, write_answer = os.pipe()
        # The protocol's pipe is on descriptors 3 and 4; the shell moves ours there.
        command = f'exec "$0" "$@" 3<&{read_command} 4>&{write_answer}'
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe",
                 "--no-first-run", "--hide-scrollbars", f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(["bash", "-c", command, executable, *flags], pass_fds=(read_command, write_answer),
                                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(read_command)
        os.close(write_answer)
        self._buffer = b""
        self._last_id = 0
        self._session = None
        self.events = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(domain + ".enable")

    def close(self):
        os.close(self._commands)
        os.close(self._answers)
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _next_message(self, deadline):
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(self._answers, 1 << 20) if ready else b""
            if not data:
                raise RuntimeError("chromium ended" if ready else f"chromium did not answer within {DEADLINE_SECONDS:g} s")
            self._buffer += data
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, **params):
        self._last_id += 1
        message = {"id": self._last_id, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            answer = self._next_message(deadline)
            if answer.get("id") != self._last_id:
                self.events.append(answer)
            elif "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']['message']}")
            else:
                return answer["result"]

    def open(self, url):
        self.call("Page.navigate", url=url)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next_message(deadline))

    def evaluate(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError("in the page: " + json.dumps(result["exceptionDetails"])[:500])
        return result["result"].get("value")

    def emulate(self, width, scheme):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.set_scheme(scheme)

    def set_scheme(self, scheme):
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self, path):
        image = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(image["data"]))


def complaints(events):
    """What the browser itself had to say against the page."""
    found = []
    for event in events:
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.consoleAPICalled":
            text = " ".join(str(a.get("value", a.get("description"))) for a in params["args"])
            found.append(f"console.{params['type']}: {text[:300]}")
        elif method == "Runtime.exceptionThrown":
            found.append("exception: " + json.dumps(params["exceptionDetails"])[:300])
        elif method == "Log.entryAdded":
            found.append(f"browser {params['entry']['level']}: {params['entry']['text'][:300]}")
        elif method == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if not url.startswith(("file:", "data:", "blob:", "about:")):
                found.append(f"network request: {url}")
    return found


def judge(state, width, scheme):
    found = []
    if state["inner"] != width or state["dark"] != (scheme == "dark"):
        found.append(f"the emulation did not take: {state['inner']} px, dark = {state['dark']}")
    if state["scroll"] > state["inner"]:
        found.append(f"the page scrolls sideways: {state['scroll']} > {state['inner']} px")
    if not state["charts"] or len(state["charts"]) != state["specs"]:
        found.append(f"{len(state['charts'])} charts for {state['specs']} specifications")
    for chart in state["charts"]:
        if not chart["canvas"]:
            found.append(f"{chart['id']}: no canvas ({chart['text'][:200]})")
        elif chart["marks"] < 1 or chart["painted"] < 200 or chart["share"] < 0.005:
            found.append(f"{chart['id']}: empty ({chart['marks']} marks, {chart['painted']} pixels)")
        elif chart["overflow"] > 1 or chart["width"] < 60:
            found.append(f"{chart['id']}: {chart['width']} px wide, {chart['overflow']} px out of its box")
    return found


def check_size(browser, page, size, schemes, screenshots):
    """Opens the page in one colour scheme, then switches to the other: every chart is painted anew on the new background."""
    width = SIZES[size]
    states, failures = [], []
    browser.events.clear()
    browser.emulate(width, schemes[0])
    browser.open(page.resolve().as_uri())
    for scheme in schemes:
        browser.set_scheme(scheme)
        states.append(browser.evaluate(INSPECT))
        found = judge(states[-1], width, scheme) + complaints(browser.events)
        browser.events.clear()
        failures += [f"{page.name}, {size}, {scheme}: {text}" for text in found]
        if screenshots:
            browser.screenshot(screenshots / f"{page.stem}.{size}.{scheme}.png")
    same = [c["id"] for c, d in zip(states[0]["charts"], states[1]["charts"]) if c.get("background") == d.get("background")]
    if states[0]["paper"] == states[1]["paper"] or same:
        failures.append(f"{page.name}, {size}: not repainted in {schemes[1]}: {same or 'the page'}")
    charts = states[0]["charts"]
    print(f"{page.name}, {size}: {len(charts)} charts, {sum(chart.get('marks', 0) for chart in charts)} marks")
    return failures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--screenshots", type=pathlib.Path, help="write a picture of every page, size and scheme there")
    parser.add_argument("pages", nargs="+", type=pathlib.Path, help="report pages, or a folder of them")
    arguments = parser.parse_args()
    executable = shutil.which("chromium")
    if executable is None:
        print("browser_check.py: chromium is not installed; run scripts/setup.sh --tests", file=sys.stderr)
        return 1
    pages = [page for entry in arguments.pages for page in (sorted(entry.glob("*.html")) if entry.is_dir() else [entry])]
    if not pages:
        print(f"browser_check.py: no pages in {arguments.pages}", file=sys.stderr)
        return 1
    failures = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(executable, profile)
        try:
            for page in pages:
                failures += check_size(browser, page, "desktop", ("light", "dark"), arguments.screenshots)
                failures += check_size(browser, page, "narrow", ("dark", "light"), arguments.screenshots)
        finally:
            browser.close()
    for failure in failures:
        print("FAIL " + failure)
    print(f"{len(pages)} pages, {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
