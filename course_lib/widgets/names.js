// Names for those who hear the page. ipywidgets' sliders are handles without a name, and its images without a text:
// each handle gets the text of its label and of its readout, each picture the sentence that stands beside it.

function set(element, attribute, text) {
  if (element.getAttribute(attribute) !== text) element.setAttribute(attribute, text);
}

function name(root) {
  for (const handle of root.querySelectorAll(".noUi-handle")) {
    const slider = handle.closest(".widget-inline-hbox");
    const label = slider?.querySelector(".widget-label");
    const readout = slider?.querySelector(".widget-readout");
    if (label) set(handle, "aria-label", label.textContent);
    if (readout) set(handle, "aria-valuetext", readout.textContent);
  }
  for (const picture of root.querySelectorAll(".ln-picture")) {
    const image = picture.querySelector("img");
    const says = picture.querySelector(".ln-says");
    if (image && says) set(image, "alt", says.textContent);
  }
}

function render({ el }) {
  el.style.display = "none";
  let observer;
  const start = () => {
    const root = el.closest(".ln-explorer");
    if (!root) {
      waiting = requestAnimationFrame(start); // not on the page yet
      return;
    }
    name(root);
    observer = new MutationObserver(() => name(root));
    observer.observe(root, { subtree: true, childList: true, characterData: true, attributeFilter: ["aria-valuetext"] });
  };
  let waiting = requestAnimationFrame(start);
  return () => {
    cancelAnimationFrame(waiting);
    observer?.disconnect();
  };
}

export default { render };
