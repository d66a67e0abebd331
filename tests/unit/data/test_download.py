"""Downloads, from a server in this process: broken off, gone on with, refused."""

import hashlib
import io
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from whet.data import download, pets
from whet.data.download import Remote, fetch
from whet.errors import DataError
from whet.progress import silent

CONTENT = bytes(range(256)) * 4000  # 1 MB


class Server(HTTPServer):
    """Serves ``files``; breaks off after ``cut`` bytes of each of the next ``cuts`` answers."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.cut, self.cuts, self.ranges, self.asked = {}, 0, 0, True, []

    @property
    def base(self):
        return f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append((self.path.strip("/"), wanted))
        content = server.files.get(self.path.strip("/"))
        if content is None:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.ranges else 0
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        part = content[start:]
        if server.cuts:
            server.cuts -= 1
            part = part[: server.cut]
        self.wfile.write(part)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "_PAUSE_SECONDS", 0.0)
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def remote(*bases, content=CONTENT, name="pictures.bin"):
    return Remote(name, [f"{base}{name}" for base in bases], hashlib.md5(content).hexdigest())


def ranges(server):
    return [wanted for _, wanted in server.asked]


def test_a_file_is_downloaded_once_and_progress_is_told(server, tmp_path):
    server.files["pictures.bin"] = CONTENT
    events = []
    path = fetch(remote(server.base), tmp_path, events.append)
    assert path.read_bytes() == CONTENT
    assert (events[-1].stage, events[-1].done, events[-1].total) == ("download pictures.bin (MB)", 1, 1)
    assert fetch(remote(server.base), tmp_path, silent) == path
    assert len(server.asked) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["pictures.bin"]


def test_what_broke_off_is_gone_on_with_where_it_stopped(server, tmp_path):
    server.files["pictures.bin"], server.cut, server.cuts = CONTENT, 300_000, 2
    assert fetch(remote(server.base), tmp_path, silent).read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=300000-", "bytes=600000-"]


def test_what_a_killed_attempt_left_is_gone_on_with(server, tmp_path):
    server.files["pictures.bin"] = CONTENT
    (tmp_path / "pictures.bin.part").write_bytes(CONTENT[:1000])
    assert fetch(remote(server.base), tmp_path, silent).read_bytes() == CONTENT
    assert ranges(server) == ["bytes=1000-"]


def test_one_that_goes_on_breaking_off_keeps_what_came(server, tmp_path):
    server.files["pictures.bin"], server.cut, server.cuts = CONTENT, 0, 99
    (tmp_path / "pictures.bin.part").write_bytes(CONTENT[:5000])
    with pytest.raises(DataError, match=r"broke off\); 5,000 bytes of it are kept, and the same command goes on"):
        fetch(remote(server.base), tmp_path, silent)
    server.cuts = 0
    assert fetch(remote(server.base), tmp_path, silent).read_bytes() == CONTENT
    assert ranges(server)[-1] == "bytes=5000-"


def test_a_server_without_ranges_sends_the_whole_anew(server, tmp_path):
    server.files["pictures.bin"], server.cut, server.cuts, server.ranges = CONTENT, 300_000, 1, False
    assert fetch(remote(server.base), tmp_path, silent).read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=300000-"]


def test_a_part_longer_than_the_file_is_begun_anew(server, tmp_path):
    server.files["pictures.bin"] = CONTENT
    (tmp_path / "pictures.bin.part").write_bytes(CONTENT + b"more")
    assert fetch(remote(server.base), tmp_path, silent).read_bytes() == CONTENT


def test_another_checksum_is_refused_and_nothing_of_it_stays(server, tmp_path):
    server.files["pictures.bin"] = CONTENT[:-1] + b"x"
    with pytest.raises(DataError, match=r"its checksum is [0-9a-f]{32}, not [0-9a-f]{32}, and it was thrown away"):
        fetch(remote(server.base), tmp_path, silent)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_that_lies_there_is_downloaded_again(server, tmp_path):
    server.files["pictures.bin"] = CONTENT
    (tmp_path / "pictures.bin").write_bytes(b"damaged")
    assert fetch(remote(server.base), tmp_path, silent).read_bytes() == CONTENT


def test_the_next_address_is_tried_where_one_has_no_such_file(server, tmp_path):
    server.files["there/pictures.bin"] = CONTENT
    assert fetch(remote(f"{server.base}gone/", f"{server.base}there/"), tmp_path, silent).read_bytes() == CONTENT
    with pytest.raises(DataError, match=r"pictures\.bin could not be downloaded \(http.*404: .*Not Found"):
        fetch(remote(f"{server.base}gone/"), tmp_path / "other", silent)


def archive(files, links=()):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return content.getvalue()


LISTS = {
    "annotations/trainval.txt": b"#Image CLASS-ID\nAbyssinian_1 1 1 1\nyorkshire_terrier_7 37 2 25\n",
    "annotations/test.txt": b"Abyssinian_2 1 1 1\nyorkshire_terrier_10 37 2 25\n",
}
PICTURES = {
    f"images/{name}.jpg": name.encode()
    for name in ("Abyssinian_1", "Abyssinian_2", "yorkshire_terrier_7", "yorkshire_terrier_10", "Bengal_3")
}


def serve(server, lists=LISTS, pictures=PICTURES, links=()):
    server.files |= {"annotations.tar.gz": archive(lists), "images.tar.gz": archive(pictures, links)}
    names = ("annotations.tar.gz", "images.tar.gz")
    return {name: hashlib.md5(server.files[name]).hexdigest() for name in names}


def laid(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_pets_are_laid_out_by_the_official_lists(server, tmp_path):
    checksums = serve(server)
    assert pets.download(tmp_path / "pets", silent, [server.base], checksums)
    assert laid(tmp_path / "pets") == {
        "train/Abyssinian/Abyssinian_1.jpg": b"Abyssinian_1",
        "train/yorkshire_terrier/yorkshire_terrier_7.jpg": b"yorkshire_terrier_7",
        "test/Abyssinian/Abyssinian_2.jpg": b"Abyssinian_2",
        "test/yorkshire_terrier/yorkshire_terrier_10.jpg": b"yorkshire_terrier_10",
    }
    count = len(server.asked)
    assert not pets.download(tmp_path / "pets", silent, [server.base], checksums)
    assert len(server.asked) == count


def test_no_path_of_an_archive_is_followed(server, tmp_path):
    evil = {
        "images/../../outside_1.jpg": b"x",
        "/tmp/whet_outside_1.jpg": b"x",
        "images/sub/Abyssinian_1.jpg": b"x",
    }
    checksums = serve(server, pictures={**evil, **PICTURES}, links=[("images/Bengal_3.jpg", "/etc/passwd")])
    assert pets.download(tmp_path / "pets", silent, [server.base], checksums)
    assert {path.name for path in tmp_path.iterdir()} == {"pets"}
    assert len(laid(tmp_path / "pets")) == 4


def test_lists_that_name_a_path_are_refused(server, tmp_path):
    lists = {**LISTS, "annotations/test.txt": b"../../outside_1 1 1 1\n"}
    with pytest.raises(DataError, match=r"names '\.\./\.\./outside_1', which is no picture's name"):
        pets.download(tmp_path / "pets", silent, [server.base], serve(server, lists=lists))


def test_a_missing_list_or_picture_is_named(server, tmp_path):
    checksums = serve(server, lists={"annotations/test.txt": b"a_1 1 1 1\n"})
    with pytest.raises(DataError, match=r"annotations\.tar\.gz has no annotations/trainval\.txt"):
        pets.download(tmp_path / "a", silent, [server.base], checksums)
    checksums = serve(server, pictures={"images/Abyssinian_1.jpg": b"x"})
    with pytest.raises(DataError, match=r"lacks 3 of 4 listed pictures, \w+\.jpg for one"):
        pets.download(tmp_path / "b", silent, [server.base], checksums)
    assert not (tmp_path / "b" / "train").exists()


def test_an_interrupted_download_of_pets_resumes(server, tmp_path):
    checksums = serve(server)
    whole = server.files["images.tar.gz"]
    server.files["images.tar.gz"] = b""
    with pytest.raises(DataError):
        pets.download(tmp_path / "pets", silent, [server.base], checksums)
    (tmp_path / "pets" / ".archives" / "images.tar.gz.part").write_bytes(whole[:100])
    server.files["images.tar.gz"] = whole
    assert pets.download(tmp_path / "pets", silent, [server.base], checksums)
    assert server.asked[-1] == ("images.tar.gz", "bytes=100-")
    assert len(laid(tmp_path / "pets")) == 4


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(DataError, match="holds something else than this data set; name an empty folder"):
        pets.download(tmp_path, silent)
    with pytest.raises(DataError, match="holds something else"):
        pets.download(tmp_path / "mine", silent)


def test_the_addresses_and_checksums_are_those_of_the_publishers():
    assert all(base.startswith("https://") and base.endswith("/~vgg/data/pets/" if "thor" in base else "/data/")
               for base in pets.BASES)  # fmt: skip
    assert all(len(md5) == 32 for md5 in pets.CHECKSUMS.values())
