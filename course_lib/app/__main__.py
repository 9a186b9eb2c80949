"""Start the app: `python -m course_lib.app`. Prepares what is missing, then serves the page on this computer.

Visitors need the token of the printed address. They can move controls, and nothing else: the server passes on no
request to run code, and serves no file. Each has a process of their own.
"""

from __future__ import annotations

import argparse
import atexit
import importlib.util
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from course_lib.app.page import FOLDER
from course_lib.app.prepare import prepare, prepared_folder
from course_lib.errors import BadInput
from course_lib.files import ROOT
from data_scripts import PROFILES

NOTEBOOK = ROOT / "notebooks" / "apps" / "threshold.ipynb"
TEMPLATES = Path(__file__).with_name("template")
# Others want JupyterLab around them.
EXTENSIONS = ["@voila-dashboards/widgets-manager8", "@jupyter-widgets/jupyterlab-manager", "anywidget"]
IDLE_SECONDS = 1800  # a visitor's process that nobody uses ends after this time
START_SECONDS = 60


def settings(host: str, port: int, token: str, waiting: int) -> dict:
    """The server's settings, by the names of voila and jupyter_server.

    voila itself passes on only messages of widgets, never a request to run code; nothing of it is loosened here.
    """
    return {
        "Voila": {"ip": host, "port": port, "port_retries": 0, "token": token, "open_browser": False, "log_level": 40},
        "VoilaConfiguration": {
            "template": "learning_normal",
            "allow_template_override": "NO",
            "allow_theme_override": "NO",
            "file_allowlist": [],
            "extension_allowlist": EXTENSIONS,
            "preheat_kernel": waiting > 0,
            "default_pool_size": max(waiting, 1),
        },
        "MappingKernelManager": {"cull_idle_timeout": IDLE_SECONDS, "cull_interval": 600},
    }


def start(folder: Path, host: str, port: int, token: str, waiting: int = 1) -> subprocess.Popen:
    """Start the server over prepared scores.

    Args:
        folder: of the prepared scores.
        host, port: where to listen.
        token: what visitors have to know.
        waiting: how many pages are made in advance, so that the next visitor does not wait.

    Raises:
        BadInput: voila is not installed, or the port is taken.
    """
    if importlib.util.find_spec("voila") is None:
        raise BadInput("the app needs voila.", remedy="Run `pip install 'learning-normal[app]'`, or `make app`.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            cause = f"port {port} of {host} cannot be used ({error.strerror})."
            raise BadInput(cause, field="port", remedy="Choose another with --port.") from error
    private = tempfile.mkdtemp(prefix="app-")  # a token on the command line could be read by other users
    config = Path(private) / "voila.json"  # where voila looks for it, given JUPYTER_CONFIG_DIR
    config.write_text(json.dumps(settings(host, port, token, waiting)), encoding="utf-8")
    kernel = Path(private) / "profile_default" / "ipython_kernel_config.py"
    kernel.parent.mkdir()
    kernel.write_text("c.IPKernelApp.log_level = 40\n", encoding="utf-8")  # else a warning for each visitor
    environment = os.environ | {FOLDER: str(folder), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment |= {"JUPYTER_CONFIG_DIR": private, "IPYTHONDIR": private}  # not the lecturer's own settings
    paths = [str(TEMPLATES), os.environ.get("JUPYTER_PATH")]
    environment["JUPYTER_PATH"] = os.pathsep.join(path for path in paths if path)
    command = [sys.executable, "-m", "voila", str(NOTEBOOK)]
    server = subprocess.Popen(command, env=environment)
    atexit.register(shutil.rmtree, private, ignore_errors=True)
    return server


def wait_until_ready(server: subprocess.Popen, host: str, port: int, seconds: float = START_SECONDS) -> bool:
    """Whether the server answers within the time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        try:
            with socket.create_connection((host, port), timeout=2):
                return True
        except OSError:
            time.sleep(0.1)
    return False


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="The threshold explorer as a page for a lecture hall.")
    parser.add_argument("--data", default="atlas", help="atlas, stroke, or the folder of a prepared data set")
    parser.add_argument("--profile", default="quick", choices=PROFILES, help="how much of the atlas cohort")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other computers in; they need the token")
    parser.add_argument("--port", type=int, default=8866)
    parser.add_argument("--token", default="", help="what visitors have to know (default: a new one)")
    parser.add_argument("--waiting", type=int, default=1, help="pages that are made in advance")
    parser.add_argument("--prepare", action="store_true", help="score again, even if scores are there")
    arguments = parser.parse_args()
    try:
        folder = prepared_folder(arguments.data, arguments.profile)
        if arguments.prepare or not (folder / "meta.json").exists():
            print("Preparing the scores; the next start takes seconds.", flush=True)
            prepare(arguments.data, arguments.profile)
        token = arguments.token or secrets.token_urlsafe(16)
        server = start(folder, arguments.host, arguments.port, token, arguments.waiting)
    except BadInput as error:
        sys.exit(f"{error}")
    host = "127.0.0.1" if arguments.host == "0.0.0.0" else arguments.host
    threading.Thread(target=_announce, args=(server, host, arguments.port, token), daemon=True).start()
    try:
        sys.exit(server.wait())
    except KeyboardInterrupt:
        server.terminate()
        server.wait()


def _announce(server: subprocess.Popen, host: str, port: int, token: str) -> None:
    if wait_until_ready(server, host, port):
        print(f"The app is at http://{host}:{port}/?token={token}\nStop it with Ctrl-C.", flush=True)


if __name__ == "__main__":
    main()
