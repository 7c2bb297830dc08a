"""A headless Chromium, spoken to in the DevTools protocol through a pipe: no package is needed."""

import base64
import json
import os
import select
import shutil
import subprocess
import time

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
PATIENCE_S = 60
OPTIONS = (
    *("--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu"),
    *("--no-first-run", "--disable-extensions", "--disable-background-networking"),
    *("--disable-dev-shm-usage", "--hide-scrollbars"),
)


class Browser:
    """One page of a browser, as a context manager; what goes wrong in it is kept."""

    def __init__(self, profile):
        self.profile, self.number, self.text = profile, 0, b""
        self.errors, self.requests, self.events = [], [], []

    def __enter__(self):
        to_browser, self.out = os.pipe()
        self.inn, from_browser = os.pipe()
        # The browser reads its descriptor 3 and writes 4, which a shell can name.
        words = [PROGRAM, *OPTIONS, f"--user-data-dir={self.profile}", "about:blank"]
        shell = f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}'
        self.process = subprocess.Popen(
            ["bash", "-c", shell, *words],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self.session = None
        pages = self.call("Target.getTargets")["targetInfos"]
        page = next(each["targetId"] for each in pages if each["type"] == "page")
        made = self.call("Target.attachToTarget", targetId=page, flatten=True)
        self.session = made["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        os.close(self.out)
        os.close(self.inn)

    def call(self, method, **params):
        """What a method of the protocol returns."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            found = self.next_message()
            if found.get("id") == self.number:
                assert "error" not in found, found
                return found["result"]

    def next_message(self):
        """The next answer or event; events are noted."""
        end = time.monotonic() + PATIENCE_S
        while b"\0" not in self.text:
            ready, *_ = select.select([self.inn], [], [], max(end - time.monotonic(), 0))
            assert ready, "the browser says nothing"
            part = os.read(self.inn, 2**16)
            assert part, "the browser has ended"
            self.text += part
        line, _, self.text = self.text.partition(b"\0")
        found = json.loads(line)
        method, params = found.get("method"), found.get("params", {})
        self.events.append(method)
        if method == "Runtime.exceptionThrown":
            self.errors.append(params["exceptionDetails"])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(params["entry"])
        elif method == "Runtime.consoleAPICalled":
            self.errors.append(params["args"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        return found

    def open(self, url, *, width=1200, height=900):
        """Load a page in a window of a size."""
        self.resize(width, height)
        self.events.clear()
        self.call("Page.navigate", url=url)
        while "Page.loadEventFired" not in self.events:
            self.next_message()

    def resize(self, width, height):
        """Give the window a size."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def emulate(self, media="", **features):
        """Show the page on paper or in dark."""
        pairs = [{"name": name.replace("_", "-"), "value": v} for name, v in features.items()]
        self.call("Emulation.setEmulatedMedia", media=media, features=pairs)

    def run(self, script):
        """The value of a JavaScript expression."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def mouse(self, kind, x, y):
        """Move or click the pointer."""
        click = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **click)

    def place(self, selector):
        """The middle of an element in the window, after it is scrolled there."""
        return self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect();"
            "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )

    def click(self, selector):
        """Click an element with the pointer."""
        for kind in ("mousePressed", "mouseReleased"):
            self.mouse(kind, *self.place(selector))

    def choose(self, selector, value):
        """Choose an option of a list."""
        self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            f"e.value = {json.dumps(value)}; e.dispatchEvent(new Event('change')); }})()"
        )

    def picture(self, path, *, whole=True):
        """Save what is seen, or the whole page."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))
