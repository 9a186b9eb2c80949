"""What a visitor does: keys, mouse, lists; and how long it takes until the picture has changed."""

from __future__ import annotations

import statistics

# Resolves with the milliseconds from the key press (or mouse move) to a new picture that is decoded, or a new table.
WATCH = """
(root) => {
  let start = performance.now();
  const now = () => { start = performance.now(); };
  for (const kind of ["keydown", "mousedown", "change"]) {
    window.addEventListener(kind, now, { capture: true, once: true });
  }
  const images = [...root.querySelectorAll("img")].filter((image) => image.offsetParent);
  const before = images.map((image) => image.src), table = root.querySelector("table")?.innerText;
  window.lnChanged = new Promise((resolve) => {
    const done = () => resolve(performance.now() - start);
    const observer = new MutationObserver(() => {
      const k = images.findIndex((image, i) => image.src !== before[i]);
      if (k >= 0) { observer.disconnect(); images[k].decode().then(done, done); }
      else if (root.querySelector("table")?.innerText !== table) { observer.disconnect(); done(); }
    });
    observer.observe(root, { subtree: true, childList: true, attributes: true, characterData: true });
    setTimeout(() => { observer.disconnect(); resolve(NaN); }, 2000);
  });
}
"""


class Explorer:
    """One explorer on a page.

    Args:
        page: of playwright.
        number: which of the page's explorers.
    """

    def __init__(self, page, number: int = 0):
        self.page = page
        self.root = page.locator(".ln-explorer").nth(number)
        self.root.wait_for(timeout=60_000)
        self.root.locator(".noUi-handle").first.wait_for(timeout=60_000)
        page.wait_for_timeout(800)

    def sliders(self) -> list[str]:
        """The names of the sliders that can be moved, as a screen reader says them."""
        handles = self.root.locator(".noUi-target:not([disabled]) .noUi-handle").all()
        return [handle.get_attribute("aria-label") for handle in handles if handle.is_visible()]

    def handle(self, name: str):
        """A slider's handle."""
        return self.root.get_by_role("slider", name=name, exact=True)

    def press(self, name: str, key: str) -> float:
        """Press a key on a slider; returns the milliseconds until the page has changed, NaN if it did not."""
        handle = self.handle(name)
        handle.focus()
        return self._timed(lambda: handle.press(key))

    def drag(self, name: str, share: float) -> float:
        """Drag a slider's handle to a share of its track; milliseconds from the button's press to the first change."""
        handle = self.handle(name)
        handle.scroll_into_view_if_needed()
        box = handle.locator("xpath=ancestor::div[contains(@class,'noUi-base')]").bounding_box()
        at = handle.bounding_box()
        mouse = self.page.mouse

        def move():
            mouse.move(at["x"] + at["width"] / 2, at["y"] + at["height"] / 2)
            mouse.down()
            mouse.move(box["x"] + share * box["width"], at["y"] + at["height"] / 2, steps=4)
            mouse.up()

        return self._timed(move)

    def choose(self, name: str, option: str) -> float:
        """Choose from a list."""
        return self._timed(lambda: self.root.get_by_label(name, exact=True).select_option(label=option))

    def click(self, name: str) -> float:
        """Press a button."""
        return self._timed(lambda: self.root.get_by_role("button", name=name).click())

    def settle(self) -> None:
        """Wait until nothing has changed for a while."""
        self.page.wait_for_timeout(600)

    def cells(self) -> list[str]:
        """The texts of the table of numbers."""
        return [text.strip() for text in self.root.locator("table td, table th").all_inner_texts()]

    def readout(self, name: str) -> str:
        """What a slider says beside its track."""
        return self.handle(name).get_attribute("aria-valuetext")

    def chosen(self, name: str) -> str:
        """What a list stands at."""
        return (
            self.root.get_by_label(name, exact=True)
            .evaluate("list => list.selectedOptions[0]?.text ?? ''")
            .replace("\xa0", " ")
        )

    def errors(self) -> list[str]:
        """Tracebacks, and views that could not be made."""
        return self.root.locator(
            ".jp-RenderedText[data-mime-type*='error'], .jupyter-widgets-error-widget"
        ).all_inner_texts()

    def _timed(self, act) -> float:
        self.root.evaluate(WATCH)
        act()
        return self.page.evaluate("window.lnChanged")


def median(values: list[float]) -> float:
    """The median of what was measured."""
    return statistics.median(value for value in values if value == value)
