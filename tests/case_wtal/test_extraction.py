"""Video to features: frame times, flow, I3D's size and names, odd files, and a second call that goes on."""

import json
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("av", reason="the extra `video` is not installed")
pytest.importorskip("cv2", reason="the extra `video` is not installed")

import av

from examples.case_wtal import cli
from examples.case_wtal.extraction import extract as extraction
from examples.case_wtal.extraction.extract import extract, extract_videos, snippets
from examples.case_wtal.extraction.flow import dense_flow, scale_flow, scale_rgb, to_grey
from examples.case_wtal.extraction.i3d import I3D, MIXED, max_pool, pad_same
from examples.case_wtal.extraction.video import at_rate, centre_crop, find_videos, read_frames
from examples.case_wtal.extraction.weights import fingerprint, load_i3d

TEXTURE = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
TEXTURE = TEXTURE.reshape(16, 4, 16, 4, 3)[:, :1, :, :1].repeat(4, 1).repeat(4, 3).reshape(64, 64, 3)


def picture(k, step=(2, 0), size=(256, 320)):
    """A textured square on grey that has moved k steps (right, down)."""
    frame = np.full((*size, 3), 90, np.uint8)
    x, y = 60 + k * step[0], 60 + k * step[1]
    frame[y : y + 64, x : x + 64] = TEXTURE
    return frame


def write_video(path, frames, rate=25, times=None, codec="mpeg4", sound=False):
    """Frames into a file; `times` in seconds for a variable rate."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = {"qscale": "2"}
        stream.codec_context.time_base = Fraction(1, 1000 if times is not None else rate)
        for k, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.time_base = stream.codec_context.time_base
            frame.pts = k if times is None else round(times[k] * 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


class MeanNet(torch.nn.Module):
    """Stands in for I3D where the network does not matter: mean over each clip, and its values at the ends."""

    def __init__(self):
        super().__init__()
        self.one = torch.nn.Parameter(torch.ones(()))

    def forward(self, clips):
        return torch.cat([clips.mean(dim=(2, 3, 4)), clips[:, :, 0].mean(dim=(2, 3))], dim=1) * self.one


@pytest.fixture
def networks():
    return {"rgb": MeanNet(), "flow": MeanNet()}


# I3D


def test_i3d_has_the_parameters_that_its_table_gives():
    def unit(before, after, volume):
        return before * after * volume + 2 * after  # kernel, scale and shift of the normalisation

    expected = unit(3, 64, 343) + unit(64, 64, 1) + unit(64, 192, 27)
    width = 192
    for a, b, c, d, e, f in MIXED.values():
        expected += unit(width, a, 1) + unit(width, b, 1) + unit(b, c, 27)
        expected += unit(width, d, 1) + unit(d, e, 27) + unit(width, f, 1)
        width = a + c + e + f
    assert width == 1024
    count = {c: sum(p.numel() for p in I3D(c).parameters()) for c in (2, 3)}
    assert count[3] == expected == 12_287_264
    assert count[3] + 1024 * 400 + 400 == 12_697_264  # with Kinetics' classifier: the 12.7 M that are quoted
    assert count[3] - count[2] == 64 * 343


def test_i3d_turns_clips_into_1024_features():
    torch.manual_seed(0)
    network = I3D(2).eval()
    with torch.no_grad():
        features = network(torch.randn(2, 2, 16, 64, 64))
    assert features.shape == (2, 1024)
    assert torch.isfinite(features).all()
    assert not torch.equal(features[0], features[1])


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pads"),
    [(224, 7, 2, (2, 3)), (112, 3, 2, (0, 1)), (7, 3, 1, (1, 1)), (14, 2, 2, (0, 0))],
)
def test_padding_puts_the_odd_zero_behind(size, kernel, stride, pads):
    padded = pad_same(torch.ones(1, 1, 1, 1, size), (1, 1, kernel), (1, 1, stride))[0, 0, 0, 0]
    assert (int((padded == 0)[: size // 2].sum()), int((padded == 0)[size // 2 :].sum())) == pads


@given(size=st.integers(1, 40), kernel=st.integers(1, 7), stride=st.integers(1, 3))
def test_padding_gives_as_many_windows_as_strides_begin(size, kernel, stride):
    pooled = max_pool(torch.ones(1, 1, size, 1, 1), (kernel, 1, 1), (stride, 1, 1))
    assert pooled.shape[2] == -(-size // stride)


# weights


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(1)
    return I3D(3).state_dict()


@pytest.mark.parametrize("old", [True, False])
def test_weights_of_the_circulating_form_load(state, old, tmp_path):
    """Files of 2018 have the classifier, but no counters of batches, and the old container."""
    saved = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    saved |= {"logits.conv3d.weight": torch.zeros(400, 1024, 1, 1, 1), "logits.conv3d.bias": torch.zeros(400)}
    torch.save(saved, tmp_path / "rgb.pt", _use_new_zipfile_serialization=not old)
    network = load_i3d(tmp_path / "rgb.pt", "rgb")
    assert not network.training
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert {"Conv3d_1a_7x7.conv3d.weight", "Mixed_3b.b0.bn.running_mean", "Mixed_5c.b3b.conv3d.weight"} <= saved.keys()


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("evil-was-here"),))


def test_weights_that_do_not_fit_are_refused_by_name(state, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "w.pt"

    def refuse(content, message, stream="rgb"):
        torch.save(content, path)
        with pytest.raises(ValueError, match=message):
            load_i3d(path, stream)

    renamed = {name.replace("Mixed_3b.b0.", "inception.3b."): value for name, value in state.items()}
    refuse(renamed, r"got .*w\.pt with 5 missing \(Mixed_3b.b0.bn.bias, .*\.\.\.\) and 5 unknown \(inception.3b")
    refuse(state, r"`weights` of stream 'flow' must take 2 channels, got .* for 3.*swapped", "flow")
    refuse(state | {"Mixed_3b.b0.bn.bias": torch.ones(3)}, "1 wrongly shaped .Mixed_3b.b0.bn.bias")
    refuse([1, 2], "must be a state dict of tensors, got .* with list")
    refuse({"x": Evil()}, r"must be a state dict of tensors, got .* holds code, which is never run")
    assert not (tmp_path / "evil-was-here").exists()
    path.write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(ValueError, match=r"must be a state dict of tensors, got .*w\.pt"):
        load_i3d(path, "rgb")
    with pytest.raises(ValueError, match="`stream` must be 'rgb' or 'flow', got 'depth'"):
        load_i3d(path, "depth")


# frame times


@given(frames=st.integers(1, 80), rate=st.sampled_from([5, 10, 25, 30, 50, 60, 120]))
def test_frames_are_those_nearest_to_each_25th_of_a_second(frames, rate):
    step = Fraction(1, rate)
    chosen = list(at_rate((k * step + 7, step, k) for k in range(frames)))
    assert len(chosen) == max(1, -(-frames * 25 // rate))
    for k, item in enumerate(chosen):
        distance = abs(item * step - Fraction(k, 25))
        assert distance == min(abs(i * step - Fraction(k, 25)) for i in range(frames))


def test_nothing_gives_nothing_and_a_lone_frame_gives_one():
    assert list(at_rate([])) == []
    assert list(at_rate([(Fraction(3), Fraction(0), "a")])) == ["a"]


def test_a_long_pause_holds_the_frame_before_it():
    times = [Fraction(0), Fraction(1, 25), Fraction(21, 25)]
    chosen = list(at_rate((time, Fraction(1, 25), i) for i, time in enumerate(times)))
    assert chosen == [0] + [1] * 11 + [2] * 10


# frames of files


def test_a_50_fps_video_gives_the_snippets_of_a_25_fps_one(tmp_path, networks):
    slow = write_video(tmp_path / "a.mp4", [picture(k) for k in range(50)])
    fast = write_video(tmp_path / "b.mp4", [picture(k // 2) for k in range(100)], rate=50)
    a, b = (extract(read_frames(path), networks) for path in (slow, fast))
    assert len(a["rgb"]) == len(b["rgb"]) == len(a["flow"]) == 50 // 16
    np.testing.assert_allclose(a["rgb"], b["rgb"], atol=0.01)  # compression


def test_variable_rate_follows_the_timestamps(tmp_path):
    brightness = [0, 60, 120, 180, 240]
    times = [0, 0.04, 0.4, 0.44, 0.8]
    frames = [np.full((64, 64, 3), value, np.uint8) for value in brightness]
    path = write_video(tmp_path / "v.mkv", frames, times=times)
    seen = [frame.mean() for frame in read_frames(path)][:20]
    for k in range(20):
        at = np.array(times) - k / 25
        expected = brightness[int(np.abs(at).round(6).argmin())]
        assert abs(seen[k] - expected) < 6


@pytest.mark.parametrize(("degrees", "corner"), [(0, (0, 0)), (90, (0, 1)), (180, (1, 1)), (270, (1, 0))])
def test_rotation_is_carried_out(tmp_path, degrees, corner):
    """The head of an MP4 track says how far to turn clockwise; a bright corner goes round."""
    frame = np.zeros((64, 96, 3), np.uint8)
    frame[:20, :20] = 255
    path = write_video(tmp_path / "r.mp4", [frame] * 5)
    cos, sin = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40  # version 0: 40 bytes before the matrix
    assert struct.unpack(">9i", content[at : at + 36]) == (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    content[at : at + 36] = struct.pack(">9i", *(v << 16 for v in (cos, sin, 0, -sin, cos, 0, 0, 0)), 1 << 30)
    path.write_bytes(content)
    seen = next(read_frames(path))[..., 0]
    height, width = seen.shape
    assert (height > width) == (degrees % 180 == 90)
    corners = [[seen[20, 20], seen[20, -20]], [seen[-20, 20], seen[-20, -20]]]
    assert np.argmax(corners) == 2 * corner[0] + corner[1]


@pytest.mark.parametrize(
    ("size", "expected"), [((64, 96), (256, 384)), ((480, 270), (455, 256)), ((300, 300), (256, 256))]
)
def test_the_short_side_becomes_256(tmp_path, size, expected):
    frame = np.zeros((size[0] // 2 * 2, size[1] // 2 * 2, 3), np.uint8)
    assert next(read_frames(write_video(tmp_path / "s.mp4", [frame]))).shape == (*expected, 3)


def test_red_is_the_first_channel(tmp_path):
    frame = np.zeros((64, 64, 3), np.uint8)
    frame[..., 0] = 255
    red, green, blue = next(read_frames(write_video(tmp_path / "s.mp4", [frame]))).mean(axis=(0, 1))
    assert red > 200
    assert max(green, blue) < 50


def test_the_crop_is_in_the_middle():
    frame = np.arange(6 * 9).reshape(6, 9)
    np.testing.assert_array_equal(centre_crop(frame, 4), frame[1:5, 2:6])


# snippets


@pytest.mark.parametrize(("frames", "count"), [(1, 1), (15, 1), (16, 1), (17, 1), (31, 1), (32, 2), (33, 2)])
def test_whole_snippets_count_and_a_short_video_has_one(frames, count):
    found = list(snippets((picture(k) for k in range(frames)), ("rgb", "flow")))
    assert len(found) == count
    assert all(s["rgb"].shape == (16, 224, 224, 3) and s["flow"].shape == (16, 224, 224, 2) for s in found)
    for k in range(min(frames, 16)):
        np.testing.assert_array_equal(found[0]["rgb"][k], scale_rgb(centre_crop(picture(k), 224)))
    stands_still = found[0]["flow"][frames - 1 :] if frames <= 16 else found[0]["flow"][:0]
    np.testing.assert_array_equal(stands_still, 0)


def test_flow_is_right_by_two_pixels_for_two_pixels_a_frame():
    found = next(snippets((picture(k) for k in range(17)), ("flow",)))["flow"] * 20
    # The square covers x = 60 + 2k .. 124 + 2k, y = 60 .. 124 of a frame cropped by 48 and 16.
    inside = np.stack([found[k, 54:98, 22 + 2 * k : 66 + 2 * k] for k in range(16)])
    np.testing.assert_allclose(inside.mean(axis=(1, 2)), [[2, 0]] * 16, atol=0.15)


def test_flow_points_down_for_downward_motion():
    before, after = (to_grey(picture(k, step=(0, 3))) for k in (0, 1))
    np.testing.assert_allclose(dense_flow(before, after)[70:115, 70:115].mean(axis=(0, 1)), [0, 3], atol=0.15)


def test_flow_needs_pixels():
    with pytest.raises(ValueError, match="`before` must have at least 16 pixels a side, got"):
        dense_flow(np.zeros((8, 40), np.uint8), np.zeros((8, 40), np.uint8))


def test_values_are_scaled_to_one():
    np.testing.assert_allclose(scale_flow(np.array([-50.0, -20, 0, 5, 30])), [-1, -1, 0, 0.25, 1])
    np.testing.assert_allclose(scale_rgb(np.array([0, 51, 255], np.uint8)), [-1, -0.6, 1], atol=1e-6)
    assert scale_flow(np.ones(1)).dtype == scale_rgb(np.ones(1)).dtype == np.float32


def test_batch_size_changes_nothing(networks):
    frames = [picture(k) for k in range(49)]
    one, many = (extract(frames, networks, batch_size=b) for b in (1, 4))
    for stream in one:
        np.testing.assert_allclose(one[stream], many[stream], atol=1e-6)


# many videos


def folder_of_videos(root):
    root.mkdir()
    good = write_video(root / "good.mp4", [picture(k) for k in range(40)])
    content = good.read_bytes()
    (root / "cut.mp4").write_bytes(content[: len(content) // 2])
    (root / "text.avi").write_text("no video")
    long = write_video(tmp := root / "broken.mkv", [picture(k) for k in range(75)])
    tmp.write_bytes(long.read_bytes()[: long.stat().st_size // 2])
    with av.open(str(root / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return root


def test_broken_videos_are_named_and_stop_no_other(tmp_path, networks):
    videos = find_videos([folder_of_videos(tmp_path / "videos")])
    result = extract_videos(videos, networks, tmp_path / "out")
    assert result.written == {"good": 2}
    assert result.failures.keys() == {"cut", "text", "broken", "sound"}
    for name in result.failures:
        assert str(videos[name]) in result.failures[name]
    assert "no pictures among them" in result.failures["sound"]
    assert "ends after" in result.failures["broken"]
    files = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert files == {"extraction.json", "rgb/good.npy", "flow/good.npy"}


def test_a_second_call_goes_on_where_the_first_was_killed(tmp_path, networks, monkeypatch):
    videos = {f"v{i}": write_video(tmp_path / f"v{i}.mp4", [picture(k) for k in range(33)]) for i in range(2)}
    whole = extraction._save

    def killed(array, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(extraction, "_save", killed)
    with pytest.raises(KeyboardInterrupt):
        extract_videos(videos, networks, tmp_path / "out")
    monkeypatch.setattr(extraction, "_save", whole)
    seen = []
    result = extract_videos(videos, networks, tmp_path / "out", report=lambda *args: seen.append(args), batch_size=1)
    assert result.written == {"v0": 2, "v1": 2}
    assert seen == [("v0", 1), ("v0", 2), ("v1", 1), ("v1", 2)]
    assert np.load(tmp_path / "out/rgb/v0.npy").shape == (2, 6)
    assert extract_videos(videos, networks, tmp_path / "out").skipped == ("v0", "v1")
    assert not list((tmp_path / "out").rglob("*.part"))


def test_features_of_different_weights_are_never_mixed(tmp_path, networks):
    extract_videos({}, {"rgb": MeanNet()}, tmp_path, weights={"rgb": "1"})
    extract_videos({}, networks, tmp_path, weights={"rgb": "1", "flow": "2"})
    said = json.loads((tmp_path / "extraction.json").read_text())
    assert (said["snippet_seconds"], said["weights"]) == (0.64, {"rgb": "1", "flow": "2"})
    assert "DIS" in said["flow"]
    with pytest.raises(ValueError, match="`out` must hold features made the same way, got"):
        extract_videos({}, networks, tmp_path, weights={"rgb": "1", "flow": "3"})
    (tmp_path / "extraction.json").write_text("{")
    with pytest.raises(ValueError, match="`out` must be a folder of this command, got a broken"):
        extract_videos({}, networks, tmp_path)
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, got 0"):
        extract_videos({}, networks, tmp_path, batch_size=0)


def test_videos_need_names_of_their_own(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.mp4").touch()
    (tmp_path / "a.avi").touch()
    with pytest.raises(ValueError, match=r"`videos` must have different names, got .*a\.avi and .*a\.mp4"):
        find_videos([tmp_path])
    with pytest.raises(ValueError, match=r"`videos` must hold .*got .*empty without any"):
        find_videos([tmp_path / "empty"])
    with pytest.raises(FileNotFoundError, match="`videos` must be files or folders, got"):
        find_videos([tmp_path / "none"])
    with pytest.raises(FileNotFoundError, match="`path` must be a video file, got"):
        next(read_frames(tmp_path / "none.mp4"))


def test_fingerprints_tell_files_apart(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "b").write_bytes(b"b")
    assert fingerprint(tmp_path / "a").startswith("e3b0c44298fc1c14")  # SHA-256 of nothing
    assert fingerprint(tmp_path / "b") != fingerprint(tmp_path / "a")


# command


def test_command_says_what_is_missing(tmp_path, capsys, monkeypatch):
    assert cli.main(["extract", str(tmp_path)]) == 2
    assert "`rgb_weights` or `flow_weights` must be given" in capsys.readouterr().err
    assert cli.main(["extract", "--rgb-weights", "w.pt"]) == 2
    assert "`videos` must be video files or folders of them, got nothing" in capsys.readouterr().err
    monkeypatch.setattr("examples.case_wtal.commands.extract.find_spec", lambda name: None)
    assert cli.main(["extract", str(tmp_path)]) == 2
    assert "must have PyAV to read videos, got none installed. Install the extra `video`" in capsys.readouterr().err


def test_command_extracts_lists_failures_and_exits_with_2(tmp_path, capsys, monkeypatch):
    torch.manual_seed(0)
    torch.save(I3D(2).state_dict(), tmp_path / "flow.pt")
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos/good.mp4", [picture(k) for k in range(16)])
    (tmp_path / "videos/bad.mp4").write_text("no video")
    arguments = ["extract", str(tmp_path / "videos"), "--flow-weights", str(tmp_path / "flow.pt")]
    arguments += ["--out", str(tmp_path / "out"), "--device", "cpu"]
    assert cli.main(arguments) == 2
    output = capsys.readouterr()
    words = " ".join(output.out.split())
    assert "1 videos written" in words
    assert "Published features used TV-L1" in words
    assert "got 1 of 2 that are not:\n  bad: `path` must be a whole video file, got" in output.err
    assert np.load(tmp_path / "out/flow/good.npy").shape == (1, 1024)
