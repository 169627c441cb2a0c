"""`predict --video`: a mask a frame and the tinted video, killed and gone on, damaged, with sound."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fmbseg_jax import predict
from fmbseg_jax.inference.embedder import Towers
from labelgen.core.command import command
from tests.fmbseg_jax.test_predict import photo, small_run, weights

av = pytest.importorskip("av", reason="an optional extra; installed, it reads videos")
__all__ = ["small_run", "weights"]
FRAMES = 7


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Seven frames of 63 x 46 px, 5 a second, with sound."""
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as file:
        video, sound = file.add_stream("ffv1", rate=5), file.add_stream("pcm_s16le", rate=8000)
        video.width, video.height, video.pix_fmt = 63, 46, "bgr0"
        for i in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(np.asarray(photo(46, 63, seed=i)), format="rgb24")
            file.mux(video.encode(frame))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        silence.sample_rate, silence.pts = 8000, 0
        file.mux(sound.encode(silence))
        file.mux(sound.encode())
        file.mux(video.encode())
    return path


def predicted(run: Path, clip: Path, out: Path, *more: str) -> int:
    arguments = [f"--workdir={run}", f"--video={clip}", f"--out={out}", *more]
    return command(predict.main, predict.arguments(), arguments)


def test_a_mask_a_frame_and_the_tinted_video(small_run: Path, clip: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    assert predicted(small_run, clip, out) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert f"wrote 7 masks to {out}/masks/clip and {out}/clip.mp4; its sound is left out; next: look at {out}" in said
    (tmp_path / "photos").mkdir()
    for i in range(FRAMES):
        photo(46, 63, seed=i).save(tmp_path / f"photos/{i:06}.png")
    arguments = [f"--workdir={small_run}", f"--photos={tmp_path / 'photos'}", f"--out={tmp_path / 'photos-out'}"]
    assert command(predict.main, predict.arguments(), arguments) == 0
    for i in range(FRAMES):
        same = [np.asarray(Image.open(tmp_path / at / f"{i:06}.png")) for at in ("out/masks/clip", "photos-out/masks")]
        assert np.array_equal(*same)
    with av.open(str(out / "clip.mp4")) as file:
        stream = file.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
        assert (len(frames), stream.width, stream.height, float(stream.average_rate)) == (FRAMES, 62, 46, 5)
        tinted = np.asarray(Image.open(tmp_path / "photos-out/overlays/000003.jpg"))[:, :62].astype(int)
        assert np.abs(frames[3] - tinted).mean() < 12
    assert json.loads((out / "made_by.json").read_text())["masks"] == FRAMES
    assert sorted(json.loads((out / "classes.json").read_text())) == ["ball", "box"]


def test_killed_it_goes_on_at_the_frame(
    small_run: Path, clip: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    assert predicted(small_run, clip, tmp_path / "calm") == 0
    features, seen = Towers.features, []

    def failing(self: Towers, frame: Any) -> Any:
        seen.append(frame)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return features(self, frame)

    monkeypatch.setattr(Towers, "features", failing)
    assert predicted(small_run, clip, tmp_path / "out") == 130
    assert not (tmp_path / "out/clip.mp4").exists()
    assert predicted(small_run, clip, tmp_path / "out") == 0
    assert len(seen) == 1 + FRAMES and "wrote 4 masks" in (said := capsys.readouterr().out.splitlines()[-1])
    assert "; 3 masks were there already" in said
    calm, out = ({p.name: p.read_bytes() for p in (tmp_path / at).rglob("*.*[g4]")} for at in ("calm", "out"))
    assert calm == out and len(calm) == FRAMES + 1


def test_a_damaged_one_is_taken_up_to_there_and_others_are_refused(
    small_run: Path, clip: Path, tmp_path: Path, capsys: Any
) -> None:
    for name, content, message in (
        ("text.mp4", b"no video", "text.mp4: cannot be read as a video: "),
        ("gone.mp4", None, "gone.mp4: no such video"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        assert predicted(small_run, tmp_path / name, tmp_path / "none") == 2
        assert message in (error := capsys.readouterr().err) and "Traceback" not in error
    assert predicted(small_run, clip, tmp_path / "out") == 0
    clip.write_bytes(clip.read_bytes() + b"x")
    assert predicted(small_run, clip, tmp_path / "out") == 2
    assert "was made with bytes = " in capsys.readouterr().err
