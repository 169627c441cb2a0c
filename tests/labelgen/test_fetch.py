"""`labelgen.fetch` and `labelgen.budget`: VOC and SBD in their official layouts, from a server on loopback."""

import hashlib
import shutil

import pytest
from PIL import Image

from labelgen import budget, fetch
from labelgen.core import download as download_module
from labelgen.core.command import command
from labelgen.core.config import load_config
from labelgen.core.download import MB
from labelgen.sources import archives
from labelgen.sources.registry import open_source
from tests.worlds.file_server import serving
from tests.worlds.voc_archives import EXTRA, PHOTOS, TRAIN, VAL, sbd_files, voc_files, write_tar


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Both archives; the official addresses and digests are those of these files now."""
    monkeypatch.setattr(download_module, "FIRST_WAIT_S", 0.0)
    with serving(tmp_path / "served") as running:
        tars = {
            "voc": write_tar(tmp_path / "served/voc.tar", voc_files()),
            "sbd": write_tar(tmp_path / "served/benchmark.tgz", sbd_files(), "w:gz"),
        }
        for name, tar in tars.items():
            archive, raw = archives.ARCHIVES[name], tar.read_bytes()
            digest = archive.remote.digest.partition(":")[0]
            remote = archive.remote._replace(
                url=f"{running.url}/{tar.name}",
                digest=f"{digest}:{hashlib.new(digest, raw).hexdigest()}",
                size=len(raw),
            )
            monkeypatch.setitem(archives.ARCHIVES, name, archive._replace(remote=remote))
        yield running


def run(name, out, *more):
    return command(fetch.main, fetch.arguments(), [name, f"--out={out}", *more])


def voc(out, **splits):
    config = load_config("configs/voc.py", [f"photos.root={out}/VOCdevkit/VOC2012"])
    return open_source(config.photos, splits.get("split", "train")).list()


def test_the_official_addresses_and_digests_are_those_that_others_check_by():
    assert archives.ARCHIVES["voc"].remote == (
        "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
        "sha256:e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
        1999639040,
    )
    assert archives.ARCHIVES["sbd"].remote[1:] == ("md5:82b4d87ceb2ed10f6038a1cba92111cb", 1419539633)


def test_voc_becomes_the_tree_that_its_config_reads_and_nothing_else_of_it(server, tmp_path, capsys):
    assert run("voc", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert said.index("terms    photos from Flickr") < said.index("ready: ")
    assert f"photos by list: train {len(TRAIN)}, val {len(VAL)}; {tmp_path}/out/voc.tar may be deleted" in said
    assert voc(tmp_path / "out") == sorted(TRAIN) and voc(tmp_path / "out", split="val") == sorted(VAL)
    root = tmp_path / "out/VOCdevkit/VOC2012"
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    lists = [f"ImageSets/Segmentation/{name}.txt" for name in ("train", "trainval", "val")]
    masks = [f"SegmentationClass/{name}.png" for name in (*TRAIN, *VAL)]
    assert files == [*lists, *(f"JPEGImages/{name}.jpg" for name in PHOTOS), *masks]
    server.asked.clear()
    (tmp_path / "out/voc.tar").unlink()
    assert run("voc", tmp_path / "out") == 0 and server.asked == []  # what is there is enough


def test_sbd_adds_the_list_trainaug_without_a_photo_of_val(server, tmp_path, capsys):
    assert run("sbd", tmp_path / "out") == 2
    assert f"run `python -m labelgen.fetch voc --out={tmp_path / 'out'}` first" in capsys.readouterr().err
    assert server.asked == []
    assert run("voc", tmp_path / "out") == run("sbd", tmp_path / "out") == 0
    assert "trainaug 5, val 1; " in capsys.readouterr().out
    assert voc(tmp_path / "out") == sorted((*TRAIN, *EXTRA))


def test_sbd_that_names_photos_that_are_not_there_is_told(server, tmp_path, capsys):
    assert run("voc", tmp_path / "out") == 0
    (tmp_path / f"out/VOCdevkit/VOC2012/JPEGImages/{EXTRA[0]}.jpg").unlink()
    assert run("sbd", tmp_path / "out") == 2
    assert f"names 1 photos that are not in {tmp_path}/out/VOCdevkit/VOC2012, {EXTRA[0]}" in capsys.readouterr().err


def test_a_list_fetches_nothing_and_says_how_much_has_still_to_come(server, tmp_path, capsys):
    size = archives.ARCHIVES["voc"].remote.size
    assert run("voc", tmp_path, "--list") == 0
    assert f"size     {size / MB:.1f} of {size / MB:.1f} MB to fetch\n\nfetched nothing" in capsys.readouterr().out
    (tmp_path / "voc.tar.partial").write_bytes(bytes(size - 100_000))
    assert run("voc", tmp_path, "--list") == 0
    assert f"size     0.1 of {size / MB:.1f} MB to fetch" in capsys.readouterr().out
    assert server.asked == []


def test_a_broken_download_and_a_wrong_digest_are_one_line_and_the_same_command_goes_on(server, tmp_path, capsys):
    server.cut = [50_000] + [0] * 5
    assert run("voc", tmp_path / "out") == 2
    assert "error: " in capsys.readouterr().err and not (tmp_path / "out/VOCdevkit").exists()
    server.cut = []
    whole = (tmp_path / "served/voc.tar").read_bytes()
    (tmp_path / "served/voc.tar").write_bytes(whole[:-1] + b"?")
    assert run("voc", tmp_path / "out") == 2
    assert "voc.tar.wrong; run the same command again" in capsys.readouterr().err
    assert not (tmp_path / "out/VOCdevkit").exists()
    (tmp_path / "served/voc.tar").write_bytes(whole)
    assert run("voc", tmp_path / "out") == 0


def test_another_server_and_digest_may_be_named(server, tmp_path, capsys):
    tar = write_tar(tmp_path / "served/mirror.tar", voc_files() | {"VOCdevkit/VOC2012/JPEGImages/more.jpg": b"x"})
    url, digest = f"--url={server.url}/mirror.tar", hashlib.sha256(tar.read_bytes()).hexdigest()
    assert run("voc", tmp_path / "a", url) == 2  # the owners' digest holds for whoever serves the file
    assert "mirror.tar.wrong" in capsys.readouterr().err
    assert run("voc", tmp_path / "b", url, f"--sha256={digest}") == 0
    assert "size     as the server says" in capsys.readouterr().out


def test_an_archive_that_there_is_not_is_told(tmp_path, capsys):
    assert run("coco", tmp_path) == 2
    assert capsys.readouterr().err == "error: no archive 'coco'; there are voc, sbd\n"


def test_a_full_disk_ends_with_one_line_and_no_tree(server, tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as small:
        small.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 1000))
        assert run("voc", tmp_path / "out") == 2
    assert "voc.tar takes " in capsys.readouterr().err
    assert run("voc", tmp_path / "out") == 0


def tell(*more):
    return command(budget.main, budget.arguments(), [*more])


def test_the_budget_of_voc_is_the_sum_of_what_is_missing(tmp_path, monkeypatch, capsys):
    """Archives as stated, weights by their parameters (427.6, 641.1 and 304.4 million), 8 MB and 306 s a photo."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, 200 * 10**9))
    voc_py = ["--config=configs/voc.py", f"--config.weights_dir={tmp_path}/w", f"--out={tmp_path}"]
    assert tell(*voc_py, "--fetch=voc") == 0
    said = capsys.readouterr().out
    assert "to fetch:   7.49 GB (archives 2.00 GB, weights 5.49 GB)\n" in said
    assert "disk:       32.80 GB more" in said and "DATA of 2913 photos: 23.30 GB in all" in said
    assert "about 248 processor hours" in said and "on a GPU not measured" in said
    assert tell(*voc_py, "--fetch=voc,sbd") == 0
    assert "to fetch:   8.91 GB" in (said := capsys.readouterr().out) and "DATA of 12031 photos: 96.25 GB" in said
    (tmp_path / "data").mkdir()
    with open(tmp_path / "data/shard", "wb") as file:
        file.truncate(20 * 10**9)  # what was encoded before
    assert tell(*voc_py, "--fetch=voc") == 0
    assert "disk:       12.80 GB more" in capsys.readouterr().out


def test_the_budget_grows_with_the_photos_pixels(tmp_path, monkeypatch, capsys):
    """8 MB and 306 s for 500 x 375 px; a further row 5.5 kB, a further megapixel half a second."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, 10**12))

    def told(name, *sizes_wh):
        (tmp_path / name).mkdir()
        for i, size in enumerate(sizes_wh):
            Image.new("L", size).save(tmp_path / name / f"{i}.png")
        here = [
            "--config.clip.name=ViT-L-14",
            f"--config.photos.root={tmp_path / name}",
            f"--config.weights_dir={tmp_path}",
            f"--out={tmp_path}",
        ]
        assert tell("--config=configs/my_photos.py", *here) == 0
        return capsys.readouterr().out

    small = told("small", (500, 375))
    assert "photos:     1, 0.2 megapixels, 0.2 to 0.2 (1 looked at)" in small and "1 photos: 8.0 MB in all" in small
    assert "GB more" in small and "max_pixels" not in small
    monkeypatch.setattr(budget, "LOOKED_AT", 2)
    assert "photos:     5, 1.0 megapixels, 1.0 to 1.0 (2 looked at)" in told("many", *[(1000, 1000)] * 5)
    large = told("large", (4000, 3000), (8000, 6251))
    assert "photos:     2, 31.0 megapixels, 12.0 to 50.0 (2 looked at; 1 of these are more than photos.max_pix" in large
    assert f"2 photos: {2 * (8 + 5.5e-3 * (3000 - 375)):.1f} MB in all" in large  # by those that are used


def test_sizes_that_cannot_be_read_are_counted_as_the_measured_one(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    config = load_config("configs/my_photos.py", [f"photos.root={tmp_path}"])
    assert budget.photos(config) == (1, [])
    told = budget.Budget(0, 0, 1, budget.COSTS[budget.VOC], 0, [], 50_000_000)
    assert "photos:     1, sizes not known, counted as 500 x 375 px" in budget.lines(told, tmp_path)
    assert (told.photo_bytes, told.photo_s) == (8 * MB, 306)


def test_the_presets_are_known_to_the_budget(tmp_path, capsys):
    (tmp_path / "my").mkdir()
    Image.new("L", (500, 375)).save(tmp_path / "my/1.png")
    hours = []
    for preset in ("fast", "balanced", "best"):
        own = [f"--config.photos.root={tmp_path / 'my'}", f"--config.weights_dir={tmp_path}", f"--out={tmp_path}"]
        assert tell(f"--config=configs/my_photos.py:{preset}", *own) == 0
        said = capsys.readouterr().out
        assert "1 photos: not known" not in said and "estimated by the models' operations, not measured)" in said
        hours.append(float(said.split("processor hours (")[1].split(" s a photo")[0]))
        assert tell(f"--config=configs/my_photos.py:{preset}", *own, "--config.sam.points_per_side=7") == 0
        assert "on CPUs not measured with these models" in capsys.readouterr().out
    assert hours[0] < hours[1] < hours[2]


def test_a_budget_beyond_the_disk_and_an_unknown_archive_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, 9 * 10**9))
    assert tell("--config=configs/voc.py", f"--out={tmp_path}", "--fetch=voc") == 2
    assert "the whole run takes 32.80 GB, but the disk has 9.00 GB free" in capsys.readouterr().err
    assert tell("--config=configs/voc.py", f"--out={tmp_path}", "--fetch=coco") == 2
    assert "--fetch=coco: 'coco' is none of voc, sbd" in capsys.readouterr().err


def test_models_that_were_not_measured_get_no_figure(tmp_path, capsys):
    (tmp_path / "my").mkdir()
    shutil.copy("docs/gallery.png", tmp_path / "my/1.png")
    assert tell("--config=configs/pocket.py", f"--out={tmp_path}", f"--config.photos.root={tmp_path / 'my'}",
                "--config.photos.splits.train.photos=", "--config.photos.splits.eval.photos=",
                "--config.photos.splits.held_out.photos=") == 0  # fmt: skip
    said = capsys.readouterr().out
    assert "to fetch:   0.0 MB" in said and "DATA of 3 photos: not known with these models" in said
    assert "on CPUs not measured with these models" in said
