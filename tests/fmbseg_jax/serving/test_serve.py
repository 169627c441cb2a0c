"""The page's requests by plain HTTP: the Segmenter's answers, nothing encoded twice, and whatever is to be refused."""

import asyncio
import http.client
import io
import json
import re
import socket
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.responses import JSONResponse

from fmbseg_jax.inference.embedder import Towers
from fmbseg_jax.inference.segmenter import Segmenter
from fmbseg_jax.serving import app, session
from fmbseg_jax.serving.app import MAX_UPLOAD
from fmbseg_jax.serving.session import VIEW_PX, Photos, lines_of
from labelgen.core.errors import UserError
from labelgen.core.ontology import parse_words
from labelgen.formats.palette import palette
from tests.worlds import tiny_models, tiny_run
from tests.worlds.serving import ask, file_of, serving
from tests.worlds.tiny_run import picture

NO_WORDS = {"words": None, "threshold": 0}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.write(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def run(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run.write(tmp_path_factory.mktemp("run"), weights)


@pytest.fixture(scope="module")
def segmenter(run: Path) -> Segmenter:
    return Segmenter.restore(run)


@pytest.fixture(scope="module")
def port(run: Path) -> Iterator[int]:
    with serving(Photos(Segmenter.restore(run))) as number:
        yield number


def given(port: int, image: Image.Image) -> str:
    """The photo's key."""
    status, answer, _ = ask(port, "POST", "/api/photos", file_of(image))
    assert status == 201 and (answer["width"], answer["height"]) == image.size
    return str(answer["photo"])


def label_map(answer: dict[str, Any]) -> np.ndarray:
    classes, lengths = np.array(answer["runs"]).reshape(-1, 2).T
    return np.repeat(classes, lengths).reshape(answer["height"], answer["width"])


def test_the_page_gets_what_the_segmenter_says(port: int, segmenter: Segmenter) -> None:
    image, words = picture(40, 53), ["lid: ll", "loo: boo, ooo", "box"]
    key = given(port, image)
    for lines, threshold in ((None, 0.0), (words, 0.0), (words, 0.5)):
        _, answer, _ = ask(port, "POST", f"/api/photos/{key}/labels", {"words": lines, "threshold": threshold})
        wanted = segmenter(image, lines, threshold)
        assert np.array_equal(label_map(answer), wanted.label_map)
        classes = answer["classes"]
        assert [c["name"] for c in classes] == list(wanted.names)
        assert [c["share"] for c in classes] == [round(wanted.shares.get(name, 0), 6) for name in wanted.names]
        assert [c["score"] for c in classes] == [
            round(wanted.scores[name], 4) if name in wanted.scores else None for name in wanted.names
        ]
        colours = [tuple(bytes.fromhex(c["colour"][1:])) for c in classes]
        assert colours == [tuple(row) for row in palette(len(classes)).tolist()]
    assert wanted.names[-1] == "background" and wanted.shares["background"] > 0


def test_the_run_says_its_words_as_a_person_writes_them(port: int) -> None:
    status, answer, _ = ask(port, "GET", "/api/run")
    assert status == 200 and answer["lines"] == ["ball", "box: box, crate"]
    assert answer["limits"] == {"bytes": MAX_UPLOAD, "pixels": 50_000_000}
    ontology = parse_words(["a: b", "c", "background: d, e"], "words")
    assert parse_words(lines_of(ontology), "again") == ontology


def test_a_photo_is_encoded_once(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    features = Towers.features
    monkeypatch.setattr(Towers, "features", lambda self, photo: (calls.append("photo"), features(self, photo))[1])
    keys = [given(port, picture(30, 30, 77)) for _ in range(2)]
    for word in ("la", "lo"):
        assert ask(port, "POST", f"/api/photos/{keys[0]}/labels", {"words": [word]})[0] == 200
    assert keys[0] == keys[1] and calls == ["photo"]


def test_a_large_photo_is_shown_small_and_masked_at_its_own_size(port: int, segmenter: Segmenter) -> None:
    image = picture(300, VIEW_PX * 2)
    key = given(port, image)
    _, view, headers = ask(port, "GET", f"/api/photos/{key}/view.jpg")
    assert headers["content-type"] == "image/jpeg" and Image.open(io.BytesIO(view)).size == (VIEW_PX, 150)
    assert label_map(ask(port, "POST", f"/api/photos/{key}/labels", NO_WORDS)[1]).shape == (150, VIEW_PX)
    _, mask, headers = ask(port, "POST", f"/api/photos/{key}/mask.png", NO_WORDS)
    assert headers["content-type"] == "image/png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(mask))), segmenter(image).label_map)


def test_a_turned_photo_is_shown_upright(port: int) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    _, answer, _ = ask(port, "POST", "/api/photos", file_of(picture(20, 50), "JPEG", exif=turned))
    assert (answer["width"], answer["height"]) == (20, 50)
    _, view, _ = ask(port, "GET", f"/api/photos/{answer['photo']}/view.jpg")
    assert Image.open(io.BytesIO(view)).size == (20, 50)


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises many pixels and has none."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return start + struct.pack(">I", 1 << 20) + b"IDAT"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "is no picture in JPEG"),
        (b"<html>no photo</html>", "is no picture in JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "is no picture in JPEG"),
        (file_of(picture(30, 30))[:200], "cannot be decoded"),
        (png_header(60_000, 60_000), "60000 x 60000 pixels are more than the 50000000"),
        (file_of(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"), "floating-point pixels; save it again"),
    ],
)
def test_what_is_no_photo_is_refused(body: bytes, message: str, port: int) -> None:
    status, answer, _ = ask(port, "POST", "/api/photos", body)
    assert status == 400 and message in answer["error"]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"words": ["cat", "cat"]}, "line:2: class 'cat' is named twice"),
        ({"words": ["", " # "]}, "line: no class in it"),
        ({"words": [f"w{i}" for i in range(251)]}, "251 classes are more than 250"),
        ({"words": ["a: " + ", ".join(f"w{i}" for i in range(1001))]}, "1001 words are more than 1000"),
        ({"words": ["a" * 101]}, "101 characters in a word are more than 100"),
        ({"words": "cat"}, 'not {"words": [line'),
        ({"words": [1]}, 'not {"words": [line'),
        ([], 'not {"words": [line'),
        ({"words": None, "threshold": 1.5}, "threshold 1.5 is no number between 0 and 1"),
        ({"words": None, "threshold": True}, "threshold True is no number"),
        ({"words": None, "threshold": float("nan")}, "threshold nan is no number"),
        ("[" * 100_000, "not JSON"),
        (b"\xff\xfe{", "not JSON"),
    ],
)
def test_what_is_no_question_is_refused(question: Any, message: str, port: int) -> None:
    key = given(port, picture(8, 8))
    status, answer, _ = ask(port, "POST", f"/api/photos/{key}/labels", question)
    assert status == 400 and message in answer["error"]


@pytest.mark.parametrize("path", ["/../serve.py", "/%2e%2e/serve.py", "/api/photos/../../x/view.jpg", "/etc/passwd"])
def test_no_other_path_leads_anywhere(path: str, port: int) -> None:
    assert ask(port, "GET", path)[0] == 404


def test_a_photo_of_long_ago_is_forgotten(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "MAX_PHOTOS", 2)
    with serving(Photos(Segmenter.restore(run))) as port:
        first, second, _ = (given(port, picture(8, 8, seed)) for seed in range(3))
        status, answer, _ = ask(port, "POST", f"/api/photos/{first}/labels", NO_WORDS)
        assert status == 404 and "not remembered any more; give it again" in answer["error"]
        assert ask(port, "GET", f"/api/photos/{first}/view.jpg")[0] == 404
        assert ask(port, "POST", f"/api/photos/{second}/labels", NO_WORDS)[0] == 200


def test_too_long_an_upload_is_refused_before_it_is_sent(port: int) -> None:
    for path in ("/api/photos", f"/api/photos/{given(port, picture(8, 8))}/labels"):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.putrequest("POST", path)
        connection.putheader("Content-Length", str(10**9))
        connection.endheaders()
        reply = connection.getresponse()
        assert reply.status == 413 and b"MB are too much" in reply.read()
        connection.close()


def test_an_upload_of_unknown_length_is_cut_off_at_the_limit(port: int) -> None:
    sent = 0
    with socket.create_connection(("127.0.0.1", port), 60) as line:
        line.sendall(b"POST /api/photos HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while sent < 4 * MAX_UPLOAD:
                line.sendall(b"100000\r\n" + bytes(1 << 20) + b"\r\n")
                sent += 1 << 20
        except ConnectionError:
            pass
    assert MAX_UPLOAD // 2 < sent < 3 * MAX_UPLOAD  # what lies in the sockets' buffers counts as sent
    assert ask(port, "GET", "/api/run")[0] == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost:1"}, 200),
        ({"Host": "127.0.0.1"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "localhost.evil.example:8000"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "localhost:1", "Origin": "http://localhost:1"}, 200),
        ({"Host": "localhost:1", "Origin": "http://localhost:2"}, 403),
        ({"Host": "localhost:1", "Origin": "https://evil.example"}, 403),
        ({"Host": "localhost:1", "Origin": "null"}, 403),
    ],
)
def test_only_the_servers_own_page_may_ask(headers: dict[str, str], status: int, port: int) -> None:
    found, answer, _ = ask(port, "GET", "/api/run", headers=headers)
    assert found == status and ("error" in answer) == (status == 403)


def test_under_a_public_address_any_name_will_do(segmenter: Segmenter) -> None:
    with serving(Photos(segmenter), frozenset()) as port:
        assert ask(port, "GET", "/api/run", headers={"Host": "lab.example"})[0] == 200
        assert ask(port, "GET", "/api/run", headers={"Host": "lab.example", "Origin": "http://a.example"})[0] == 403


def test_the_page_may_load_nothing_from_elsewhere(port: int) -> None:
    status, page, headers = ask(port, "GET", "/")
    assert status == 200 and b"<script>" in page and not re.search(rb"https?://", page)
    rules = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
    assert rules["default-src"] == "'none'" and rules["connect-src"] == "'self'"
    assert rules["script-src"].startswith("'sha256-") and "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"


def test_many_at_a_time_get_each_their_own_answer(port: int, segmenter: Segmenter) -> None:
    cases = [(picture(24, 31, seed), [f"b{'ao'[seed % 2]}", "ll"]) for seed in range(6)]
    wanted = [segmenter(image, words).label_map for image, words in cases]

    def one(case: tuple[Image.Image, list[str]]) -> np.ndarray:
        return label_map(ask(port, "POST", f"/api/photos/{given(port, case[0])}/labels", {"words": case[1]})[1])

    with ThreadPoolExecutor(6) as threads:
        assert all(map(np.array_equal, threads.map(one, cases), wanted))


def questions(port: int, key: str, count: int) -> list[tuple[int, Any, http.client.HTTPMessage]]:
    """Answers to as many questions at once, each on a connection of its own that is open before the first is asked."""
    lines = [http.client.HTTPConnection("127.0.0.1", port, timeout=60) for _ in range(count)]
    for line in lines:
        line.connect()

    def one(line: http.client.HTTPConnection) -> tuple[int, Any, http.client.HTTPMessage]:
        line.request("POST", f"/api/photos/{key}/labels", json.dumps(NO_WORDS))
        reply = line.getresponse()
        return reply.status, json.loads(reply.read()), reply.headers

    with ThreadPoolExecutor(count) as threads:
        answers = list(threads.map(one, lines))
    for line in lines:
        line.close()
    return answers


def test_forty_at_once_are_all_answered(port: int) -> None:
    assert [status for status, _, _ in questions(port, given(port, picture(8, 8)), 40)] == [200] * 40


def test_who_comes_when_the_queue_is_full_is_told_when_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "AT_ONCE", 2)
    monkeypatch.setattr(app, "WAITING", 3)
    in_hand = []

    async def answers(method: str, turns: app.Turns) -> tuple[int, dict[str, str], bytes]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            raise AssertionError("what waits or is refused is not read")

        await turns({"type": "http", "method": method}, receive, send)
        start, *rest = sent
        headers = {name.decode(): value.decode() for name, value in start["headers"]}
        return start["status"], headers, b"".join(part["body"] for part in rest)

    async def many() -> None:
        go_on = asyncio.Event()

        async def work(scope: Any, receive: Any, send: Any) -> None:
            if scope["method"] == "POST":
                in_hand.append(scope)
                await go_on.wait()
            await JSONResponse({})(scope, receive, send)

        turns = app.Turns(work)
        first = [asyncio.create_task(answers("POST", turns)) for _ in range(5)]
        await asyncio.sleep(0)
        assert len(in_hand) == 2
        status, headers, body = await answers("POST", turns)
        assert (status, headers["retry-after"], headers["content-type"]) == (503, "10", "application/json")
        assert json.loads(body) == {"error": "5 requests are before this one; ask again in 10 seconds"}
        assert (await answers("GET", turns))[0] == 200
        go_on.set()
        assert [status for status, _, _ in await asyncio.gather(*first)] == [200] * 5
        assert (await answers("POST", turns))[0] == 200 and len(in_hand) == 6

    asyncio.run(many())


def test_half_a_letter_is_no_word(port: int, segmenter: Segmenter) -> None:
    key = given(port, picture(8, 8))
    for lines in ('["\\ud83d"]', '["cat: tom, \\udc00b"]', '["a", "a\\ud800"]'):
        asked = '{"words": ' + lines + "}"
        status, answer, _ = ask(port, "POST", f"/api/photos/{key}/labels", asked)
        assert status == 400 and "has half a letter (a lone surrogate); type it again" in answer["error"]
    with pytest.raises(UserError, match=r"words:1: 'cat: \\ud83d' has half a letter"):
        segmenter(picture(8, 8), {"cat": ["\ud83d"]})
    assert ask(port, "POST", f"/api/photos/{key}/labels", '{"words": ["\\ud83d\\ude00", "la"]}')[0] == 200
