"""The stroke fetcher against a loopback server with original files, compared with the published slices."""

from __future__ import annotations

import functools
import gzip
import http.server
import os
import shutil
import threading
import zipfile
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from course_lib.errors import BadInput
from course_lib.files import sha256
from course_lib.images import bids, lattice
from data_scripts import fetch_stroke, stroke_panels, stroke_set

SHARED = Path(os.environ.get("LEARNING_NORMAL_SHARED") or Path(__file__).resolve().parents[3] / "shared" / "data")
SAMPLE, PUBLISHED = SHARED / "stroke" / "source_sample", SHARED / "stroke" / "stroke_flair_axial.npz"
need_sample = pytest.mark.skipif(not (SAMPLE.is_dir() and PUBLISHED.exists()), reason="the original files are not here")
IDS = sorted(
    int(line.split("sub-")[1].split("_")[0]) for line in fetch_stroke.LOCK.read_text().split() if "PNG" in line
)


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, notes what is asked for, and can break off in the middle of a file."""

    def do_GET(self):
        name = self.path.lstrip("/")
        self.server.asked.append(name)
        if name in self.server.breaks:
            self.server.breaks.remove(name)
            content = (Path(self.directory) / name).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            return
        super().do_GET()

    def log_message(self, *_):
        """Keep the tests' output clean."""


@contextmanager
def serving(folder: Path, breaks: list[str] = ()):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    server.asked, server.breaks, server.address = [], list(breaks), f"http://127.0.0.1:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def few(monkeypatch, tmp_path_factory):
    """The table restricted to eight sample scans, so that the others are not asked for."""
    return restrict(monkeypatch, tmp_path_factory.mktemp("table"), IDS[:8])


@pytest.fixture
def sample(monkeypatch, tmp_path_factory):
    """The table restricted to the 24 sample scans."""
    return restrict(monkeypatch, tmp_path_factory.mktemp("table"), IDS)


def restrict(monkeypatch, folder: Path, ids: list[int]) -> pd.DataFrame:
    table = stroke_set.read_table()
    table = table[table["id"].isin(ids)].reset_index(drop=True)
    table.to_csv(folder / "table.tsv", sep="\t", index=False)
    monkeypatch.setattr(stroke_set, "TABLE", folder / "table.tsv")
    return table


@pytest.fixture
def copy(tmp_path):
    """The sample, to be damaged."""
    for name in ("PNG", "NIfTI"):
        shutil.copytree(SAMPLE / name, tmp_path / "source" / name)
    for path in (tmp_path / "source").rglob("*"):
        path.chmod(0o755)
    return tmp_path / "source"


@pytest.fixture(scope="module")
def published():
    """The published rows of the sample: id -> image, mask, brain."""
    with np.load(PUBLISHED, allow_pickle=False) as stored:
        rows = np.flatnonzero(np.isin(stored["subject"], IDS))
        ids, images = stored["subject"][rows], stored["image"][rows]
        width = int(stored["shape"][-1])
        masks, brains = (np.unpackbits(stored[n][rows], axis=-1)[..., :width].astype(bool) for n in ("mask", "brain"))
    return {int(n): row for n, *row in zip(ids, images, masks, brains, strict=True)}


def run(source, out, **options):
    return fetch_stroke.fetch(source, out, progress=False, tries=1, **options)


# ---- the way of the data --------------------------------------------------------------------------------------------


@need_sample
def test_fetched_scans_equal_the_published_slices(tmp_path, sample, published):
    with serving(SAMPLE) as server:
        slices, refused = run(server.address, tmp_path / "stroke")
    assert refused == [] and len(slices) == 24
    scans = stroke_set.read_ready(tmp_path / "stroke" / stroke_set.READY)
    assert scans.ids.tolist() == sorted(published) == IDS
    for number, *row in zip(scans.ids, scans.images, scans.masks, scans.brains, strict=True):
        for ours, theirs in zip(row, published[number], strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert sorted(server.asked) == sorted(name for number in IDS for name in fetch_stroke.names(number))


@need_sample
def test_licence_citation_splits_and_facts_are_stored(tmp_path, sample):
    slices, _ = run(SAMPLE, tmp_path)
    about = bids.read_description(tmp_path)
    assert "CC0" in about["License"] and "BSD-2-Clause" in about["License"]
    assert "10.1038/s41597-024-03667-5" in about["HowToAcknowledge"] == slices.citation
    assert "Redistribution" in (tmp_path / "LICENSE-pictures.txt").read_text()
    people = bids.read_participants(tmp_path, files=False)
    assert people["participant_id"].tolist() == [f"sub-{number}" for number in IDS]
    assert (
        people["split"].tolist() == sample["split"].tolist() and people["person"].tolist() == sample["person"].tolist()
    )
    assert people["split"].value_counts().to_dict() == {"train": 8, "val": 8, "test": 8}
    families = people.set_index("kind")["family"].to_dict()
    assert families == {k: stroke_set.FAMILIES[k] for k in families}
    facts = slices.table.set_index("subject")
    expected = people.set_index("participant_id").loc[facts.index]
    for name in ("lesion_px", "person", "split", "family", "mirror_z"):
        assert facts[name].astype(str).tolist() == expected[name].astype(str).tolist()
    assert set(facts["z_mm"]) == {18.0} and set(facts["slice"]) == {lattice.STANDARD_HEIGHTS.index(18)}


@need_sample
def test_lattice_is_even_mm_of_the_smoothed_slice(published):
    image, mask, brain = published[IDS[0]]
    placed, mask_2mm, brain_2mm = stroke_set.to_lattice(image, mask, brain)
    weights = np.outer([1, 2, 1], [1, 2, 1]) / 16
    grey = np.where(brain, image, 0).astype(float)
    values = np.zeros(lattice.SHAPE)
    for i in range(1, 94):
        for j in range(10, 87):
            r, c = 2 * i, 2 * j - 18  # y = 76 - r, x = -78 + c mm
            values[i, j] = (grey[r - 1 : r + 2, c - 1 : c + 2] * weights).sum()
            assert mask_2mm[i, j] == mask[r, c] and brain_2mm[i, j] == brain[r, c]
    inner = brain_2mm.copy()
    inner[[0, 94]] = inner[:, [9, 87]] = False
    median = np.median(values[brain_2mm])
    spread = 1.4826 * np.median(np.abs(values[brain_2mm] - median))
    expected = np.clip(0.5 + (values - median) / (8 * spread), 1 / 255, 2)
    np.testing.assert_allclose(placed[inner], expected[inner], atol=1e-5)
    assert ((placed > 0) == brain_2mm).all()


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published slices are not here")
def test_the_committed_table_is_made_from_the_published_file():
    pd.testing.assert_frame_equal(stroke_set.make_table(PUBLISHED), stroke_set.read_table(), check_dtype=False)


def test_no_person_is_in_two_splits_and_the_table_is_small():
    table = stroke_set.read_table()
    assert len(table) == 1221 and table["id"].is_unique
    assert table.groupby("person")["split"].nunique().max() == 1
    persons = table.groupby("split")["person"].nunique().to_dict()
    assert persons == {"train": 794, "val": 134, "test": 199}
    kinds = table.groupby(["split", "kind"]).size()
    assert kinds["train"].tolist() == [117, 98, 553, 83] and kinds["test"].tolist() == [32, 27, 141, 28]
    assert not set(table["id"]) & {187, 1467, 1496, 1425}  # failed normalisations, and one that is no FLAIR
    assert stroke_set.TABLE.stat().st_size < 150_000
    bids.check_participants(stroke_set.participants(table["id"].to_numpy()))


def test_the_limit_draws_from_all_splits_and_only_from_the_table():
    table = stroke_set.read_table().set_index("id")
    some = fetch_stroke.wanted(60)
    assert len(some) == 60 and set(table.loc[some, "split"]) == {"train", "val", "test"}
    assert set(table.loc[some, "kind"]) == {0, 1, 2, 3}
    assert set(fetch_stroke.wanted(30)) <= set(some) <= set(fetch_stroke.wanted()) == set(table.index)


# ---- stopping, starting again, and what a server can do wrong -------------------------------------------------------


@need_sample
def test_scans_that_are_not_in_the_table_are_never_fetched_or_used(tmp_path, monkeypatch):
    restrict(monkeypatch, tmp_path, IDS[:4])
    with serving(SAMPLE) as server:
        fetched, _ = run(server.address, tmp_path / "a")
    assert {name.split("sub-")[1].split("_")[0] for name in server.asked} == {str(n) for n in IDS[:4]}
    copied, _ = run(SAMPLE, tmp_path / "b")
    ready, _ = run(PUBLISHED, tmp_path / "c")
    assert fetched.subjects == copied.subjects == ready.subjects and len(ready) == 4
    assert fetched.fingerprint == copied.fingerprint == ready.fingerprint


@need_sample
def test_a_broken_off_fetch_goes_on(tmp_path, few):
    lost = [fetch_stroke.names(IDS[3])[0], fetch_stroke.names(IDS[6])[1]]
    with serving(SAMPLE, breaks=lost) as server:
        first, refused = run(server.address, tmp_path)
        assert len(first) == 6 and sorted(error.file for error in refused) == sorted(lost)
        assert not [*tmp_path.rglob("tmp*")]  # half a file is not kept
        server.asked.clear()
        second, refused = run(server.address, tmp_path)
        assert len(second) == 8 and refused == []
    missing = {*lost, fetch_stroke.names(IDS[6])[0], fetch_stroke.names(IDS[3])[1]}
    assert set(server.asked) <= missing and set(lost) <= set(server.asked)
    whole, _ = run(SAMPLE, tmp_path / "whole")
    assert second.fingerprint == whole.fingerprint


@need_sample
def test_a_download_that_breaks_off_once_is_tried_again(tmp_path, few):
    lost = fetch_stroke.names(IDS[0])[0]
    with serving(SAMPLE, breaks=[lost]) as server:
        slices, refused = fetch_stroke.fetch(server.address, tmp_path, progress=False, tries=2)
    assert len(slices) == 8 and refused == [] and server.asked.count(lost) == 2


@need_sample
def test_downloads_that_start_together_do_not_trip_over_the_folder(tmp_path, few, monkeypatch):
    """pooch looks whether the folder is there, and then makes it: two threads may both find it missing."""
    from pooch import core

    monkeypatch.setattr(core.os, "makedirs", lambda path, *_, **__: pytest.fail(f"{path} was left to pooch"))
    with serving(SAMPLE) as server:
        downloads = fetch_stroke.Downloads(server.address, tmp_path)
        assert all(downloads.get(name).is_file() for name in fetch_stroke.names(IDS[0]))


@need_sample
def test_what_is_there_is_not_fetched_again(tmp_path, few):
    with serving(SAMPLE) as server:
        run(server.address, tmp_path)
        sums = fetch_stroke.read_lock(tmp_path / "sourcedata" / "SHA256SUMS")
        assert len(sums) == 16
        (tmp_path / stroke_set.READY).unlink()  # converted again, from the same downloads
        server.asked.clear()
        slices, _ = run(server.address, tmp_path)
    assert server.asked == [] and len(slices) == 8


@need_sample
def test_a_download_damaged_on_disk_is_fetched_again(tmp_path, few):
    name = fetch_stroke.names(IDS[5])[0]
    with serving(SAMPLE) as server:
        run(server.address, tmp_path)
        path = tmp_path / "sourcedata" / name
        path.write_bytes(path.read_bytes()[:-100])
        left = path.with_name("tmpabcdef")  # as a killed download leaves it
        left.touch()
        os.utime(left, (0, 0))
        (tmp_path / stroke_set.READY).unlink()
        server.asked.clear()
        _, refused = run(server.address, tmp_path)
    assert server.asked == [name] and refused == [] and not left.exists()
    assert path.read_bytes() == (SAMPLE / name).read_bytes()


@need_sample
@pytest.mark.parametrize("locked", [True, False], ids=["known beforehand", "trusted on first use"])
def test_a_file_that_changed_on_the_server_is_refused_by_name(tmp_path, few, copy, monkeypatch, locked):
    name = fetch_stroke.names(IDS[5])[0]
    if not locked:
        monkeypatch.setattr(fetch_stroke, "LOCK", tmp_path / "no lock")
    out = tmp_path / "stroke"
    with serving(copy) as server:
        if not locked:
            run(server.address, out)
            (out / "sourcedata" / name).unlink()
            (out / stroke_set.READY).unlink()
        Image.open(copy / name).save(copy / name, compress_level=1)  # the same picture, other bytes
        slices, refused = run(server.address, out)
    assert len(slices) == 7 and [error.file for error in refused] == [name]
    assert refused[0].field == "sha256" and not (out / "sourcedata" / name).exists()


@need_sample
@pytest.mark.parametrize("recorded", [False, True], ids=["never recorded", "recorded by an earlier version"])
def test_a_login_page_in_place_of_a_file_is_not_kept(tmp_path, few, copy, monkeypatch, recorded):
    monkeypatch.setattr(fetch_stroke, "LOCK", tmp_path / "no lock")
    out, (panel, lesion) = tmp_path / "stroke", fetch_stroke.names(IDS[5])
    (copy / panel).write_text("<html>Please log in</html>")
    if recorded:
        (out / "sourcedata" / panel).parent.mkdir(parents=True)
        shutil.copy(copy / panel, out / "sourcedata" / panel)
        (out / "sourcedata" / "SHA256SUMS").write_text(f"{sha256(copy / panel)}  {panel}\n")
    with serving(copy) as server:
        slices, refused = run(server.address, out)
        assert len(slices) == 7 and len(refused) == 1
        assert not {panel, lesion} & set(fetch_stroke.read_lock(out / "sourcedata" / "SHA256SUMS"))
        assert not (out / "sourcedata" / panel).exists()
        shutil.copy(SAMPLE / panel, copy / panel)
        slices, refused = run(server.address, out)
    assert len(slices) == 8 and refused == []
    assert len(fetch_stroke.read_lock(out / "sourcedata" / "SHA256SUMS")) == 16


@need_sample
def test_a_limit_takes_nothing_from_what_is_there(tmp_path, few):
    whole, _ = run(PUBLISHED, tmp_path)
    for source in (PUBLISHED, tmp_path / stroke_set.READY):
        again, _ = run(source, tmp_path, limit=2)
        assert again.fingerprint == whole.fingerprint and len(again) == 8
    assert len(run(PUBLISHED, tmp_path / "new", limit=2)[0]) == 2


@need_sample
def test_many_bad_pairs_of_a_local_folder_do_not_end_it(tmp_path, sample, copy):
    for number in IDS[:10]:
        (copy / fetch_stroke.names(number)[1]).unlink()
    slices, refused = run(copy, tmp_path / "stroke")
    assert len(slices) == 14 and len(refused) == 10


@need_sample
def test_pixels_that_are_not_the_published_ones_are_refused(tmp_path, few, copy, monkeypatch):
    monkeypatch.setattr(fetch_stroke, "LOCK", tmp_path / "no lock")
    panel = copy / fetch_stroke.names(IDS[5])[0]
    colours = np.asarray(Image.open(panel)).copy()
    colours[90, 70] += 4  # grey stays grey: only the digest of the pixels can tell
    Image.fromarray(colours).save(panel)
    slices, refused = run(copy, tmp_path / "stroke")
    assert len(slices) == 7 and refused[0].file == panel and refused[0].field == "pixels"


@need_sample
def test_a_panel_whose_paint_is_not_the_volume_is_refused_and_the_others_go_on(tmp_path, few, copy, monkeypatch):
    monkeypatch.setattr(fetch_stroke, "LOCK", tmp_path / "no lock")
    one, other = (fetch_stroke.names(n) for n in IDS[:2])
    shutil.copy(SAMPLE / other[1], copy / one[1])
    slices, refused = run(copy, tmp_path / "stroke")
    assert len(slices) == 7 and [error.file for error in refused] == [copy / one[0]]
    assert "painted pixels differ" in refused[0].cause


def test_without_a_server_the_fetch_ends_soon_and_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(fetch_stroke, "TRIES", 1)
    with serving(tmp_path) as server:
        address = server.address
    with pytest.raises(BadInput, match="cannot be fetched"):
        run(address, tmp_path / "a")
    monkeypatch.setattr(fetch_stroke.Downloads.__init__, "__defaults__", (1,))
    monkeypatch.setattr(fetch_stroke.fetch, "__kwdefaults__", {**fetch_stroke.fetch.__kwdefaults__, "tries": 1})
    assert fetch_stroke.main(["--source", address, "--out", str(tmp_path / "b")]) == 1
    printed = capsys.readouterr()
    assert "CC0" in printed.out and "Absher" in printed.out and "Nothing was made" in printed.err


@need_sample
def test_the_command_lists_what_it_made(tmp_path, few, capsys):
    assert fetch_stroke.main(["--source", str(SAMPLE), "--out", str(tmp_path)]) == 0
    assert "8 slices" in capsys.readouterr().out


@need_sample
def test_a_pair_with_a_missing_half_is_listed(tmp_path, few, copy):
    lost = copy / fetch_stroke.names(IDS[7])[1]
    lost.unlink()
    slices, refused = run(copy, tmp_path / "stroke")
    assert len(slices) == 7 and [error.file for error in refused] == [lost]


@need_sample
@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_link_out_of_the_local_folder_is_refused(tmp_path, few, copy):
    path = copy / fetch_stroke.names(IDS[7])[1]
    path.rename(tmp_path / "outside.nii.gz")
    path.symlink_to(tmp_path / "outside.nii.gz")
    _, refused = run(copy, tmp_path / "stroke")
    assert refused[0].file == path and "leads out" in refused[0].cause


def test_a_folder_without_scans_is_refused(tmp_path):
    with pytest.raises(BadInput, match="no scans"):
        run(tmp_path, tmp_path / "stroke")


def test_half_a_line_in_the_lock_file_is_passed_over(tmp_path):
    whole = f"{'a' * 64}  PNG/x.png\n"
    (tmp_path / "SHA256SUMS").write_text(whole + f"{'b' * 64}  NIf")
    assert fetch_stroke.read_lock(tmp_path / "SHA256SUMS") == {"PNG/x.png": "a" * 64}


# ---- single files ---------------------------------------------------------------------------------------------------


def volume(path: Path, shape=stroke_panels.VOLUME, affine=stroke_panels._ORIGIN, dtype=np.uint8) -> Path:
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape, dtype), affine), path)
    return path


@pytest.mark.parametrize(
    "fault", ["shape", "affine", "nan", "half", "tail", "flip", "bomb", "text", "plain", "missing"]
)
def test_unsound_volumes_are_refused(tmp_path, fault):
    path = tmp_path / "v.nii.gz"
    if fault == "shape":
        volume(path, (157, 189, 60))
    elif fault == "affine":
        volume(path, affine=np.eye(4))
    elif fault == "nan":
        nibabel.save(
            nibabel.Nifti1Image(np.full(stroke_panels.VOLUME, np.nan, np.float32), stroke_panels._ORIGIN), path
        )
    elif fault != "missing":
        whole = volume(path).read_bytes()
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 0xFF
        content = {
            "half": whole[: len(whole) // 2],
            "tail": whole[:-6],
            "flip": bytes(flipped),
            "bomb": gzip.compress(gzip.decompress(whole) + bytes(60 << 20)),
            "text": b"hello",
            "plain": gzip.compress(b"hello"),
        }
        path.write_bytes(content[fault])
    with pytest.raises(BadInput) as caught:
        stroke_panels.read_lesion(path)
    assert caught.value.file == path


@pytest.mark.parametrize("fault", ["size", "grey", "half", "text", "missing", "jpeg"])
def test_unsound_panels_are_refused(tmp_path, fault):
    path = tmp_path / "p.png"
    noise = np.random.default_rng(0).integers(0, 255, (189, 692, 3), dtype=np.uint8)
    if fault == "size":
        Image.fromarray(noise[:100]).save(path)
    elif fault == "grey":
        Image.fromarray(noise[..., 0]).save(path)
    elif fault == "jpeg":
        Image.fromarray(noise).save(path, format="JPEG")
    elif fault == "half":
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:50_000])
    elif fault == "text":
        path.write_text("hello")
    with pytest.raises(BadInput) as caught:
        stroke_panels.read_panel(path)
    assert caught.value.file == path


def test_paint_is_taken_off(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, stroke_panels.PICTURE)
    mask = np.zeros(stroke_panels.PICTURE, bool)
    mask[80:100, 50:90] = True
    red = np.where(mask, (grey + 255) // 2, grey)
    rest = np.where(mask, (grey + 1) // 2, grey)
    Image.fromarray(np.stack([red, rest, rest], -1).astype(np.uint8)).save(tmp_path / "p.png")
    image, painted = stroke_panels.read_panel(tmp_path / "p.png")
    np.testing.assert_array_equal(painted, mask)
    np.testing.assert_array_equal(image, (grey + 1) // 2)
    assert image.max() <= 128


def test_brain_mask_is_one_filled_piece():
    image = np.zeros((60, 60), np.uint8)
    image[10:50, 10:50] = 50
    image[25:30, 25:30] = 0  # a ventricle
    image[2, 2:9] = 90  # a speck
    brain = stroke_panels.brain_mask(image)
    assert brain[27, 27] and not brain[2, 5] and abs(int(brain.sum()) - 1600) <= 4
    with pytest.raises(BadInput, match="no brain"):
        stroke_panels.brain_mask(np.zeros((60, 60), np.uint8))


@pytest.mark.parametrize("fault", ["half", "text", "fields", "dtype", "pickle", "bomb", "absurd", "missing"])
def test_unsound_ready_files_are_refused(tmp_path, fault):
    path = tmp_path / "ready.npz"
    one = {"subject": np.array([1]), "shape": np.array([1, 189, 157])}
    bits = {"mask": np.zeros((1, 189, 20), np.uint8), "brain": np.zeros((1, 189, 20), np.uint8)}
    image = np.zeros((1, 189, 157), np.uint8)
    if fault == "half":
        np.savez(path, **one, **bits, image=image)
        path.write_bytes(path.read_bytes()[:20_000])
    elif fault == "text":
        path.write_text("hello")
    elif fault == "fields":
        np.savez(path, **one, image=image)
    elif fault == "dtype":
        np.savez(path, **one, **bits, image=image.astype(float))
    elif fault == "bomb":
        np.savez_compressed(path, **one, **bits, image=np.zeros(300 << 20, np.uint8))
    elif fault == "absurd":
        with zipfile.ZipFile(path, "w") as archive, archive.open("subject.npy", "w") as stream:
            header = {"descr": "|u1", "fortran_order": False, "shape": (1 << 60,)}
            np.lib.format.write_array_header_1_0(stream, header)
    elif fault == "pickle":
        np.savez(path, **one, **bits, image=np.array([{}], dtype=object))
    with pytest.raises(BadInput) as caught:
        stroke_set.read_ready(path)
    assert caught.value.file == path


def test_changed_pixels_in_a_ready_file_are_refused(tmp_path):
    np.savez(
        tmp_path / "ready.npz",
        subject=np.array([1]),
        shape=np.array([1, 189, 157]),
        mask=np.zeros((1, 189, 20), np.uint8),
        brain=np.zeros((1, 189, 20), np.uint8),
        image=np.zeros((1, 189, 157), np.uint8),
    )
    with pytest.raises(BadInput, match="scan 1 are not those") as caught:
        stroke_set.read_ready(tmp_path / "ready.npz")
    assert caught.value.field == "pixels"
