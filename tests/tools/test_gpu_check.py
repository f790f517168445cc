"""The command that checks a GPU: what it makes of its parts, its plans, its files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from dataset_files import write_mnist
from device.fixtures import absent_cupy, fake_cupy, requires_compiler
from gpu_job_of_tests import ROOT, TINY, cupy_of_children

from gpu import check, speed
from gpu import plan as gpu_plan
from gpu.check import Outcome
from gpu.job import Clock, Job, Row, attempt
from gpu.parts import images
from gpu.plan import Block, Part

__all__ = ["cupy_of_children"]  # a fixture of the tests below
cupy = fake_cupy  # under the name that the tests speak of


def test_images_are_those_of_the_folder(tmp_path: Path, gpu: None, capsys: pytest.CaptureFixture) -> None:
    """One that is absent or has a damaged MNIST is refused before anything is run; one without MNIST is named."""
    assert images(str(tmp_path))[0] == "digits"
    arguments = ["--only", "accuracy", "--minutes", "0", "--data-dir"]
    assert check.main([*arguments, str(tmp_path)]) == 1
    assert f"--data-dir {tmp_path}: has no MNIST; `accuracy` trains on digits" in capsys.readouterr().out
    write_mnist(tmp_path)
    name, dataset = images(str(tmp_path))
    assert (name, dataset.name) == ("mnist", "mnist")
    assert check.main([*arguments, str(tmp_path)]) == 1
    assert "has no MNIST" not in capsys.readouterr().out
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"damaged")
    for folder, message in (
        (tmp_path, "train-images-idx3-ubyte is not an IDX file"),
        (tmp_path / "absent", "absent does not exist"),
    ):
        assert check.main([*arguments, str(folder)]) == 2
        assert message in capsys.readouterr().err


# ---- the command --------------------------------------------------------------------------------------------------


def outcome(name: str, status: str = "passed") -> Outcome:
    return Outcome(name, status, rows=[{"what": "a", "value": 1.5, "ok": status == "passed"}], seconds=1.0)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that there is a GPU."""
    found = SimpleNamespace(name="gpu:0", describe=lambda: "gpu:0 (pretended)")
    monkeypatch.setattr(check, "make_backend", lambda device: found)


@requires_compiler
def test_the_command_on_the_fake_device(
    cupy: ModuleType, cupy_of_children: None, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A part that passes, one that fails, and one that crashes are told apart."""
    files = ["--json", str(tmp_path / "found.json"), "--markdown", str(tmp_path / "found.md")]
    job = replace(TINY, precisions=("float32", "float8"), images=(-1,))
    assert check.main(["--only", "machine,determinism,bandwidth", *files], job) == 1
    found = json.loads((tmp_path / "found.json").read_text())
    parts = {part["part"]: part for part in found["parts"]}
    statuses = {name: part["status"] for name, part in parts.items()}
    assert statuses == {"machine": "passed", "determinism": "failed", "bandwidth": "failed"}
    assert parts["determinism"]["reason"] == "1 of 2 rows failed"
    assert "the process ended with 1: ValueError: negative dimensions" in parts["bandwidth"]["reason"]
    assert "Traceback" in parts["bandwidth"]["output"]
    text = (tmp_path / "found.md").read_text()
    assert "| GPU | Fake GPU |" in text and "| `machine` | passed |  |" in text
    out = capsys.readouterr().out
    assert "unknown precision 'float8'" in out and "1 of 3 parts passed" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fake", "found.json", "found.md"]


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A part that finds a row and begins another, with a process of its own, and is never done."""
    script = tmp_path / "part.py"
    script.write_text(
        "import subprocess, sys, time\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        'row = \'{"part": "machine", "row": {"what": 1, "child": %d}}\' % child.pid\n'
        "print(row, '{\"part\": \"ma', sep='\\n', end='', flush=True)\n"
        "time.sleep(60)"
    )
    monkeypatch.setattr(check, "__file__", str(script))
    monkeypatch.setattr(check, "GRACE_SECONDS", 1.0)
    return script


def goes_on(process: int, seconds: float = 20.0) -> bool:
    """Whether a process still runs after so long: one that was killed may take a moment to end."""
    status, clock = Path(f"/proc/{process}/stat"), Clock(seconds)
    while status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z":
        if clock.left < 0:
            return True
        time.sleep(0.05)
    return False


def test_a_part_that_takes_too_long_is_stopped_with_what_it_found(part: Path, tmp_path: Path) -> None:
    with (tmp_path / "rows").open("w+") as file:
        check.add_line(file, {"block": "before"})
        found = check.run_part("machine", TINY, 10.0, file)
        check.add_line(file, {"part": "machine", "outcome": {}})
    assert (found.status, found.reason, [row["what"] for row in found.rows]) == ("failed", "stopped after 11 s", [1])
    assert not goes_on(found.rows[0]["child"])
    lines = (tmp_path / "rows").read_text().splitlines()
    assert [line[:15] for line in lines] == ['{"block": "befo', '{"part": "machi', '{"part": "ma', '{"part": "machi']


def test_after_an_error_of_the_gpu_another_process_does_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as there is time for one; each row is found once."""
    script = tmp_path / "part.py"
    script.write_text(
        "import os, sys\n"
        f"sys.path[:0] = {[str(ROOT / 'scripts'), str(ROOT / 'tests' / 'gpu')]}\n"
        "from functools import partial\n"
        "import gpu_job_of_tests\n"
        "from gpu import check, plan\n"
        "from gpu.job import attempt\n"
        "def work(what):\n"
        "    if what in 'bd':\n"
        "        sys.modules['cupy'] = gpu_job_of_tests.BROKEN\n"
        "        raise RuntimeError('illegal access')\n"
        "    return {'process': os.getpid(), 'ok': True}\n"
        "def find(job, clock):\n"
        "    yield {'what': 'head'}\n"
        "    for what in 'abcde':\n"
        "        yield attempt(clock, {'what': what}, partial(work, what))\n"
        "check.RESTART_SECONDS = float(os.environ['RESTART_SECONDS'])\n"
        "check.__file__, check.PARTS = __file__, {'machine': plan.Part(find, None)}\n"
        "sys.exit(check.main())\n"
    )
    monkeypatch.setattr(check, "__file__", str(script))
    job = replace(TINY, device="gpu:1")
    with (tmp_path / "rows").open("w+") as file:
        monkeypatch.setenv("RESTART_SECONDS", "1")
        found = check.run_part("machine", job, 120.0, file)
        monkeypatch.setenv("RESTART_SECONDS", "1000")
        stopped = check.run_part("machine", job, 120.0, file)
    assert [(row["what"], row.get("ok")) for row in found.rows] == [
        *(("head", None), ("a", True), ("b", False), ("c", True), ("d", False), ("e", True))
    ]
    assert len({row["process"] for row in found.rows if "process" in row}) == 3
    assert (found.status, found.reason) == ("failed", "2 of 6 rows failed")
    assert [row.get("left_out") for row in stopped.rows] == [*[None] * 3, *["the GPU is in an error since b"] * 3]


def test_what_was_found_stays_when_the_command_is_killed(part: Path, tmp_path: Path) -> None:
    """The process of the part writes its rows itself, into the file of its block."""
    found = tmp_path / "first-kernels.jsonl"
    command = (
        "import pathlib\n"
        "from gpu import check, job\n"
        f"check.__file__ = {str(part)!r}\n"
        "block = check.Block('kernels', ('machine', 'kernels'), 60)\n"
        f"check.run_blocks([block], job.Job(), lambda block: pathlib.Path({str(found)!r}), print)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT / "scripts"), str(ROOT)))}
    process = subprocess.Popen([sys.executable, "-c", command], env=environment, stdout=subprocess.DEVNULL)
    for _ in range(600):
        if found.exists() and '"row"' in found.read_text():
            break
        time.sleep(0.1)
    process.kill()
    process.wait()
    lines = found.read_text().splitlines()
    head, row = json.loads(lines[0]), json.loads(lines[1])["row"]
    try:
        assert (head["block"], head["seconds"], row["what"]) == ("kernels", 60, 1)
    finally:
        os.killpg(os.getpgid(row["child"]), signal.SIGKILL)


# ---- plans --------------------------------------------------------------------------------------------------------

BUDGET, VISIT, START_UP, FILES = 15 * 60, 330, 120, 8


@pytest.mark.parametrize("plan", gpu_plan.PLANS)
def test_a_visit_takes_five_minutes(plan: str) -> None:
    """By its limits; and what its parts are predicted to take fits into them."""
    blocks, job = gpu_plan.PLANS[plan], Job(timed=gpu_plan.PLAN_TIMED)
    assert sum(block.seconds for block in blocks) <= VISIT
    for block in blocks:
        predicted = sum(gpu_plan.PARTS[name].seconds(job) for name in block.parts)
        assert predicted <= block.seconds, block.name
    assert len(blocks) + 1 <= FILES


def test_both_visits_fit_into_the_time_of_a_machine() -> None:
    """Even if the last part of each block has to be stopped."""
    blocks = [block for plan in gpu_plan.PLANS.values() for block in plan]
    spent = sum(block.seconds + check.GRACE_SECONDS for block in blocks)
    assert spent + len(gpu_plan.PLANS) * START_UP <= BUDGET


def test_all_parts_fit_into_the_minutes_without_a_plan() -> None:
    assert sum(part.seconds(Job()) for part in gpu_plan.PARTS.values()) <= 60 * check.MINUTES


def test_the_seconds_of_a_part_grow_with_its_job() -> None:
    """Each figure of a job that the time depends on."""
    least = Job(precisions=("bf16",), networks=("lenet5",), classifiers=("lenet5",), timed=(("lenet5", 64),), rounds=1)
    for name, field in {
        **{"kernels": "precisions", "graph": "networks", "determinism": "precisions", "accuracy": "classifiers"},
        **{"steps": "timed", "tests": "test_workers"},
    }.items():
        more = replace(least, **{field: getattr(Job(), field) if field != "test_workers" else 1})
        assert gpu_plan.PARTS[name].seconds(more) > gpu_plan.PARTS[name].seconds(least), name
    assert gpu_plan.PARTS["steps"].seconds(replace(least, rounds=9)) > gpu_plan.PARTS["steps"].seconds(least)


def test_the_import_of_pytorch_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it takes longer than the first compilation, which goes on beside it."""
    before = gpu_plan.PARTS["steps"].seconds(Job())
    monkeypatch.setattr(speed, "IMPORT", speed.IMPORT + 10)
    assert gpu_plan.PARTS["steps"].seconds(Job()) == pytest.approx(before + 10)


def names_of(*arguments: str) -> dict[str, tuple[str, ...]]:
    options = check.parser().parse_args(arguments)
    return {block.name: block.parts for block in check.chosen(options)}


def test_what_a_plan_runs() -> None:
    assert names_of("--plan", "first", "--out", "x") == {
        "kernels": ("machine", "kernels"),
        "training": ("graph", "determinism"),
        "speed": ("bandwidth", "costs"),
        "tests": ("tests",),
    }
    second = {"steps": ("machine", "steps"), "accuracy": ("accuracy",), "sanitizer": ("sanitizer",)}
    assert names_of("--plan", "second", "--out", "x") == second
    mended = names_of("--plan", "second", "--out", "x", "--only", "graph,kernels", "--skip", "accuracy")
    assert mended == {"steps": ("machine", "steps"), "sanitizer": ("sanitizer",), "mended": ("kernels", "graph")}
    assert names_of("--only", "costs,kernels") == {"all": ("kernels", "costs")}


@pytest.mark.parametrize("plan", gpu_plan.PLANS)
def test_a_plan_leaves_a_file_of_each_block_and_one_of_tables(
    plan: str, gpu: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And its networks, unless others are named."""
    jobs = []

    def run_part(name: str, job: Job, seconds: float, file) -> Outcome:
        jobs.append(job)
        return outcome(name)

    monkeypatch.setattr(check, "run_part", run_part)
    (tmp_path / "mnist").mkdir()
    arguments = ["--plan", plan, "--out", str(tmp_path / "found"), "--data-dir", str(tmp_path / "mnist")]
    assert check.main([*arguments, *(["--only", "graph"] if plan == "second" else [])]) == 0
    blocks = [block.name for block in gpu_plan.PLANS[plan]]
    files = sorted(path.relative_to(tmp_path / "found").as_posix() for path in (tmp_path / "found").rglob("*"))
    assert files == sorted([*(f"{plan}-{name}.jsonl" for name in blocks), f"{plan}.md"])
    assert len(files) <= FILES
    assert {(job.timed, job.data_dir, job.precisions) for job in jobs} == {
        (gpu_plan.PLAN_TIMED, str(tmp_path / "mnist"), ("bf16", "tf32", "float32"))
    }
    lines = [json.loads(line) for line in (tmp_path / "found" / f"{plan}-{blocks[0]}.jsonl").read_text().splitlines()]
    assert lines[0]["block"] == blocks[0]
    assert lines[-1]["outcome"]["status"] == "passed"


def test_a_second_visit_leaves_what_the_first_found(
    gpu: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Another plan may use the folder; the same one may not."""
    monkeypatch.setattr(check, "run_part", lambda name, *_: outcome(name))
    for plan in gpu_plan.PLANS:
        assert check.main(["--plan", plan, "--out", str(tmp_path)]) == 0
    before = {path: path.read_text() for path in tmp_path.iterdir()}
    capsys.readouterr()
    for plan, name in (("first", "first-kernels.jsonl"), ("second", "second-steps.jsonl")):
        assert check.main(["--plan", plan, "--out", str(tmp_path)]) == 2
        message = f"--out {tmp_path}: has {name} of an earlier visit; name another folder"
        assert message in capsys.readouterr().err
    assert {path: path.read_text() for path in tmp_path.iterdir()} == before


def test_precisions_and_networks_can_be_named(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = []
    monkeypatch.setattr(check, "run_part", lambda name, job, *_: jobs.append(job) or outcome(name))
    assert check.main(["--only", "steps", "--precisions", "tf32,bf16", "--timed", "lenet5:64,vgg:32"]) == 0
    assert (jobs[0].precisions, jobs[0].timed) == (("tf32", "bf16"), (("lenet5", 64), ("vgg", 32)))


def test_a_part_that_fails_stops_no_other(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "run_part", lambda name, *_: outcome(name, "failed" if name == "graph" else "passed"))
    assert check.main(["--skip", "tests"]) == 1
    assert check.main(["--skip", "tests,graph"]) == 0


def test_the_parts_of_a_block_share_its_time(
    gpu: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """By what they are predicted to take."""
    clock, given = [0.0], {}
    monkeypatch.setattr(check.time, "monotonic", lambda: clock[0])

    def run(name: str, job: Job, seconds: float, file) -> Outcome:
        given[name] = seconds
        clock[0] += {"first": 10.0, "second": 87.5, "fourth": 1.0}[name]
        return outcome(name)

    shares = {"first": 1, "second": 2, "third": 1, "fourth": 9}
    parts = {name: Part(None, lambda job, share=share: share) for name, share in shares.items()}
    monkeypatch.setattr(check, "PARTS", parts)
    monkeypatch.setattr(check, "run_part", run)
    blocks = [Block("one", ("first", "second", "third"), 100.0), Block("two", ("fourth",), 30.0)]
    found = check.run_blocks(blocks, TINY, None, lambda _: None)
    assert given == pytest.approx({"first": 25.0, "second": 60.0, "fourth": 30.0}), "in a block, for those behind"
    assert [part.status for part in found] == ["passed", "passed", "skipped", "passed"]
    assert found[2].reason == "no time left of 100 seconds"
    monkeypatch.setattr(check, "run_blocks", lambda *_: found)
    assert check.main([]) == 1, "what was not begun may not work"
    assert "3 of 4 parts passed" in capsys.readouterr().out


def test_what_there_was_no_time_for_is_named() -> None:
    def never() -> Row:
        raise AssertionError

    assert attempt(Clock(0), {"network": "vgg"}, never) == {"network": "vgg", "left_out": "no time left"}
    found = check.judged(Outcome("steps", "", rows=[{"ok": True}, {"left_out": "no time left"}]), "")
    assert (found.status, found.reason) == ("passed", "1 of 2 rows left out")
    assert check.judged(Outcome("steps", ""), "").reason == "it found nothing"


def test_without_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with absent_cupy():
        assert check.main(["--json", str(tmp_path / "found.json")]) == 2
    assert "CuPy is not installed" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "kernel"], "unknown part 'kernel': did you mean 'kernels'"),
        (["--device", "cpu"], "--device cpu: expected a GPU (gpu:0), received cpu"),
        (["--json", "no/such/folder"], "cannot be written there; name a file in a folder that exists"),
        (["--plan", "first"], "--plan needs --out DIR, and has its own times"),
        (["--plan", "first", "--out", "x", "--only", "kernels"], "--only names what was mended, in --plan second"),
        (["--plan", "second", "--out", "x", "--minutes", "3"], "--plan needs --out DIR, and has its own times"),
        (["--out", "no/such/folder"], "--out no/such/folder: No such file or directory; name a folder in one that"),
        (["--precisions", "bf16,tf23"], "unknown precision 'tf23': did you mean 'tf32'"),
        (["--timed", "vgg"], "--timed vgg: expected a network and a batch size, such as vgg:512"),
        (["--timed", "vgh:512"], "unknown model 'vgh': did you mean 'vgg'"),
    ],
)
def test_wrong_options(arguments: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert check.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_files_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "found.json"
    file.write_text("before")

    def full(*_) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as context:
        context.setattr(check.os, "replace", full)
        with pytest.raises(OSError, match="no space"):
            check.write(file, "after")
    assert file.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]


def test_the_tables_go_between_the_marks(tmp_path: Path) -> None:
    file = tmp_path / "performance.md"
    assert check.document(file, "tables\n") == "tables\n"
    file.write_text("top\n<!-- gpu -->\n\nold\n\n<!-- end -->\nbottom\n")
    assert check.document(file, "new\n") == "top\n<!-- gpu -->\n\nnew\n\n<!-- end -->\nbottom\n"
    file.write_text("no marks\n")
    assert check.document(file, "tables\n") == "tables\n"


def test_tables() -> None:
    rows = [{"network": "vgg", "ms": 0.12345, "ok": True}, {"network": "a|b", "bytes": 1234567, "sha": "ab" * 32}]
    assert check.table(rows).splitlines() == [
        "| network | ms | bytes | sha | ok |",
        "| --- | --- | --- | --- | --- |",
        "| vgg | 0.123 |  |  | True |",
        "| a\\|b |  | 1,234,567 | abababababab |  |",
    ]
    assert check.plain(float("nan")) == "nan"
    assert (check.shown(True), check.shown(12345.6)) == ("True", "12,346")


def test_tables_say_what_a_precision_is() -> None:
    note = "In bf16 and tf32 the factors of matrix products are rounded"
    assert note in check.markdown([Outcome("steps", "passed", rows=[{"precision": "bf16"}])])
    assert note not in check.markdown([outcome("machine")])


def test_the_script_names_its_parts() -> None:
    assert set(check.PARTS) == {
        *("machine", "tests", "kernels", "graph", "determinism"),
        *("accuracy", "steps", "bandwidth", "costs", "sanitizer"),
    }
