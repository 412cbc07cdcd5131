"""Archives are unpacked inside their folder, whole or not at all; malicious ones write nothing and are named."""

from __future__ import annotations

import io
import os
import re
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from archives_by_hand import (
    CHARACTER,
    FIFO,
    FOLDER,
    HARD,
    LONG_NAME,
    PACKERS,
    SYMBOLIC,
    Entry,
    long_named,
    pax,
    tar_bytes,
    tar_member,
    zip_bytes,
)

from xcoop.utils import unpack as module
from xcoop.utils.unpack import ArchiveError, Limits, unpack

GOOD = tar_member("good.txt")
LIMITS = Limits(members=50, total=100_000, ratio=20)
ZEROS = bytes(1 << 20)


def two_zips(first: str, second: str) -> bytes:
    return zip_bytes([Entry(first), Entry(second, b"other")])


def two_tars(first: str, second: str) -> bytes:
    return tar_bytes(tar_member(first), tar_member(second, b"other"))


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def at_once(count: int) -> bytes:
    """A zip file in which all entries are one and the same place."""
    entries = [Entry(f"{n}.txt", ZEROS[:1000], local_name=b"0.txt") for n in range(count)]
    return zip_bytes(entries, offsets=[0] * count)


# What the archive is, its bytes, and what the error must say besides the archive's name.
MALICIOUS: list[tuple[str, bytes, str]] = [
    ("zip: ..", zip_bytes([Entry("good.txt"), Entry("../evil.txt")]), r"'\.\./evil\.txt' leads outside"),
    ("zip: .. within", zip_bytes([Entry("a/../../evil.txt")]), r"'a/\.\./\.\./evil\.txt' leads outside"),
    ("zip: .. that stays inside", zip_bytes([Entry("a/../b.txt")]), r"'a/\.\./b\.txt' leads outside"),
    ("zip: absolute", zip_bytes([Entry("/tmp/evil.txt")]), "'/tmp/evil.txt' is an absolute path"),
    ("zip: drive", zip_bytes([Entry("C:/evil.txt")]), "'C:/evil.txt' names a drive"),
    ("zip: drive below", zip_bytes([Entry("a/C:evil.txt")]), "names a drive"),
    ("zip: backslash", zip_bytes([Entry("..\\evil.txt")]), r"evil\.txt' has a backslash"),
    ("zip: symbolic link", zip_bytes([Entry("out", b"..", stat.S_IFLNK), Entry("out/evil")]), "'out' is a link"),
    ("zip: device", zip_bytes([Entry("dev", b"", stat.S_IFCHR | 0o666)]), "'dev' is no file and no folder"),
    ("zip: fifo", zip_bytes([Entry("pipe", b"", stat.S_IFIFO | 0o666)]), "'pipe' is no file and no folder"),
    ("zip: twice", two_zips("a.txt", "a.txt"), r"'a\.txt' stands there twice"),
    ("zip: twice by dots", two_zips("a.txt", "./a.txt"), r"'\./a\.txt' stands there twice"),
    ("zip: case", two_zips("A.txt", "a.TXT"), r"'a\.TXT' differs from 'A\.txt' in case"),
    ("zip: case of a folder", two_zips("A/1.txt", "a/2.txt"), r"'a/2\.txt' differs from 'A' in case"),
    ("zip: composition", two_zips("é.txt", "e\u0301.txt"), "in case or spelling alone"),
    ("zip: below a file", two_zips("a", "a/b.txt"), r"'a/b\.txt' lies below 'a', which is a file"),
    ("zip: file over a folder", two_zips("a/b.txt", "a"), "'a' stands there twice"),
    ("zip: NUL", zip_bytes([Entry(b"a.txt\x00.png")]), r"'a\.txt\\x00\.png' has control characters"),
    ("zip: line feed", zip_bytes([Entry("a\nb.txt")]), "has control characters"),
    ("zip: escape", zip_bytes([Entry("\x1b[2Ja.txt")]), "has control characters"),
    ("zip: long", zip_bytes([Entry("x" * 300)]), r"\(300 characters\)' is too long \(300 bytes in 1 parts\)"),
    ("zip: deep", zip_bytes([Entry("d/" * 40 + "a.txt")]), "is too long"),
    ("zip: no name", zip_bytes([Entry(".")]), r"'\.' has no file name"),
    ("zip: bomb", zip_bytes([Entry("a.txt"), Entry("bomb", ZEROS, deflated=True)]), "'bomb' makes it unpack to more"),
    ("zip: stated bomb", zip_bytes([Entry("bomb", b"x", stated=1 << 31)]), "'bomb' makes it unpack to more"),
    ("zip: bomb in parts", zip_bytes([Entry(f"{n}", ZEROS[:9000]) for n in range(20)]), "unpack to more"),
    ("zip: understated", zip_bytes([Entry("lie", ZEROS, deflated=True, stated=9)]), "'lie' cannot be read.*CRC"),
    ("zip: overstated", zip_bytes([Entry("lie", b"abc", stated=99)]), "'lie' (is damaged|cannot be read)"),
    ("zip: members", zip_bytes([Entry(f"{n}", b"") for n in range(51)]), "'50' is one too many"),
    ("zip: overlap", at_once(3), r"'0\.txt' overlaps another one"),
    ("zip: encrypted", zip_bytes([Entry("secret", flags=1)]), "'secret' is encrypted"),
    ("zip: unknown packing", zip_bytes([Entry("odd", method=99)]), "'odd' cannot be read"),
    ("zip: wrong check sum", zip_bytes([Entry("a.txt", crc=1)]), r"'a\.txt' cannot be read.*CRC"),
    ("zip: two names", zip_bytes([Entry("a.txt", local_name=b"b.txt")]), r"'a\.txt' cannot be read"),
    ("zip: folder with content", zip_bytes([Entry("a/")]), "'a/' is a folder with a content"),
    ("zip: cut off", cut(zip_bytes([Entry("a.txt", os.urandom(999))])), "neither a zip nor a tar file, or.* cut off"),
    ("zip: empty", zip_bytes([]), "holds no files"),
    ("tar: ..", tar_bytes(GOOD, tar_member("../evil.txt")), r"'\.\./evil\.txt' leads outside"),
    ("tar: absolute", tar_bytes(GOOD, tar_member("/tmp/evil.txt")), "'/tmp/evil.txt' is an absolute path"),
    ("tar: backslash", tar_bytes(tar_member("a\\..\\evil.txt")), "has a backslash"),
    ("tar: drive", tar_bytes(tar_member("c:evil.txt")), "'c:evil.txt' names a drive"),
    (
        "tar: symbolic link",
        tar_bytes(tar_member("out", kind=SYMBOLIC, link=".."), tar_member("out/evil.txt")),
        r"'out' is a link \(to '\.\.'\)",
    ),
    ("tar: hard link", tar_bytes(GOOD, tar_member("copy", kind=HARD, link="/etc/passwd")), "'copy' is a link"),
    ("tar: hard link inside", tar_bytes(GOOD, tar_member("copy", kind=HARD, link="good.txt")), "'copy' is a link"),
    ("tar: device", tar_bytes(tar_member("dev", kind=CHARACTER)), "'dev' is no plain file"),
    ("tar: fifo", tar_bytes(GOOD, tar_member("pipe", kind=FIFO)), "'pipe' is no plain file"),
    ("tar: sparse", tar_bytes(tar_member("holes", b"", kind=b"S")), "'holes' is no plain file"),
    ("tar: twice", two_tars("a.txt", "a.txt"), r"'a\.txt' stands there twice"),
    ("tar: case", two_tars("a.txt", "A.TXT"), r"'A\.TXT' differs from 'a\.txt' in case"),
    ("tar: below a file", two_tars("a", "a/b.txt"), "lies below 'a'"),
    ("tar: long name leads outside", tar_bytes(long_named("d/" * 60 + "../" * 61 + "evil")), "leads outside"),
    ("tar: long", tar_bytes(long_named("x" * 300)), "is too long"),
    ("tar: pax name leads outside", tar_bytes(pax(path="../evil.txt")), r"'\.\./evil\.txt' leads outside"),
    ("tar: pax size", tar_bytes(pax(size="99999999")), "unpack to more|cut off"),
    ("tar: negative size", tar_bytes(GOOD, tar_member("back", b"", size=-1024)), "'back'|damaged"),
    ("tar: stated bomb", tar_bytes(tar_member("bomb", b"", size=1 << 32)), "'bomb' makes it unpack to more"),
    ("tar: members", tar_bytes(*(tar_member(f"{n}", b"") for n in range(51))), "'50' is one too many"),
    ("tar: cut off", tar_bytes(tar_member("a.txt", os.urandom(5000)))[:2000], r"'a\.txt' (cannot be read|is damaged)"),
    ("tar: no end", tar_member("a.txt", bytes(512)), "the end of the archive is missing"),
    ("tar: garbage follows", GOOD + b"\x01" * 512 + bytes(1024), "damaged|the end of the archive is missing"),
    ("tar: empty", tar_bytes(), "holds no files|damaged"),
    ("a page", b"<html>log in first</html>" * 99, "neither a zip nor a tar file"),
    ("nothing", b"", "neither a zip nor a tar file"),
]  # fmt: skip

BOMBS = [
    ("content", tar_bytes(GOOD, tar_member("bomb", bytes(4 << 20))), "'bomb' makes it unpack to more"),
    ("name", tar_bytes(GOOD, tar_member("././@LongLink", bytes(4 << 20), LONG_NAME), GOOD), "unpack to more"),
    # Newer Pythons read a long header in pieces: then it is one that is cut off.
    (
        "huge name",
        tar_bytes(GOOD, tar_member("././@LongLink", b"", LONG_NAME, size=1 << 32)),
        "header of 4,294,967|cut off",
    ),
    ("after the end", tar_bytes(GOOD) + bytes(4 << 20), "unpack to more"),
]  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder of which nothing but `inner/x` may be read, and nothing written outside of `inner/out`."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    yield tmp_path
    assert (tmp_path / "secret.txt").read_text() == "secret"


def everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def refuses(place: Path, data: bytes, message: str, limits: Limits = LIMITS) -> None:
    archive = place / "inner" / "x"
    archive.write_bytes(data)
    with pytest.raises(ArchiveError, match=f"(?s){re.escape(str(archive))}.*{message}"):
        unpack([archive], place / "inner" / "out", limits)
    assert everything(place) == {"inner", "inner/x", "secret.txt"}
    assert not Path("/tmp/evil.txt").exists()


@pytest.mark.parametrize(("data", "message"), [row[1:] for row in MALICIOUS], ids=[row[0] for row in MALICIOUS])
def test_malicious_archives_write_nothing_and_are_named(
    place: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, message: str
) -> None:
    monkeypatch.setattr("xcoop.utils.unpack.SMALL", 50_000)
    refuses(place, data, message)


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz"])
@pytest.mark.parametrize(("data", "message"), [row[1:] for row in BOMBS], ids=[row[0] for row in BOMBS])
def test_packed_bombs(place: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, data: bytes, message: str) -> None:
    monkeypatch.setattr("xcoop.utils.unpack.SMALL", 50_000)
    refuses(place, PACKERS[suffix](data), message)


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz"])
def test_packed_tars_that_are_cut_off_or_damaged(place: Path, suffix: str) -> None:
    whole = PACKERS[suffix](tar_bytes(tar_member("noise.bin", os.urandom(60_000))))
    for data in (whole[:-1], whole[: len(whole) // 2], whole[:30_000] + b"\x00" + whole[30_001:]):
        refuses(place, data, "damaged|cut off")


def fill_zip(path: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def fill_tar(mode: str, form: int) -> Callable[[Path, dict[str, bytes]], None]:
    def fill(path: Path, files: dict[str, bytes]) -> None:
        with tarfile.open(path, mode, format=form) as archive:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size, info.mode, info.uid = len(content), 0o4755, 12345
                archive.addfile(info, io.BytesIO(content))

    return fill


FILLERS = {"zip": fill_zip} | {
    f"tar {mode} {form}": fill_tar(mode, form)
    for mode in ("w:", "w:gz", "w:bz2", "w:xz")
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
}
BENIGN = {
    "set/images/a.png": bytes(range(256)) * 8,
    "set/images/Bild für 画像 (1).png": b"x" * 1024,
    "./set/" + "long" * 30 + "/b.txt": b"long",
    "set/empty": b"",
    "__MACOSX/._a": b"stray",
    "set..txt": b"dots",
}


@pytest.mark.parametrize("kind", FILLERS)
def test_benign_archives_unpack_identically(place: Path, kind: str) -> None:
    archive, target = place / "inner" / "x", place / "inner" / "deep" / "out"
    FILLERS[kind](archive, BENIGN)
    made = unpack([archive], target)
    assert made == [target / "__MACOSX", target / "set", target / "set..txt"]
    found = {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    assert found == {name.removeprefix("./"): content for name, content in BENIGN.items()}
    modes = {path.stat().st_mode & 0o7111 for path in target.rglob("*") if path.is_file()}
    assert modes == {0}, "no file is executable, or runs as somebody else"
    assert everything(place / "inner" / "deep") == {"out"} | {f"out/{name}" for name in everything(target)}


def test_folders_alone_may_stand_there_twice(place: Path) -> None:
    (place / "inner" / "x").write_bytes(
        tar_bytes(tar_member("./", kind=FOLDER), tar_member("a", kind=FOLDER), tar_member("a/", kind=FOLDER), GOOD)
    )
    unpack([place / "inner" / "x"], place / "inner" / "out")
    assert everything(place / "inner" / "out") == {"a", "good.txt"}


def test_several_archives_make_one_folder(place: Path) -> None:
    one, two = place / "inner" / "1.zip", place / "inner" / "2.tar"
    one.write_bytes(zip_bytes([Entry("images/a.txt")]))
    two.write_bytes(tar_bytes(tar_member("images/b.txt"), tar_member("labels.csv")))
    unpack([one, two], place / "inner" / "out")
    assert everything(place / "inner" / "out") == {"images", "images/a.txt", "images/b.txt", "labels.csv"}
    with pytest.raises(ArchiveError, match=r"1\.zip: the member 'images/a\.txt' stands there twice"):
        unpack([one, one], place / "inner" / "again")
    assert not (place / "inner" / "again").exists()


class TestTheTarget:
    @pytest.fixture
    def archive(self, place: Path) -> Path:
        path = place / "inner" / "x"
        path.write_bytes(zip_bytes([Entry("images/a.txt"), Entry("notes.txt")]))
        return path

    def test_an_empty_folder_is_filled(self, place: Path, archive: Path) -> None:
        (place / "out").mkdir()
        unpack([archive], place / "out")
        assert everything(place / "out") == {"images", "images/a.txt", "notes.txt"}

    @pytest.mark.parametrize("there", ["images/", "Images/", "images -> elsewhere/", "notes.txt -> nowhere"])
    def test_what_is_there_is_never_overwritten_nor_followed(self, place: Path, archive: Path, there: str) -> None:
        name, _, link = there.partition(" -> ")
        (place / "elsewhere").mkdir()
        (place / "out").mkdir()
        if link:
            (place / "out" / name).symlink_to(place / link)
        else:
            (place / "out" / name).mkdir()
        with pytest.raises(FileExistsError, match=f"{name.rstrip('/').lower()} already"):
            unpack([archive], place / "out")
        assert everything(place / "out") == {name.rstrip("/")}
        assert everything(place / "elsewhere") == set()
        assert not (place / "nowhere").exists()

    def test_it_may_hold_other_things(self, place: Path, archive: Path) -> None:
        (place / "out").mkdir()
        (place / "out" / "mine.txt").write_text("mine")
        assert unpack([archive], place / "out") == [place / "out/images", place / "out/notes.txt"]
        assert everything(place / "out") == {"images", "images/a.txt", "notes.txt", "mine.txt"}

    def test_a_file_is_named(self, place: Path, archive: Path) -> None:
        with pytest.raises(OSError, match=r"secret\.txt"):
            unpack([archive], place / "secret.txt")

    def test_a_staging_folder_that_vanished_does_not_come_back(
        self, place: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write = module._write

        def vanishes(archive: module.Archive, member: module.Member, folder: Path, parts: tuple[str, ...]) -> None:
            shutil.rmtree(folder, ignore_errors=True)
            write(archive, member, folder, parts)

        monkeypatch.setattr(module, "_write", vanishes)
        with pytest.raises(OSError, match=r"No such file .* at the member"):
            unpack([archive], place / "inner" / "out")
        assert everything(place / "inner") == {"x"}

    @pytest.mark.parametrize("number", [28, 13])
    def test_disk_errors_name_the_member_and_leave_nothing(
        self, place: Path, archive: Path, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        def fails(archive: object, member: object, folder: Path, parts: tuple[str, ...]) -> None:
            folder.joinpath(*parts).parent.mkdir(parents=True)
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(module, "_write", fails)
        with pytest.raises(OSError, match=r"(disk is full|Permission denied) at the member 'images/a\.txt'") as caught:
            unpack([archive], place / "inner" / "out")
        assert caught.value.errno == number
        assert everything(place / "inner") == {"x"}

    def test_a_move_that_fails_half_way_is_taken_back(
        self, place: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rename = Path.rename

        def fails(self: Path, target: Path) -> Path:
            if self.name == "notes.txt":
                raise OSError(5, "Input/output error")
            return rename(self, target)

        (place / "out").mkdir()
        (place / "out" / "mine.txt").write_text("mine")
        monkeypatch.setattr(Path, "rename", fails)
        with pytest.raises(OSError, match="Input/output error"):
            unpack([archive], place / "out")
        assert everything(place / "out") == {"mine.txt"}
