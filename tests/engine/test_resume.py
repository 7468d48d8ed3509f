"""A training that was killed goes on exactly; damaged folders are resumed from what is whole in them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage

from pentamask.checkpoint.loader import CheckpointError
from pentamask.engine.load_config import load_config
from pentamask.engine.resume import complete_last_line
from pentamask.engine.trainer import Trainer

SCRIPT = Path(__file__).parents[2] / "dev" / "kill_and_resume.py"
NAMES = [f"{name}_R_50_thin" for name in ("BlendMask", "CenterMask_Lite", "YOLACT", "MaskRCNN", "PanopticSegFormer")]
OPTIONS = {
    "SEED": 1,
    "SOLVER.CHECKPOINT_PERIOD": 2,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.STEPS": "()",
    "INPUT.MIN_SIZE_TRAIN": "(64,)",
}


def test_killed_trainings_go_on_exactly(shapes: str) -> None:
    """Each model, with two loader workers: killed at some moment, and while a checkpoint is half written."""
    command = [sys.executable, str(SCRIPT), "--models", *NAMES, "--kills", "1", "--kills-in-save", "1"]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()[2:]]
    assert [row[0] for row in rows] == NAMES
    for _, _, kills_in_save, failures, difference in rows:
        assert (kills_in_save, failures) == ("1", "0") and float(difference) <= 1e-6


@pytest.fixture(scope="module")
def finished(shapes: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoints of a training of four iterations."""
    folder = tmp_path_factory.mktemp("finished")
    trainer = Trainer(config(folder))
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert {f.name for f in folder.glob("*.pth")} == {f"model_{n}.pth" for n in ("0000001", "0000003", "final")}
    return folder


def config(folder: Path, **options: object) -> CfgNode:
    options = {**OPTIONS, "SOLVER.MAX_ITER": 4, "DATALOADER.NUM_WORKERS": 0, **options}
    options |= {"OUTPUT_DIR": folder, "MODEL.DEVICE": "cpu", "DATASETS.TEST": "()"}
    return load_config("configs/shapes/BlendMask_R_50_thin.yaml", [str(w) for item in options.items() for w in item])


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    for file in finished.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
            os.utime(tmp_path / file.name, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    return tmp_path


def start_iteration(folder: Path, **options: object) -> int:
    trainer = Trainer(config(folder, **options))
    trainer.resume_or_load(resume=True)
    return trainer.start_iter


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_the_newest_whole_checkpoint_is_found(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert start_iteration(folder) == 4
    for damage in (Path.unlink, lambda path: path.write_text(""), lambda path: path.write_text("gone.pth")):
        damage(folder / "last_checkpoint")
        assert start_iteration(folder) == 4
    assert "is missing: looking" in caplog.text and "is empty: looking" in caplog.text
    assert "names a file that is not there" in caplog.text
    cut(folder / "model_final.pth")
    cut(folder / "model_0000003.pth")
    assert start_iteration(folder) == 2
    assert "Resuming from" in caplog.text and "model_0000003.pth was not loaded" in caplog.text


def test_a_checkpoint_chosen_by_hand_is_used(folder: Path) -> None:
    (folder / "last_checkpoint").write_text("model_0000001.pth")
    assert start_iteration(folder) == 2
    os.utime(folder / "last_checkpoint", (0, 0))  # a process that died between file and note
    assert start_iteration(folder) == 4


def test_nothing_that_can_be_resumed_is_an_error(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="another optimizer"):
        start_iteration(folder, **{"SOLVER.OPTIMIZER": "ADAMW", "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "full_model"})
    for file in folder.glob("*.pth"):
        torch.save({"model": torch.load(file)["model"]}, file)
    with pytest.raises(CheckpointError, match="has weights, but no state of the trainer.*--resume"):
        start_iteration(folder)


def test_a_missing_final_file_is_written(folder: Path) -> None:
    for damage in (cut, Path.unlink):
        damage(folder / "model_final.pth")
        trainer = Trainer(config(folder))
        trainer.resume_or_load(resume=True)
        trainer.train()
        assert torch.load(folder / "model_final.pth")["iteration"] == 3


def test_an_earlier_training_is_not_overwritten_in_silence(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = Trainer(config(folder))
    trainer.resume_or_load(resume=False)
    assert trainer.start_iter == 0 and "model_final.pth is of an earlier training" in caplog.text


def test_the_newest_and_the_best_are_kept(shapes: str, tmp_path: Path) -> None:
    class Scored(Trainer):
        scores = iter([0.2, 0.7, 0.5, 0.6])

        @classmethod
        def test(cls, *_: object) -> dict:
            return {"segm": {"AP": next(cls.scores)}}

    keep = {"SOLVER.CHECKPOINT_KEEP": 1, "SOLVER.CHECKPOINT_PERIOD": 1, "TEST.EVAL_PERIOD": 1}
    trainer = Scored(config(tmp_path, **keep, **{"SOLVER.BEST_METRIC": "segm/AP", "SOLVER.MAX_ITER": 3}))
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert {f.name for f in tmp_path.glob("*.pth")} == {"model_0000002.pth", "model_final.pth", "model_best.pth"}
    best = torch.load(tmp_path / "model_best.pth")
    assert (best["iteration"], best["best_metric"]) == (1, 0.7)
    trainer = Scored(config(tmp_path, **keep, **{"SOLVER.BEST_METRIC": "segm/AP"}))
    trainer.resume_or_load(resume=True)
    trainer.train()  # 0.6 is not better than before the resume
    assert trainer.start_iter == 3 and torch.load(tmp_path / "model_best.pth")["iteration"] == 1
    assert {f.name for f in tmp_path.glob("*.pth")} == {"model_0000003.pth", "model_final.pth", "model_best.pth"}


def test_a_full_disk_is_one_error_that_names_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(config(folder))
    before = (folder / "model_final.pth").read_bytes()

    def full(data: object, file: object) -> None:
        file.write(b"x" * 100)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with EventStorage(), pytest.raises(CheckpointError, match=r"Cannot write .*model_final.pth: .*No space left"):
        trainer.checkpointer.save("model_final")
    assert (folder / "model_final.pth").read_bytes() == before and not list(folder.glob("*.writing"))


def test_half_a_line_is_completed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    complete_last_line(str(path))
    for text, expected in (("", ""), ('{"a": 1}\n', '{"a": 1}\n'), ('{"a": 1}\n{"b', '{"a": 1}\n{"b\n')):
        path.write_text(text)
        complete_last_line(str(path))
        assert path.read_text() == expected
