"""Chromium without a window, and what a reader of a page does and sees."""

import base64
import json
import shutil
import time
from contextlib import contextmanager

import numpy as np

FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--force-color-profile=srgb")
MAP_LEFT, MAP_EDGE, MAP_BOTTOM = 38, 5, 30  # CSS pixels around the cells of the layer x head map


def missing():
    """Why no browser can be driven here, or ""."""
    names = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"{' and '.join(names)} not on PATH" if names else ""


@contextmanager
def chromium():
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(executable_path=shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


class Reader:
    """A page open in the browser."""

    def __init__(self, driver, path, width=1280, height=800, scheme="light", ratio=1):
        self.driver = driver
        metrics = {"width": width, "height": height, "deviceScaleFactor": ratio, "mobile": width < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.prefer(scheme)
        for kind in ("browser", "performance"):
            driver.get_log(kind)  # of the page before
        driver.get(path.as_uri())

    def prefer(self, scheme):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def until(self, script, *arguments):
        """Waits until a script's value is true; what changes, changes with the next frame."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if self.run(script, *arguments):
                return
            time.sleep(0.02)
        raise AssertionError(f"never true: {script} {arguments}; the log: {self.driver.get_log('browser')}")

    def ready(self):
        self.until("return document.documentElement.dataset.ready === 'true'")
        return self

    def settle(self):
        """Two frames: one that hears of a change, one after it."""
        self.driver.execute_async_script(
            "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()))"
        )
        return self

    def text(self, selector):
        return self.run("return document.querySelector(arguments[0]).textContent.toWellFormed()", selector)

    def head(self):
        return int(self.run("return document.getElementById('head').dataset.head"))

    def requests(self):
        """What was fetched since the page was opened."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]

    def click(self, selector):
        self.run("document.querySelector(arguments[0]).click()", selector)
        return self.settle()

    def press(self, *keys):
        from selenium.webdriver import ActionChains

        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()
        return self.settle()

    def point(self, selector, x, y, click=False):
        """Moves the mouse to CSS pixels from the left and top of an element."""
        from selenium.webdriver.common.actions.action_builder import ActionBuilder

        left, top = self.run(
            "const box = document.querySelector(arguments[0]).getBoundingClientRect(); return [box.left, box.top]",
            selector,
        )
        action = ActionBuilder(self.driver, duration=0)
        action.pointer_action.move_to_location(int(left + x), int(top + y))
        if click:
            action.pointer_action.click()
        action.perform()
        return self.settle()

    def map_cell(self, layer, head, layers, heads):
        """The middle of a head's cell, CSS pixels from the left and top of the map."""
        width, height = (
            self.run(f"return document.getElementById('map').client{name}") for name in ("Width", "Height")
        )
        across, down = (width - MAP_LEFT - MAP_EDGE) / heads, (height - MAP_BOTTOM - MAP_EDGE) / layers
        return MAP_LEFT + (head + 0.5) * across, MAP_EDGE + (layers - layer - 0.5) * down

    def pixels(self, selector, number=0):
        """A canvas as uint8 [height, width, 4]."""
        width, height, data = self.run(
            """const canvas = document.querySelectorAll(arguments[0])[arguments[1]];
            const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
            let text = "";
            for (let i = 0; i < data.length; i += 8192) text += String.fromCharCode(...data.subarray(i, i + 8192));
            return [canvas.width, canvas.height, btoa(text)]""",
            selector,
            number,
        )
        return np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)
