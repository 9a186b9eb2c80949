"""The app without a browser: its settings, its page, and what it refuses. `tests/browser` drives it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import time
import uuid

import nbformat
import numpy as np
import pandas as pd
import pytest
import requests
from nbclient import NotebookClient

from course_lib.app.__main__ import NOTEBOOK, settings, start, wait_until_ready
from course_lib.app.page import FOLDER
from course_lib.errors import BadInput
from course_lib.lessons.outputs import WIDGET_STATE, find_errors
from course_lib.lessons.run import kernel_config
from course_lib.metrics.scores import Scores
from course_lib.widgets.threshold import ThresholdState
from course_lib.widgets.threshold.store import save_state

TOKEN = "known-to-the-hall"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Prepared scores of a toy: 12 test slices, 4 validation slices."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("app") / "toy"

    def scores(persons, split, families):
        table = pd.DataFrame({"subject": [f"{split}{k}" for k in range(persons)], "slice": 0, "split": split})
        table["family"] = [families[k % len(families)] for k in range(persons)]
        masks = np.zeros((persons, 16, 16), bool)
        masks[(table["family"] != "healthy").to_numpy(), 5:8, 5:8] = True
        return Scores(rng.random(masks.shape) + masks, masks, np.ones(masks.shape, bool), table)

    test = scores(12, "test", ["ms", "healthy"])
    save_state(ThresholdState({"toy": test}, {"toy": scores(4, "val", ["healthy"])}, test.maps), folder)
    return folder


@pytest.fixture(scope="module")
def app(prepared):
    pytest.importorskip("voila")
    port = free_port()
    server = start(prepared, "127.0.0.1", port, TOKEN)
    assert wait_until_ready(server, "127.0.0.1", port)
    yield f"http://127.0.0.1:{port}"
    server.terminate()
    server.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def visit(address: str) -> requests.Session:
    """A visitor who knows the token."""
    visitor = requests.Session()
    visitor.page = visitor.get(f"{address}/?token={TOKEN}", timeout=120).text
    return visitor


def kernel_of(page: str) -> str:
    found = re.search(r'"kernelId": "([0-9a-f-]{36})"', page)
    assert found, "the page names no kernel"
    return found.group(1)


def test_the_page_runs_and_says_what_it_is_for(prepared, tmp_path):
    notebook = nbformat.read(NOTEBOOK, 4)
    client = NotebookClient(notebook, timeout=120, kernel_name="python3", config=kernel_config(str(tmp_path)))
    client.execute(env=os.environ | {FOLDER: str(prepared), "IPYTHONDIR": str(tmp_path)})
    assert find_errors(notebook) == []
    state = json.dumps(notebook.metadata["widgets"][WIDGET_STATE]["state"])
    assert "Research and teaching only, not for diagnosis" in state and "healthy FPR" in state


def test_the_page_needs_no_torch():
    code = (
        "import sys, course_lib.app.page; print([m for m in ('torch', 'seaborn', 'scipy.stats') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_by_default_it_listens_here_and_runs_nothing():
    made = settings("127.0.0.1", 1234, TOKEN, 1)
    assert made["Voila"]["ip"] == "127.0.0.1" and made["Voila"]["token"] == TOKEN
    assert made["VoilaConfiguration"]["file_allowlist"] == []
    assert "allowed_message_types" not in json.dumps(made)


def test_a_taken_port_is_said(prepared):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(BadInput, match="cannot be used"):
            start(prepared, "127.0.0.1", taken.getsockname()[1], TOKEN)


def test_without_the_token_there_is_no_page(app):
    stranger = requests.get(app, timeout=60)
    assert "kernelId" not in stranger.text and "widget-view" not in stranger.text
    assert "widget-view" in visit(app).page


def test_nothing_comes_from_the_network(app):
    page = visit(app).page
    loaded = re.findall(
        r'<(?:script|img)[^>]+src="(https?:[^"]+)|<link[^>]+rel="stylesheet"[^>]+href="(https?:[^"]+)', page
    )
    assert [url for pair in loaded for url in pair if url] == []


@pytest.mark.parametrize("place", ["/voila/files/threshold.ipynb", "/voila/files/page.py", "/api/contents", "/lab"])
def test_no_file_is_served(app, place):
    answer = visit(app).get(f"{app}{place}", timeout=60)
    assert "course_lib" not in answer.text or answer.status_code >= 400


def test_a_request_to_run_code_is_not_passed_on(app, tmp_path):
    from tornado.httpclient import HTTPRequest
    from tornado.websocket import websocket_connect

    visitor, target = visit(app), tmp_path / "written"
    header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "session": "x", "username": "", "version": "5"}
    content = {"code": f"open({str(target)!r}, 'w')", "silent": False, "store_history": False}
    message = {"channel": "shell", "header": header, "parent_header": {}, "metadata": {}, "content": content}
    cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in visitor.cookies)
    url = f"{app.replace('http', 'ws')}/api/kernels/{kernel_of(visitor.page)}/channels"

    async def ask() -> list[str]:
        socket_ = await websocket_connect(HTTPRequest(url, headers={"Cookie": cookies}))
        await socket_.write_message(json.dumps(message))
        kinds, end = [], time.monotonic() + 2
        while time.monotonic() < end:
            try:
                kinds.append(await asyncio.wait_for(socket_.read_message(), 0.5))
            except TimeoutError:
                continue
        socket_.close()
        return [str(kind) for kind in kinds]

    said = asyncio.run(ask())
    assert not target.exists()
    assert not any("execute_reply" in text or "execute_input" in text for text in said)


def test_without_voila_the_command_says_what_to_install(prepared, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"learning-normal\[app\]"):
        start(prepared, "127.0.0.1", free_port(), TOKEN)
