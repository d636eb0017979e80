"""What Windows and macOS lack is taken away here, one by one and all at once, and everything goes on."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
from test_architecture import FILES, SOURCE
from test_run import folder_of_images

from vaekit import system

# The law: who names what not every system has, and where

MODULES = {"fcntl", "msvcrt", "resource", "ctypes", "pwd", "grp", "termios", "tty", "pty", "posix", "winreg", "syslog"}
OF_OS = {
    "sysconf", "sysconf_names", "sched_getaffinity", "sched_setaffinity", "fork", "forkpty", "kill", "killpg", "getuid",
    "geteuid", "getgid", "setsid", "getpgid", "getsid", "nice", "mkfifo", "mknod", "statvfs", "fstatvfs", "uname",
    "getloadavg", "link", "symlink", "chown", "fchmod", "fchown", "posix_fadvise", "posix_fallocate", "sendfile",
    "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_SYNC", "O_DSYNC", "wait", "waitpid", "WNOHANG", "pipe2",
    "openpty", "ctermid", "fdatasync",
}  # fmt: skip
SIGNALS = {"SIGINT", "SIGTERM", "SIG_DFL", "SIG_IGN"}  # which every system has
PLACES = ("/proc", "/sys/", "/dev/", "/etc/", "/tmp")


def not_everywhere(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES | {"os", "signal"}:
            found.append(f"from {node.module} import …")  # so that the names below are seen
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            of, name = node.value.id, node.attr
            if (of == "os" and name in OF_OS) or (of == "signal" and name.startswith("SIG") and name not in SIGNALS):
                found.append(f"{of}.{name}")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(PLACES):
            found.append(node.value)
    return found


def vague_text(tree: ast.AST) -> list[str]:
    """Calls that open text in whatever encoding, or with whatever ends of lines, a system likes."""
    found = []
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute)):
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
        given = {keyword.arg for keyword in node.keywords}
        words = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        modes = [word for word in words if set(word) <= set("rwax+tb") and 0 < len(word) < 4] if name == "open" else []
        text = name in ("read_text", "write_text") or any("b" not in mode for mode in modes)
        writes = name == "write_text" or any(set(mode) & set("wax+") for mode in modes)
        needed = {"encoding"} | ({"newline"} if writes else set())
        if text and not needed <= given:
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_what_a_system_may_lack_is_named_in_one_place_and_text_says_its_encoding(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert vague_text(tree) == []
    if path != SOURCE / "system.py":
        assert not_everywhere(tree) == [], "give vaekit.system a function for it, with what is done where it is missing"


def test_the_law_sees_what_it_is_to_see():
    seen = "import fcntl\nos.sysconf('x')\nsignal.SIGHUP\nopen('/proc/meminfo')\nfrom os import fork"
    assert len(not_everywhere(ast.parse(seen))) == 5
    seen = "p.read_text()\np.write_text(t, encoding='utf-8')\nopen(p, 'w')\np.open('a', encoding='utf-8')"
    assert len(vague_text(ast.parse(seen))) == 4
    fine = "p.open('rb')\nImage.open(p)\np.write_text(t, encoding='utf-8', newline='')\ntar.open(p, 'r:gz')"
    assert vague_text(ast.parse(fine)) == [] == not_everywhere(ast.parse(fine + "\nsignal.SIGINT\nos.replace(a, b)"))


@pytest.mark.slow
def test_no_name_is_used_that_the_library_of_windows_lacks(tmp_path):
    command = [sys.executable, "-m", "mypy", "--platform", "win32", "--cache-dir", str(tmp_path), str(SOURCE)]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=SOURCE.parent.parent, check=False)
    assert answer.returncode == 0, answer.stdout


# One by one


def test_free_memory_is_known_without_the_names_that_macos_lacks(monkeypatch):
    assert system.free_memory() > 2**20
    whole = system._pages("SC_PHYS_PAGES")
    known = os.sysconf

    def of_macos(name):
        if name == "SC_AVPHYS_PAGES":
            raise ValueError("unrecognized configuration name")
        return known(name)

    monkeypatch.setattr(os, "sysconf", of_macos)
    assert system.free_memory() == whole // 2
    monkeypatch.delattr(os, "sysconf")  # Windows
    assert system.free_memory() == system.UNKNOWN_MEMORY
    monkeypatch.setattr(system, "_free_on_windows", lambda: 7)
    assert system.free_memory() == 7


def test_windows_is_asked_for_its_memory_in_its_own_words(monkeypatch):
    def answer(pointer):
        assert pointer._obj.length == 64  # of MEMORYSTATUSEX, as its documentation has it
        pointer._obj.free = 5 * 2**30
        return 1

    kernel = types.SimpleNamespace(GlobalMemoryStatusEx=answer)
    monkeypatch.setattr(system.ctypes, "windll", types.SimpleNamespace(kernel32=kernel), raising=False)
    assert system._free_on_windows() == 5 * 2**30


def test_cores_are_counted_without_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    assert system.cores() == os.cpu_count()
    assert system.usable_cores(Path("nowhere")) == os.cpu_count()


def test_a_folder_that_cannot_be_opened_is_not_synced(monkeypatch, tmp_path):
    def refuse(*arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    system.sync_folder(tmp_path)


@pytest.mark.parametrize("there", [True, False])
def test_a_run_is_held_by_windows_own_lock_and_by_none_where_there_is_none(monkeypatch, tmp_path, there):
    held = set()

    def locking(descriptor, mode, count):
        file = os.fstat(descriptor).st_ino
        if file in held:
            raise PermissionError(13, "Permission denied")
        held.add(file)

    monkeypatch.setattr(system, "fcntl", None)
    monkeypatch.setattr(system, "msvcrt", types.SimpleNamespace(locking=locking, LK_NBLCK=2) if there else None)
    with (tmp_path / ".lock").open("w") as one, (tmp_path / ".lock").open("w") as other:
        assert system.hold(one) and system.hold(other) is not there


def test_a_run_is_held_here_until_its_file_is_closed(tmp_path):
    with (tmp_path / ".lock").open("w") as one:
        assert system.hold(one)
        with (tmp_path / ".lock").open("w") as other:
            assert not system.hold(other)
    with (tmp_path / ".lock").open("w") as third:
        assert system.hold(third)


def test_a_file_that_cannot_be_taken_away_while_it_is_open_is_closed_first(monkeypatch, tmp_path):
    path, unlink = tmp_path / ".lock", os.unlink
    file = path.open("w")

    def of_windows(*arguments, **options):
        if not file.closed:
            raise PermissionError(13, "in use")
        unlink(*arguments, **options)

    monkeypatch.setattr(os, "unlink", of_windows)
    system.unlink_held(path, file)
    assert file.closed and not path.exists()


# All at once

WINDOWS = """
import os, shutil, signal, subprocess, sys
import torch, sklearn.datasets, matplotlib.pyplot, PIL.Image, scipy.linalg, pydantic  # not ours: they know Windows

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in {"fcntl", "resource", "termios", "pwd", "grp", "posix"}:
            raise ImportError(f"{name} is not on Windows")
sys.meta_path.insert(0, Refuse())
sys.modules.pop("fcntl", None)
for name in "sysconf sysconf_names sched_getaffinity fork O_NOFOLLOW O_DIRECTORY O_NONBLOCK getuid".split():
    delattr(os, name)
for name in ("SIGKILL", "SIGHUP", "SIGUSR1", "SIGALRM"):
    delattr(signal, name)
shutil._use_fd_functions = False
real = {name: getattr(os, name) for name in ("open", "unlink", "rename", "replace")}

def is_open(path):
    for number in os.listdir("/proc/self/fd"):
        try:
            if os.path.samefile(f"/proc/self/fd/{number}", path):
                return True
        except OSError:
            pass
    return False

def opened(path, *arguments, **options):
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", path)
    return real["open"](path, *arguments, **options)

def in_use(name, exists=False):
    def call(path, *others, **options):
        if is_open(path):
            raise PermissionError(13, "The process cannot access the file: in use", path)
        if exists and os.path.exists(others[0]):
            raise FileExistsError(17, "Cannot create a file when that file already exists", others[0])
        return real[name](path, *others, **options)
    setattr(os, name, call)

os.open = opened
in_use("unlink"); in_use("replace"); in_use("rename", exists=True)

from vaekit.cli.main import main
from vaekit import system
assert system.fcntl is None
data, run = sys.argv[1:]
options = ["data.size=8", "data.channels=1", "model.network={kind: mlp, widths: [4]}", "model.latent_dim=2"]
options += ["training.batch_size=8", "training.compile=off", f"data.path={data}"]
def does(*words, code=0):
    print("$", *words, flush=True)
    assert main(list(words)) == code, words
does("train", "folder", *options, "training.epochs=1", "--out", run)
does("train", "folder", *options, "training.epochs=1", "--out", run, code=7)
does("evaluate", run, "--samples", "2")
does("sample", run, "--sampler", "mixture", "--count", "2")
does("sample", run, "--sampler", "mixture", "--count", "3")
does("latents", run)
does("reconstruct", run, os.path.join(data, "odd", "01.png"))
does("train", run + "/config.yaml", "training.epochs=2", "--resume", "--out", run)
does("evaluate", run, "--samples", "2")
does("doctor", "folder", *options)
does("train", "folder", *options, "data.size=9", "model.latent={channels: 2, side: 4}", "--out", run + "2", code=2)
"""


@pytest.mark.slow
def test_a_python_without_what_windows_lacks_trains_evaluates_samples_and_resumes(tmp_path):
    data = folder_of_images(tmp_path / "images", 60)
    command = [sys.executable, "-c", WINDOWS, str(data), str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "LOGNAME": "me", "PYTHONPATH": str(SOURCE.parent)}
    answer = subprocess.run(command, capture_output=True, env=environment, check=False, timeout=300)
    said = (answer.stdout + answer.stderr).decode("cp1252")
    assert answer.returncode == 0, said
    for path in (tmp_path / "run").rglob("*"):
        assert path.suffix not in (".csv", ".json", ".yaml", ".log") or b"\r" not in path.read_bytes(), path


def test_output_of_another_encoding_loses_a_letter_and_ends_nothing():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(SOURCE.parent)}
    command = [sys.executable, "-m", "vaekit", "recipes"]
    answer = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert answer.returncode == 0, answer.stderr.decode()
    assert b"?" in answer.stdout and b"digits" in answer.stdout
