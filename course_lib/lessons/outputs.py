"""What an executed notebook holds: errors hidden in widgets, and outputs made fit for a page or a commit."""

from __future__ import annotations

import re

from nbformat import NotebookNode

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
LARGE = 100_000  # characters of a widget's program
_STYLED = re.compile(r"\bT_[0-9a-f]{5,32}(?=[_\"\s])")  # pandas gives each styled table a random id
_ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}\b")


def all_outputs(notebook: NotebookNode) -> list[tuple[int, NotebookNode]]:
    """Every output, with the index of its cell."""
    return [(index, output) for index, cell in enumerate(notebook.cells) for output in cell.get("outputs", ())]


def find_errors(notebook: NotebookNode) -> list[str]:
    """Every exception in a notebook's outputs, and those inside widgets, which no runner notices."""
    found = [f"cell {i}: {_error(o)}" for i, o in all_outputs(notebook) if o["output_type"] == "error"]
    state = notebook.metadata.get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    hidden = [
        output
        for model in state.values()
        if model.get("model_name") == "OutputModel"
        for output in model["state"].get("outputs", ())
        if output["output_type"] == "error"
    ]
    return found + [f"inside a widget: {_error(output)}" for output in hidden]


def find_stderr(notebook: NotebookNode) -> list[str]:
    """What was written to stderr, the start of each piece with its cell."""
    written = [(i, o) for i, o in all_outputs(notebook) if o["output_type"] == "stream" and o["name"] == "stderr"]
    return [f"cell {i}: {o['text'].strip()[:200]}" for i, o in written]


def strip_widgets(notebook: NotebookNode) -> None:
    """Drop widget views and their state: a page without a kernel cannot show them."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if "outputs" in cell:
            cell["outputs"] = [output for output in cell["outputs"] if WIDGET_VIEW not in output.get("data", {})]


def drop_viewer_code(notebook: NotebookNode) -> bool:
    """Drop large programs and data of anywidgets from the stored state; whether there were any.

    The 3-D viewer's program alone has 5 MB, and it comes back when the notebook is run.
    """
    state = notebook.metadata.get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    large = [
        model
        for model in state.values()
        if model.get("model_module") == "anywidget" and len(model["state"].get("_esm", "")) > LARGE
    ]
    for model in large:
        del model["state"]["_esm"]
        model.pop("buffers", None)
    return bool(large)


def tidy(notebook: NotebookNode) -> None:
    """Make equal runs equal bytes: fixed ids, no addresses, times or versions, streams joined."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata = NotebookNode(kernelspec=NotebookNode(kernel), language_info=NotebookNode(name="python"))
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"c{index:02d}"
        cell["metadata"] = NotebookNode({"tags": cell["metadata"]["tags"]} if cell["metadata"].get("tags") else {})
        if "outputs" in cell:
            cell["outputs"] = _join_streams(cell["outputs"])
        for number, output in enumerate(cell.get("outputs", ())):
            _tidy_output(output, f"T_{index}_{number}")


def _tidy_output(output: NotebookNode, table_id: str) -> None:
    output.pop("transient", None)
    if "text" in output:
        output["text"] = _ADDRESS.sub("0x...", output["text"])
    data = output.get("data", {})
    if "text/plain" in data:
        data["text/plain"] = _ADDRESS.sub("0x...", data["text/plain"])
    if "text/html" in data:
        data["text/html"] = _STYLED.sub(table_id, data["text/html"])


def _join_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Neighbouring pieces of one stream as one: how a kernel cuts them depends on time."""
    joined: list[NotebookNode] = []
    for output in outputs:
        before = joined[-1] if joined else None
        if before and output["output_type"] == before["output_type"] == "stream" and output["name"] == before["name"]:
            before["text"] += output["text"]
        else:
            joined.append(output)
    return joined


def _error(output: NotebookNode) -> str:
    return f"{output['ename']}: {output['evalue']}"
