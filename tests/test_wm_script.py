"""`./wm` as a program: what it says, when it installs, and the settings its commands start with.

No test installs anything: its interpreter is a script that notes how it was called.
"""

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "17179869184", "MALLOC_TOP_PAD_": "268435456",
    "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "3000",
}  # fmt: skip
# Everything the script itself calls up to the point where it looks for Python.
TOOLS = ("bash", "cat", "cksum", "tr", "dirname")
FAKE_PYTHON = """#!/usr/bin/env bash
printf '<%s>' "$@" >>"$CALLS"
echo >>"$CALLS"
case "$1 ${2-}" in
  "-c import sys"*) exit "${UNSUITABLE:-0}" ;;
  "-m venv") mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
  "-m pip") exit "${PIP_FAILS:-0}" ;;
  "--version ") echo "Python 3.12.0" ;;
  *) env ;;
esac
"""

pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in TOOLS), reason=f"./wm needs {', '.join(TOOLS)}, not all of them are here"
)
glibc_only = pytest.mark.skipif(
    platform.system() != "Linux" or platform.libc_ver()[0] != "glibc",
    reason="./wm sets allocator and threads on Linux with glibc only",
)


@dataclass(frozen=True)
class Place:
    """A folder with an environment (or room for one), a fake interpreter and the notes of its calls."""

    folder: Path

    @property
    def venv(self) -> Path:
        return self.folder / "venv"

    @property
    def python(self) -> Path:
        return self.folder / "fake-python"

    @property
    def calls(self) -> list[str]:
        notes = self.folder / "calls"
        return notes.read_text().splitlines() if notes.exists() else []

    def stamps(self) -> list[str]:
        return sorted(path.name for path in self.venv.glob(".wm-installed-*"))

    def wm(self, *command: str, **environment: str | None) -> subprocess.CompletedProcess[str]:
        """Runs `./wm` from elsewhere with the fake interpreter and nothing of the tests' own environment.

        `environment` adds to that; None takes away.
        """
        own = {"PATH": os.environ["PATH"], "WM_VENV": str(self.venv), "PYTHON": str(self.python)}
        given = own | {"CALLS": str(self.folder / "calls")} | environment
        env = {name: value for name, value in given.items() if value is not None}
        return subprocess.run(
            [str(ROOT / "wm"), *command], cwd=self.folder, env=env, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip


def write_python(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(FAKE_PYTHON)
    path.chmod(0o755)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """No environment yet."""
    write_python(tmp_path / "fake-python")
    return Place(tmp_path)


def stamp(extras: str = "dev") -> str:
    """The name of the file that says what is installed: a checksum of both lists of packages and the extras."""
    content = b"".join((ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt"))
    done = subprocess.run(["cksum"], input=content + f"{extras}\n".encode(), capture_output=True, check=True)
    return ".wm-installed-" + "-".join(done.stdout.decode().split())


@pytest.fixture
def installed(place: Place) -> Place:
    """An environment that is up to date."""
    write_python(place.venv / "bin/python")
    (place.venv / stamp()).touch()
    return place


def exported(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """The environment that a command was run in."""
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)


def test_without_a_command_it_says_how_it_is_used(place: Place) -> None:
    done = place.wm()
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "wm: usage: ./wm python run.py experiment=NAME, or ./wm pytest\n"
    assert not place.venv.exists()


@pytest.mark.parametrize("named", ["no-such-python", "fake-python", None])
def test_without_a_suitable_python_it_says_which_it_needs(place: Place, named: str | None) -> None:
    tools = place.folder / "tools"
    tools.mkdir()
    for tool in TOOLS:
        (tools / tool).symlink_to(str(shutil.which(tool)))
    python = None if named is None else str(place.folder / named)
    done = place.wm("python", "run.py", PATH=str(tools), UNSUITABLE="1", PYTHON=python)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("wm: Python 3.11, 3.12 or 3.13 is needed and was not found; install one or name it:")
    assert len(place.calls) == (named == "fake-python"), "the one that is there was asked for its version"
    assert not place.venv.exists()


def test_an_environment_that_is_up_to_date_is_left_alone(installed: Place) -> None:
    before = sorted(installed.venv.rglob("*"))
    environment = exported(installed.wm("python", "run.py", "tags=[a, b]"))
    assert installed.calls == ["<run.py><tags=[a, b]>"]
    assert sorted(installed.venv.rglob("*")) == before
    assert environment["VIRTUAL_ENV"] == str(installed.venv)
    assert environment["PATH"] == f"{installed.venv}/bin:{os.environ['PATH']}"


def test_the_commands_exit_status_is_kept(installed: Place) -> None:
    assert installed.wm("bash", "-c", "exit 7").returncode == 7


@glibc_only
def test_commands_start_with_the_settings_of_allocator_and_threads(installed: Place) -> None:
    environment = exported(installed.wm("python", "run.py"))
    assert {name: environment.get(name) for name in SETTINGS} == SETTINGS


@glibc_only
@pytest.mark.parametrize("name", list(SETTINGS))
@pytest.mark.parametrize("value", ["12345", ""], ids=["value", "empty"])
def test_what_the_user_has_set_stays(installed: Place, name: str, value: str) -> None:
    environment = exported(installed.wm("python", "run.py", **{name: value}))
    assert {key: environment.get(key) for key in SETTINGS} == SETTINGS | {name: value}


def test_the_first_use_makes_the_environment_and_the_second_finds_it(place: Place) -> None:
    for _ in range(2):
        done = place.wm("python", "run.py")
        assert done.returncode == 0, done.stderr
    check, version, venv, pip, *commands = place.calls
    assert check.startswith("<-c><import sys;") and version == "<--version>"
    assert venv == f"<-m><venv><{place.venv}>"
    assert pip.startswith("<-m><pip><install>") and pip.endswith(f"<-c><{ROOT}/constraints.txt><-e><{ROOT}[dev]>")
    assert commands == ["<run.py>"] * 2
    assert place.stamps() == [stamp()]


def test_other_extras_are_installed_into_the_environment_that_is_there(installed: Place) -> None:
    done = installed.wm("python", "run.py", WM_EXTRAS="dev,doom")
    assert done.returncode == 0 and "bringing" in done.stderr
    pip, command = installed.calls
    assert pip.endswith(f"<-e><{ROOT}[dev,doom]>") and command == "<run.py>"
    assert installed.stamps() == [stamp("dev,doom")], "what was installed before is not taken for installed"


def test_an_installation_that_failed_is_tried_again(place: Place) -> None:
    for _ in range(2):
        done = place.wm("python", "run.py", PIP_FAILS="1")
        assert done.returncode == 1 and done.stderr.endswith(
            "wm: installation failed, see above; ./wm tries again next time\n"
        )
    assert sum(call.startswith("<-m><pip>") for call in place.calls) == 2
    assert "<run.py>" not in place.calls and place.stamps() == []
